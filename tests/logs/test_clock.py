"""The clock against a made-up time, peaks and memory of devices, a profiler window opened."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.logs import clock


class _Time:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def now():
    return _Time()


@pytest.fixture
def watch(now):
    """A clock that a compilation of 1,000 s and 10 steps of 2 s have passed on."""
    watch = clock.Clock(
        start_step=10,
        total_steps=110,
        batch_size=8,
        seconds_at_peak=6e9 / 10e9,
        seconds=50,
        now=now,
    )
    with watch.paused():
        now.now += 1000
    now.now += 20
    return watch


def test_clock_leaves_pauses_out(watch):
    assert watch.report(20) == {
        'images_per_second': 4.0,
        'mfu': 0.3,
        'waiting_for_data': 0.0,
        'seconds': 70.0,
        'eta_seconds': 180.0,
    }


def test_a_pause_ends_with_its_error_and_counts_in_what_is_left(now, watch):
    watch.report(20)
    now.now += 5
    with contextlib.suppress(KeyError), watch.paused():
        now.now += 30  # validation, which fails
        raise KeyError
    now.now += 5
    report = watch.report(30)
    assert report['images_per_second'] == 8.0
    assert report['seconds'] == watch.seconds == 80.0
    assert report['eta_seconds'] == 80 * (1.0 + 3.0)  # a step and its share of the pauses


def test_clock_goes_on_after_resume(now):
    resumed = clock.Clock(start_step=30, total_steps=110, batch_size=8, seconds=80.0, now=now)
    now.now += 40
    assert resumed.report(40) == {
        'images_per_second': 2.0,
        'mfu': None,
        'waiting_for_data': 0.0,
        'seconds': 120.0,
        'eta_seconds': 280.0,
    }


class _Running:
    """What a step computes."""

    def __init__(self, ready):
        self.is_ready = lambda: ready


def test_only_devices_without_work_wait_for_data(now, watch):
    def batches():
        for seconds in (1.0, 3.0, 5.0):
            now.now += seconds
            yield seconds

    watch.report(20)
    slow = batches()
    found = [watch.next_of(slow, _Running(ready)) for ready in (True, False, True)]
    assert found == [1.0, 3.0, 5.0]
    now.now += 1
    assert watch.report(30)['waiting_for_data'] == pytest.approx(0.6)  # 6 of 10 seconds
    now.now += 1
    assert watch.report(31)['waiting_for_data'] == 0


class _Device:
    """A device of which only the kind matters."""

    platform = 'tpu'
    process_index = 0

    def __init__(self, device_kind):
        self.device_kind = device_kind


@pytest.mark.parametrize(
    ('kind', 'peak'),
    [
        ('TPU v4', 275e12),
        ('TPU v5 lite', 197e12),
        ('TPU v5', 459e12),
        ('TPU v5p', 459e12),
        ('TPU v6 lite', 918e12),
        ('NVIDIA A100-SXM4-80GB', 312e12),
        ('NVIDIA H100 80GB HBM3', 989e12),
    ],
)
def test_known_peaks(kind, peak):
    assert clock.matmul_peak([_Device(kind)] * 4) == 4 * peak


def test_measured_peak_counts_the_cpu_once():
    peak = clock.matmul_peak(jax.devices('cpu')[:1] * 8)
    assert 1e9 < peak < 2e13


def test_device_memory_has_numbers_here():
    held = np.ones(30_000_000)  # 240 MB
    scalars = clock.device_memory()
    assert scalars
    assert all(isinstance(value, int) and value > 0 for value in scalars.values())
    if 'memory/host_bytes_in_use' in scalars:
        assert scalars['memory/host_bytes_in_use'] > held.nbytes


def _trace(workdir, first_step, steps, ran):
    """Runs steps through a window: which of them it traced, and the files that it left."""
    window = clock.ProfilerWindow(workdir, first_step, steps)
    double = jax.jit(lambda x: 2 * x)
    value, active = jnp.ones(3), []
    for step in ran:
        window.before_step(step, value)
        active += [step] if window.active else []
        value = double(value)
    window.close()
    window.close()
    return active, list(workdir.rglob('*.xplane.pb'))


def test_profiler_window_leaves_a_trace(tmp_path):
    active, files = _trace(tmp_path, 3, 2, range(8))
    assert active == [3, 4]
    assert len(files) == 1
    assert files[0].stat().st_size > 0
    assert (tmp_path / 'tensorboard' / 'plugins' / 'profile') in files[0].parents


@pytest.mark.parametrize(
    ('first', 'ran', 'expected'),
    [
        (3, range(5, 9), [5, 6]),  # resumed inside
        (3, range(7, 9), []),  # resumed after
        (3, range(5), [3, 4]),  # the run ends inside
        (0, range(5), []),  # no window wanted
    ],
)
def test_profiler_window_and_resume(tmp_path, monkeypatch, first, ran, expected):
    calls = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
    active, _ = _trace(tmp_path, first, 4, ran)
    assert active == expected
    assert calls == (['start', 'stop'] if expected else [])
