"""--mode=export: half precision, and the card of the weights as the Hub shows it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hub_server
import huggingface_hub
import ml_collections
import numpy as np
import pytest
import yaml
from flax.traverse_util import flatten_dict

from panoptic_jax import export_weights, pipeline
from panoptic_jax.export import model_card
from panoptic_jax.weights import file as weights_file

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(trained, tmp_path):
    """(workdir, config) of the trained run, in a folder of this test's own."""
    workdir = tmp_path / 'my run'
    workdir.mkdir()
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    for name in ('metrics.jsonl', 'config.json', 'environment.json'):
        shutil.copy(trained[0] / name, workdir)
    return workdir, ml_collections.ConfigDict(trained[1].to_dict())


def exported(workdir, config):
    """(weights, card) of an export."""
    export_weights.export_weights(config, str(workdir))
    weights = weights_file.load(str(workdir / 'weights.safetensors'))
    return weights, (workdir / 'weights.md').read_text()


def test_half_precision_takes_half_of_the_bytes_and_rounds(run):
    workdir, config = run
    whole = flatten_dict(exported(workdir, config)[0].params, sep='/')
    size = (workdir / 'weights.safetensors').stat().st_size
    config.export_dtype = 'float16'
    half = flatten_dict(exported(workdir, config)[0].params, sep='/')
    assert (workdir / 'weights.safetensors').stat().st_size < 0.6 * size
    assert half.keys() == whole.keys()
    for name, value in half.items():
        assert value.dtype == np.float16
        np.testing.assert_array_equal(value, whole[name].astype(np.float16))


def test_numbers_beyond_half_precision_are_refused(run, monkeypatch):
    workdir, config = run
    restored = export_weights.trained.from_checkpoint(str(workdir), ema=True)
    large = {**restored.params, 'image': {'a': np.full(2, 1e6, np.float32)}}
    monkeypatch.setattr(
        export_weights.trained, 'from_checkpoint', lambda *_, **__: restored._replace(params=large)
    )
    config.export_dtype = 'float16'
    with pytest.raises(ValueError, match=r"is not written: 'image/a' has 2 of 2 numbers that"):
        exported(workdir, config)
    assert not (workdir / 'weights.md').exists()


def test_card_says_what_the_files_of_the_run_say(run):
    workdir, config = run
    (workdir / 'notes.md').write_text('Things are blobs.\n')
    scored = {'n': 6, 'nfe': 3, 'guidance': 1.5, 'ema': True}
    scores = {
        'MCD': {'value': 0.123456, 'weights': 'step 12', 'label': 'MCD/6', **scored},
        'MCD/chance': {'value': 1.5, 'weights': 'step 12', 'label': 'MCD/chance/8', **scored},
        'old': {'value': 9.0, 'weights': 'step 8', 'label': 'old/6', **scored},
    }
    (workdir / 'metrics.json').write_text(json.dumps(scores))
    _, card = exported(workdir, config)
    _, front, body = card.split('---\n', 2)
    assert yaml.safe_load(front)['license'] == 'apache-2.0'
    assert body.splitlines()[1] == '# my run'
    rows = dict(re.findall(r'^\| ([\w ]+) \| (.*) \|$', body, re.MULTILINE))
    assert rows['optimiser steps'] == '12'
    assert rows['network'] == 'one_stream, 32 channels, depth 2'
    assert rows['data'] == 'scenes, seed 0'
    assert rows['MCD'] == '0.123 | chance 1.500'
    assert 'old' not in rows
    assert 'Of 6 pairs: 3 network evaluations, guidance 1.5, averaged weights.' in body
    # What differs from the defaults, and what nobody needs to know.
    assert '\nmodel.hidden_size = 32\n' in body
    assert 'data.dir' not in body
    assert 'betas' not in body
    assert body.endswith('## Known faults\n\nThings are blobs.\n')


def test_card_without_files_says_so(run):
    workdir, config = run
    for name in ('metrics.jsonl', 'config.json', 'environment.json'):
        (workdir / name).unlink()
    _, card = exported(workdir, config)
    assert 'None were measured before the export' in card
    assert model_card.NO_NOTES in card


def test_python_of_the_card_draws(run, monkeypatch):
    workdir, config = run
    _, card = exported(workdir, config)
    (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
    monkeypatch.chdir(workdir)
    found = {}
    exec(code, found)
    assert found['images'].shape == (1, 256, 256, 3)
    assert found['maps'].shape == (1, 64, 64)


def test_weights_go_to_the_hub_and_come_back(run, tmp_path):
    """By the commands of docs/WEIGHTS.md, against a stand-in."""
    workdir, config = run
    exported(workdir, config)
    text = (ROOT / 'docs' / 'WEIGHTS.md').read_text()
    commands = [line for line in text.splitlines() if line.startswith('hf upload ')]
    assert len(commands) == 2
    program = Path(sys.executable).with_name('hf')
    with hub_server.serve() as (url, files):
        own = {'HF_ENDPOINT': url, 'HF_TOKEN': 'hf_none', 'HF_HOME': str(tmp_path / 'cache')}
        environment = os.environ | own
        for command in commands:
            words = command.replace('OWNER/NAME', 'someone/pairs').split()[1:]
            words[2] = str(workdir / Path(words[2]).name)
            subprocess.run([program, *words], check=True, env=environment, capture_output=True)
        assert files['someone/pairs', 'README.md'] == (workdir / 'weights.md').read_bytes()
        code = (
            'from panoptic_jax.weights import file\n'
            "weights = file.load('hf://someone/pairs/weights.safetensors')\n"
            'print(weights.description.origin["step"])'
        )
        done = subprocess.run(
            [sys.executable, '-c', code], env=environment, cwd=ROOT, capture_output=True, text=True
        )
    assert done.stdout == '12\n', done.stderr


def test_weights_come_from_the_hub(run, monkeypatch):
    """Wherever weights are asked for; the Hub is a folder here."""
    workdir, config = run
    exported(workdir, config)
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return str(workdir / name)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    address = 'hf://someone/pairs@v2/weights.safetensors'
    assert weights_file.load_description(address).model.hidden_size == 32
    draw = pipeline.load(address, evaluations=2)
    assert draw(['a red disc on sand before a clear sky'])[0].shape == (1, 256, 256, 3)
    assert set(asked) == {('someone/pairs', 'weights.safetensors', 'v2')}
