"""One run on many layouts: 1 and 8 devices, split parameters, two processes; kills and moves.

`layouts.py` trains, and `pod_jobs.py` does what takes processes of its own. Each training runs when
the first test asks for it, once in a session.
"""

import json
import shutil
import signal

import jax
import ml_collections
import numpy as np
import pod_jobs
import pytest
from conftest import once, tiny_config
from flax.traverse_util import flatten_dict
from layouts import (
    LAYOUTS,
    SAVED,
    STEPS,
    assert_same_state,
    branch,
    configured,
    image_stream_alone,
    losses,
    run,
    splitting,
    state_of,
    validation,
)
from test_evaluate import towers, with_towers  # noqa: F401 - a fixture

from panoptic_jax import export_weights, main, sample
from panoptic_jax.export import samples
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import trained as trained_weights

MOVED = [name for name in LAYOUTS if name != 'one']  # each to each of the others
MOVES = [(origin, target) for origin in MOVED for target in (*MOVED, 'one') if target != origin]


class Runs:
    """The trainings and jobs of this file, each in a folder of its own."""

    def __init__(self, factory, scenes, trained, towers):  # noqa: F811 - the fixture
        self._factory, self._scenes, self._trained, self._towers = factory, scenes, trained, towers

    def _once(self, name, make):
        return once(self._factory, f'pods {name}', make)

    def unbroken(self, name):
        """Workdir of a training without a break."""
        if name == 'pods':
            return self.first_job() / 'unbroken'

        def make(folder):
            assert run(configured(self._scenes, name, watched=name == 'one'), folder, name)

        return self._once(f'unbroken {name}', make)

    def killed(self, name):
        """A folder: the workdir `broken` of a killed training, and the killed processes' logs."""
        if name == 'pods':
            return self.first_job()

        def make(folder):
            tasks = [('train until killed', folder / 'broken', name)]
            pod_jobs.do(folder, self._scenes, tasks, processes=1, code=-signal.SIGKILL)

        return self._once(f'killed {name}', make)

    def resumed(self, name):
        """Workdir of a killed training that went on to its end."""
        if name == 'pods':
            return self.second_job() / 'broken'
        killed = self.killed(name) / 'broken'

        def make(folder):
            shutil.copytree(killed, folder)
            assert run(configured(self._scenes, name), folder, name)

        return self._once(f'resumed {name}', make)

    def moved(self, origin, target):
        """Workdir of one step on a layout, from the checkpoint of another layout."""
        if target == 'pods':
            return self.second_job() / f'from {origin}'
        unbroken = self.unbroken(origin)

        def make(folder):
            branch(unbroken, folder)
            assert run(configured(self._scenes, target, SAVED + 1), folder, target)

        return self._once(f'moved {origin} {target}', make)

    def exported(self):
        """Workdir with the checkpoints of split parameters, and weights exported from them."""
        unbroken = self.unbroken('fsdp')

        def make(folder):
            folder.mkdir()
            (folder / 'checkpoints').symlink_to(unbroken / 'checkpoints')
            with splitting():
                export_weights.export_weights(tiny_config(self._scenes), str(folder))

        return self._once('exported', make)

    def image_stream(self, name):
        """Workdir of a U-ViT that took the image stream of the exported weights."""
        if name == 'pods':
            return self.second_job() / 'image stream'
        weights = self.exported() / 'weights.safetensors'

        def make(folder):
            assert image_stream_alone(self._scenes, folder, name, weights)

        return self._once(f'image stream {name}', make)

    def scored(self, name):
        """Workdir of samples that one process began, and one or two finished and scored."""
        if name == 'pods':
            return self.second_job() / 'scored'

        def make(folder):
            self._begin_scoring(folder)
            pod_jobs.score(self._scenes, folder, devices=jax.devices()[:4])

        return self._once(f'scored {name}', make)

    def _begin_scoring(self, workdir):
        """Makes a workdir with data of its own and the first of two batches sampled."""
        workdir.mkdir(parents=True)
        shutil.copytree(self._scenes, workdir / 'data')
        trained_in, settings = self._trained
        (workdir / 'checkpoints').symlink_to(trained_in / 'checkpoints')
        config = with_towers(ml_collections.ConfigDict(settings.to_dict()), self._towers)
        config.data.dir = str(workdir / 'data')
        config.evaluate.inception = ''
        (workdir / 'settings.json').write_text(json.dumps(config.to_dict()))
        write_part = samples.write_part

        def interrupted(layout, rows, **others):
            if next(iter(rows)):
                raise KeyboardInterrupt
            write_part(layout, rows, **others)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(samples, 'write_part', interrupted)
            with pytest.raises(KeyboardInterrupt):
                sample.sample(config, str(workdir), devices=jax.devices()[:4])
        parts = workdir / 'samples' / 'parts'
        assert [path.name for path in parts.iterdir()] == ['00000000.jsonl']

    def first_job(self):
        """A folder of two processes: a training without a break, and one that was killed."""

        def make(folder):
            tasks = [
                ('train', folder / 'unbroken', 'pods', STEPS, True),
                ('train until killed', folder / 'broken', 'pods'),
            ]
            pod_jobs.do(folder, self._scenes, tasks, processes=2, code=-signal.SIGKILL)

        return self._once('first job', make)

    def second_job(self):
        """A folder of two processes that go on with what others began; a SIGTERM ends them."""
        killed, weights = self.killed('pods'), self.exported() / 'weights.safetensors'
        origins = {name: self.unbroken(name) for name in MOVED if name != 'pods'}

        def make(folder):
            shutil.copytree(killed / 'broken', folder / 'broken')
            moved = [branch(path, folder / f'from {name}') for name, path in origins.items()]
            self._begin_scoring(folder / 'scored')
            tasks = [
                ('train', folder / 'broken', 'pods'),
                *(('train', workdir, 'pods', SAVED + 1) for workdir in moved),
                ('score', folder / 'scored'),
                ('take image stream', folder / 'image stream', 'pods', str(weights)),
                ('train until told', folder / 'stopped', 'pods'),
            ]
            pod_jobs.do(folder, self._scenes, tasks, processes=2, code=main.RUN_AGAIN)

        return self._once('second job', make)

    def third_job(self):
        """A folder of two processes that go on with the training that the SIGTERM stopped."""
        stopped = self.second_job() / 'stopped'

        def make(folder):
            shutil.copytree(stopped, folder / 'stopped')
            tasks = [('train', folder / 'stopped', 'pods')]
            pod_jobs.do(folder, self._scenes, tasks, processes=2, code=0)

        return self._once('third job', make)


