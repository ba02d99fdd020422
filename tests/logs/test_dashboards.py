"""Dashboards read back from disk; the clock against a made-up time; a profiler window opened."""

import contextlib
import json
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from panoptic_jax.logs import clock, dashboards, json_lines

SCALARS = {
    'loss': 0.5,
    'loss_image': 0.3,
    'loss_map': 0.2,
    'grad_norm': 1.5,
    'learning_rate': 2e-4,
    'images_per_second': 1234.5,
    'mfu': 0.412,
    'seconds': 60.0,
    'eta_seconds': 3723.0,
}


def _events(folder):
    """Event protos of all files, in TensorBoard's order: length, crc, bytes, crc."""
    found = []
    for path in sorted(folder.glob('events.out.tfevents.*')):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack('<Q', content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def _shown(events):
    """(tag, step) -> value as TensorBoard shows it: a START event hides later steps before it."""
    shown = {}
    for event in events:
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        for value in event.summary.value:
            shown[value.tag, event.step] = value
    return shown


def test_event_files_read_back(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (1, 6, 9, 3), dtype=np.uint8)
    writers = dashboards.create_writers(tmp_path, start_step=0, total_steps=10)
    writers.write_hparams({'seed': 3, 'model.name': 'two_stream', 'betas': (0.9, 0.9)})
    writers.write_text(0, {'parameters': 'many'})
    writers.write(5, {**SCALARS, 'loss': jnp.float32(0.25)})
    writers.write_images(5, {'samples': pictures, 'pair': np.zeros((2, 4, 4, 3), np.float32)})
    writers.write_validation(5, {'validation/loss_map': 0.75})
    writers.close()
    shown = _shown(_events(tmp_path / 'tensorboard'))
    assert shown['loss', 5].simple_value == 0.25
    assert shown['mfu', 5].simple_value == pytest.approx(0.412)
    assert shown['validation/loss_map', 5].simple_value == 0.75
    assert shown['parameters/text_summary', 0].tensor.string_val[0] == b'many'
    start = shown['_hparams_/session_start_info', 0].metadata.plugin_data.content
    assert b'two_stream' in start
    assert b'(0.9, 0.9)' in start
    png = tmp_path / 'samples.png'
    png.write_bytes(shown['samples', 5].image.encoded_image_string)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), pictures[0])
    assert ('pair/1', 5) in shown
    assert json_lines.read(tmp_path / 'validation.jsonl') == [
        {'step': 5, 'validation/loss_map': 0.75}
    ]


def test_resume_hides_and_cuts_back_what_comes_again(tmp_path):
    writers = dashboards.create_writers(tmp_path, 0, 100)
    for step in (10, 20, 30):
        writers.write(step, {**SCALARS, 'loss': step})
    writers.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 40, "lo')  # killed while writing
    writers = dashboards.create_writers(tmp_path, start_step=20, total_steps=100)
    assert [line['step'] for line in json_lines.read(tmp_path / 'metrics.jsonl')] == [10, 20]
    writers.write(25, {**SCALARS, 'loss': -25})
    writers.close()
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [(line['step'], line['loss']) for line in lines] == [(10, 10), (20, 20), (25, -25)]
    shown = _shown(_events(tmp_path / 'tensorboard'))
    losses = {step: value.simple_value for (tag, step), value in shown.items() if tag == 'loss'}
    assert losses == {10: 10, 20: 20, 25: -25}
    assert {path.name for path in tmp_path.iterdir()} == {
        'metrics.jsonl',
        'validation.jsonl',
        'tensorboard',
    }


def test_a_whole_last_line_without_its_newline_is_half_written(tmp_path):
    (tmp_path / 'log').write_text('{"step": 1}\n{"ste\n{"step": 2}\n{"step": 3}')
    log = json_lines.JsonLines(tmp_path / 'log', start_step=9)
    log.write(4, {'loss': None})
    assert (tmp_path / 'log').read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4, "loss": null}\n'


