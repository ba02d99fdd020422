"""Predictions for TPUs: what is read from the compiler's text, and whole plans of a tiny model."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from conftest import tiny_config

from panoptic_jax import plan
from panoptic_jax.machine import chips, sharding
from panoptic_jax.planning import prediction, schedule
from panoptic_jax.programs import train_step

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)

SCHEDULED = """\
HloModule jit_f, is_scheduled=true

FileNames
1 "/home/me/panoptic_jax/models/uvit.py"
2 "/site-packages/flax/linear.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=18 end_line=18 column=24 end_column=24}
2 {file_name_id=2 function_name_id=2 line=99 end_line=99 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"777777"}
}

%body (p.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %dot = bf16[8,4]{1,0} fusion(%a), calls=%fused, metadata={op_name="jit(f)/transpose(g)/dot" stack_frame_id=2}, backend_config={"estimated_cycles":"1000"}
  %sum = (f32[8,4]{1,0}, f32[2]{0}) all-reduce(%dot, %b), to_apply=%fused
}

%condition (p.2: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(3)
  %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %loop = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %kernel = bf16[8,4]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/attention" stack_frame_id=1}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"3500","transcendentals":"7","bytes_accessed":"80"}}}
  %gathered = bf16[16,4]{1,0} all-gather-start(%kernel), dimensions={0}
  ROOT %out = f32[8,4]{1,0} add(%x, %x), metadata={op_name="jit(f)/add" stack_frame_id=1}, backend_config={"estimated_cycles":"500"}
}
"""  # noqa: E501 - the compiler's lines


def test_the_schedule_counts_loops_kernels_and_traffic():
    chip = chips.Chip(1000.0, 10, 2**30, 1000.0, 50.0)  # 100 Hz
    assert chip.clock_hertz == 100
    found = schedule.operations(SCHEDULED, chip)
    assert sum(x.seconds for x in found if not x.assumed) == pytest.approx(3 * 10 + 5)
    # 3500 FLOPs at 35 % of 1000 take longer than 80 bytes at 80 % of 1000.
    assert [x.seconds for x in found if x.assumed] == pytest.approx([10.0])
    traffic = schedule.collective_bytes(found)
    assert traffic == {'all-reduce': 3 * (32 + 2) * 4, 'all-gather': 16 * 4 * 2}
    assert schedule.link_seconds(traffic, chip) == pytest.approx((2 * 408 + 128) / 50)
    assert schedule.costliest(found, 3) == [
        ('models/uvit.py:18', 'gradient of dot', pytest.approx(30.0), False),
        ('models/uvit.py:18', 'attention', pytest.approx(10.0), True),
        ('models/uvit.py:18', 'add', pytest.approx(5.0), False),
    ]


def test_trips_of_loops_are_the_compilers_or_the_bound():
    chip = chips.Chip(1000.0, 10, 2**30, 1000.0, 50.0)
    total = sum(x.seconds for x in schedule.operations(SCHEDULED, chip))
    unsaid = SCHEDULED.replace('"known_trip_count":{"n":"3"}', '')
    assert sum(x.seconds for x in schedule.operations(unsaid, chip)) == total
    with pytest.raises(ValueError, match='no known number of trips'):
        schedule.operations(unsaid.replace('constant(3)', 'parameter(0)'), chip)


def test_chips_are_known_by_their_kind():
    assert chips.known_chip('TPU v5 lite').clock_hertz == pytest.approx(1.5e9, rel=0.01)
    assert chips.known_chip('TPU v5').peak_flops == 459e12
    assert chips.known_chip('NVIDIA H100 80GB HBM3').peak_flops == 989e12
    assert chips.known_chip('cpu') is None


@pytest.fixture
def planned(tmp_path):
    config = tiny_config(tmp_path / 'no_data')
    config.model.hidden_size = 128
    config.plan.batch_per_device = 4
    return config


@needs_libtpu
def test_a_plan_needs_no_data_and_no_tpu(planned, tmp_path, capsys):
    found = plan.plan(planned, str(tmp_path / 'run'))
    assert json.loads((tmp_path / 'run' / 'plan.json').read_text()) == found
    for report in found.values():
        assert (report['topology'], report['devices']) == ('v5e:2x2', 4)
        sizes = report['bytes_per_device']
        assert sum(sizes.values()) == 2 * sizes['total']
        assert sizes['parameters'] == 4 * report['parameters']  # a copy on each chip
        seconds = report['predicted_step_seconds']
        assert report['arithmetic_floor_seconds'] < seconds < 0.1
        assert report['predicted_mfu'] == pytest.approx(
            report['model_flops_per_step'] / 4 / 197e12 / seconds
        )
        assert report['images_per_second_per_chip'] == pytest.approx(4 / seconds)
        assert 0 < report['assumed_kernel_seconds'] < seconds
        assert report['xla_only']['predicted_step_seconds'] > seconds
        assert report['batch_that_fits'] > 100
        assert any('models/' in row['source'] for row in report['costliest'])
        assert sum(row['seconds'] for row in report['costliest']) <= seconds * 1.0001
    train, sample = found['train'], found['sample']
    # Adam's two moments and a step count; the gradients meet in all-reduces.
    assert train['bytes_per_device']['optimizer'] == pytest.approx(
        8 * train['parameters'], rel=1e-3
    )
    assert train['collective_bytes']['all-reduce'] >= 2 * train['parameters']
    assert not sample['collective_bytes']
    assert train['run']['images'] == 8 * 8
    text = capsys.readouterr().out
    assert 'not measured' in text
    assert 'assumed for our attention kernel' in text

    # The FLOPs are those that training counts, and a sample is 3 guided evaluations forwards.
    mesh = sharding.make_mesh(devices=jax.devices()[:4])
    planned.batch_size = 16
    description = plan.assumed_description(planned)
    training = train_step.make_training(
        planned, description, False, np.zeros((24, 16), np.float16), mesh, 'bfloat16'
    )
    batch = train_step.abstract_batch(description, 128, 16, mesh)
    assert train['model_flops_per_step'] == training.step_flops(batch)
    assert sample['model_flops_per_step'] == pytest.approx(
        2 * train['model_flops_per_step'], rel=0.03
    )


@needs_libtpu
def test_what_does_not_fit_is_said_with_what_would(planned, tmp_path):
    planned.plan.batch_per_device = 2**16
    planned.fused_attention = False
    with pytest.raises(ValueError, match='GiB') as caught:
        plan.plan(planned, str(tmp_path))
    sentence = str(caught.value)
    assert 'train step with 65536 images a chip' in sentence
    assert 'plan.batch_per_device=' in sentence
    assert not (tmp_path / 'plan.json').exists()


@needs_libtpu
def test_topologies_by_name():
    assert len(plan.topology_devices('v5e:4x4', 2)) == 32
    assert {d.slice_index for d in plan.topology_devices('v5e:2x2', 2)} == {0, 1}
    for name, count, kind in (('v4:2x2x1', 4, 'v4'), ('v5p:2x2x1', 4, 'v5'), ('v6e:2x2', 4, 'v6')):
        devices = plan.topology_devices(name, 1)
        assert len(devices) == count
        assert kind in devices[0].device_kind
    with pytest.raises(ValueError, match=r"plan\.topology is 'v5p-128'"):
        plan.topology_devices('v5p-128', 1)


def test_the_batch_that_fits_leaves_a_tenth():
    fits = prediction._batch_that_fits
    assert fits(held=20, total=40, limit=100, batch_per_device=2) == 7
    assert fits(held=20, total=22, limit=100, batch_per_device=2) == 64  # of 70, whole eights
    assert fits(held=95, total=99, limit=100, batch_per_device=2) == 0
