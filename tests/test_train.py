"""Training as a user meets it: what a run writes, how it survives kills, what it refuses."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import one_device
import pytest
from conftest import QUICKLY, ROOT, TIMES, described, once, random_parameters, tiny_config
from flax.traverse_util import flatten_dict
from tensorboardX.proto import event_pb2

from panoptic_jax import config as settings
from panoptic_jax import export_weights, train
from panoptic_jax.data import loader
from panoptic_jax.diffusion import loss
from panoptic_jax.logs import clock, json_lines
from panoptic_jax.machine import interruption, sharding, writer_lock
from panoptic_jax.programs import optimizers, state, train_step
from panoptic_jax.weights import checkpoint, recovery, steps
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import trained as trained_weights


def steps_of(workdir):
    return sorted(int(path.name) for path in workdir.glob('checkpoints/*') if path.name.isdigit())


def losses_of(workdir):
    """The lines of metrics.jsonl without what depends on the clock and the machine."""
    lines = json_lines.read(workdir / 'metrics.jsonl')
    return [
        {k: v for k, v in line.items() if k not in TIMES and not k.startswith('memory/')}
        for line in lines
    ]


def events_of(workdir):
    """(tags of scalars, tags of pictures, texts, names of hyperparameters)."""
    scalars, pictures, texts, hyperparameters = set(), set(), {}, set()
    for path in (workdir / 'tensorboard').glob('events*'):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], 'little')
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                if value.HasField('simple_value'):
                    scalars.add(value.tag)
                elif value.HasField('image'):
                    pictures.add(value.tag)
                elif plugin == 'text':
                    texts[value.tag] = value.tensor.string_val[0].decode()
                elif plugin == 'hparams':
                    hyperparameters.add(value.tag)
    return scalars, pictures, texts, hyperparameters


# --- What a run writes.


def test_loss_falls_and_every_log_line_is_complete(trained):
    workdir, _ = trained
    lines = json_lines.read(workdir / 'metrics.jsonl')
    assert [line['step'] for line in lines] == [2, 4, 6, 8, 10, 12]
    promised = {
        'step', 'loss', 'loss_image', 'loss_map', 'grad_norm', 'learning_rate',
        'images_per_second', 'mfu', 'seconds', 'waiting_for_data',
    }  # fmt: skip
    for line in lines:
        assert promised <= line.keys()
        assert line['loss'] == pytest.approx(line['loss_image'] + line['loss_map'], rel=1e-5)
        assert line['images_per_second'] > 0
        assert line['mfu'] > 0
        assert 0 <= line['waiting_for_data'] < 1
        assert [name for name in line if name.startswith('loss_map/t')]
    assert lines[0]['learning_rate'] == pytest.approx(1e-3)
    assert 1.5 < lines[0]['loss'] < 2.5  # unit noise and +-1 bits, predicted as about zero
    assert lines[-1]['loss'] < lines[0]['loss'] - 0.02
    assert lines[0]['loss_map'] > lines[2]['loss_map'] > lines[5]['loss_map']


def test_a_window_is_timed_before_the_step_after_it(config, tmp_path, monkeypatch):
    """On CPU, where dispatching a step computes it."""
    put, reported = [], []
    put_batch, report = sharding.put_batch, clock.Clock.report
    monkeypatch.setattr(sharding, 'put_batch', lambda *a: put.append(0) or put_batch(*a))
    monkeypatch.setattr(
        clock.Clock, 'report', lambda self, n: reported.append((n, len(put))) or report(self, n)
    )
    one_device.train(config, tmp_path)
    assert reported == [(2, 2), (4, 4), (6, 6), (8, 8)]


def test_held_out_loss_and_preview_are_recorded(trained):
    lines = json_lines.read(trained[0] / 'validation.jsonl')
    found = {}
    for line in lines:
        found.setdefault(line['step'], {}).update(line)
    assert sorted(found) == [6, 12]
    for numbers in found.values():
        assert 0.5 < numbers['validation/loss_image'] < 1.5
        assert 0.5 < numbers['validation/loss_map'] < 1.5
        assert 0 < numbers['preview/mcd'] <= 2
        assert 0 < numbers['preview/mcd_normalised'] < 2
        for name in ('image_map_agreement', 'stuff_recall_image', 'thing_recall_map'):
            assert 0 <= numbers[f'preview/{name}'] <= 1
        # After twelve steps a caption says nothing yet.
        for stream in ('image', 'map'):
            assert 0.9 < numbers[f'probe/caption_{stream}'] < 1.1
    assert found[12]['validation/loss_map'] < found[6]['validation/loss_map']


def test_configuration_and_environment_are_recorded(trained):
    workdir, config = trained
    recorded = json.loads((workdir / 'config.json').read_text())
    assert recorded == json.loads(json.dumps(config.to_dict()))
    environment = json.loads((workdir / 'environment.json').read_text())
    assert environment.keys() >= {'commit', 'packages', 'devices'}
    assert environment['packages']['jax'] == jax.__version__


def test_checkpoints_kept_are_the_last_and_every_sixth(trained):
    assert steps_of(trained[0]) == [6, 10, 12]


def test_tensorboard_files_hold_scalars_pictures_and_texts(trained):
    scalars, pictures, texts, hyperparameters = events_of(trained[0])
    assert scalars >= {'loss', 'loss_map', 'learning_rate', 'grad_norm', 'images_per_second'}
    assert scalars >= {'validation/loss_image', 'preview/mcd', 'memory/host_bytes_in_use'}
    assert scalars >= {'probe/caption_image', 'probe/caption_map', 'preview/image_map_agreement'}
    assert pictures == {'preview'}
    (overview,) = [text for tag, text in texts.items() if 'parameters' in tag]
    assert 'image/blocks_0/qkv/kernel' in overview
    assert 'map/patch_embed/kernel' in overview
    assert any('session_start_info' in tag for tag in hyperparameters)


def test_profiler_window_leaves_a_trace(trained):
    (trace,) = (trained[0] / 'tensorboard' / 'plugins' / 'profile').glob('*/*.xplane.pb')
    assert trace.stat().st_size > 10_000


def test_finished_run_is_left_alone(trained):
    workdir, config = trained
    before = (workdir / 'metrics.jsonl').read_bytes()
    assert one_device.train(config, workdir)
    assert (workdir / 'metrics.jsonl').read_bytes() == before
    assert steps_of(workdir) == [6, 10, 12]


# --- Killed and gone on.


def start(config_path, workdir):
    """A real training process on one device; its output goes to workdir.log."""
    log = open(f'{workdir}.log', 'ab')  # noqa: SIM115 - the child writes it
    return subprocess.Popen(
        f'{sys.executable} -m panoptic_jax.main --config={config_path} --workdir={workdir}'.split(),
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': QUICKLY},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_for(process, happened, workdir):
    while not happened():
        if process.poll() is not None:
            raise AssertionError(f'ended with {process.returncode}: {log_of(workdir)[-3000:]}')
        time.sleep(0.002)


def log_of(workdir):
    return Path(f'{workdir}.log').read_text()


def logged(workdir, step):
    return any(line['step'] >= step for line in json_lines.read(workdir / 'metrics.jsonl'))


def raw_state(workdir, step):
    """Every array of a checkpoint, by path."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir / 'checkpoints' / f'{step:08d}' / 'state')
    return {jax.tree_util.keystr(path): a for path, a in jax.tree.leaves_with_path(tree)}