def test_line_and_console(tmp_path, capsys):
    writers = dashboards.create_writers(tmp_path, 0, 50_000)
    writers.write(1200, SCALARS)
    writers.write(1300, {**SCALARS, 'loss': math.nan, 'loss_map': None, 'mfu': None})
    writers.close()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == (
        'step 1,200/50,000  loss 0.5000 = image 0.3000 + map 0.2000  1,234.5 img/s  MFU 41.2 %  '
        'ETA 1:02:03'
    )
    assert shown[1] == (
        'step 1,300/50,000  loss not finite = image 0.3000  1,234.5 img/s  ETA 1:02:03'
    )
    first, second = json_lines.read(tmp_path / 'metrics.jsonl')
    assert first == {'step': 1200, **SCALARS}
    assert second['loss'] is None
    assert second['loss_map'] is None
    assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    writers = dashboards.create_writers(tmp_path, 0, 10)
    writers.write(1, SCALARS)
    writers.write_validation(1, SCALARS)
    writers.write_images(1, {'samples': np.zeros((1, 2, 2, 3), np.uint8)})
    writers.write_hparams({'a': 1})
    writers.write_text(1, {'a': 'b'})
    writers.flush()
    writers.close()
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_clu_works_on_top_without_tensorflow(tmp_path):
    writer = dashboards.TensorBoardWriter(tmp_path)
    assert isinstance(writer, dashboards.metric_writers.MetricWriter)
    dashboards.metric_writers.write_values(writer, 3, {'a': 1.5, 'b': np.float32(2)})
    writer.write_histograms(3, {'weights': np.random.default_rng(0).normal(size=50)})
    writer.close()
    shown = _shown(_events(tmp_path))
    assert shown['a', 3].simple_value == 1.5
    assert shown['weights', 3].histo.num == 50


class _Time:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_clock_leaves_pauses_out_and_goes_on_after_resume():
    now = _Time()
    watch = clock.Clock(10, 110, 8, flops_per_step=6e9, peak_flops=10e9, seconds=50, now=now)
    with watch.paused():
        now.now += 1000  # compilation
    now.now += 20
    assert watch.report(20) == {
        'images_per_second': 4.0,
        'mfu': 0.3,
        'seconds': 70.0,
        'eta_seconds': 180.0,
    }
    now.now += 5
    with contextlib.suppress(KeyError), watch.paused():
        now.now += 30  # validation, which fails
        raise KeyError
    now.now += 5
    report = watch.report(30)
    assert report['images_per_second'] == 8.0
    assert report['seconds'] == watch.seconds == 80.0
    assert report['eta_seconds'] == 80 * (1.0 + 3.0)  # a step and its share of the pauses
    resumed = clock.Clock(30, 110, 8, seconds=watch.seconds, now=now)
    now.now += 40
    assert resumed.report(40) == {
        'images_per_second': 2.0,
        'mfu': None,
        'seconds': 120.0,
        'eta_seconds': 280.0,
    }


class _Device:
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
    found = clock.matmul_peak(jax.devices('cpu')[:1] * 8)
    assert 1e9 < found < 2e13


def test_device_memory_has_numbers_here():
    held = np.ones(30_000_000)  # 240 MB
    found = clock.device_memory()
    assert found
    assert all(isinstance(value, int) and value > 0 for value in found.values())
    if 'memory/host_bytes_in_use' in found:
        assert found['memory/host_bytes_in_use'] > held.nbytes


def _trace(workdir, first_step, steps, ran):
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
    ('first', 'steps', 'ran', 'expected'),
    [
        (3, 4, range(5, 9), [5, 6]),  # resumed inside
        (3, 4, range(7, 9), []),  # resumed after
        (3, 4, range(5), [3, 4]),  # the run ends inside
        (0, 4, range(5), []),  # no window wanted
    ],
)
def test_profiler_window_and_resume(tmp_path, monkeypatch, first, steps, ran, expected):
    calls = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
    active, _ = _trace(tmp_path, first, steps, ran)
    assert active == expected
    assert calls == (['start', 'stop'] if expected else [])


def test_parameter_overview_counts():
    text = dashboards.parameter_overview(
        {'dense': {'kernel': jnp.ones((3, 5)), 'bias': jnp.ones(5)}}
    )
    assert 'dense/kernel' in text
    assert 'Total: 20' in text
