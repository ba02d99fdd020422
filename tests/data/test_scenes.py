"""The embedded scenes are what their captions say, and the oracle reads them back."""

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import scene_layout, scene_oracle, scene_words, scenes

COUNT = 48


@pytest.fixture(scope='module')
def source():
    return scenes.Scenes(3, COUNT, 'validation')


@pytest.fixture(scope='module')
def examples(source):
    return [source[index] for index in range(COUNT)]


@pytest.fixture(scope='module')
def pairs(examples):
    """Images through an 8x area mean and bicubic x8, maps min-pooled to 64x64, one caption each."""
    images = [_decoded(example.image) for example in examples]
    maps = [e.category.reshape(64, 4, 64, 4).min(axis=(1, 3)) for e in examples]
    return images, maps, [e.captions[i % 5] for i, e in enumerate(examples)]


def _decoded(image):
    means = image.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3), dtype=np.float32)
    planes = [Image.fromarray(means[..., channel]) for channel in range(3)]
    size, bicubic = (256, 256), Image.Resampling.BICUBIC
    grown = np.stack([np.asarray(plane.resize(size, bicubic)) for plane in planes], axis=-1)
    return np.rint(np.clip(grown, 0, 255)).astype(np.uint8)


def _equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# The source.


def test_a_scene_depends_on_seed_split_and_index_only(source, examples):
    assert _equal(scenes.Scenes(3, 7, 'validation')[5], examples[5])
    for other in (scenes.Scenes(3, 7, 'train'), scenes.Scenes(4, 7, 'validation')):
        assert not any(np.array_equal(other[5].image, example.image) for example in examples)
    assert source.description['seed'] == 3
    assert source.description['split'] == 'validation'
    assert len(source) == len(list(source)) == COUNT


def test_scene_is_still_the_one_of_this_version():
    """If this fails, the same seed draws other scenes: raise VERSION, so old shards are refused."""
    example = scenes.Scenes(0, 1, 'train')[0]
    assert scenes.VERSION == 1
    assert example.captions[1] == 'a night sky above sand with a blue ring and a purple box'
    assert np.bincount(example.instance.ravel()) == pytest.approx([57741, 4039, 3756], abs=8)
    assert example.image.mean() == pytest.approx(127.4, abs=0.2)


def test_maps_hold_exactly_what_the_captions_say(source, examples):
    names = {category.id: category for category in source.categories}
    assert sum(category.is_thing for category in source.categories) == 6
    for index, example in enumerate(examples):
        assert example.image.shape == (256, 256, 3)
        assert example.image.dtype == example.category.dtype == example.instance.dtype == np.uint8
        assert example.image_id == index
        shown = set(np.unique(example.category))
        assert len(set(example.captions)) == 5
        for caption in example.captions:
            things, above, below = scene_oracle.parse(caption)
            assert shown == {identity for identity, _ in things} | {above, below}
            assert len(things) == len(shown) - 2 <= 4
        ids, areas = np.unique(example.category, return_counts=True)
        assert all(area >= 150 for area in areas)
        is_thing = np.isin(example.category, [i for i in ids if names[i].is_thing])
        assert np.array_equal(example.instance > 0, is_thing)
        sizes = np.bincount(example.instance.ravel())[1:]
        assert list(sizes) == sorted(sizes, reverse=True)
        for number in range(1, len(sizes) + 1):
            assert len(np.unique(example.category[example.instance == number])) == 1


def test_stuff_above_lies_above(examples):
    rows = np.arange(256)[:, None] * np.ones(256)
    for example in examples:
        _, above, below = scene_oracle.parse(example.captions[0])
        assert rows[example.category == above].max() < 200
        assert rows[example.category == below].min() > 60


def test_scenes_vary(examples):
    """Every shape, colour, stuff and number of things comes up; sizes and places differ."""
    parsed = [scene_oracle.parse(example.captions[0]) for example in examples]
    assert {len(things) for things, _, _ in parsed} == {1, 2, 3, 4}
    assert {i for things, _, _ in parsed for i, _ in things} == set(scene_words.THINGS)
    assert {c for things, _, _ in parsed for _, c in things} == set(scene_words.THING_COLOURS)
    assert {above for _, above, _ in parsed} == set(scene_words.ABOVE)
    assert {below for _, _, below in parsed} == set(scene_words.BELOW)
    areas = [np.count_nonzero(example.instance == 1) for example in examples]
    assert max(areas) > 2 * min(areas)


