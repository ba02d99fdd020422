"""What --help prints: the modes, and with a config every setting with its value and meaning.

The meanings are the comments of `config.py`, read from its source.
"""

import re
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

# What each mode does and needs, in the order in which they are used.
MODES = {
    'prepare': 'encodes a data set into data.dir; needs the data (data.root), except for scenes',
    'train': 'trains the model in the workdir; needs the prepared data',
    'sample': "generates pairs into the workdir's sample.folder; needs a trained or imported model",
    'evaluate': 'scores pairs, after sampling what lacks; needs what sample needs and the data',
    'export': 'writes the newest checkpoint as one file; needs a trained model and its data',
    'import': 'turns published PyTorch weights (foreign.path) into such a file; needs PyTorch',
    'plan': 'predicts memory and speed on TPUs (plan.topology); needs libtpu, no TPU and no data',
    'benchmark': 'measures training, sampling and loading on this machine; needs no data',
}
WORDS = ('--help', '-help', '--helpshort', '-helpshort', '-h', '-?', '--?')
_NAME_WIDTH = 38  # columns of a setting with its value


def overview(program: str, configs: str) -> str:
    """The text of --help without a config.

    Args:
      program: How the command is called.
      configs: The names of the configs, for people.
    """
    modes = '\n'.join(f'  {name:9}  {line}' for name, line in MODES.items())
    return f"""\
Panoptic Diffusion Models: from a caption, an image and its panoptic segmentation map.

    {program} --config=NAME_OR_FILE [--workdir=DIR] [--mode=MODE] [--config.SETTING=VALUE ...]

Flags:
  --config: The experiment: {configs};
      or a file of your own. Some take arguments, as in two_stream:patch_factor=4.
  --workdir: Folder of the run, made if missing: checkpoints, metrics, samples. Also gs://BUCKET/PATH;
      a leading ~ is the home folder. Where it is left out, the config's own counts (workdir).
  --mode: What to do; train by default. All but plan, import and benchmark go on where they were
      interrupted when the same command is given again.

Modes:
{modes}

Settings: with a config, --help lists every setting with its value and meaning:

    {program} --config=quickstart --help

A first run, which downloads nothing and takes some minutes on a CPU:

    {program} --config=quickstart --mode=prepare
    {program} --config=quickstart
    {program} --config=quickstart --mode=evaluate

Exit codes: 0 done; 1 an error, told in one sentence; 75 stopped by SIGTERM, 130 by Ctrl-C: what is
done is kept.
"""


def of_config(
    head: str, values: Mapping[str, Any], meanings: Mapping[str, str], program: str
) -> str:
    """The text of --help with a config.

    Args:
      head: What the config's file says of itself.
      values: Its settings with dotted names.
      meanings: What each one means, see `meanings_in`.
      program: How the command is called.
    """
    width = max(80, min(140, shutil.get_terminal_size((100, 24)).columns))
    lines = [head.strip(), '', f'Settings; each is changed by --config.NAME=VALUE ({program}):']
    group = None
    for name, value in values.items():
        if group != (group := name.rpartition('.')[0]):
            lines.append('')
        setting = f'  {name} = {value!r}'
        meaning = textwrap.wrap(meanings.get(name, ''), width - _NAME_WIDTH - 2) or ['']
        # A long value has the line to itself.
        if len(setting) > _NAME_WIDTH:
            lines.append(setting)
            setting = ''
        lines.append(f'{setting:{_NAME_WIDTH}}  {meaning[0]}'.rstrip())
        lines += [' ' * (_NAME_WIDTH + 2) + line for line in meaning[1:]]
    return '\n'.join(lines) + '\n'


def meanings_in(source: str) -> dict[str, str]:
    """{setting: its comment} of the source of `config.py`.

    A comment stands at the end of the setting's line. If it does not fit there, it is the line
    right above it.

    Args:
      source: Lines such as `data.flips = False  # True: every image also mirrored`.
    """
    groups, meanings, above = {'config': ''}, {}, ''
    for line in source.splitlines():
        line = line.strip()
        group = re.match(r'config\.(\w+) = (\w+) = ', line)
        setting = re.match(r'(\w+)\.(\w+) = ', line)
        if group:
            groups[group[2]] = f'{group[1]}.'
        elif setting and setting[1] in groups:
            # From the right, since a text may hold such a sign, too.
            _, _, beside = line.rpartition('  # ') if '  # ' in line else ('', '', '')
            meanings[groups[setting[1]] + setting[2]] = beside or above
        above = line.removeprefix('# ') if line.startswith('# ') else ''
    return {name: meaning for name, meaning in meanings.items() if meaning}
