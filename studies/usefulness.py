"""Are generated labels worth something? A segmenter trained on true and on generated scenes.

    python studies/usefulness.py --generated=runs/few/{}/samples --others=runs/drawn/samples \
        --output=usefulness.jsonl

`{}` stands for the number of true scenes N, one of --scenes: a folder of --mode=sample with pairs
of weights that were trained on the same N scenes, for captions of these. --others is a folder of
weights that saw more scenes. One small U-Net is trained, as many steps each time: on the N true
scenes, also with mirrored ones; on the generated pairs, on those that pass a filter, and on these
together with the true scenes; and on the others' pairs alone and with the true scenes. It is scored
on held-out true scenes. The output gets a line of JSON for each training; trainings that it has are
not repeated. The last lines printed are the table of docs/STUDY.md.
"""

import argparse
import collections
import functools
import itertools
import json
import pathlib
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tables

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.logs import json_lines
from panoptic_jax.metrics import pq, semantic
from panoptic_jax.models.uvit import depth_to_space, space_to_depth

SIDE = 64  # pixels of the segmenter's images and maps: those of the generator's maps
HELD_OUT = 512  # true scenes
STEPS, BATCH, RATE = 800, 16, 6e-3
THING_WEIGHT = 4.0  # of a thing's pixels in the loss: they are an eighth of a picture
CHANNELS = (24, 48, 64)
AGREEMENT = 0.98  # of what passes the filter; all named categories are in the map besides
OWN = ('true', 'true and mirrored', 'generated', 'filtered', 'filtered and true')
OTHERS = ('others', 'others and true')


class Segmenter(nn.Module):
    """A small U-Net: images (B, 64, 64, 3) from -1 to 1 -> (B, 64, 64, classes)."""

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = space_to_depth(images, 2)
        skips = []
        for number, channels in enumerate(CHANNELS):
            if number:
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
            x = _convolutions(x, channels)
            skips.append(x)
        # For studies/frechet.py.
        self.sow('intermediates', 'deepest', skips.pop())  # (B, 8, 8, channels)
        for channels in CHANNELS[-2::-1]:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = _convolutions(jnp.concatenate([x, skips.pop()], axis=-1), channels)
        return depth_to_space(nn.Dense(4 * self.classes)(x), 2)


def _convolutions(x, channels):
    for _ in range(2):
        x = nn.swish(nn.GroupNorm(8)(nn.Conv(channels, (3, 3))(x)))
    return x