def test_killed_run_ends_as_an_unbroken_one(scenes, tmp_path):
    """kill -9 between checkpoints and inside the writing of one, then SIGTERM inside a window."""
    config = tiny_config(scenes)
    config.steps = 20
    config.model.update(patch_size=8, patch_factor=1)  # starting a process takes long enough
    content = f'json.loads({json.dumps(config.to_dict())!r})'
    path = tmp_path / 'tiny.py'
    path.write_text(
        'import json\nimport ml_collections\n\n\n'
        f'def get_config():\n    return ml_collections.ConfigDict({content})\n'
    )
    unbroken, broken = tmp_path / 'unbroken', tmp_path / 'broken'
    straight = start(path, unbroken)

    process = start(path, broken)
    wait_for(process, lambda: logged(broken, 6) and 4 in steps_of(broken), broken)
    process.kill()
    process.wait()

    def writing(step):
        return list(broken.glob(f'checkpoints/{step:08d}.orbax-checkpoint-tmp*'))

    done = steps_of(broken)[-1]
    process = start(path, broken)
    wait_for(process, lambda: writing(done + 4), broken)
    process.kill()
    process.wait()
    assert writing(done + 4), 'the checkpoint was complete before the kill'
    assert steps_of(broken)[-1] == done
    assert logged(broken, done + 4)  # lines that the next start takes back

    process = start(path, broken)
    wait_for(process, lambda: logged(broken, done + 6), broken)
    process.terminate()
    assert process.wait() == 75
    stopped = steps_of(broken)[-1]
    assert done + 6 <= stopped < 20

    process = start(path, broken)
    assert process.wait() == 0, log_of(broken)[-3000:]
    assert straight.wait() == 0, log_of(unbroken)[-3000:]
    log = log_of(broken)
    assert f'Going on from step {done} of' in log
    assert f'Going on from step {stopped} of' in log
    assert 'Traceback' not in log + log_of(unbroken)
    assert not list(broken.glob('checkpoints/*tmp*'))

    expected, found = raw_state(unbroken, 20), raw_state(broken, 20)
    assert expected.keys() == found.keys()
    assert any('opt_state' in name for name in found)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert [line['step'] for line in losses_of(broken)] == list(range(2, 21, 2))
    assert losses_of(broken) == losses_of(unbroken)
    seconds = [line['seconds'] for line in json_lines.read(broken / 'metrics.jsonl')]
    assert seconds == sorted(seconds)


