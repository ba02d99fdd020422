"""A finished folder is scored: every pair, the set, and the training images that are copied."""

import json

import numpy as np
import pytest

from panoptic_jax.data import scene_words, scenes
from panoptic_jax.machine.interruption import Interrupted
from panoptic_jax.quality import folder, looks, nearest, scores, training
from panoptic_jax.quality.folder import Beside

MEASURES = scores.measures_of(scene_words.categories(), is_scenes=True)
COUNT = 40


class Drawn:
    """Scenes as a folder of pairs: those of one split, and some training images as copies."""

    def __init__(self, examples):
        self._examples = examples
        self.entries = [
            {'file_name': f'{number:08d}.png', 'caption': example.captions[0]}
            for number, example in enumerate(examples)
        ]

    def image(self, number):
        return self._examples[number].image

    def segments(self, number):
        return self._examples[number].category, self._examples[number].instance


@pytest.fixture(scope='module')
def source():
    source = scenes.Scenes(0, COUNT, 'train')
    return [source[number] for number in range(COUNT)]


def mirrored(example):
    arrays = {name: getattr(example, name)[:, ::-1] for name in ('image', 'category', 'instance')}
    return example._replace(**arrays)


def trained(source, tmp_path):
    own = training.looks_of(
        lambda number: (source[number].image, source[number].category),
        len(source),
        path=tmp_path / 'looks.npz',
        provenance={'source': 'scenes'},
    )
    return training.training_of(own, [f'image {number}' for number in range(len(source))])


def test_a_folder_is_scored_and_summed_up(tmp_path, source):
    held_out = scenes.Scenes(0, 6, 'validation')
    examples = [*(held_out[number] for number in range(6)), source[7], mirrored(source[11])]
    pairs = Drawn(examples)
    reference = folder.summary_of(
        ((example.category, example.instance, example.captions[0]) for example in source),
        MEASURES,
        (256, 256),
    )
    beside = Beside(reference, trained(source, tmp_path))
    target = tmp_path / 'scored'
    content = folder.score_folder(pairs, target, MEASURES, beside=beside)
    assert json.loads((target / 'quality.json').read_text()) == content
    lines = [json.loads(line) for line in (target / 'scores.jsonl').read_text().splitlines()]
    assert [line['file_name'] for line in lines] == [e['file_name'] for e in pairs.entries]
    for number, line in enumerate(lines):
        pair = scores.Pair(
            pairs.image(number), *pairs.segments(number), pairs.entries[number]['caption']
        )
        assert scores.score(pair, MEASURES) == {name: line[name] for name in scores.KINDS}
    assert [line['nearest']['image'] for line in lines[6:]] == ['image 7', 'image 11']
    assert [line['nearest']['mirrored'] for line in lines[6:]] == [False, True]
    assert [line['nearest']['near_copy'] for line in lines[6:]] == [True, True]
    assert content['pairs'] == 8
    assert content['reference']['pairs'] == COUNT
    assert content['reference']['scores']['captioned']['mean'] == 1
    assert content['nearest']['near_copies'] >= 2
    assert content['scores']['captioned']['mean'] == 1
    assert content['scores']['clip'] == {
        'measured': 0, 'missing': 8, 'meaning': scores.KINDS['clip'].meaning,
    }  # fmt: skip
    assert content['diversity'] > 0.1
    assert 0 < content['distances']['pixels'] < 0.6


def test_chunks_do_not_change_the_files(tmp_path, source, monkeypatch):
    pairs = Drawn(source[:7])
    beside = Beside(training=trained(source, tmp_path))
    given = (MEASURES,)
    whole = folder.score_folder(pairs, tmp_path / 'whole', *given, beside=beside)
    monkeypatch.setattr(folder, '_HELD', 3)
    assert folder.score_folder(pairs, tmp_path / 'parts', *given, beside=beside) == whole
    texts = [(tmp_path / name / 'scores.jsonl').read_text() for name in ('whole', 'parts')]
    for one, other in zip(*(text.splitlines() for text in texts), strict=True):
        one, other = json.loads(one), json.loads(other)
        # Products of other shapes are rounded in another order.
        for name in ('distance', 'ratio'):
            assert one['nearest'].pop(name) == pytest.approx(other['nearest'].pop(name), abs=2e-4)
        assert one == other


def test_an_interruption_leaves_nothing(tmp_path, source):
    class Late:
        asked = 0

        def leave_if_asked(self):
            self.asked += 1
            if self.asked == 4:
                raise Interrupted

    with pytest.raises(Interrupted):
        folder.score_folder(Drawn(source[:7]), tmp_path / 'new', MEASURES, interruption=Late())
    assert not (tmp_path / 'new').exists()


def test_looks_of_training_images_are_kept(tmp_path, source):
    reads = []

    def read(number):
        reads.append(number)
        return source[number].image, source[number].category

    path = tmp_path / 'reference' / 'looks.npz'
    given = {'path': path, 'provenance': {'data': 'a'}}
    first = training.looks_of(read, 5, **given)
    expected = np.stack([looks.look(e.image, e.category) for e in source[:5]])
    np.testing.assert_allclose(first, expected, atol=1e-3)
    assert reads == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(training.looks_of(read, 5, **given), first)
    assert len(reads) == 5
    # Other images, another number of them and damaged files are made anew.
    training.looks_of(read, 5, path=path, provenance={'data': 'b'})
    training.looks_of(read, 4, path=path, provenance={'data': 'b'})
    assert len(reads) == 14
    path.write_bytes(path.read_bytes()[:100])
    training.looks_of(read, 4, path=path, provenance={'data': 'b'})
    assert len(reads) == 18


def test_stored_looks_find_exact_copies(tmp_path, source):
    own = trained(source, tmp_path)
    assert own.looks.dtype == np.float16
    exact = np.stack([looks.look(e.image, e.category) for e in source])
    found = own.search(exact)
    np.testing.assert_array_equal(found.numbers, np.arange(COUNT))
    assert found.distances.max() < nearest.ALIKE / 2
    assert own.near.copies(found).all()
    assert own.near.measured == COUNT
