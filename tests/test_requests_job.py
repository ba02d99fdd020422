"""Jobs over lists of requests: lines that give something, wrong lines, failures, both forms."""

import json
import tarfile

import numpy as np
import one_device
import pytest
from conftest import described, random_parameters
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax.data import loader
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.programs import drawing
from panoptic_jax.weights import file as weights_file


@pytest.fixture
def joint(config, tmp_path):
    """A config whose weights draw from anything, all of them random."""
    config.model.update(name='joint', depth=1, separate_times=True)
    config.image.update(prediction='data', noise_std=2.0, unit_input=True)
    config.data.dir, data_dir = str(tmp_path / 'nowhere'), config.data.dir
    own = config.copy_and_resolve_references()
    own.data.dir = data_dir
    description = described(own)
    config.sample.weights = str(tmp_path / 'weights.safetensors')
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(data_dir), description
    )
    weights_file.save(config.sample.weights, weights)
    config.sample.count = 0
    return config


def write_list(path, lines):
    path.write_text('\n'.join(map(json.dumps, lines)))
    return str(path)


def picture(folder, name):
    return np.asarray(Image.open(folder / 'generated' / f'{name}.png')).astype(int)


GOOD = [
    {'caption': 'a red ball', 'id': 'plain'},
    {'caption': 'a red ball', 'id': 'strong', 'guidance': 40.0},
    {'caption': 'a red ball', 'id': 'not blue', 'negative': 'a blue ring', 'guidance': 40.0},
    {'caption': 'a red ball', 'id': 'mapped', 'map': 'map.png'},
    {'caption': 'a red ball', 'id': 'photo', 'image': 'photo.png'},
    {'caption': 'a red ball', 'id': 'half', 'image': 'photo.png', 'known': 'half.png'},
    {'caption': 'a red ball', 'id': 'kept', 'image': 'photo.png', 'known': 'all'},
    {'caption': 'a red ball', 'id': 'rough', 'image': 'photo.png', 'map': 'map.png',
     'strength': {'image': 0.5}},
]  # fmt: skip
# What a line gives besides its caption, and what is said of it.
WRONG = [
    ({'map': 'lacks.png'}, 'lacks.png is missing'),
    ({'map': 'text.png'}, 'text.png'),
    ({'map': '.'}, 'is a folder'),
    ({'map': 'strange.png'}, '199 is no category id of the model'),
    ({'map': 'photo.png'}, 'needs its JSON'),
    ({'map': 'photo.png', 'json': 'lacks.json'}, 'lacks.json'),
    ({'image': 'lacks.png'}, 'lacks.png is missing'),
    ({'image': 'text.png'}, 'text.png'),
    ({'image': 'cut.png'}, 'cut.png'),
    ({'image': 'photo.png', 'known': 'lacks.png'}, 'lacks.png is missing'),
    ({'image': 'photo.png', 'known': 'wide.png'}, 'must have the same proportions'),
    ({'image': 'photo.png', 'map': 'wide.png', 'strength': 0.5}, 'must have the same proportions'),
    ({'image': 'photo.png', 'map': 'map.png'}, 'nothing is left to draw'),
]


def write_pictures(folder, codes):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.choice(codes, (64, 64))).save(folder / 'map.png')
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / 'photo.png')
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(folder / 'half.png')
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(folder / 'wide.png')
    Image.fromarray(np.full((64, 64), 199, np.uint8)).save(folder / 'strange.png')
    (folder / 'text.png').write_text('a picture')
    (folder / 'cut.png').write_bytes((folder / 'photo.png').read_bytes()[:2000])


