"""The step with its traffic, in closed form: what hides behind which computation, what shows."""

import pytest

from panoptic_jax.machine import chips
from panoptic_jax.planning import table, totals
from panoptic_jax.planning.operations import operations_of
from panoptic_jax.planning.traffic import Slices, network_seconds, traffic_of

# A chip of 100 Hz, whose links pass 50 bytes a second and its network 10.
CHIP = chips.Chip(
    peak_flops=1000.0,
    flops_per_cycle=10,
    memory_bytes=2**30,
    memory_bandwidth=1000.0,
    link_bandwidth=50.0,
    network_bandwidth=10.0,
)
ONE = Slices(count=1, copies=4)


def program(*, sums='', gathers=0):
    """10 s forwards and 20 s backwards, with a sum of `sums` and a gathering of bytes."""
    lines = [
        'ENTRY %main (x: f32[8]) -> f32[8] {',
        '  %f = f32[8] fusion(%x), metadata={op_name="jvp(f)"}, '
        'backend_config={"estimated_cycles":"1000"}',
        '  %b = f32[8] fusion(%f), metadata={op_name="transpose(jvp(f))"}, '
        'backend_config={"estimated_cycles":"2000"}',
    ]
    if sums:
        lines.append(f'  %s = {sums}(%b), to_apply=%add')
    if gathers:
        lines.append(f'  %g = u8[{gathers}] all-gather(%x), dimensions={{0}}')
    return operations_of('\n'.join([*lines, '}']), CHIP)


def traffic(slices=ONE, **passing):
    operations = program(**passing)
    return traffic_of(operations, totals.collective_bytes(operations), CHIP, slices)


def test_a_sum_that_is_shorter_than_the_backward_pass_hides_behind_it():
    """An all-reduce passes its 250 bytes twice: 10 s."""
    found = traffic(sums='u8[250] all-reduce')
    assert (found.backward, found.sums, found.network) == (20.0, 10.0, 0.0)
    assert (found.hidden, found.exposed) == (30.0, 40.0)


def test_what_a_sum_takes_longer_than_the_backward_pass_shows():
    found = traffic(sums='u8[1250] reduce-scatter')  # 25 s
    assert (found.hidden, found.exposed) == (35.0, 55.0)


def test_gathered_parameters_hide_behind_all_computation():
    found = traffic(gathers=1250)  # 25 s: more than the backward pass, less than the step
    assert (found.sums, found.others) == (0.0, 25.0)
    assert (found.hidden, found.exposed) == (30.0, 55.0)


def test_all_traffic_together_cannot_hide_behind_less_computation():
    found = traffic(sums='u8[750] reduce-scatter', gathers=1000)  # 15 + 20 s
    assert (found.hidden, found.exposed) == (35.0, 65.0)


def test_between_slices_passes_each_chips_share_of_the_sum():
    """Of two slices each hands half of its share to the other, and gets half of the sum back."""
    two = Slices(count=2, copies=4)
    assert network_seconds({'all-reduce': 400}, CHIP, two) == pytest.approx(100 / 10)
    assert network_seconds({'reduce-scatter': 100}, CHIP, two) == pytest.approx(100 / 10)
    assert network_seconds({'all-gather': 400}, CHIP, two) == 0
    assert network_seconds({'all-reduce': 400}, CHIP, ONE) == 0
    many = Slices(count=4, copies=4)
    assert network_seconds({'all-reduce': 400}, CHIP, many) == pytest.approx(150 / 10)
    found = traffic(two, sums='u8[400] all-reduce')  # 16 s on the links, 10 between slices
    assert (found.network, found.sums) == (10.0, 26.0)
    assert (found.hidden, found.exposed) == (36.0, 56.0)


REPORT = {
    'collective_bytes': {'all-reduce': 2**21},
    'link_seconds': 0.016,
    'network_seconds': 0.01,
    'network_bytes_per_second': 3.125e9,
    'backward_seconds': 0.02,
    'hidden_traffic_step_seconds': 0.036,
    'exposed_traffic_step_seconds': 0.056,
}


def test_the_table_says_both_times_and_the_networks_assumed_bandwidth():
    assert 'all-reduce 2.0 MiB a chip; 16.00 ms on the links' in table._traffic(REPORT)
    assert '10.00 ms between slices (assumed: 3.12 GB/s' in table._traffic(REPORT)
    ((title, text),) = table._with_traffic(REPORT, work='step')
    assert title == 'with traffic'
    assert '36.00 ms a step if it hides behind the backward pass (20.00 ms of it)' in text
    assert '56.00 if nothing hides' in text
    sampling = REPORT | {'backward_seconds': 0.0, 'network_seconds': 0.0}
    assert 'between slices' not in table._traffic(sampling)
    assert 'behind computation' in table._with_traffic(sampling, work='batch')[0][1]
    assert table._with_traffic(REPORT | {'collective_bytes': {}}, work='step') == []


def test_the_network_of_each_generation_is_cloud_tpus():
    gigabits = {'TPU v5e': 25, 'TPU v5 lite': 25, 'TPU v5': 50, 'TPU v6e': 100}
    for kind, expected in gigabits.items():
        assert chips.known_chip(kind).network_bandwidth == pytest.approx(expected * 1e9 / 8)
