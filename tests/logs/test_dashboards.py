"""Dashboards read back from disk: event files, lines, the console."""

import errno
import json
import math
import shlex
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from PIL import Image
from tensorboardX.proto import event_pb2

from panoptic_jax.logs import dashboards, event_files, json_lines

SCALARS = {
    'loss': 0.5,
    'loss_image': 0.3,
    'loss_map': 0.2,
    'grad_norm': 1.5,
    'learning_rate': 2e-4,
    'images_per_second': 1234.5,
    'mfu': 0.412,
    'waiting_for_data': 0.012,
    'seconds': 60.0,
    'eta_seconds': 3723.0,
}


def _events(folder):
    """Event protos of all files, in TensorBoard's order."""
    events = []
    for path in sorted(folder.glob('events.out.tfevents.*')):
        content = path.read_bytes()
        # An event is its length, a checksum, its bytes and a checksum.
        while content:
            (size,) = struct.unpack('<Q', content[:8])
            events.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return events


def _shown(events):
    """(tag, step) -> value as TensorBoard shows it: a START event hides later steps before it."""
    shown = {}
    for event in events:
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        for value in event.summary.value:
            shown[value.tag, event.step] = value
    return shown


PICTURES = np.random.default_rng(0).integers(0, 256, (1, 6, 9, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Folder of a run of which everything is written once."""
    folder = tmp_path_factory.mktemp('written')
    writers = dashboards.create_writers(folder, start_step=0, total_steps=10)
    writers.write_hparams({'seed': 3, 'model.name': 'two_stream', 'betas': (0.9, 0.9)})
    writers.write_text(0, {'parameters': 'many'})
    writers.write(5, {**SCALARS, 'loss': jnp.float32(0.25)})
    writers.write_images(5, {'samples': PICTURES, 'pair': np.zeros((2, 4, 4, 3), np.float32)})
    writers.write_validation(5, {'validation/loss_map': 0.75})
    writers.close()
    return folder


@pytest.fixture(scope='module')
def shown(written):
    return _shown(_events(written / 'tensorboard'))


def test_event_files_hold_scalars(shown):
    assert shown['loss', 5].simple_value == 0.25
    assert shown['mfu', 5].simple_value == pytest.approx(0.412)
    assert shown['validation/loss_map', 5].simple_value == 0.75


def test_event_files_hold_texts(shown):
    assert shown['parameters/text_summary', 0].tensor.string_val[0] == b'many'


def test_event_files_hold_settings(shown):
    start = shown['_hparams_/session_start_info', 0].metadata.plugin_data.content
    assert b'two_stream' in start
    assert b'(0.9, 0.9)' in start


def test_event_files_hold_pictures(shown, tmp_path):
    png = tmp_path / 'samples.png'
    png.write_bytes(shown['samples', 5].image.encoded_image_string)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), PICTURES[0])
    assert ('pair/1', 5) in shown


def test_validation_has_lines_of_its_own(written):
    assert json_lines.read(written / 'validation.jsonl') == [
        {'step': 5, 'validation/loss_map': 0.75}
    ]


@pytest.fixture
def resumed(tmp_path):
    """Folder of a run that was killed while it wrote step 40, and its writers from step 20 on."""
    writers = dashboards.create_writers(tmp_path, start_step=0, total_steps=100)
    for step in (10, 20, 30):
        writers.write(step, {**SCALARS, 'loss': step})
    writers.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 40, "lo')
    return tmp_path, dashboards.create_writers(tmp_path, start_step=20, total_steps=100)


def test_resume_cuts_back_the_lines_that_come_again(resumed):
    folder, writers = resumed
    path = folder / 'metrics.jsonl'
    assert [line['step'] for line in json_lines.read(path)] == [10, 20]
    writers.write(25, {**SCALARS, 'loss': -25})
    writers.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line['step'], line['loss']) for line in lines] == [(10, 10), (20, 20), (25, -25)]


def test_resume_hides_the_events_that_come_again(resumed):
    folder, writers = resumed
    writers.write(25, {**SCALARS, 'loss': -25})
    writers.close()
    events = _shown(_events(folder / 'tensorboard'))
    losses = {step: value.simple_value for (tag, step), value in events.items() if tag == 'loss'}
    assert losses == {10: 10, 20: 20, 25: -25}


def test_a_run_leaves_three_records(resumed):
    folder, writers = resumed
    writers.close()
    assert {path.name for path in folder.iterdir()} == {
        'metrics.jsonl',
        'validation.jsonl',
        'tensorboard',
    }


def test_a_whole_last_line_without_its_newline_is_half_written(tmp_path):
    (tmp_path / 'log').write_text('{"step": 1}\n{"ste\n{"step": 2}\n{"step": 3}')
    log = json_lines.JsonLines(tmp_path / 'log', start_step=9)
    log.write(4, {'loss': None})
    assert (tmp_path / 'log').read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4, "loss": null}\n'


@pytest.fixture
def two_steps(tmp_path, capsys):
    """Lines of metrics.jsonl and of the console, the second one with numbers that are missing."""
    writers = dashboards.create_writers(tmp_path, start_step=0, total_steps=50_000)
    writers.write(1200, SCALARS)
    writers.write(1300, {**SCALARS, 'loss': math.nan, 'loss_map': None, 'mfu': None})
    writers.write(1400, {**SCALARS, 'waiting_for_data': 0.657})
    writers.close()
    console = capsys.readouterr().out.splitlines()
    return (tmp_path / 'metrics.jsonl').read_text(), console


def test_the_console_shows_what_matters(two_steps):
    _, console = two_steps
    assert console[0] == (
        'step 1,200/50,000  loss 0.5000 = image 0.3000 + map 0.2000  1,234.5 img/s  MFU 41.2 %  '
        'ETA 1:02:03'
    )


def test_the_console_leaves_out_what_is_missing(two_steps):
    _, console = two_steps
    assert console[1] == (
        'step 1,300/50,000  loss not finite = image 0.3000  1,234.5 img/s  ETA 1:02:03'
    )


def test_the_console_says_that_devices_wait_for_data(two_steps):
    _, console = two_steps
    assert 'MFU 41.2 %  waiting for data 66 %  ETA' in console[2]


def test_lines_have_null_for_what_is_missing(two_steps):
    text, _ = two_steps
    first, second, _ = map(json.loads, text.splitlines())
    assert first == {'step': 1200, **SCALARS}
    assert second['loss'] is None
    assert second['loss_map'] is None
    assert 'NaN' not in text


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    writers = dashboards.create_writers(tmp_path, start_step=0, total_steps=10)
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
    events = _shown(_events(tmp_path))
    assert events['a', 3].simple_value == 1.5
    assert events['weights', 3].histo.num == 50


def test_parameter_overview_counts():
    text = dashboards.parameter_overview(
        {'dense': {'kernel': jnp.ones((3, 5)), 'bias': jnp.ones(5)}}
    )
    assert 'dense/kernel' in text
    assert 'Total: 20' in text


class FullDisk:
    """A file that takes some bytes, then none, and after a while all."""

    def __init__(self):
        self.content, self.calls = b'', 0

    def write(self, content):
        self.calls += 1
        if 1 < self.calls < 4:
            raise OSError(errno.ENOSPC, 'No space left on device')
        taken = bytes(content[:3] if self.calls == 1 else content)
        self.content += taken
        return len(taken)

    def close(self):
        pass


def test_a_full_disk_costs_no_event(tmp_path, monkeypatch):
    file = event_files.LocalFile(str(tmp_path / 'events'))
    file._file.close()
    file._file = FullDisk()
    warnings = []
    monkeypatch.setattr(logging, 'warning', lambda text, *values: warnings.append(text % values))
    content = [np.random.default_rng(seed).bytes(10) for seed in range(3)]
    for part in content:
        file.write(part)
        file.flush()
    file.close()
    assert file._file.content == b''.join(content)
    assert len(warnings) == 2
    assert 'events is written later: No space left on device.' in warnings[0]


def test_a_full_disk_under_the_lines_is_one_sentence(tmp_path):
    log = json_lines.JsonLines(tmp_path / 'metrics.jsonl', 0)
    log._path = Path('/dev/full')
    with pytest.raises(
        ValueError, match=r'The disk of the folder /dev is full: full takes .*26 bytes'
    ):
        log.write(1, {'loss': 0.25})


@pytest.mark.parametrize('name', ['a[1]', 'ä 猫', 'gs:x', "it's"])
def test_folders_of_any_name_are_written(tmp_path, name):
    writers = dashboards.create_writers(tmp_path / name, start_step=0, total_steps=1)
    writers.write(1, SCALARS)
    writers.close()
    assert ('loss', 1) in _shown(_events(tmp_path / name / 'tensorboard'))
    assert json_lines.read(tmp_path / name / 'metrics.jsonl')[0]['loss'] == 0.5
    command = shlex.split(dashboards.command(tmp_path / name))
    assert command == ['tensorboard', '--logdir', str(tmp_path / name / 'tensorboard')]