def test_lines_give_pictures_and_wrong_ones_stop_no_other(joint, tmp_path):
    codes = weights_file.load(joint.sample.weights).description.valid_codes()
    write_pictures(tmp_path, codes[codes > 0])
    wrong = [{'caption': 'a', 'id': f'bad {n}', **line} for n, (line, _) in enumerate(WRONG)]
    joint.sample.prompts = write_list(tmp_path / 'list.jsonl', [*wrong, *GOOD])
    one_device.sample(joint, tmp_path)
    folder = tmp_path / 'samples'
    rejected = [json.loads(line) for line in (folder / 'rejected.jsonl').open()]
    assert [entry['line'] for entry in rejected] == list(range(1, len(WRONG) + 1))
    for entry, (_, message) in zip(rejected, WRONG, strict=True):
        assert message in entry['reason']
        assert '\n' not in entry['reason']
    pairs = Pairs(folder, map_side=64)
    assert [e['file_name'] for e in pairs.entries] == [f'{line["id"]}.png' for line in GOOD]

    # Each field has its effect.
    photo = np.asarray(Image.open(tmp_path / 'photo.png').resize((32, 32))).astype(int)
    for number in (3, 7):  # whole, also beside a rough image
        given = np.asarray(Image.open(tmp_path / 'map.png'))
        np.testing.assert_array_equal(pairs.ids(number), given)
    assert np.abs(picture(folder, 'rough') - picture(folder, 'mapped')).max() > 10
    near = {
        name: np.abs(picture(folder, name)[4::8, 4::8] - photo)
        for name in ('plain', 'photo', 'half', 'kept')
    }
    assert near['photo'].mean() < 0.5 * near['plain'].mean()
    assert near['kept'].mean() < 0.5 * near['plain'].mean()
    assert near['half'][:, :16].mean() < 0.5 * near['half'][:, 16:].mean()

    # Alone a pair is the same to the bit, and a setting does what the field does.
    joint.sample.folder = 'alone'
    joint.sample.prompts = write_list(tmp_path / 'alone.jsonl', [GOOD[0]])
    one_device.sample(joint, tmp_path)
    for place in ('generated', 'annotations/panoptic_generated', 'semantic_generated'):
        (alone,) = (tmp_path / 'alone' / place).iterdir()
        assert alone.read_bytes() == (folder / place / 'plain.png').read_bytes()
    plain = {name: picture(folder, name) for name in ('plain', 'strong', 'not blue')}
    joint.sample.update(folder='settings', guidance=40.0)
    lines = [{'caption': 'a red ball', 'id': name} for name in ('strong', 'not blue')]
    joint.sample.prompts = write_list(tmp_path / 'settings.jsonl', lines)
    one_device.sample(joint, tmp_path)
    assert np.abs(picture(tmp_path / 'settings', 'strong') - plain['strong']).max() <= 1
    joint.sample.update(folder='without', guidance=1.0)
    one_device.sample(joint, tmp_path)
    # Random weights hear little of a text, so only a strong guidance shows a negative one.
    for name, other in (('strong', 'without'), ('not blue', 'settings')):
        assert np.abs(picture(tmp_path / other, name) - plain[name]).max() > 1


def test_what_a_model_cannot_serve_is_said_of_each_line(config, tmp_path):
    description = described(config)
    config.sample.weights = str(tmp_path / 'weights.safetensors')
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(config.data.dir), description
    )
    weights_file.save(config.sample.weights, weights)
    write_pictures(tmp_path, description.valid_codes())
    lines = [{'caption': 'a', 'map': 'map.png'}, {'caption': 'a', 'image': 'photo.png'}]
    config.sample.prompts = write_list(tmp_path / 'list.jsonl', lines)
    with pytest.raises(ValueError, match=r'No line of .*, of 2; the first, line 1: These weights'):
        one_device.sample(config, tmp_path)
    assert not (tmp_path / 'samples').exists()


@pytest.fixture
def run(trained, tmp_path, config):
    """(workdir, config) of the trained run's checkpoints, in a folder of this test's own."""
    (tmp_path / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    config.update(trained[1].to_dict())
    return tmp_path, config


def contents(folder):
    names = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    own = {str(path.relative_to(folder)): path.read_bytes() for path in names}
    return {n: c for n, c in own.items() if n not in ('writer.lock', 'report.html')}


def test_a_batch_that_fails_is_written_down_and_drawn_again(run, sampled, monkeypatch):
    workdir, config = run
    decoded = drawing.decoded

    def failing(means, requested, batch, drawn):
        if batch[0] == 0:
            raise FloatingPointError('The sampler gave numbers that are not finite.')
        return decoded(means, requested, batch, drawn)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, 'decoded', failing)
        with pytest.raises(FloatingPointError, match='4 of 6 pairs could not be drawn, the first'):
            one_device.sample(config, workdir)
    folder = workdir / 'samples'
    failed = [json.loads(line) for line in (folder / 'failed.jsonl').open()]
    assert [entry['number'] for entry in failed] == [0, 1, 2, 3]
    assert [entry['id'] for entry in Pairs(folder).entries] == [4, 5]
    before = contents(folder)
    with pytest.raises(FloatingPointError, match='redo=failed draws them again'):
        one_device.sample(config, workdir)
    assert contents(folder) == before
    config.sample.redo = 'failed'
    one_device.sample(config, workdir)
    assert contents(folder) == contents(sampled)


