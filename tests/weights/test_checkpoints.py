"""Checkpoints that are damaged, incomplete, removed meanwhile, or in folders of any name."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from panoptic_jax.command import fields
from panoptic_jax.weights import best, checkpoint, checksums, orbax_files, recovery, steps, trained

META = {'seconds': 1.5, 'description': {'name': 'tiny'}}
SAVED = (2, 4, 6)


def make(seed):
    """A tiny state: large enough for files of its own, small enough for hundreds of reads."""
    rng = np.random.default_rng(seed)
    return {
        'ema': {'kernel': jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)},
        'params': {
            'kernel': jnp.asarray(rng.normal(size=(64, 32)), jnp.float32),
            'bias': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        },
        'frozen': {},
        'step': jnp.asarray(seed, jnp.int32),
    }


def abstract(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)


def save(workdir, numbers=SAVED):
    checkpoints = checkpoint.Checkpoints(str(workdir), keep_last=len(numbers))
    for number in numbers:
        checkpoints.save(number, make(number), {'batches': number}, META)
    checkpoints.close()


def restore(step):
    """(number, position, state) as training takes them."""
    assert step.meta['seconds'] == META['seconds']
    assert step.meta['description'] == META['description']
    return step.number, step.position(), step.state(abstract(make(0)))


def newest(workdir):
    """(step, the damaged steps), after comparing every value with what was saved."""
    (number, position, state), faults = recovery.newest(str(workdir), restore)
    assert position == {'batches': number}
    jax.tree.map(np.testing.assert_array_equal, state, make(number))
    return number, faults


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A workdir of three whole steps."""
    workdir = tmp_path_factory.mktemp('whole')
    save(workdir)
    return workdir


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of that workdir, to be damaged."""
    shutil.copytree(whole, tmp_path / 'run')
    return tmp_path / 'run'


@pytest.fixture
def warnings(monkeypatch):
    """The warnings that are logged."""
    found = []
    monkeypatch.setattr(logging, 'warning', lambda text, *values: found.append(text % values))
    return found


def folder(workdir, number=6):
    return workdir / 'checkpoints' / steps.name_of(number)


def without_checksums(workdir):
    """Makes checkpoints such as earlier versions wrote."""
    for number in SAVED:
        (folder(workdir, number) / checksums.LIST).unlink()
        meta = folder(workdir, number) / 'meta' / 'metadata'
        meta.write_text(json.dumps(META))


# --- Whole ones.


def test_the_newest_step_comes_back_as_it_was_saved(whole, warnings):
    assert newest(whole) == (6, {})
    assert not warnings


def test_parts_alone_come_back_as_they_were_saved(whole):
    parts, _ = recovery.newest(str(whole), lambda s: s.parts({'ema': abstract(make(0))['ema']}))
    np.testing.assert_array_equal(parts['ema']['kernel'], make(6)['ema']['kernel'])


def test_checkpoints_of_earlier_versions_come_back(workdir, warnings):
    without_checksums(workdir)
    assert newest(workdir) == (6, {})
    assert not warnings


def test_no_checkpoint_is_no_error(tmp_path):
    assert recovery.newest(str(tmp_path), restore) is None


@pytest.mark.parametrize('name', ['a[1]', '[', 'x]', 'a*b', 'a?', '{a,b}', 'ä ü 猫', '#1 %20', '~'])
def test_folders_of_any_name_hold_checkpoints(tmp_path, name):
    workdir = tmp_path / name
    save(workdir, [3])
    assert newest(workdir) == (3, {})
    assert (folder(workdir, 3) / 'state' / 'manifest.ocdbt').exists()


# --- Damaged ones.


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def delete(path, rng):
    path.unlink()


def empty(path, rng):
    path.write_bytes(b'{}' if path.name == 'metadata' else b'')


def zero(path, rng):
    path.write_bytes(bytes(path.stat().st_size))


def damaged_file(workdir, rng, damage):
    """Damages one file of the newest step; returns its path below the step."""
    files = [path for path in sorted(folder(workdir).rglob('*')) if path.is_file()]
    path = files[rng.integers(len(files))]
    damage(path, rng)
    return str(path.relative_to(folder(workdir)))


@pytest.mark.parametrize('damage', [flip, cut, delete, empty, zero])
def test_damage_of_any_file_leads_to_right_values(whole, tmp_path, warnings, damage):
    """12 random files each, of 60; `newest` compares the values that are restored."""
    rng = np.random.default_rng([5, *damage.__name__.encode()])
    went_back = 0
    for number in range(12):
        workdir = tmp_path / str(number)
        shutil.copytree(whole, workdir)
        warnings.clear()
        name = damaged_file(workdir, rng, damage)
        step, faults = newest(workdir)
        # Markers and Orbax's own notes are not needed, and so are not compared.
        spare = name.endswith('commit_success.txt') or name == '_CHECKPOINT_METADATA'
        assert (step, [*faults]) == ((6, []) if spare else (4, [6])), name
        went_back += step == 4
        if not spare:
            (warning,) = warnings
            assert ': in step 6, ' in warning
            assert 'Step 4 is taken' in warning
    assert went_back > 2


@pytest.mark.parametrize('damage', [flip, cut, delete, empty, zero])
def test_damage_without_checksums_ends_in_a_step_or_a_sentence(whole, tmp_path, damage):
    """Earlier versions: values may be wrong, but no other error than a sentence comes."""
    rng = np.random.default_rng([6, *damage.__name__.encode()])
    for number in range(5):
        workdir = tmp_path / str(number)
        shutil.copytree(whole, workdir)
        without_checksums(workdir)
        damaged_file(workdir, rng, damage)
        with contextlib.suppress(ValueError):
            (step, _, _), _ = recovery.newest(str(workdir), restore_any)
            assert step in (6, 4)


def restore_any(step):
    assert isinstance(step.meta['seconds'], float)
    return step.number, step.position(), step.state(abstract(make(0)))


def half_copied(step):
    shutil.rmtree(step / 'state' / 'd')
    (step / 'meta' / 'metadata').unlink()


CASES = {
    'half copied': half_copied,
    'an empty folder': lambda step: [
        shutil.rmtree(path) for path in step.iterdir() if path.is_dir()
    ],
    'no state': lambda step: shutil.rmtree(step / 'state'),
    'no meta': lambda step: shutil.rmtree(step / 'meta'),
    'no data': lambda step: shutil.rmtree(step / 'data'),
    'no list': lambda step: (step / checksums.LIST).unlink(),
    'a list of nothing': lambda step: (step / checksums.LIST).write_text('{}'),
    'no metadata of arrays': lambda step: (step / 'state' / '_METADATA').unlink(),
}


@pytest.mark.parametrize('case', CASES)
def test_an_incomplete_step_is_set_aside_and_saved_anew(workdir, warnings, case):
    CASES[case](folder(workdir))
    step, faults = newest(workdir)
    assert (step, [*faults]) == (4, [6])
    recovery.set_aside(str(workdir), faults)
    assert 'Step 6, which is damaged, is kept as' in warnings[-1]
    assert folder(workdir).with_name('00000006.damaged').is_dir()
    checkpoints = checkpoint.Checkpoints(str(workdir), keep_last=3)
    assert checkpoints.latest() == 4
    checkpoints.save(6, make(6), {'batches': 6}, META)
    checkpoints.close()
    assert newest(workdir) == (6, {})
    assert folder(workdir).with_name('00000006.damaged').is_dir()


def test_damaged_steps_of_the_same_number_are_all_kept(workdir):
    for _ in range(2):
        cut(folder(workdir) / 'state' / 'manifest.ocdbt', np.random.default_rng(0))
        recovery.set_aside(str(workdir), newest(workdir)[1])
        save_one(workdir, 6)
    kept = sorted(path.name for path in (workdir / 'checkpoints').glob('*.damaged*'))
    assert kept == ['00000006.damaged', '00000006.damaged.1']


def save_one(workdir, number):
    checkpoints = checkpoint.Checkpoints(str(workdir), keep_last=3)
    checkpoints.save(number, make(number), {'batches': number}, META)
    checkpoints.close()


def test_without_any_whole_step_there_is_one_sentence(workdir):
    for number in SAVED:
        shutil.rmtree(folder(workdir, number) / 'state')
    with pytest.raises(ValueError, match='holds no whole checkpoint: in step 6, its folder state'):
        newest(workdir)
    assert steps.numbers(str(workdir)) == [6, 4, 2]


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = make(3)
    state['params']['bias'] = state['params']['bias'].at[2].set(value)
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(3, state, {'batches': 3}, META)
    checkpoints.close()
    with pytest.raises(ValueError, match=r'00000003 holds NaN or infinity in params/bias; move'):
        recovery.newest(str(tmp_path), restore)
    parts = {'ema': abstract(make(0))['ema']}
    recovery.newest(str(tmp_path), lambda step: step.parts(parts))


# --- Beside a training.


def test_a_step_that_is_removed_while_it_is_read_is_no_damage(workdir, warnings):
    """The training saves step 8 and removes step 6 between two reads of a sampler."""

    def read(step):
        if step.number == 6:
            save_one(workdir, 8)
            shutil.rmtree(folder(workdir))
        return restore(step)

    (number, _, _), faults = recovery.newest(str(workdir), read)
    assert (number, faults) == (8, {})
    assert not warnings


def test_a_step_that_is_half_removed_is_no_damage(workdir, warnings, monkeypatch):
    fault = checksums.fault

    def removing(step, **options):
        if step == folder(workdir):
            save_one(workdir, 8)
            (step / 'state' / 'manifest.ocdbt').unlink(missing_ok=True)
            monkeypatch.setattr(checksums, 'fault', fault)
        return fault(step, **options)

    monkeypatch.setattr(checksums, 'fault', removing)
    assert newest(workdir) == (8, {})
    assert not warnings


# --- Saves that fail.


def test_a_save_that_left_something_out_is_no_save(workdir, monkeypatch):
    monkeypatch.setattr(checksums, 'write', lambda folder, state: None)
    with pytest.raises(ValueError, match='00000008 was not saved whole: its list of checksums'):
        save_one(workdir, 8)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(workdir, monkeypatch):
    def full(folder, state):
        raise OSError(28, 'No space left on device', str(state))

    monkeypatch.setattr(checksums, 'write', full)
    sentence = (
        r'The checkpoint of step 8 could not be saved \(the checkpoint of step 6 is good\): The '
        r'disk of the folder \S+/run/checkpoints is full: state takes .*16,402 bytes, and '
    )
    checkpoints = checkpoint.Checkpoints(str(workdir), keep_last=3)
    checkpoints.save(8, make(8), {'batches': 8}, META)
    with pytest.raises(ValueError, match=sentence):
        checkpoints.save(10, make(10), {'batches': 10}, META)
    checkpoints.close()
    assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == [
        steps.name_of(number) for number in SAVED
    ]
    monkeypatch.undo()
    save_one(workdir, 8)
    assert newest(workdir) == (8, {})


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(ValueError, match='checkpoints is a file where a folder should be'):
        checkpoint.Checkpoints(str(tmp_path))
    assert recovery.newest(str(tmp_path), restore) is None


def test_what_a_killed_save_has_left_is_removed(workdir):
    left = folder(workdir).with_name(steps.name_of(8) + orbax_files.UNFINISHED)
    (left / 'state').mkdir(parents=True)
    save_one(workdir, 8)
    assert not left.exists()
    assert newest(workdir) == (8, {})


# --- The best one.


def save_scored(workdir, scores, **options):
    """Saves a step for each score, as training does; returns the steps that are left."""
    checkpoints = checkpoint.Checkpoints(str(workdir), **{'best_by': 'agreement'} | options)
    for number, value in scores.items():
        own = {best.NAME_OF['agreement']: value, best.NAME_OF['mcd']: value}
        meta = META | {'scores': own}
        is_best = checkpoints.is_best(own)
        checkpoints.save(number, make(number), {'batches': number}, meta, is_best=is_best)
    checkpoints.close()
    return steps.numbers(str(workdir))[::-1]


def test_the_best_step_stays_beside_the_newest_also_after_restarts(tmp_path):
    assert save_scored(tmp_path, {1: 0.3, 2: 0.7, 3: 0.5}) == [2, 3]
    assert save_scored(tmp_path, {4: 0.6, 5: None, 6: 0.7}) == [2, 6]
    assert recovery.best(str(tmp_path), restore)[0] == 2
    assert newest(tmp_path) == (6, {})
    assert save_scored(tmp_path, {7: 0.9, 8: 0.1}, keep_last=2) == [7, 8]
    # Another score: the lowest MCD of those that are left is that of step 8.
    assert save_scored(tmp_path, {9: 0.5, 10: 0.4}, best_by='mcd') == [8, 10]
    assert recovery.best(str(tmp_path), restore)[0] == 8


def test_a_damaged_best_step_is_passed_over_with_a_warning(tmp_path, warnings):
    save_scored(tmp_path, {1: 0.3, 2: 0.7, 3: 0.5, 4: 0.6}, keep_last=4)
    flip(folder(tmp_path, 2) / 'state' / '_METADATA', np.random.default_rng(0))
    assert recovery.best(str(tmp_path), restore)[0] == 4
    (warning,) = warnings
    assert ': in step 2, ' in warning
    assert 'Step 4 is taken, the best whole one' in warning
    warnings.clear()
    (folder(tmp_path, 4) / 'meta' / 'metadata').write_text('{')
    save_scored(tmp_path, {})
    assert recovery.best(str(tmp_path), restore)[0] == 3
    assert any('Step 4 of' in warning and 'no known score' in warning for warning in warnings)


def test_a_training_without_a_best_step_says_so(whole, tmp_path):
    with pytest.raises(ValueError, match=r'keeps no best step; --config\.checkpoint_best'):
        recovery.best(str(whole), restore)
    assert recovery.best(str(tmp_path), restore) is None


def test_ranks_are_higher_for_better_scores_and_none_for_no_number():
    rng = np.random.default_rng(7)
    low, high = sorted(rng.random(2))
    for name in ('', *best.NAMES):
        assert fields.FIELDS['checkpoint_best'].holds(name)
    assert fields.FIELDS['checkpoint_best'].expected.count(',') == len(best.NAMES)
    for name, score in best.NAME_OF.items():
        better = best.rank(name, {score: high}) > best.rank(name, {score: low})
        assert better == (name == 'agreement')
        for nothing in ({}, {score: None}, {score: np.nan}):
            assert best.rank(name, nothing) is None
    streams = {'validation/loss_image': low, 'validation/loss_map': high, 'preview/mcd': 5.0}
    assert best.rank('loss', streams) == pytest.approx(-low - high)


def test_a_weights_file_is_no_best_checkpoint(tmp_path):
    given = {'weights_path': str(tmp_path / 'w.safetensors'), 'ema': True, 'data_dir': 'none'}
    with pytest.raises(
        ValueError, match=r"sample\.checkpoint is 'best'; it must be 'newest' where"
    ):
        trained.for_sampling(str(tmp_path), which='best', **given)