def test_run_killed_between_validation_and_save_writes_the_same_lines(copy, monkeypatch):
    """Step 12 validates; the run is killed before it saves, and goes on from step 10."""
    workdir, config = copy
    config.validate_every = 6
    shutil.rmtree(workdir / 'checkpoints' / '00000012')
    log = workdir / 'validation.jsonl'
    expected = validation_of(log)
    assert [line['step'] for line in expected] == [6, 12]
    save, there = checkpoint.Checkpoints.save, []

    def saved(self, step, *others, **options):
        there.append((step, [line['step'] for line in validation_of(log)]))
        save(self, step, *others, **options)

    monkeypatch.setattr(checkpoint.Checkpoints, 'save', saved)
    lines = losses_of(workdir)
    assert one_device.train(config, workdir)
    # Nothing of a step is written after its save.
    assert there == [(12, [6, 12])]
    assert validation_of(log) == expected
    assert losses_of(workdir) == lines


def validation_of(path):
    return [line for line in json_lines.read(path) if 'validation/loss_image' in line]


def test_sigterm_before_the_first_step_loses_nothing(config, tmp_path):
    with interruption.Interruption() as asked:
        asked.ask()
        while not asked.asked():
            time.sleep(0.01)
        with pytest.raises(interruption.Interrupted):
            one_device.train(config, tmp_path, interruption=asked)
    assert steps_of(tmp_path) == []


def test_damaged_newest_checkpoint_is_trained_again_from_the_one_before(copy):
    workdir, config = copy
    whole = raw_state(workdir, 12)
    path = max((workdir / 'checkpoints' / '00000012' / 'state').rglob('*'), key=size_of)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert trained_weights.from_checkpoint(str(workdir), ema=True).step == 10
    assert one_device.train(config, workdir)
    assert steps_of(workdir) == [6, 10, 12]
    assert (workdir / 'checkpoints' / '00000012.damaged').is_dir()
    for name, value in raw_state(workdir, 12).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert [line['step'] for line in losses_of(workdir)] == [2, 4, 6, 8, 10, 12]


def size_of(path):
    return path.stat().st_size if path.is_file() else 0


def test_second_training_in_a_workdir_is_refused(copy):
    workdir, config = copy
    with (
        writer_lock.writing(workdir, 'training'),
        pytest.raises(ValueError, match=r'Another training \(process \d+ .* since'),
    ):
        one_device.train(config, workdir)


