"""What is read from the compiler's text, what it adds up to, and the batch that fits a chip."""

import pytest

from panoptic_jax.machine import chips
from panoptic_jax.planning import totals
from panoptic_jax.planning.bundles import Schedule
from panoptic_jax.planning.operations import operations_of
from panoptic_jax.planning.prediction import batch_that_fits

# A chip of 100 Hz with numbers that are easy to divide by.
CHIP = chips.Chip(
    peak_flops=1000.0,
    flops_per_cycle=10,
    memory_bytes=2**30,
    memory_bandwidth=1000.0,
    link_bandwidth=50.0,
)

LISTING = """\
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


def test_operations_count_as_often_as_their_loop_runs():
    assert CHIP.clock_hertz == 100
    seconds = [x.seconds for x in operations_of(LISTING, CHIP) if not x.assumed]
    assert sum(seconds) == pytest.approx(3 * 10 + 5)


def test_a_kernel_takes_as_long_as_its_arithmetic_or_its_bytes():
    """3500 FLOPs at 35 % of 1000 take longer than 80 bytes at 80 % of 1000."""
    assumed = [x.seconds for x in operations_of(LISTING, CHIP) if x.assumed]
    assert assumed == pytest.approx([10.0])


def test_a_kernel_without_an_estimate_takes_as_long_as_its_arrays():
    """(8 x 4 + 8 x 16) numbers of 2 bytes at 80 % of 1000."""
    line = next(row for row in LISTING.splitlines() if 'tpu_custom_call' in row)
    estimate = line[line.index('"cost_estimate"') : line.index('}}}')]
    bare = line.replace(estimate, '').replace(
        'metadata=', 'operand_layout_constraints={bf16[8,16]{1,0}}, metadata='
    )
    found = operations_of(LISTING.replace(line, bare), CHIP)
    assert [x.seconds for x in found if x.assumed] == pytest.approx([2 * (32 + 128) / 800])


def test_traffic_is_what_collectives_give():
    traffic = totals.collective_bytes(operations_of(LISTING, CHIP))
    assert traffic == {'all-reduce': 3 * (32 + 2) * 4, 'all-gather': 16 * 4 * 2}
    assert totals.link_seconds(traffic, CHIP) == pytest.approx((2 * 408 + 128) / 50)


def test_costliest_lines_are_the_models_own():
    assert totals.costliest(operations_of(LISTING, CHIP), 3) == [
        ('models/uvit.py:18', 'gradient of dot', pytest.approx(30.0), False, '', 0),
        ('models/uvit.py:18', 'attention', pytest.approx(10.0), True, '', 0),
        ('models/uvit.py:18', 'add', pytest.approx(5.0), False, '', 0),
    ]


SCHEDULES = {
    'kernel': Schedule(cycles=700, busy={'MXU': 350.0, 'VALU': 70.0}, spills=0.25),
    'dot': Schedule(cycles=1100, busy={'MXU': 275.0, 'VLOAD': 880.0}, spills=0.0),
}


def test_a_kernel_whose_bundles_are_known_takes_as_long_as_they_do():
    found = operations_of(LISTING, CHIP, SCHEDULES)
    assert not any(operation.assumed for operation in found)
    (kernel,) = totals.kernels_of(found)
    assert kernel._asdict() == {
        'name': 'attention',
        'calls': 1,
        'seconds': pytest.approx(7.0),
        'assumed': False,
        'bundle_seconds': pytest.approx(7.0),
        'unit': 'MXU',
        'share': 0.5,
        'spills': 0.25,
    }


def test_kernels_of_one_body_have_one_schedule():
    line = next(row for row in LISTING.splitlines() if 'tpu_custom_call' in row)
    with_body = line.replace('"custom_call_config":{', '"custom_call_config":{"body":"TUzv",')
    second = with_body.replace('%kernel =', '%kernel.2 =')
    other = second.replace('%kernel.2 =', '%kernel.3 =').replace('TUzv', 'MLIR')
    text = LISTING.replace(line, '\n'.join([with_body, second, other]))
    kernels = [each for each in operations_of(text, CHIP, SCHEDULES) if each.kernel]
    assert [each.schedule for each in kernels] == [SCHEDULES['kernel']] * 2 + [None]


def test_a_kernel_that_waits_for_memory_takes_as_long_as_its_bytes():
    """80 bytes at 80 % of 1000 take 10 cycles of 100 Hz."""
    quick = SCHEDULES | {'kernel': Schedule(cycles=9, busy={'MXU': 9.0}, spills=0.0)}
    text = LISTING.replace('"flops":"3500"', '"flops":"35"')
    (kernel,) = (each for each in operations_of(text, CHIP, quick) if each.kernel)
    assert kernel.seconds == pytest.approx(0.1)
    assert kernel.assumed


def test_a_kernel_takes_at_least_as_long_as_its_arithmetic_at_the_peak():
    """3500 FLOPs at 1000 FLOP/s, whatever the bundles say; nothing of it is assumed."""
    quick = SCHEDULES | {'kernel': Schedule(cycles=340, busy={'MXU': 340.0}, spills=0.0)}
    (kernel,) = (each for each in operations_of(LISTING, CHIP, quick) if each.kernel)
    assert kernel.seconds == pytest.approx(3.5)
    assert not kernel.assumed


def test_costliest_lines_name_the_fullest_unit():
    operations = operations_of(LISTING, CHIP, SCHEDULES)
    found = totals.costliest(operations, 3)
    assert [(cost.unit, cost.share) for cost in found] == [('VLOAD', 0.8), ('MXU', 0.5), ('', 0)]


def test_operations_whose_bundles_take_less_than_half_of_the_time_wait_for_memory():
    schedules = {'dot': Schedule(cycles=250, busy={'MXU': 250.0}, spills=0.0)}
    (cost, *_) = totals.costliest(operations_of(LISTING, CHIP, schedules))
    assert (cost.unit, cost.share) == ('memory', pytest.approx(0.75))


def test_bundles_of_products_are_held_against_the_compilers_estimates():
    def ratio(**schedules):
        return totals.counted_to_estimated(operations_of(LISTING, CHIP, schedules))

    product = Schedule(cycles=900, busy={'MXU': 800.0, 'VALU': 10.0}, spills=0.0)
    # The sum of 500 cycles is no product, nor is a product that waits for memory.
    other = Schedule(cycles=400, busy={'MXU': 10.0, 'VALU': 300.0}, spills=0.0)
    assert ratio(dot=product, out=other) == pytest.approx(0.9)
    assert ratio(dot=product._replace(cycles=400), out=other) is None
    assert ratio(kernel=product) is None


WITHOUT_TRIPS = LISTING.replace('"known_trip_count":{"n":"3"}', '')


def test_trips_of_loops_are_the_compilers_or_the_bound():
    total = sum(x.seconds for x in operations_of(LISTING, CHIP))
    assert sum(x.seconds for x in operations_of(WITHOUT_TRIPS, CHIP)) == total


def test_loops_without_trips_or_bound_are_refused():
    unbounded = WITHOUT_TRIPS.replace('constant(3)', 'parameter(0)')
    with pytest.raises(ValueError, match='no known number of trips'):
        operations_of(unbounded, CHIP)


def test_chips_are_known_by_their_kind():
    assert chips.known_chip('TPU v5 lite').clock_hertz == pytest.approx(1.5e9, rel=0.01)
    assert chips.known_chip('TPU v5').peak_flops == 459e12
    assert chips.known_chip('NVIDIA H100 80GB HBM3').peak_flops == 989e12
    assert chips.known_chip('cpu') is None


@pytest.mark.parametrize(
    ('held', 'total', 'expected'),
    [
        (20, 40, 7),
        (20, 22, 64),  # of 70, whole eights
        (95, 99, 0),
    ],
)
def test_the_batch_that_fits_leaves_a_tenth(held, total, expected):
    assert batch_that_fits(held=held, total=total, limit=100, batch_per_device=2) == expected
