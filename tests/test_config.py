"""Settings: defaults pass, impossible values and misspelt arguments are refused by name."""

import re
from types import SimpleNamespace

import pytest

from panoptic_jax import config as settings
from panoptic_jax import main, recipes


def changed(name, value):
    config = settings.default()
    part = config
    *groups, field = name.split('.')
    for group in groups:
        part = part[group]
    with part.ignore_type():
        part[field] = value
    return config


def test_defaults_are_possible():
    settings.check(settings.default())


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('data.source', 'imagenet', "one of 'coco', 'folder', 'scenes'"),
        ('model.name', 'unet', "one of 'uvit', 'one_stream', 'two_stream'"),
        ('model.patch_factor', 3, 'one of 1, 2, 4'),
        ('model.depth', 3, 'even'),
        ('model.hidden_size', 500, 'a multiple of twice model.num_heads (8)'),
        ('model.patch_size', 3, 'a divisor of the latent side 32'),
        ('model.map_prediction', 'bits', "one of 'data', 'noise'"),
        ('model.zero_conv_bias', True, "False for 'one_stream'"),
        ('foreign.kind', 'vae', "one of 'model', 'tower'"),
        ('steps', 0, 'positive'),
        ('learning_rate', -1e-4, 'positive'),
        ('warmup_steps', -1, 'zero or more'),
        ('cooldown', 1.5, 'between 0 and 1'),
        ('ema_decay', 1.5, 'between 0 and 1'),
        ('text_dropout', -0.1, 'between 0 and 1'),
        ('microbatches', 3, None),
        ('checkpoint_every', 150, 'a multiple of log_every (100)'),
        ('sample.solver', '4', "one of 'fast', '1', '2', '3', '2M'"),
        ('sample.grid', 'uniform', "one of 'time', 'lambda'"),
    ],
)
def test_impossible_values_are_refused(name, value, expected):
    with pytest.raises(ValueError, match='must be') as error:
        settings.check(changed(name, value))
    message = str(error.value)
    if expected is not None:
        assert message.startswith(f'{name} is {value!r}')
        assert expected in message
    assert '\n' not in message


def test_noise_of_a_map_needs_a_map_to_predict():
    config = settings.default()
    config.model.map_prediction = 'noise'
    settings.check(config)
    for name, value in (('given_map', True), ('name', 'uvit'), ('zero_map_input', True)):
        config.model.update(name='one_stream', given_map=False, zero_map_input=False)
        config.model[name] = value
        with pytest.raises(ValueError, match="it must be 'data' where no map is predicted"):
            settings.check(config)


def test_order_of_the_solver_must_divide_the_evaluations():
    config = changed('sample.solver', '3')
    with pytest.raises(ValueError, match=r'sample\.evaluations is 50; it must be a multiple'):
        settings.check(config)
    config.sample.evaluations = 51
    settings.check(config)


def test_misspelt_fields_do_not_exist():
    config = settings.default()
    config.lock()
    with pytest.raises(AttributeError, match='batchsize'):
        config.batchsize = 3


def test_config_arguments():
    defaults = {'patch_factor': 2, 'given_map': False, 'rate': 0.5}
    assert recipes.arguments('', **defaults) == defaults
    assert recipes.arguments('patch_factor=4,given_map=1', **defaults) == {
        'patch_factor': 4,
        'given_map': True,
        'rate': 0.5,
    }
    with pytest.raises(ValueError, match=r"no argument 'patchfactor'; it has patch_factor"):
        recipes.arguments('patchfactor=4', **defaults)
    with pytest.raises(ValueError, match=re.escape("patch_factor is 'two'; it must be int")):
        recipes.arguments('patch_factor=two', **defaults)


def run_main(monkeypatch, config, workdir, mode):
    for flag, value in (('_CONFIG', config), ('_WORKDIR', workdir), ('_MODE', mode)):
        monkeypatch.setattr(main, flag, SimpleNamespace(value=value))
    return main.main(['main'])


def test_expected_errors_are_one_sentence_on_the_command_line(
    monkeypatch, capsys, config, tmp_path, one_device
):
    workdir = str(tmp_path / 'run')
    weights = tmp_path / 'weights.safetensors'
    weights.write_bytes(b'0' * 100)
    nowhere = str(tmp_path / 'nowhere')
    cases = [
        ('train', {'batch_size': -1}, 'batch_size is -1; it must be positive'),
        ('train', {'data.dir': nowhere}, 'data.dir is '),
        ('train', {'data.text_tokens': 23}, 'data.text_tokens is 23 but the data have 24'),
        ('train', {'mesh.fsdp': 3}, 'mesh.data=-1 times mesh.fsdp=3 must be the number of devices'),
        ('train', {'mesh.fsdp': 0}, 'mesh.data=-1 times mesh.fsdp=0 must be the number of devices'),
        ('train', {'init_weights': nowhere}, 'There is no weights file'),
        ('train', {'init_weights': str(weights)}, 'is not a weights file of panoptic_jax'),
        ('sample', {}, 'holds no checkpoint; train into it first'),
        ('export', {}, 'holds no checkpoint; train into it first'),
        ('evaluate', {}, 'holds no checkpoint; train into it first'),
        ('evaluate', {'data.dir': nowhere}, 'run --mode=prepare with the same config first'),
        ('sample', {'sample.weights': nowhere}, 'There is no weights file'),
        ('sample', {'sample.weights': str(weights)}, 'is not a weights file of panoptic_jax'),
        ('sample', {'sample.evaluations': 0}, 'sample.evaluations is 0; it must be positive'),
    ]
    for mode, values, expected in cases:
        broken = config.copy_and_resolve_references()
        broken.update_from_flattened_dict(values)
        assert run_main(monkeypatch, broken, workdir, mode) == 1, (mode, values)
        message = capsys.readouterr().err.splitlines()
        (line,) = [line for line in message if line.startswith('error: ')]
        assert expected in line
        assert not [line for line in message if line.startswith('Traceback')]
    assert not (tmp_path / 'run' / 'config.json').exists()
    assert not (tmp_path / 'run' / 'samples').exists()
    assert run_main(monkeypatch, config, None, 'sample') == 1
    assert '--mode=sample needs --workdir=DIR' in capsys.readouterr().err
