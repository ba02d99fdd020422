"""What the tests of the launch files share: fake programs, a command line, the compiler's flags."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ('--config=configs/one_stream.py', '--workdir=gs://bucket/one_stream')
PROMPT = '--config.sample.prompts=it\'s "a red" $star & more'


def program(path, text):
    """Writes an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def flags_for(platform, **environment):
    """What xla_flags.sh adds to the environment for 'tpu' or 'gpu'."""
    own = {'PATH': os.environ['PATH']} | environment
    script = f'source launch/xla_flags.sh {platform}; env -0'
    printed = subprocess.check_output(['bash', '-c', script], cwd=ROOT, env=own)
    after = dict(item.split('=', 1) for item in printed.decode().split('\0') if item)
    shells = {'PWD', 'SHLVL', '_'}
    return {k: v for k, v in after.items() if own.get(k) != v and k not in shells}
