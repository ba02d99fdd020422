"""Predictions for TPUs: plans of a tiny model, and the devices that they are made for."""

import contextlib
import io
import json
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs_libtpu, tiny_config

from panoptic_jax import plan
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import for_mesh
from panoptic_jax.models.uvit import Block
from panoptic_jax.planning import bundles
from panoptic_jax.planning.topology import topology_devices
from panoptic_jax.programs import optimizers, state
from panoptic_jax.programs.training import abstract_batch, make_training


class Run(NamedTuple):
    """A plan that was made: the config, what `plan.plan` returned, printed and wrote."""

    config: object
    reports: dict
    printed: str
    written: dict


def config_to_plan(folder):
    """A tiny config whose data do not exist, with shapes that the compiler is soon done with.

    Convolutions of a few channels at 64 x 64 pixels take it half a minute each.
    """
    config = tiny_config(folder / 'no_data')
    config.data.autoencoder = 'taesd'
    config.model.hidden_size = 128
    config.model.patch_factor = 1
    config.plan.batch_per_device = 2
    return config


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory):
    """One plan for all tests: compiling takes most of the time."""
    folder = tmp_path_factory.mktemp('plan')
    config = config_to_plan(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        reports = plan.plan(config, str(folder / 'run'))
    written = json.loads((folder / 'run' / 'plan.json').read_text())
    return Run(config=config, reports=reports, printed=printed.getvalue(), written=written)


@needs_libtpu
@pytest.mark.parametrize(
    ('topology', 'kernels'), [('v4:2x2x1', False), ('v5e:2x2', True), ('v5p:2x2x1', True)]
)
def test_cores_with_little_vector_memory_get_no_kernels(topology, kernels):
    """On a TPU v4 the compiler refuses the gradients of all of them: they need more than 16 MiB."""
    # The compiler is loaded once in a process, and the plan's tests want its bundles.
    with bundles.written():
        devices = topology_devices(topology, num_slices=1)
    on_tpu = for_mesh(sharding.make_mesh(-1, 1, devices))
    block = Block(2, jnp.bfloat16, on_tpu)
    tokens = jax.ShapeDtypeStruct((8, 16, 128), jnp.bfloat16)
    params = jax.eval_shape(Block(2).init, jax.random.key(0), tokens)
    text = str(jax.make_jaxpr(block.apply)(params, tokens))
    names = {'attention', 'normed_product', 'mlp'}
    assert {name for name in names if f'name={name}\n' in text} == (names if kernels else set())
    # Of a joint network.
    places, words = (jnp.ones((8, count, 3 * 128), jnp.bfloat16) for count in (16, 3))
    text = str(jax.make_jaxpr(on_tpu.join_heads)(places, words[..., :256], jnp.ones(2)))
    assert ('name=join_heads\n' in text) == kernels


@needs_libtpu
def test_an_optimizer_step_reads_and_writes_each_array_once():
    optimizer = optimizers.make('adamw', lambda step: 0.1, weight_decay=0.03, betas=(0.9, 0.8))
    kernel = {'kernel': jnp.zeros((512, 2048))}
    train_state = state.create(kernel, lambda path: False, optimizer)

    def step(train_state, gradient):
        return state.apply_gradients(train_state, gradient, optimizer, decay=0.99)

    # Meanwhile nothing is kept, and nothing kept is read, which needs a TPU.
    with bundles.written():
        (device, *_) = topology_devices('v5e:2x2', num_slices=1)
        place = jax.sharding.SingleDeviceSharding(device)
        arrays = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
            (train_state, kernel),
        )
        program = jax.jit(step, donate_argnums=0).trace(*arrays)
        compiled = program.lower(lowering_platforms=('tpu',)).compile()
    # Parameters, two moments and the average are read and written, the gradient is read.
    expected = 9 * kernel['kernel'].nbytes
    assert compiled.cost_analysis()['bytes accessed'] == pytest.approx(expected, rel=0.01)


@needs_libtpu
def test_a_plan_needs_no_data_and_no_tpu(run):
    assert run.written == run.reports
    for report in run.reports.values():
        assert (report['topology'], report['devices']) == ('v5e:2x2', 4)


@needs_libtpu
def test_what_stays_in_memory_adds_up(run):
    for report in run.reports.values():
        sizes = report['bytes_per_device']
        assert sum(sizes.values()) == 2 * sizes['total']
        assert sizes['parameters'] == 4 * report['parameters']  # a copy on each chip
        assert report['batch_that_fits'] > 100
    train = run.reports['train']
    # Adam's two moments and a step count.
    assert train['bytes_per_device']['optimizer'] == pytest.approx(
        8 * train['parameters'], rel=1e-3
    )