@pytest.fixture(scope='session')
def runs(tmp_path_factory, scenes, trained, towers):  # noqa: F811 - the fixture
    return Runs(tmp_path_factory, scenes, trained, towers)


def log_of(folder, index=0):
    return pod_jobs.log_of(folder, index).read_text()


# --- Training.


def test_every_step_of_one_device_has_a_loss_of_its_own(runs):
    expected = losses(runs.unbroken('one'))
    assert sorted(expected) == [*range(1, STEPS + 1)]
    assert len({*expected.values()}) == STEPS


@pytest.mark.parametrize('name', MOVED)
def test_losses_do_not_depend_on_the_layout(runs, name):
    one, other = runs.unbroken('one'), runs.unbroken(name)
    for number in ('loss', 'grad_norm'):
        expected, found = losses(one, number), losses(other, number)
        assert found.keys() == expected.keys()
        worst = max(abs(found[step] / expected[step] - 1) for step in expected)
        print(f'20 steps, {number}, {name} against one device: {worst:.1e} relative')
        assert worst < 1e-5


@pytest.mark.parametrize(('name', 'share'), [('data', 1), ('fsdp', 8), ('both', 2), ('pods', 2)])
def test_parameters_are_really_split(runs, name, share):
    total = log_of(runs.killed(name)).split('\ntotal ')[1].split('\n')[0]
    arrays, split, whole, own = map(float, total.split())
    assert (split > arrays / 10) == (share > 1)
    assert whole / own == pytest.approx(share, rel=0.25)


def test_two_processes_validate_as_one(runs):
    expected, found = validation(runs.unbroken('one')), validation(runs.unbroken('pods'))
    assert sorted(found) == [SAVED, STEPS]
    for step, scores in found.items():
        assert scores == pytest.approx(expected[step], rel=1e-5)


def test_two_processes_draw_previews(runs):
    last = validation(runs.unbroken('pods'))[STEPS]
    assert {'validation/loss_map', 'preview/mcd'} <= last.keys()


@pytest.mark.parametrize('name', LAYOUTS)
def test_kill_comes_between_a_checkpoint_and_the_end(runs, name):
    assert pod_jobs.KILLED <= max(losses(runs.killed(name) / 'broken')) < STEPS


@pytest.mark.parametrize('name', LAYOUTS)
def test_killed_run_ends_in_the_state_of_an_unbroken_one(runs, name):
    assert_same_state(runs.unbroken(name), runs.resumed(name))


@pytest.mark.parametrize('name', LAYOUTS)
def test_killed_run_logs_the_losses_of_an_unbroken_one(runs, name):
    assert losses(runs.resumed(name)) == losses(runs.unbroken(name))