def test_saved_state_is_not_touched_by_the_steps_after_it(tmp_path):
    """The save goes on in the background while the next steps take over the state's buffers."""
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {f'w{i}': jnp.full((512, 128), i, jnp.float32) for i in range(40)}
    shardings = sharding.of_tree(tree, mesh)
    step = jax.jit(
        lambda tree: jax.tree.map(lambda a: a * 1.5 + 1, tree),
        donate_argnums=0,
        in_shardings=(shardings,),
        out_shardings=shardings,
    )
    tree = step(jax.device_put(tree, shardings))
    expected = jax.tree.map(lambda a: np.array(a, copy=True), tree)
    abstract = sharding.abstract(tree, shardings)
    checkpoints = checkpoint.Checkpoints(str(tmp_path))
    checkpoints.save(1, tree, {}, {})
    for _ in range(20):
        tree = step(tree)
    jax.block_until_ready(tree)
    checkpoints.close()
    found, _ = recovery.newest(str(tmp_path), lambda step: step.state(abstract))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert float(tree['w0'][0, 0]) != float(expected['w0'][0, 0])


def test_reader_leaves_a_save_under_way_alone(trained, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(trained[0] / 'checkpoints', workdir / 'checkpoints')
    under_way = workdir / 'checkpoints' / '00000014.orbax-checkpoint-tmp'
    under_way.mkdir()
    params, found, step = trained_weights.from_checkpoint(str(workdir), ema=True)
    assert step == 12
    assert found.model.name == 'one_stream'
    assert under_way.exists()
    assert steps_of(workdir) == [6, 10, 12]
    last, _, _ = trained_weights.from_checkpoint(str(workdir), ema=False)
    differ = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), params, last)
    assert all(jax.tree.leaves(differ))


# --- Refusals.


@pytest.fixture
def copy(trained, tmp_path):
    """(workdir, config) of a copy of the trained run, to go on with."""
    workdir = tmp_path / 'copy'
    shutil.copytree(trained[0], workdir)
    config = ml_collections.ConfigDict(trained[1].to_dict())
    config.preview_every = config.validate_every = config.profile_at = 0
    return workdir, config


def test_loss_that_is_not_finite_stops_the_run_and_names_the_step(copy, monkeypatch):
    workdir, config = copy
    config.steps = 20
    config.learning_rate = 1e38
    config.log_every = config.checkpoint_every = 4
    sentence = r'of step 13 is not finite; the checkpoint of step 12 is good\.'
    with pytest.raises(FloatingPointError, match=sentence):
        one_device.train(config, workdir)
    assert steps_of(workdir) == [6, 10, 12]
    assert [line['step'] for line in losses_of(workdir)][-1] == 12
    # Nor does a SIGTERM before the window's end save the ruins.
    monkeypatch.setattr(train, 'told_to_leave', lambda interruption, step: step == 14)
    with pytest.raises(FloatingPointError, match=sentence):
        one_device.train(config, workdir)
    assert steps_of(workdir) == [6, 10, 12]


def test_checkpoints_of_another_model_are_refused(copy):
    workdir, config = copy
    config.steps = 20
    recorded = (workdir / 'config.json').read_text()
    config.model.hidden_size = 64
    with pytest.raises(ValueError, match=r'model\.hidden_size: 32 there, 64 in this config'):
        one_device.train(config, workdir)
    assert (workdir / 'config.json').read_text() == recorded
    assert steps_of(workdir) == [6, 10, 12]