def test_shards_hold_the_same_pairs(run, sampled, monkeypatch):
    workdir, config = run
    config.sample.update(format='tar', shard_pairs=4)
    one_device.sample(config, workdir)
    folder = workdir / 'samples'
    names = {f'generated-0000{n}.{ending}' for n in (0, 1) for ending in ('tar', 'stats.json')}
    assert names == {path.name for path in folder.glob('generated*')}
    lines = [json.loads(line) for line in (sampled / 'pairs_generated.jsonl').open()]
    with monkeypatch.context() as patch:
        patch.setenv('WDS_VERBOSE_CACHE', '0')
        import webdataset

        tars = sorted(str(path) for path in folder.glob('*.tar'))
        found = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [pair['__key__'] for pair in found] == [f'0000000{n}' for n in range(6)]
    for pair, line in zip(found, lines, strict=True):
        name = line['file_name']
        assert pair['png'] == (sampled / 'generated' / name).read_bytes()
        maps = sampled / 'annotations' / 'panoptic_generated'
        assert pair['panoptic.png'] == (maps / name).read_bytes()
        assert pair['semantic.png'] == (sampled / 'semantic_generated' / name).read_bytes()
        assert json.loads(pair['json']) == line
    stats = json.loads((folder / 'generated-00001.stats.json').read_text())
    assert (stats['pairs'], stats['numbers']) == (2, [[4, 6]])
    pixels = sum(entry['pixels'] for entry in stats['segments'].values())
    assert pixels == sum(s['area'] for line in lines[4:] for s in line['segments_info'])

    # Only a shard that is not whole is made again, with the same bytes.
    before = contents(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob('*.tar')}
    one_device.sample(config, workdir)
    (folder / 'generated-00001.stats.json').unlink()
    one_device.sample(config, workdir)
    assert contents(folder) == before
    first, second = sorted(times)
    assert first.stat().st_mtime_ns == times[first]
    assert second.stat().st_mtime_ns != times[second]
    with tarfile.open(second) as tar:
        assert {member.mtime for member in tar} == {0}
    with pytest.raises(ValueError, match='shards are not scored'):
        one_device.evaluate(config, workdir)


def test_the_set_is_a_source_of_preparation(sampled):
    source = CocoPanoptic(str(sampled), 'generated')
    pairs = Pairs(sampled)
    assert len(source) == 6
    for number, example in enumerate(source):
        np.testing.assert_array_equal(example.image, pairs.image(number))
        np.testing.assert_array_equal(example.category, pairs.ids(number))
        assert example.captions == [pairs.entries[number]['caption']]
        assert example.image_id == number


def test_refined_maps_have_finer_borders(run, sampled):
    workdir, config = run
    config.sample.refine = True
    one_device.sample(config, workdir)
    fine, coarse = Pairs(workdir / 'samples'), Pairs(sampled)
    is_finer = []
    for number in range(6):
        np.testing.assert_array_equal(fine.image(number), coarse.image(number))
        blocks = fine.ids(number).reshape(64, 4, 64, 4).swapaxes(1, 2).reshape(64, 64, 16)
        is_finer.append((blocks.min(axis=-1) != blocks.max(axis=-1)).any())
        # Away from borders nothing changes.
        assert np.mean(fine.ids(number) == coarse.ids(number)) > 0.5
    assert all(is_finer)


def lines_of(folder):
    return [json.loads(line) for line in (folder / 'pairs_generated.jsonl').open()]


def ids_listed(folder):
    names = ('captions', 'panoptic', 'instances')
    lists = [json.loads((folder / f'annotations/{n}_generated.json').read_text()) for n in names]
    assert [image['id'] for image in lists[0]['images']] == [i['id'] for i in lists[1]['images']]
    return [image['id'] for image in lists[2]['images']]


def stems(folder):
    places = ('generated', 'annotations/panoptic_generated', 'semantic_generated')
    names = [{path.stem for path in (folder / place).iterdir()} for place in places]
    assert names[0] == names[1] == names[2]
    return sorted(map(int, names[0]))


def test_pairs_that_do_not_pass_lie_apart_and_may_come_back(run, sampled, monkeypatch, caplog):
    workdir, config = run
    one_device.sample(config, workdir)
    folder = workdir / 'samples'
    whole = contents(folder)
    assert whole == contents(sampled)
    scores = [line['scores'] for line in lines_of(folder)]
    assert all({'void', 'crumbs', 'things', 'agreement'} <= {*each} for each in scores)
    limit = float(np.median([each['crumbs'] for each in scores]))
    kept = [number for number, each in enumerate(scores) if each['crumbs'] < limit]
    assert 0 < len(kept) < 6
    # Another selection draws nothing.
    monkeypatch.setattr(drawing, 'decoded', None)
    config.sample.keep = f'crumbs<{limit!r}'
    with caplog.at_level('INFO', 'absl'):
        one_device.sample(config, workdir)
    assert f'Kept {len(kept)} of 6 pairs; rejected: {6 - len(kept)} (crumbs' in caplog.text
    assert ids_listed(folder) == stems(folder) == kept
    others = [number for number in range(6) if number not in kept]
    assert ids_listed(folder / 'rejected') == stems(folder / 'rejected') == others
    assert [bool(line.get('rejected')) for line in lines_of(folder)] == [
        number in others for number in range(6)
    ]
    assert len(Pairs(folder)) == len(CocoPanoptic(str(folder), 'generated')) == len(kept)
    page = (folder / 'report.html').read_text()
    assert 'is not below' in page
    before = contents(folder)
    one_device.sample(config, workdir)
    assert contents(folder) == before

    config.sample.keep = ''
    one_device.sample(config, workdir)
    assert contents(folder) == whole