def shrunk(image: np.ndarray) -> np.ndarray:
    """(256, 256, 3) uint8 -> (64, 64, 3) from -1 to 1, means of squares."""
    squares = image.reshape(SIDE, -1, SIDE, image.shape[1] // SIDE, 3)
    return (squares.mean(axis=(1, 3)) / 127.5 - 1).astype(np.float32)


def middles(ids: np.ndarray) -> np.ndarray:
    """Ids of 256 x 256 pixels at the middles of 64 x 64 squares."""
    step = len(ids) // SIDE
    return ids[step // 2 :: step, step // 2 :: step]


def true_scenes(count: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The first scenes of a split: images (n, 64, 64, 3) and ids (n, 64, 64) uint8."""
    scenes = Scenes(0, count, split)
    examples = [scenes[number] for number in range(count)]
    images = np.stack([shrunk(example.image) for example in examples])
    return images, np.stack([middles(example.category) for example in examples])


def generated_pairs(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and ids of a samples folder, and which of them pass the filter."""
    pairs = Pairs(folder)
    records = json_lines.read(folder / 'pairs_generated.jsonl')
    scores = {record['id']: record['scores'] for record in records}
    images, ids, passes = [], [], []
    for number, entry in enumerate(pairs.entries):
        images.append(shrunk(pairs.image(number)))
        ids.append(middles(pairs.ids(number)))
        own = scores[entry['image_id']]
        passes.append(own['agreement'] > AGREEMENT and own['captioned'] == 1)
    return np.stack(images), np.stack(ids), np.array(passes)


def classes() -> tuple[np.ndarray, set[int], np.ndarray]:
    """The ids of a segmenter's classes, those of things, and the weights of all in the loss."""
    categories = Scenes(0, 1, 'train').categories
    ids = np.array([category.id for category in categories], np.uint8)
    thing_ids = {category.id for category in categories if category.is_thing}
    weights = np.array([THING_WEIGHT if category.is_thing else 1.0 for category in categories])
    return ids, thing_ids, weights


def data_of(
    condition: str, true: tuple, generated: tuple, others: tuple | None
) -> tuple[np.ndarray, np.ndarray]:
    """What a condition trains on: images (n, 64, 64, 3) and ids (n, 64, 64)."""
    if condition == 'true':
        return true
    if condition == 'true and mirrored':
        return tuple(np.concatenate([array, array[:, :, ::-1]]) for array in true)
    if condition == 'generated':
        images, ids, _ = generated
        return images, ids
    images, ids, passes = others if condition.startswith('others') else generated
    kept = images[passes], ids[passes]
    if not condition.endswith('and true') or not passes.any():
        return kept
    # Half of what is seen is true, however few scenes these are.
    times = max(1, len(kept[0]) // len(true[0]))
    return tuple(np.concatenate([a, *[b] * times]) for a, b in zip(kept, true, strict=True))


def train(
    images: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, seed: int, steps: int = STEPS
) -> tuple[Segmenter, dict]:
    """Trains a segmenter from nothing; returns it and its parameters.

    Args:
      images: (n, 64, 64, 3) from -1 to 1.
      labels: (n, 64, 64), from 0.
      weights: Of each label's pixels in the loss.
      seed: Of first values and order.
      steps: How many.
    """
    network = Segmenter(len(weights))
    params = network.init(jax.random.key(seed), jnp.zeros((1, SIDE, SIDE, 3)))['params']
    rate = optax.linear_schedule(RATE, 0.0, steps)
    optimizer = optax.adamw(rate, b2=0.99, weight_decay=1e-3)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, images, labels):
        def loss(params):
            scores = network.apply({'params': params}, images)
            errors = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return (errors * jnp.asarray(weights)[labels]).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    generator = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = generator.integers(len(images), size=BATCH)
        params, state = step(params, state, images[chosen], labels[chosen])
    return network, params


def scores_of(
    network: Segmenter, params: dict, held_out: tuple, *, ids: np.ndarray, thing_ids: set
) -> dict[str, float]:
    """mIoU and PQ. A scene has one thing of a kind, so a category is a segment."""
    predict = jax.jit(lambda images: network.apply({'params': params}, images).argmax(-1))
    confusion, segments = 0, pq.none()
    for start in range(0, len(held_out[0]), 64):
        images, truth = (array[start : start + 64] for array in held_out)
        found = ids[np.asarray(predict(images))]
        confusion = confusion + semantic.confusion(truth, found)
        for pair in zip(truth, found, strict=True):
            maps = [(categories, np.ones_like(categories)) for categories in pair]
            segments = pq.added(segments, pq.count(*maps, thing_ids))
    quality = pq.qualities(segments, thing_ids)
    things = quality['things'].pq
    return {'mIoU': semantic.mean_iou(confusion), 'PQ': quality['all'].pq, 'PQ_things': things}


def table_of(rows: list[dict]) -> str:
    """The rows in Markdown: means, and standard deviations where there are several seeds."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row['scenes'], row['condition']].append(row)
    lines = []
    for (scenes, condition), group in sorted(groups.items(), key=lambda item: item[0][0]):
        scores = [
            tables.mean_and_spread([row[name] for row in group])
            for name in ('mIoU', 'PQ', 'PQ_things')
        ]
        lines.append([f'{scenes:,}', condition, f'{group[0]["pictures"]:,}', *scores])
    titles = ['true scenes', 'trained on', 'pictures', 'mIoU', 'PQ', 'PQ of things']
    return tables.table(titles, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--generated', required=True, help='samples folders, {} for the number')
    parser.add_argument('--others', help='samples folder of weights that saw more scenes')
    parser.add_argument('--scenes', default='64,256,2048', help='numbers of true scenes')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--output', required=True, help='file of JSON lines')
    options = parser.parse_args()
    output = pathlib.Path(options.output)
    rows = json_lines.read(output)
    done = {(row['scenes'], row['condition'], row['seed']) for row in rows}

    ids, thing_ids, weights = classes()
    held_out = true_scenes(HELD_OUT, 'validation')
    others = generated_pairs(pathlib.Path(options.others)) if options.others else None
    data = {}
    for scenes in map(int, options.scenes.split(',')):
        folder = pathlib.Path(options.generated.format(scenes))
        data[scenes] = true_scenes(scenes, 'train'), generated_pairs(folder)
    conditions = OWN + (OTHERS if options.others else ())
    # Seeds outermost: a study that is cut short has every condition.
    for seed, scenes, condition in itertools.product(range(options.seeds), data, conditions):
        # Others' pairs alone are the same for every number of true scenes.
        again = condition == 'others' and scenes != min(data)
        if again or (scenes, condition, seed) in done:
            continue
        started = time.process_time()
        images, maps = data_of(condition, *data[scenes], others)
        if not len(images):
            print(f'{scenes} scenes, {condition}: no pair passes the filter.', flush=True)
            continue
        labels = np.searchsorted(ids, maps)
        network, params = train(images, labels, weights, seed=seed)
        row = {'scenes': scenes, 'condition': condition, 'seed': seed, 'pictures': len(images)}
        row |= scores_of(network, params, held_out, ids=ids, thing_ids=thing_ids)
        row['processor_seconds'] = round(time.process_time() - started, 1)
        rows.append(row)
        with output.open('a') as file:
            file.write(json.dumps(row) + '\n')
        print(row, flush=True)
    print(table_of(rows))


if __name__ == '__main__':
    main()
