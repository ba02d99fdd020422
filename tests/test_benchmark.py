"""Measurements of a tiny model on CPU: what is written, and how it hangs together."""

import contextlib
import io
import json
import pickle
import time
from types import SimpleNamespace

import one_device
import pytest
from conftest import once, tiny_config

from panoptic_jax import benchmark
from panoptic_jax.logs import benchmark_table
from panoptic_jax.logs.timing import Effort, examples_per_second

PEAK = 1e12  # more than any CPU reaches


def measure(config, workdir):
    """A short benchmark on one device."""
    return benchmark.benchmark(
        config,
        str(workdir),
        devices=one_device.devices(),
        peak_flops=PEAK,
        effort=Effort(repetitions=2, seconds=0.2),
    )


@pytest.fixture(scope='session')
def measured(tmp_path_factory, scenes):
    """One benchmark: its config, its report, what its file holds and what it printed."""
    config = tiny_config(scenes)

    def make(folder):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            report = measure(config, folder)
        (folder / 'report.pickle').write_bytes(pickle.dumps(report))
        (folder / 'printed.txt').write_text(printed.getvalue())

    folder = once(tmp_path_factory, 'measured', make)
    return SimpleNamespace(
        config=config,
        report=pickle.loads((folder / 'report.pickle').read_bytes()),
        content=json.loads((folder / 'benchmark.json').read_text()),
        printed=(folder / 'printed.txt').read_text(),
    )


def test_the_file_holds_the_report(measured):
    assert measured.content == measured.report


@pytest.mark.parametrize('name', ['train', 'sample'])
def test_rates_and_shares_follow_from_the_measured_time(measured, name):
    part, config = measured.report[name], measured.config
    batch = {'train': config.batch_size, 'sample': config.sample.batch_size}[name]
    assert part['batch_size'] == batch
    assert part['repetitions'] >= 2
    rate = measured.report[f'{name}_images_per_second']
    assert rate == pytest.approx(batch / part['seconds'])
    share = measured.report[f'{name}_share_of_peak']
    assert share == pytest.approx(part['flops'] / part['seconds'] / PEAK)


def test_a_step_costs_three_forward_passes(measured):
    report, config = measured.report, measured.config
    # A pair takes 3 evaluations with guidance, which are 2 forward passes each.
    forward = report['sample']['flops'] / config.sample.batch_size / (2 * 3)
    assert report['train']['flops'] / config.batch_size == pytest.approx(3 * forward, rel=0.1)


def test_what_a_job_does_outside_the_sampler_is_reported(measured):
    outside = measured.report['outside_seconds_per_pair']
    assert 1e-4 < outside < 5
    (line,) = (line for line in measured.printed.splitlines() if line.startswith('outside'))
    drawing = measured.report['sample']['seconds'] / measured.config.sample.batch_size
    assert f'{outside / (outside + drawing):.0%} of a job' in line


def test_loader_peak_and_attention_are_reported(measured):
    assert measured.report['loader_examples_per_second'] > 0
    assert measured.report['matmul_peak_flops'] == PEAK
    assert 0 <= measured.report['attention_error'] < 1e-4
    assert 0 <= measured.report['block_error'] < 1e-4


def test_the_table_is_printed(measured):
    assert '1.00 TFLOP/s measured' in measured.printed
    assert 'times what training takes' in measured.printed


def test_the_table_names_the_peak_of_a_known_chip(measured):
    table = benchmark_table.lines_of(measured.report | {'known_peak_flops': 4 * PEAK})
    assert '1.00 TFLOP/s measured, 4.00 by their maker' in table


def test_a_benchmark_needs_no_data(config, tmp_path, capsys):
    config.data.dir = str(tmp_path / 'none')
    config.model.name = 'two_stream'
    config.model.given_map = True
    report = measure(config, tmp_path / 'run')
    assert report['loader_examples_per_second'] is None
    assert report['sample_images_per_second'] > 0
    assert f'no prepared data in {tmp_path / "none"}' in capsys.readouterr().out


def test_a_benchmark_needs_no_autoencoder(config, tmp_path, caplog):
    config.data.autoencoder_weights = str(tmp_path / 'none')
    with caplog.at_level('INFO', logger='absl'):
        report = measure(config, tmp_path / 'run')
    assert report['outside_seconds_per_pair'] is None
    assert report['loader_examples_per_second'] > 0
    assert 'outside of the sampler is not measured: data.autoencoder_weights' in caplog.text


def test_data_of_other_settings_are_refused(config, tmp_path):
    config.data.text_tokens = 7
    with pytest.raises(ValueError, match='do not fit the config'):
        measure(config, tmp_path)


def test_the_loader_alone_is_timed(config):
    """A loader that takes 10 ms for 8 examples gives at most 800 a second."""
    batches = benchmark.open_batches(config)

    def slow():
        while True:
            time.sleep(0.01)
            yield next(batches)

    assert 80 < examples_per_second(slow(), config.batch_size, seconds=0.2) < 800
    batches.close()