@pytest.mark.parametrize('place', ['coco_lists.write', 'sample_selection.write'])
def test_a_killed_selection_is_done_again(run, monkeypatch, place):
    workdir, config = run
    one_device.sample(config, workdir)
    folder = workdir / 'samples'
    limit = float(np.median([line['scores']['crumbs'] for line in lines_of(folder)]))
    config.sample.keep = f'crumbs<{limit!r}'
    monkeypatch.setattr(drawing, 'decoded', None)  # nothing is drawn again

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f'panoptic_jax.export.{place}', killed)
        with pytest.raises(KeyboardInterrupt):
            one_device.sample(config, workdir)
    one_device.sample(config, workdir)
    found = contents(folder)
    config.sample.keep = ''
    one_device.sample(config, workdir)
    config.sample.keep = f'crumbs<{limit!r}'
    one_device.sample(config, workdir)
    assert contents(folder) == found
    assert stems(folder / 'rejected')


def test_the_best_of_the_copies_is_kept(run):
    workdir, config = run
    line = {'caption': 'a red ring over snow', 'id': 'ring', 'copies': 5}
    lines = [line, {'caption': 'a blue star over sand'}]
    config.sample.update(prompts=write_list(workdir / 'list.jsonl', lines), count=0)
    config.sample.best_of = 'crumbs'
    one_device.sample(config, workdir)
    folder = workdir / 'samples'
    scores = [line['scores']['crumbs'] for line in lines_of(folder)]
    assert len({*scores[:5]}) > 1
    assert ids_listed(folder) == [int(np.argmin(scores[:5])), 5]
    reasons = [line.get('rejected', '') for line in lines_of(folder)]
    assert reasons.count('another copy is better') == 4


def test_shards_hold_what_passes(run, sampled):
    workdir, config = run
    scores = [line['scores']['crumbs'] for line in lines_of(sampled)]
    limit = float(np.median(scores))
    config.sample.update(format='tar', shard_pairs=6, keep=f'crumbs<{limit!r}')
    one_device.sample(config, workdir)
    folder = workdir / 'samples'
    kept = [f'{number:08d}' for number, each in enumerate(scores) if each < limit]
    with tarfile.open(folder / 'generated-00000.tar') as tar:
        assert [name[:-5] for name in tar.getnames() if name.endswith('.json')] == kept
    stats = json.loads((folder / 'generated-00000.stats.json').read_text())
    assert (stats['pairs'], len(stats['rejected'])) == (len(kept), 6 - len(kept))
    config.sample.keep = ''
    one_device.sample(config, workdir)
    stats = json.loads((folder / 'generated-00000.stats.json').read_text())
    assert (stats['pairs'], stats['rejected']) == (6, {})


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'keep': 'beauty>1'}, 'beauty'),
        ({'keep': 'clip>0.2'}, 'clip'),
        ({'keep': 'crumbs<'}, 'sample.keep'),
        ({'best_of': 'beauty'}, 'sample.best_of'),
        ({'best_of': 'keep'}, 'needs an expression in sample.keep'),
        ({'best_of': 'crumbs', 'format': 'tar'}, 'sample.best_of'),
        ({'drop_duplicates': True, 'prompt': 'a', 'data': 'nowhere'}, 'nowhere'),
    ],
)
def test_a_selection_that_cannot_be_made_is_said_before_anything_is_drawn(run, changed, message):
    workdir, config = run
    changed = dict(changed)
    config.data.dir = changed.pop('data', config.data.dir)
    config.sample.update(changed)

    def command():
        settings.check(config)
        one_device.sample(config, workdir)

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command()
    assert not (workdir / 'samples').exists()


def test_near_copies_of_training_images_are_dropped_on_request(run):
    workdir, config = run
    config.sample.drop_duplicates = True
    one_device.sample(config, workdir)
    lines = lines_of(workdir / 'samples')
    assert all(line['nearest']['distance'] > 0 for line in lines)
    copies = [line['nearest']['near_copy'] for line in lines]
    assert copies == [bool(line.get('rejected')) for line in lines]
    config.sample.update(folder='others', drop_duplicates=False)
    one_device.sample(config, workdir)
    config.sample.drop_duplicates = True
    with pytest.raises(ValueError, match=r'drawn without sample\.drop_duplicates'):
        one_device.sample(config, workdir)
