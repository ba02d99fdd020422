"""Progress of a job: a bar on a terminal that log lines do not break, plain lines elsewhere."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from panoptic_jax.logs.progress import duration, readable

JOB = """
import sys, time
from absl import flags, logging
from panoptic_jax.logs import progress
flags.FLAGS(['job'])
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
progress.share_terminal()
counted = progress.Progress('prepare', 'images', 10)
for number in range(5):
    counted.add(2)
    # Longer than the pause that a bar makes between two drawings.
    time.sleep(0.12)
    if number == 1:
        logging.info('shard %d is written', 1)
        progress.say('step 20/800  loss 0.5', file=sys.stdout)
progress.say('error: the end')
"""


def on_terminal(columns=100):
    """What a terminal receives while the job runs."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    variables = os.environ | {'TERM': 'xterm'}
    with subprocess.Popen(
        [sys.executable, '-c', JOB], stdout=theirs, stderr=theirs, env=variables
    ) as job:
        os.close(theirs)
        received = b''
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            received += part
    os.close(ours)
    assert job.returncode == 0
    return received.decode()


def as_seen(received):
    """The lines that stay on the screen: a carriage return goes back to the line's start."""
    lines = []
    for line in received.split('\r\n'):
        screen = ''
        for part in line.split('\r'):
            screen = part + screen[len(part) :]
        lines.append(screen.rstrip())
    return lines


@pytest.fixture(scope='module')
def received():
    return on_terminal()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(received):
    drawn = re.findall(r'prepare: +(\d+)%\|.*?\| (\d+)/10 \[(\S+)<(\S+), +([^\]]+)\]', received)
    shares = [int(share) for share, *_ in drawn]
    assert shares == sorted(shares)
    assert len(set(shares)) >= 3
    assert any(re.fullmatch(r'[\d.]+ images/s', rate) for *_, rate in drawn)
    assert any(re.fullmatch(r'\d\d:\d\d', left) for *_, left, _ in drawn)


def test_lines_stay_whole_and_the_bar_vanishes(received):
    seen = as_seen(received)
    assert seen[-1] == ''
    lines = seen[:-1]
    assert len(lines) == 4
    assert re.fullmatch(r'I\d.*\] shard 1 is written', lines[0])
    assert lines[1] == 'step 20/800  loss 0.5'
    assert re.fullmatch(r'I\d.*\] prepare: 10/10 images, [\d.]+ images/s, 0 s left', lines[2])
    assert lines[3] == 'error: the end'


def test_a_terminal_that_cannot_draw_gets_plain_lines():
    received = on_terminal(columns=0)
    assert '10/10 images' in received
    assert '\r' not in received.replace('\r\n', '')
    assert '|' not in received


def test_elsewhere_there_are_plain_lines_only():
    done = subprocess.run([sys.executable, '-c', JOB], capture_output=True, text=True, check=True)
    assert done.stdout == 'step 20/800  loss 0.5\n'
    lines = done.stderr.splitlines()
    assert [re.sub(r'^I\d.*?\] ', '', line) for line in lines if 'images' not in line] == [
        'shard 1 is written', 'error: the end',
    ]  # fmt: skip
    (line,) = [line for line in lines if 'images' in line]
    rate = float(re.search(r'prepare: 10/10 images, (\S+) images/s, 0 s left$', line)[1])
    assert 1 < rate < 25
    assert '\r' not in done.stderr
    assert '|' not in done.stderr


def test_rates_and_durations_are_short():
    assert [readable(rate) for rate in (0.01234, 4.5321, 99.9, 1234.5)] == [
        '0.0123', '4.53', '99.9', '1234',
    ]  # fmt: skip
    assert (duration(42.4), duration(119), duration(11225)) == ('42 s', '119 s', '3:07:05')