@pytest.mark.parametrize(('origin', 'target'), MOVES)
def test_checkpoints_go_on_elsewhere(runs, origin, target):
    moved, unbroken = runs.moved(origin, target), runs.unbroken(origin)
    (step, loss), *more = losses(moved).items()
    assert (step, more) == (SAVED + 1, [])
    expected, norms = losses(unbroken), losses(unbroken, 'grad_norm')
    assert losses(moved, 'grad_norm') == pytest.approx({step: norms[step]}, rel=1e-5)
    print(f'next loss, {origin} to {target}: {abs(loss / expected[step] - 1):.1e} relative')
    assert loss == pytest.approx(expected[step], rel=1e-5)
    assert loss != pytest.approx(expected[SAVED], rel=1e-3)


def test_sigterm_to_one_process_stops_both_after_the_same_step(runs):
    second = runs.second_job()
    last = max(losses(second / 'stopped'))
    assert 5 <= last < STEPS
    saved = [path.name for path in (second / 'stopped' / 'checkpoints').iterdir()]
    assert max(saved) == f'{last:08d}'
    assert f'Step {last} of {STEPS} is done and saved' in log_of(second)


@pytest.mark.parametrize('index', [0, 1])
def test_sigterm_leaves_no_trace_of_an_error(runs, index):
    log = log_of(runs.second_job(), index)
    assert 'Traceback' not in log
    assert 'Fatal' not in log
    assert 'terminate' not in log


def test_stopped_job_ends_as_an_unbroken_one(runs):
    expected, found = runs.unbroken('pods'), runs.third_job() / 'stopped'
    assert_same_state(expected, found)
    assert losses(found) == losses(expected)


def test_first_process_alone_talks(runs):
    first, second = (log_of(runs.third_job(), index) for index in range(2))
    assert 'Waiting for all 2 processes of the job at 127.0.0.1' in second
    assert 'Going on from step' in first
    assert 'Going on from step' not in second
    lines = [line for line in second.splitlines() if line.startswith('[process')]
    assert all(line.startswith('[process 1] W') for line in lines)
    assert 'loss' not in second


# --- Sampling and evaluation.


def contents(folder):
    """{path below the folder: bytes} of all files but the lock, which names its last holder."""
    paths = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    paths = [path for path in paths if path.name != 'writer.lock']
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_two_processes_sample_as_one(runs):
    expected, found = (contents(runs.scored(name) / 'samples') for name in ('here', 'pods'))
    assert len([name for name in expected if name.startswith('generated/')]) == 6
    assert found.keys() == expected.keys()
    for name in expected.keys() - {'report.html'}:
        assert found[name] == expected[name], name


def test_two_processes_score_as_one(runs):
    one, two = (
        json.loads((runs.scored(name) / 'metrics.json').read_text()) for name in ('here', 'pods')
    )
    assert {'MCD', 'MCD/chance', 'CLIP score', 'CMMD', 'thing_recall_map'} <= two.keys()
    assert two == one
    page = (runs.scored('pods') / 'samples' / 'report.html').read_text()
    assert f'{two["MCD"]["value"]:.3f}' in page


@pytest.mark.parametrize('place', ['features', 'data/reference'])
def test_each_process_computes_chunks_of_both_sets(runs, place):
    assert len([*(runs.scored('pods') / place).rglob('*.npz')]) == 2


def test_only_missing_batches_are_drawn_again(runs):
    """By two processes, after one process was interrupted."""
    assert 'sample: ' not in log_of(runs.second_job())  # its only batch was there
    parts = (runs.scored('pods') / 'samples' / 'parts').exists()
    assert not parts


# --- Parts of a split checkpoint.


def test_averaged_weights_alone_are_exported(runs):
    weights = weights_file.load(str(runs.exported() / 'weights.safetensors'))
    found = {
        ''.join(f"['{part}']" for part in name.split('/')): value
        for name, value in flatten_dict(weights.params, sep='/').items()
    }
    expected = {
        name[len("['ema']") :]: value
        for name, value in state_of(runs.unbroken('fsdp')).items()
        if name.startswith("['ema']")
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    origin = weights.description.origin
    assert (origin['step'], origin['ema']) == (STEPS, True)


@pytest.mark.parametrize('name', ['fsdp', 'pods'])
def test_image_stream_alone_is_taken_over(runs, name):
    loaded = weights_file.load(str(runs.exported() / 'weights.safetensors')).params['image']
    restored = trained_weights.from_checkpoint(str(runs.image_stream(name)), ema=False)
    found, expected = flatten_dict(restored.params, sep='/'), flatten_dict(loaded, sep='/')
    assert found.keys() == {f'image/{key}' for key in expected}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[f'image/{key}'], value, err_msg=key)