def test_shapes_have_the_area_that_their_size_says():
    steps = np.linspace(-2, 2, 801)
    x, y = np.meshgrid(steps, steps)
    for distance in scene_layout._DISTANCES.values():
        assert np.mean(distance(x, y) < 0) * 16 == pytest.approx(np.pi, rel=0.01)


def test_impossible_requests_are_refused(source):
    with pytest.raises(ValueError, match="no split 'test'"):
        scenes.Scenes(0, 1, 'test')
    with pytest.raises(ValueError, match='count 0'):
        scenes.Scenes(0, 0, 'train')
    with pytest.raises(IndexError, match='scene 48 of 48'):
        source[COUNT]


# The captions.


def test_parse_inverts_every_caption():
    generator = np.random.default_rng(0)
    seen, longest = set(), 0
    for _ in range(400):
        count = generator.integers(1, 5)
        shapes = generator.permutation(list(scene_words.THINGS))[:count].tolist()
        colours = generator.permutation(list(scene_words.THING_COLOURS))[:count].tolist()
        things = list(zip(shapes, colours, strict=True))
        above = int(generator.choice(list(scene_words.ABOVE)))
        below = int(generator.choice(list(scene_words.BELOW)))
        captions = scene_words.describe(things, above, below, generator)
        assert len(captions) == len(set(captions)) == 5
        for caption in captions:
            assert scene_words.parse(caption.upper()) == scene_words.parse(caption)
            parsed, *stuff = scene_words.parse(caption)
            assert sorted(parsed) == sorted(things)
            assert stuff == [above, below]
            words = caption.replace(',', '').split()
            seen |= set(words)
            longest = max(longest, len(words))
    assert longest <= 24
    assert seen == set(scene_words.VOCABULARY)


@pytest.mark.parametrize(
    ('caption', 'message'),
    [
        ('a red dog over grass against a wall', "the word 'dog'"),
        ('a circle over grass against a wall', 'names 0 things'),
        ('a red circle and a star over grass against a wall', 'names 1 things'),
        ('a red circle over grass', '0 kinds of stuff above and 1 below'),
        ('a red circle over grass and snow against a wall', '1 kinds of stuff above and 2 below'),
    ],
)
def test_other_captions_are_refused(caption, message):
    with pytest.raises(ValueError, match=message):
        scene_words.parse(caption)


# The oracle.


def test_image_cells_are_read_right(examples, pairs):
    """Through the codec, of the cells whose truth is one colour all around, >= 97 % read right."""
    right = []
    for example, image in zip(examples, pairs[0], strict=True):
        truth = example.category.copy()
        for identity, colour in scene_words.parse(example.captions[0])[0]:
            truth[example.category == identity] = scene_oracle.COLOUR_CODES[colour]
        cells = truth.reshape(32, 8, 32, 8)
        pure = cells.min(axis=(1, 3)) == cells.max(axis=(1, 3))
        inner = np.zeros_like(pure)
        inner[1:-1, 1:-1] = np.lib.stride_tricks.sliding_window_view(pure, (3, 3)).all(axis=(2, 3))
        right.append((scene_oracle.read_image(image) == cells[:, 0, :, 0])[inner])
    assert np.concatenate(right).mean() >= 0.99


def test_brightness_does_not_change_a_reading():
    for colours, codes in (
        (scene_words.THING_COLOURS, scene_oracle.COLOUR_CODES),
        (scene_words.STUFF_COLOURS, {kind: kind for kind in scene_words.STUFF_COLOURS}),
    ):
        for name, colour in colours.items():
            for light in (0.88, 1.0, 1.12):
                lit = np.clip(np.array(colour) * light, 0, 255).astype(np.uint8)
                image = np.broadcast_to(lit, (256, 256, 3))
                assert np.all(scene_oracle.read_image(image) == codes[name]), (name, light)


@pytest.mark.parametrize('side', [32, 64, 128, 256])
def test_map_cells_read_as_their_majority(side):
    generator = np.random.default_rng(side)
    codes = np.array([0, *scene_words.THINGS, *scene_words.STUFF_COLOURS], np.uint8)
    truth = codes[generator.integers(len(codes), size=(32, 32))]
    factor = side // 32
    category = truth.repeat(factor, axis=0).repeat(factor, axis=1)
    if factor > 1:
        category[::factor, ::factor] = codes[generator.integers(len(codes), size=(32, 32))]
    assert np.array_equal(scene_oracle.read_map(category), truth)
    assert not scene_oracle.read_map(np.full((side, side), 50, np.uint8)).any()


