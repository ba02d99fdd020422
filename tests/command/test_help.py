"""--help: what each mode does, and every setting with its value and its comment."""

import re
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from panoptic_jax import config as settings
from panoptic_jax import main
from panoptic_jax.command import arguments, fields
from panoptic_jax.command import help as help_texts
from panoptic_jax.logs import environment

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

MEANINGS = help_texts.meanings_in(Path(settings.__file__).read_text())


def printed(given, capsys):
    """What a command line prints before it ends with exit code 0."""
    values, argv = flags.FlagValues(), ['main', *given]
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    with pytest.raises(SystemExit) as stop:
        arguments.parse_flags(argv, values)
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize('word', ['--help', '-h', '-?'])
def test_help_tells_the_modes_the_flags_and_how_to_list_settings(word, capsys):
    text = printed([word], capsys)
    (flag,) = (f for f in flags.FLAGS.get_key_flags_for_module(main) if f.name == 'mode')
    modes = flag.parser.enum_values
    assert set(modes) == set(help_texts.MODES)
    for mode in modes:
        (line,) = re.findall(rf'^  {mode} +(.+)$', text, re.MULTILINE)
        assert 'needs' in line
    assert (
        'coco_overfit, joint, one_stream, photographs, quickstart, scenes, two_stream, uvit' in text
    )
    assert '--config=quickstart --help' in text
    assert max(map(len, text.splitlines())) < 120


def test_help_with_a_config_lists_every_setting_as_it_is_set_there(capsys):
    text = printed(['--config=two_stream:patch_factor=4', '--help', '--config.steps=7'], capsys)
    assert 'a frozen U-ViT beside a trainable map stream' in text
    values = environment.flat(settings.default().to_dict())
    values |= {'steps': 7, 'model.patch_factor': 4, 'workdir': 'runs/two_stream'}
    shown = dict(re.findall(r'^  ([\w.]+) = (.+?)(?:  .*)?$', text, re.MULTILINE))
    assert set(shown) == set(fields.FIELDS)
    for name in ('steps', 'model.patch_factor', 'workdir', 'batch_size', 'betas', 'sample.prompt'):
        assert shown[name] == repr(values[name])
    joined = re.sub(r'\s+', ' ', text)
    assert all(meaning in joined for meaning in MEANINGS.values())


def test_every_setting_has_a_comment_of_its_own():
    assert set(MEANINGS) == set(fields.FIELDS)
    assert all(len(meaning) > 10 for meaning in MEANINGS.values())
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    assert MEANINGS['data.dir'].startswith('encoded shards')
    assert MEANINGS['fused_attention'].startswith('True: attention in one kernel')


def test_comments_are_found_beside_the_setting_or_above_it():
    source = """
        config.data = data = ml_collections.ConfigDict()  # not a setting
        data.text = 'a  # b'  # the words
        # out = a + b
        config.rate = 2e-4
        config.bare = 3
        other.field = 4  # of nobody
    """
    found = {'data.text': 'the words', 'rate': 'out = a + b'}
    assert help_texts.meanings_in(source) == found


def test_help_with_a_mistake_is_the_mistake(capsys):
    values, argv = flags.FlagValues(), ['main', '--help', '--config=quikstart']
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    with pytest.raises(SystemExit):
        arguments.parse_flags(argv, values)
    assert "no config named 'quikstart'" in capsys.readouterr().err
