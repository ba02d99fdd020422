"""The caption probe: whether a network denoises better with the right caption than another one.

A loss averages over all times, most of which show the picture itself, and so it hardly tells
whether training follows the text. Near the last time the caption is all that a network can go by.
`scoring/held_out.py` adds up what is computed here.
"""

import dataclasses

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import loss

# On the quickstart's scenes 800 to 1000 tell the same; here the image's ratio falls earliest.
TIME = 900


def caption_errors(
    predict: loss.Predict,
    inputs: loss.Inputs,
    objective: loss.Objective,
    *,
    given_map: bool = False,
    time: int = TIME,
) -> dict[str, jax.Array]:
    """Errors with the right captions and with those of the next examples, all at one time.

    At one time the errors of data, noise and velocity differ by one factor alone, so that the ratio
    of the two errors is that of the data prediction, whatever the network says.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map).
      inputs: A batch with all its captions; their times do not matter.
      objective: What the network should say; its weights do not matter.
      given_map: Whether the map stays clean.
      time: The time of both streams, 1..1000.

    Returns:
      'image' and, where maps are predicted, 'map': (2,) sums of the mean square errors, with the
      right captions and with the wrong ones. Examples whose neighbour has the same caption are left
      out, so that the sums may be 0.
    """
    t = {name: jnp.full(inputs.text.shape[:1], time) for name in inputs.clean}
    if given_map:
        t['map'] = jnp.zeros_like(t['map'])
    wrong = jnp.roll(inputs.text, -1, axis=0)  # (B, L, D)
    differ = jnp.any(wrong != inputs.text, axis=(1, 2))  # (B,)
    unweighted = dataclasses.replace(objective, weights={})

    def errors(text):
        return loss.pair_losses(predict, inputs._replace(t=t, text=text), unweighted)

    # One after the other, which compiles the network once.
    both = jax.lax.map(errors, jnp.stack([inputs.text, wrong]))
    return {name: jnp.where(differ, values, 0).sum(axis=1) for name, values in both.items()}
