"""How far are drawn scenes from true ones, in the eyes of a classifier of scenes?

    python studies/frechet.py ours=runs/study/ours_0/samples paper=runs/study/paper_0/samples

A small network learns to say which things in which colours, and which stuff, a true scene shows.
What is compared are the features before its answer. The Frechet distance is that of FID; the
features are not, so that this number is none. True scenes that the network did not see are the
yardstick.
"""

import argparse
import functools
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tables
import usefulness

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.data import scene_words
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import fid

TRAINED, HELD_OUT = 4096, 512  # true scenes
STEPS, BATCH, RATE = 1500, 32, 4e-3
KINDS = tuple(
    (thing, colour) for thing in scene_words.THINGS for colour in scene_words.THING_COLOURS
)
STUFF = tuple(scene_words.STUFF_NAMES)


class Classifier(nn.Module):
    """Images (B, 64, 64, 3) from -1 to 1 -> logits (B, answers) and features (B, 64)."""

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = images
        for channels in usefulness.CHANNELS:
            x = usefulness.convolutions(nn.avg_pool(x, (2, 2), strides=(2, 2)), channels)
        # A thing is an eighth of a picture: its largest answers count, not their mean.
        features = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        features = nn.swish(nn.Dense(usefulness.CHANNELS[-1])(features))  # (B, 64)
        return nn.Dense(len(KINDS) + len(STUFF))(features), features


def answers_of(caption: str) -> np.ndarray:
    """(answers,) float32 of 0 and 1: which things in which colours, and which stuff."""
    things, *stuff = scene_words.parse(caption)
    shown = [kind in things for kind in KINDS] + [kind in stuff for kind in STUFF]
    return np.array(shown, np.float32)


def true_scenes(first: int, count: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 64, 64, 3) and their answers (n, answers)."""
    scenes = Scenes(0, first + count, split)
    examples = [scenes[number] for number in range(first, first + count)]
    images = np.stack([usefulness.shrunk(example.image) for example in examples])
    return images, np.stack([answers_of(example.captions[0]) for example in examples])


def train(images: np.ndarray, answers: np.ndarray, steps: int = STEPS) -> dict:
    """The parameters of a classifier of these images."""
    network = Classifier()
    params = network.init(jax.random.key(0), images[:1])['params']
    optimizer = optax.adamw(optax.linear_schedule(RATE, 0.0, steps), weight_decay=1e-3)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, answers):
        def loss(params):
            logits, _ = network.apply({'params': params}, images)
            return optax.sigmoid_binary_cross_entropy(logits, answers).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    generator = np.random.default_rng(0)
    for _ in range(steps):
        chosen = generator.integers(len(images), size=BATCH)
        params, state = step(params, state, images[chosen], answers[chosen])
    return params


def seen(params: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Answers (n, answers) bool and features (n, 64) of a classifier."""
    apply = jax.jit(functools.partial(Classifier().apply, {'params': params}))
    blocks = [apply(images[start : start + 64]) for start in range(0, len(images), 64)]
    logits, features = (np.concatenate(each) for each in zip(*blocks, strict=True))
    return logits > 0, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folders', nargs='+', help='NAME=FOLDER of --mode=sample or evaluate')
    parser.add_argument('--pairs', type=int, default=200, help='the first ones of each folder')
    options = parser.parse_args()
    params = train(*true_scenes(0, TRAINED, 'train'))
    images, answers = true_scenes(0, HELD_OUT, 'validation')
    found, features = seen(params, images)
    right = found[:, : len(KINDS)] & (answers[:, : len(KINDS)] > 0)
    recall = right.sum() / answers[:, : len(KINDS)].sum()
    precision = right.sum() / max(1, found[:, : len(KINDS)].sum())
    print(f'Of held-out things in their colours {recall:.3f} are found; {precision:.3f} are right.')
    truth = fid.statistics([features])
    # Of few pictures the distance is larger, so that all have equally many.
    sets = {'true scenes': true_scenes(HELD_OUT, options.pairs, 'validation')[0]}
    for given in options.folders:
        name, _, folder = given.rpartition('=')
        pairs = Pairs(pathlib.Path(folder))
        if len(pairs) < options.pairs:
            parser.error(f'{folder} has {len(pairs)} pairs, fewer than --pairs={options.pairs}')
        sets[name] = np.stack([usefulness.shrunk(pairs.image(n)) for n in range(options.pairs)])
    rows = []
    for name, own in sets.items():
        distance = fid.frechet_distance(truth, fid.statistics([seen(params, own)[1]]))
        rows.append([name, options.pairs, f'{distance:.2f}'])
    print(tables.table(['', 'pairs', "distance of a scene classifier's features"], rows))


if __name__ == '__main__':
    main()
