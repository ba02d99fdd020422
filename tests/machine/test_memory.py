"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from panoptic_jax.machine import memory

if sys.argv[1] == 'keep':
    memory.keep_freed()

def fill():
    np.full(2**25, 7, np.uint8)  # 32 MiB, written and freed

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc gives memory back')
def test_freed_memory_is_not_taken_from_the_system_again():
    def faults(how):
        command = [sys.executable, '-c', _FAULTS, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # A page has 4 KiB, or 2 MiB where the system joins them.
    assert faults('leave') >= 10 * 16
    assert faults('keep') < 16
