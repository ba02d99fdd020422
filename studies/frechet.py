"""How far are drawn scenes from true ones, in the eyes of a segmenter of scenes?

    python studies/frechet.py ours=runs/study/ours_0/samples paper=runs/study/paper_0/samples

The segmenter of studies/usefulness.py learns to say what each pixel of true scenes shows. Means and
maxima of its deepest features are compared: the Frechet distance is that of FID, the features are
not, so that this number is no FID. True scenes that it did not see are the yardstick.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tables
import usefulness

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import fid

TRAINED, HELD_OUT = 2048, 1024  # true scenes


def seeing(network: usefulness.Segmenter, params: dict) -> Callable[[np.ndarray], fid.Statistics]:
    """A function of images (n, 64, 64, 3): the statistics of what a segmenter sees in them."""

    @jax.jit
    def features(images):
        _, seen = network.apply({'params': params}, images, mutable=['intermediates'])
        (deepest,) = seen['intermediates']['deepest']  # (B, 8, 8, channels)
        return jnp.concatenate([deepest.mean((1, 2)), deepest.max((1, 2))], axis=-1)

    def statistics(images):
        return fid.statistics(features(images[n : n + 64]) for n in range(0, len(images), 64))

    return statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folders', nargs='+', help='NAME=FOLDER of --mode=sample or evaluate')
    parser.add_argument('--pairs', type=int, default=200, help='the first ones of each folder')
    options = parser.parse_args()
    # Of few pictures the distance is larger, so that all have equally many.
    drawn = {}
    for given in options.folders:
        name, _, folder = given.rpartition('=')
        pairs = Pairs(pathlib.Path(folder))
        if len(pairs) < options.pairs:
            parser.error(f'{folder} has {len(pairs)} pairs, fewer than --pairs={options.pairs}')
        drawn[name] = np.stack([usefulness.shrunk(pairs.image(n)) for n in range(options.pairs)])

    ids, thing_ids, weights = usefulness.classes()
    images, maps = usefulness.true_scenes(TRAINED, 'train')
    network, params = usefulness.train(images, np.searchsorted(ids, maps), weights, seed=0)
    images, maps = usefulness.true_scenes(HELD_OUT + options.pairs, 'validation')
    truth = images[:HELD_OUT]
    held_out = truth, maps[:HELD_OUT]
    scores = usefulness.scores_of(network, params, held_out, ids=ids, thing_ids=thing_ids)
    print(f'mIoU of the segmenter on held-out scenes: {scores["mIoU"]:.3f}')

    see = seeing(network, params)
    expected = see(truth)
    rows = []
    for name, own in {'other true scenes': images[HELD_OUT:], **drawn}.items():
        distance = fid.frechet_distance(expected, see(own))
        rows.append([name, options.pairs, f'{distance:.2f}'])
    print(tables.table(['', 'pairs', 'Frechet distance of segmenter features'], rows))


if __name__ == '__main__':
    main()
