"""Measurements of a tiny model on CPU: what is written, and how it hangs together."""

import json
import time

import pytest

from panoptic_jax import benchmark
from panoptic_jax.logs import clock

PEAK = 1e12


@pytest.fixture(autouse=True)
def short(monkeypatch, one_device):
    """Two repetitions of each, and a peak that no CPU reaches."""
    monkeypatch.setattr(benchmark, '_REPETITIONS', 2)
    monkeypatch.setattr(benchmark, '_SECONDS', 0.2)
    monkeypatch.setattr(clock, 'measured_matmul_peak', lambda devices: PEAK)


def test_a_benchmark_measures_training_sampling_and_loading(config, tmp_path, capsys):
    found = benchmark.benchmark(config, str(tmp_path / 'run'))
    assert json.loads((tmp_path / 'run' / 'benchmark.json').read_text()) == found
    for name, batch in (('train', config.batch_size), ('sample', config.sample.batch_size)):
        part = found[name]
        assert part['batch_size'] == batch
        assert part['repetitions'] >= 2
        rate = found[f'{name}_images_per_second']
        assert rate == pytest.approx(batch / part['seconds'])
        assert found[f'{name}_share_of_peak'] == pytest.approx(
            part['flops'] / part['seconds'] / PEAK
        )
    # A pair takes 3 evaluations with guidance, of 2 forward passes each; a step costs 3 of them.
    forward = found['sample']['flops'] / config.sample.batch_size / (2 * 3)
    assert found['train']['flops'] / config.batch_size == pytest.approx(3 * forward, rel=0.1)
    assert found['loader_examples_per_second'] > 0
    assert found['matmul_peak_flops'] == PEAK
    assert 0 <= found['attention_error'] < 1e-4
    text = capsys.readouterr().out
    assert '1.00 TFLOP/s measured' in text
    assert 'times what training takes' in text
    known = benchmark.table(found | {'known_peak_flops': 4 * PEAK})
    assert '1.00 TFLOP/s measured, 4.00 by their maker' in known


def test_a_benchmark_needs_no_data(config, tmp_path, capsys):
    config.data.dir = str(tmp_path / 'none')
    config.model.name = 'two_stream'
    config.model.given_map = True
    found = benchmark.benchmark(config, str(tmp_path / 'run'))
    assert found['loader_examples_per_second'] is None
    assert found['sample_images_per_second'] > 0
    assert f'no prepared data in {tmp_path / "none"}' in capsys.readouterr().out


def test_data_of_other_settings_are_refused(config, tmp_path):
    config.data.text_tokens = 7
    with pytest.raises(ValueError, match='do not fit the config'):
        benchmark.benchmark(config, str(tmp_path))


def test_the_loader_alone_is_timed(config, monkeypatch):
    """One that takes 10 ms for 8 examples gives at most 800 a second."""
    make = benchmark.loader.train_batches

    class Slow:
        def __init__(self, *arguments):
            self._batches = make(*arguments)

        def __next__(self):
            time.sleep(0.01)
            return next(self._batches)

        def close(self):
            self._batches.close()

    monkeypatch.setattr(benchmark.loader, 'train_batches', Slow)
    assert 80 < benchmark.loader_rate(config) < 800
