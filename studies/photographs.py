"""How well do two recipes denoise photographs? Errors of the data prediction at fixed log-SNRs.

    python studies/photographs.py --data=runs/data/photographs \
        runs/photographs/weights.safetensors runs/photographs_paper/weights.safetensors

Losses of networks that predict different things, under different noise, do not compare; this error
does: the mean square of what a network takes the clean image (or map) for, minus the clean one, at
times where the stream has the same ratio of signal to noise, log(alpha^2 / (sigma s)^2). Both
streams have that time, as they have while a pair is drawn. An image's error is divided by the
variance of the split's latents, so that 1 is what the mean picture has; a map's is that of its
category bits, -1 and 1. Prints a table for each stream; docs/STUDY.md has both in one.
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tables

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.data import loader
from panoptic_jax.diffusion import loss, schedule, streams
from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import for_mesh
from panoptic_jax.weights import file as weights_file

LOG_SNRS = -5, -4, -3, -2, -1, 0, 1  # both recipes' streams have times for these
_NEAR = 0.2
BATCH = 25


def time_at(log_snr: float, noise_std: float) -> int:
    """The time of 1..1000 whose log(alpha^2 / (sigma noise_std)^2) is nearest.

    Raises:
      ValueError: none is near.
    """
    alpha, sigma = schedule.training_table()[1:].T.astype(np.float64)
    distances = np.abs(2 * np.log(alpha / (sigma * noise_std)) - log_snr)
    if distances.min() > _NEAR:
        raise ValueError(f'Noise of deviation {noise_std} has no time of log-SNR {log_snr}.')
    return 1 + int(distances.argmin())


def clean_inputs(split: loader.Split, description) -> loss.Inputs:
    """Every photograph of a split with its caption and one draw of the noise, without times."""
    records = [split[number] for number in range(len(split))]
    batch = {
        name: np.stack([record[name] for record in records])
        for name in ('latents', 'category', 'instance')
    }
    batch['text'] = np.stack([record['texts'][0] for record in records])
    drawing = loss.Drawing(
        scale=description.autoencoder.scale,
        text_dropout=0.0,
        map_side=description.map_side,
        instance_bits=description.model.instance_bits,
    )
    empty = np.zeros_like(batch['text'][0])
    return loss.draw_inputs(batch, jax.random.key(0), empty, drawing)


def errors_of(model, description, params: dict, inputs: loss.Inputs, time: jax.Array) -> dict:
    """{stream: (B,) mean square error of the data prediction} with both streams at one time."""
    t = {name: jnp.full(len(inputs.text), time) for name in inputs.clean}
    inputs = inputs._replace(t=t)
    alpha, sigma = jnp.asarray(schedule.training_table())[time]
    objective = loss.Objective(description.streams, description.model.separate_times)
    predict = functools.partial(model.apply, {'params': params})
    noisy, said = loss.predicted(predict, inputs, objective)
    errors = {}
    for name, prediction in said.items():
        data = streams.data_of(
            description.streams[name], prediction, noisy[name], alpha=alpha, sigma=sigma
        )
        wrong = data - inputs.clean[name]
        if name == 'map':
            wrong = wrong[..., :NUM_BITS]  # without the codes of things
        errors[name] = jnp.mean(wrong**2, axis=(1, 2, 3))
    return errors


def measure(path: str, data_dir: str) -> dict[tuple[str, str], list[float]]:
    """{(stream, split): an error for each of LOG_SNRS} of a weights file."""
    weights = weights_file.load(path)
    description = weights.description
    model = description.build(jnp.float32, for_mesh(sharding.make_mesh()))
    compiled = jax.jit(functools.partial(errors_of, model, description))
    found = {}
    for split in ('train', 'validation'):
        photographs = loader.Split(data_dir, split)
        inputs = clean_inputs(photographs, description)
        variance = float(jnp.var(inputs.clean['image']))
        for stream in streams.NAMES:
            scale = variance if stream == 'image' else 1.0
            row = []
            for log_snr in LOG_SNRS:
                time = time_at(log_snr, description.streams[stream].noise_std)
                parts = [
                    compiled(weights.params, part, time=time)[stream] for part in parts_of(inputs)
                ]
                row.append(float(np.concatenate(parts).mean()) / scale)
            found[stream, split] = row
            print(path, stream, split, [round(value, 4) for value in row], flush=True)
    return found


def parts_of(inputs: loss.Inputs) -> list[loss.Inputs]:
    """The examples, BATCH at a time."""
    count = len(inputs.text)
    starts = range(0, count, BATCH)
    return [
        jax.tree.map(lambda array, start=start: array[start : start + BATCH], inputs)
        for start in starts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', required=True, help='the prepared photographs')
    parser.add_argument('weights', nargs='+', help='files of --mode=export, a run each')
    options = parser.parse_args()
    found = {path: measure(path, options.data) for path in options.weights}
    for stream in streams.NAMES:
        rows = [
            [pathlib.Path(path).parent.name, split, *(f'{value:.3f}' for value in row)]
            for path, errors in found.items()
            for (own, split), row in errors.items()
            if own == stream
        ]
        print(f'\n{stream}\n' + tables.table(['run', 'split', *map(str, LOG_SNRS)], rows))


if __name__ == '__main__':
    main()
