"""How far are drawn scenes from true ones, in the eyes of a segmenter of scenes?

    python studies/frechet.py ours=runs/study/ours_0/samples paper=runs/study/paper_0/samples

The segmenter of studies/usefulness.py learns to say what each pixel of true scenes shows. Means and
maxima of its deepest features are compared: the Frechet distance is that of FID, the features are
not, so that this number is no FID. True scenes that it did not see are the yardstick.
"""

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tables
import usefulness

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import fid

TRAINED, HELD_OUT = 2048, 1024  # true scenes


def features_of(network: usefulness.Segmenter, params: dict, images: np.ndarray) -> np.ndarray:
    """What a segmenter sees in images (n, 64, 64, 3): (n, features)."""
    see = functools.partial(network.apply, {'params': params}, mutable=['intermediates'])

    @jax.jit
    def block(images):
        (deepest,) = see(images)[1]['intermediates']['deepest']  # (B, 8, 8, channels)
        return jnp.concatenate([deepest.mean((1, 2)), deepest.max((1, 2))], axis=-1)

    return np.concatenate([block(images[n : n + 64]) for n in range(0, len(images), 64)])


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

    categories = Scenes(0, 1, 'train').categories
    ids = np.array([category.id for category in categories], np.uint8)
    thing_ids = {category.id for category in categories if category.is_thing}
    weights = np.where([each.is_thing for each in categories], usefulness.THING_WEIGHT, 1.0)
    images, maps = usefulness.true_scenes(TRAINED, 'train')
    network, params = usefulness.train(images, np.searchsorted(ids, maps), weights, seed=0)
    images, maps = usefulness.true_scenes(HELD_OUT + options.pairs, 'validation')
    truth = images[:HELD_OUT]
    held_out = truth, maps[:HELD_OUT]
    scores = usefulness.scores_of(network, params, held_out, ids=ids, thing_ids=thing_ids)
    print(f'mIoU of the segmenter on held-out scenes: {scores["mIoU"]:.3f}')

    expected = fid.statistics([features_of(network, params, truth)])
    rows = []
    for name, own in {'other true scenes': images[HELD_OUT:], **drawn}.items():
        found = fid.statistics([features_of(network, params, own)])
        rows.append([name, options.pairs, f'{fid.frechet_distance(expected, found):.2f}'])
    print(tables.table(['', 'pairs', 'Frechet distance of segmenter features'], rows))


if __name__ == '__main__':
    main()
