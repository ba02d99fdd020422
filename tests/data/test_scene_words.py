"""The captions of scenes: `describe` writes them and `parse` reads them."""

import numpy as np
import pytest

from panoptic_jax.data import scene_words


def random_contents(generator):
    """Things, stuff above and stuff below, as a scene may hold them."""
    count = generator.integers(1, 5)
    shapes = generator.permutation(list(scene_words.THINGS))[:count].tolist()
    colours = generator.permutation(list(scene_words.THING_COLOURS))[:count].tolist()
    things = list(zip(shapes, colours, strict=True))
    # Scenes with repeats have up to three things of one shape and colour.
    if count <= 2 and generator.random() < 0.5:
        things += [things[0]] * int(generator.integers(1, 3))
    above = int(generator.choice(list(scene_words.ABOVE)))
    below = int(generator.choice(list(scene_words.BELOW)))
    return things, above, below


def test_parse_inverts_every_caption():
    generator = np.random.default_rng(0)
    for _ in range(400):
        things, above, below = random_contents(generator)
        captions = scene_words.describe(things, above, below, generator)
        assert len(captions) == len(set(captions)) == 5
        for caption in captions:
            assert scene_words.parse(caption.upper()) == scene_words.parse(caption)
            parsed, *stuff = scene_words.parse(caption)
            assert sorted(parsed) == sorted(things)
            assert stuff == [above, below]


def test_captions_are_short_and_use_the_whole_vocabulary():
    generator = np.random.default_rng(0)
    used, longest = set(), 0
    for _ in range(400):
        things, above, below = random_contents(generator)
        for caption in scene_words.describe(things, above, below, generator):
            words = caption.replace(',', '').split()
            used |= set(words)
            longest = max(longest, len(words))
    assert longest <= 24  # tokens that the quickstart's text encoder has
    assert used == set(scene_words.VOCABULARY)


@pytest.mark.parametrize(
    ('caption', 'message'),
    [
        ('a red dog over grass against a wall', "the word 'dog'"),
        ('a circle over grass against a wall', 'names 0 things'),
        ('a red circle and a star over grass against a wall', 'names 1 things'),
        ('two red circle over grass against a wall', 'names 0 things'),
        ('a red circles over grass against a wall', 'names 0 things'),
        ('two blue stars and two over grass against a wall', 'names 2 things'),
        ('a red circle over grass', '0 kinds of stuff above and 1 below'),
        ('a red circle over grass and snow against a wall', '1 kinds of stuff above and 2 below'),
    ],
)
def test_other_captions_are_refused(caption, message):
    with pytest.raises(ValueError, match=message):
        scene_words.parse(caption)