@needs_libtpu
def test_times_agree_with_floors_and_speeds(run):
    for report in run.reports.values():
        seconds = report['predicted_step_seconds']
        assert report['arithmetic_floor_seconds'] < seconds < 0.1
        assert report['predicted_mfu'] == pytest.approx(
            report['model_flops_per_step'] / 4 / 197e12 / seconds
        )
        assert report['images_per_second_per_chip'] == pytest.approx(2 / seconds)
        assert 0 < sum(kernel['seconds'] for kernel in report['kernels']) < seconds
        for kernel in report['kernels']:
            # So small a model waits for its memory, and bundles are known all the same.
            assert 0 < kernel['bundle_seconds'] <= kernel['seconds']
            assert 0.1 < kernel['share'] <= 1
        assert report['xla_only']['predicted_step_seconds'] > seconds


@needs_libtpu
def test_costliest_operations_name_lines_of_the_model(run):
    for report in run.reports.values():
        assert any('models/' in row['source'] for row in report['costliest'])
        total = sum(row['seconds'] for row in report['costliest'])
        assert total <= report['predicted_step_seconds'] * 1.0001


@needs_libtpu
def test_only_training_talks_between_chips(run):
    """The gradients meet in all-reduces."""
    train, sample = run.reports['train'], run.reports['sample']
    assert train['collective_bytes']['all-reduce'] >= 2 * train['parameters']
    assert not sample['collective_bytes']


@needs_libtpu
def test_the_run_is_the_configs(run):
    assert run.reports['train']['run']['images'] == 8 * 8


@needs_libtpu
def test_the_table_says_what_the_numbers_rest_on(run):
    assert 'not measured' in run.printed
    assert re.search(r'attention +\d+\.\d+ ms in \d+ calls, \w+ \d+% full', run.printed)


@needs_libtpu
def test_flops_are_those_that_training_counts(run):
    train, sample = run.reports['train'], run.reports['sample']
    planned = plan.plan_for(run.config, jax.devices()[:4])
    training = make_training(
        planned.description,
        planned.recipe,
        void_wins=False,
        empty_text=np.zeros((24, 16), np.float16),
        mesh=planned.mesh,
        fused_attention=False,
    )
    batch = abstract_batch(
        planned.description, stored_map_side=128, batch_size=8, mesh=planned.mesh
    )
    assert train['model_flops_per_step'] == training.step_flops(batch)
    # A sample is 3 guided evaluations forwards, a step one forwards and about two backwards.
    assert sample['model_flops_per_step'] == pytest.approx(
        2 * train['model_flops_per_step'], rel=0.03
    )


def test_the_cost_of_remat_is_said_where_a_step_does_not_fit(tmp_path):
    planned = plan.plan_for(config_to_plan(tmp_path), jax.devices()[:4])
    seen = []

    def fits(planned):
        seen.append(planned.recipe.remat)
        return {'bytes_per_device': {'total': 3 * 2**29}, 'predicted_step_seconds': 0.25}

    sentence = plan._with_remat(planned, fits)
    assert sentence == 'With model.remat=True it needs 1.5 GiB and 250.0 ms a step.'
    assert seen == [True]

    def does_not(planned):
        raise plan.DoesNotFit('No.')

    assert 'does not suffice' in plan._with_remat(planned, does_not)


@needs_libtpu
def test_what_does_not_fit_is_said_with_what_would(tmp_path, monkeypatch):
    # So many images take minutes to compile, and the first time shows that they do not fit.
    monkeypatch.setattr(plan, '_with_remat', lambda planned, predicted: 'With model.remat=True.')
    config = config_to_plan(tmp_path)
    config.plan.batch_per_device = 2**16
    config.fused_attention = False
    with pytest.raises(ValueError, match='GiB') as caught:
        plan.plan(config, str(tmp_path))
    sentence = str(caught.value)
    assert 'train step with 65536 images a chip' in sentence
    assert 'plan.batch_per_device=' in sentence
    assert 'a larger microbatches' in sentence
    assert sentence.endswith('With model.remat=True.')
    assert not (tmp_path / 'plan.json').exists()


@needs_libtpu
def test_topologies_have_slices():
    assert len(topology_devices('v5e:4x4', 2)) == 32
    assert {device.slice_index for device in topology_devices('v5e:2x2', 2)} == {0, 1}


@needs_libtpu
@pytest.mark.parametrize(
    ('name', 'count', 'kind'), [('v4:2x2x1', 4, 'v4'), ('v5p:2x2x1', 4, 'v5'), ('v6e:2x2', 4, 'v6')]
)
def test_topologies_of_every_generation(name, count, kind):
    devices = topology_devices(name, 1)
    assert len(devices) == count
    assert kind in devices[0].device_kind


@needs_libtpu
def test_unknown_topologies_are_refused():
    with pytest.raises(ValueError, match=r"plan\.topology is 'v5p-128'"):
        topology_devices('v5p-128', 1)