def test_batch_must_be_shared_evenly(config, tmp_path):
    config.batch_size = 12
    with pytest.raises(ValueError, match='batch_size is 12; it must be a multiple of the 8'):
        train.train(config, str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


# --- The step.


def test_microbatches_give_the_same_step(config):
    description = described(config)
    model = description.build(jnp.float32)
    params = jax.tree.map(jnp.float32, random_parameters(description))
    optimizer = optimizers.make('adamw', lambda step: 1e-3, 0.03, (0.9, 0.9))
    train_state = jax.jit(lambda p: state.create(p, lambda path: False, optimizer))(params)
    split = loader.Split(config.data.dir, 'train')
    batches = loader.train_batches(split, batch_size=8, seed=0)
    batch = next(batches)
    batches.close()
    draw = functools.partial(
        loss.draw_inputs,
        empty_text=loader.empty_text(config.data.dir).astype(np.float32),
        drawing=loss.Drawing(scale=1.0, text_dropout=0.5, map_side=64),
    )
    recipe = train_step.Recipe(**settings.recipe(config))
    objective = loss.Objective(description.streams)
    after = [
        jax.jit(
            functools.partial(
                train_step.train_step,
                losses=functools.partial(train_step.example_losses, model, objective=objective),
                draw=draw,
                optimizer=optimizer,
                recipe=dataclasses.replace(recipe, seed=0, microbatches=parts, ema_decay=0.9),
            )
        )(train_state, batch)
        for parts in (1, 2)
    ]
    for name in ('loss', 'loss_map', 'grad_norm', 'bucket_image', 'bucket_count'):
        np.testing.assert_allclose(*(s.totals[name] for s in after), rtol=1e-5, err_msg=name)
    mu = [flatten_dict(s.opt_state[0].mu, sep='/') for s in after]
    for name, value in mu[0].items():
        scale = float(jnp.abs(value).max())
        np.testing.assert_allclose(mu[1][name], value, atol=1e-5 * scale, err_msg=name)


# --- A pretrained image model becomes two streams.


@pytest.fixture(scope='session')
def uvit(tmp_path_factory, scenes):
    """(workdir, config) of a tiny U-ViT run with exported weights."""
    config = tiny_config(scenes)
    config.model.name = 'uvit'
    config.steps = 2
    config.validate_every = 1
    config.checkpoint_best = 'loss'

    def run(workdir):
        assert one_device.train(config, workdir)
        export_weights.export_weights(config, str(workdir))

    return once(tmp_path_factory, 'uvit', run), config


def test_model_without_maps_logs_no_map_loss(uvit):
    (line,) = json_lines.read(uvit[0] / 'metrics.jsonl')
    assert line['loss_map'] is None
    assert line['loss'] == line['loss_image']


def test_a_best_step_is_saved_with_its_scores_though_none_was_due(uvit):
    workdir, config = uvit
    assert config.checkpoint_every > 1
    lines = json_lines.read(workdir / 'validation.jsonl')
    losses = {line['step']: line['validation/loss_image'] for line in lines}
    assert steps_of(workdir) == [*losses] == [1, 2]
    for line in lines:
        step = steps.Step(workdir / 'checkpoints' / f'{line["step"]:08d}', line['step'])
        assert step.meta['scores'].items() == {k: line[k] for k in line if k != 'step'}.items()
        assert step.meta['best_by'] == 'loss'
    best = trained_weights.from_checkpoint(str(workdir), ema=True, which='best')
    assert best.step == min(losses, key=losses.get)


def test_a_best_step_by_what_is_not_measured_is_refused(config, tmp_path):
    config.checkpoint_best = 'agreement'
    config.validate_every = 4
    with pytest.raises(ValueError, match=r"does not measure .* here it may be 'loss', ''"):
        one_device.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_two_streams_train_from_exported_image_weights(uvit, config, tmp_path):
    config.model.name = 'two_stream'
    config.init_weights = str(uvit[0] / 'weights.safetensors')
    config.steps = 2
    assert one_device.train(config, tmp_path)
    params, _, step = trained_weights.from_checkpoint(str(tmp_path), ema=True)
    assert step == 2
    loaded, _, _ = weights_file.load(config.init_weights)
    found, origin = flatten_dict(params, sep='/'), flatten_dict(loaded, sep='/')
    frozen = [name for name in origin if name.startswith(('image/blocks', 'image/text_embed'))]
    for name in frozen:
        np.testing.assert_array_equal(found[name], origin[name])
    assert np.any(found['image/head/kernel'] != origin['image/head/kernel'])
    kernel = 'blocks_0/qkv/kernel'  # the map's blocks started as copies, and were trained
    distance = np.abs(found[f'map/{kernel}'] - origin[f'image/{kernel}']).max()
    assert 0 < distance < 0.01


def test_model_that_predicts_the_maps_noise_trains_and_samples(config, tmp_path):
    config.map.prediction = 'noise'
    config.preview_every = config.checkpoint_every = config.steps = 4
    assert one_device.train(config, tmp_path)
    assert 0.5 < json_lines.read(tmp_path / 'metrics.jsonl')[-1]['loss_map'] < 1.5
    one_device.sample(config, tmp_path)
    assert len(list((tmp_path / 'samples' / 'generated').iterdir())) == 6
    data = ml_collections.ConfigDict(config.to_dict())
    data.map.prediction = 'data'
    with pytest.raises(ValueError, match=r"map\.prediction: 'noise' there, 'data' in this"):
        one_device.train(data, tmp_path)