def test_interior_cells_have_equal_neighbours():
    reading = np.full((32, 32), 92, np.uint8)
    reading[10, 20] = 1
    expected = np.ones((32, 32), bool)
    expected[9:12, 19:22] = False
    assert np.array_equal(scene_oracle.interior(reading), expected)


def test_truth_scores_at_the_ceiling_and_chance_far_below(pairs):
    result = scene_oracle.yardsticks(*pairs)
    assert min(result['ceiling'].values()) >= 0.97, result['ceiling']
    assert max(result['floor'].values()) <= 0.6, result['floor']
    assert result['ceiling'] == scene_oracle.score(*pairs)


def test_noise_scores_nothing(pairs):
    _, maps, captions = pairs
    generator = np.random.default_rng(1)
    cells = [generator.integers(0, 256, (32, 32, 3), np.uint8) for _ in maps]
    images = [colours.repeat(8, axis=0).repeat(8, axis=1) for colours in cells]
    codes = np.array([0, *scene_words.THINGS, *scene_words.STUFF_COLOURS], np.uint8)
    noise_maps = [codes[generator.integers(len(codes), size=(64, 64))] for _ in maps]
    noise = scene_oracle.score(images, noise_maps, captions)
    assert max(noise.values()) < 0.05, noise
    blank = scene_oracle.score(images, [np.zeros_like(m) for m in maps], captions)
    assert blank['thing_recall_map'] == blank['stuff_recall_map'] == 0
    assert blank['image_map_agreement'] == 0


def test_each_score_falls_for_its_own_mistake():
    """A thing missing in the map, in another colour or too thin in the image; wrong stuff below."""
    grid_image, grid_map = np.full((32, 32), 93, np.uint8), np.full((32, 32), 93, np.uint8)
    grid_image[16:] = grid_map[16:] = 96
    colours = {scene_oracle.COLOUR_CODES[n]: rgb for n, rgb in scene_words.THING_COLOURS.items()}
    colours |= scene_words.STUFF_COLOURS
    caption = 'a red circle and a blue star over grass against a night sky'
    grid_image[4:10, 4:10], grid_map[4:10, 4:10] = scene_oracle.COLOUR_CODES['red'], 1
    grid_image[20:26, 20:26], grid_map[20:26, 20:26] = scene_oracle.COLOUR_CODES['blue'], 4

    def score(image, category):
        table = np.zeros((256, 3), np.uint8)
        table[list(colours)] = list(colours.values())
        pixels = table[image].repeat(8, axis=0).repeat(8, axis=1)
        return scene_oracle.score_pair(
            pixels, category.repeat(2, axis=0).repeat(2, axis=1), caption
        )

    perfect = score(grid_image, grid_map)
    assert set(perfect.values()) == {1.0}

    no_star = np.where(grid_map == 4, 96, grid_map).astype(np.uint8)
    result = score(grid_image, no_star)
    assert result.pop('thing_recall_map') == 0.5
    assert 0.9 < result.pop('image_map_agreement') < 1
    assert set(result.values()) == {1.0}

    blue = scene_oracle.COLOUR_CODES['blue']
    pink_star = np.where(grid_image == blue, scene_oracle.COLOUR_CODES['pink'], grid_image)
    result = score(pink_star.astype(np.uint8), grid_map)
    assert result.pop('colour_recall_image') == 0.5
    assert 0.9 < result.pop('image_map_agreement') < 1
    assert set(result.values()) == {1.0}

    thin_star = grid_image.copy()
    thin_star[20:26, 20:26] = 96
    thin_star[20, :] = blue
    assert score(thin_star, grid_map)['colour_recall_image'] == 0.5

    snow = np.where(grid_image == 96, 100, grid_image).astype(np.uint8)
    result = score(snow, grid_map)
    assert result.pop('stuff_recall_image') == 0.5
    assert 0.4 < result.pop('image_map_agreement') < 0.7
    assert set(result.values()) == {1.0}

    snow = np.where(grid_map == 96, 100, grid_map).astype(np.uint8)
    assert score(grid_image, snow)['stuff_recall_map'] == 0.5


def test_bad_input_to_the_oracle_is_refused(pairs):
    images, maps, captions = pairs
    with pytest.raises(ValueError, match='float64'):
        scene_oracle.read_image(np.zeros((256, 256, 3)))
    with pytest.raises(ValueError, match=r'\(48, 48\)'):
        scene_oracle.read_map(np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match='2 images, 1 maps'):
        scene_oracle.score(images[:2], maps[:1], captions[:2])
    with pytest.raises(ValueError, match='at least 3'):
        scene_oracle.yardsticks(images[:2], maps[:2], captions[:2])
