"""What the machine does while it trains: time, throughput, MFU, memory, profiler window.

Measures only; `dashboards.py` writes the numbers down.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from panoptic_jax.machine import files
from panoptic_jax.machine.chips import known_chip


class Clock:
    """Training time and throughput, with pauses left out.

    Compile before the clock is made or inside `paused()`: the first steps are then like all others.

    Attributes:
      seconds: training seconds so far, of earlier processes too; pauses do not count. Save it with
        the checkpoint and hand it back to the constructor on resume.
    """

    def __init__(
        self,
        start_step: int,
        total_steps: int,
        batch_size: int,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        seconds: float = 0.0,
        now: Callable[[], float] = time.perf_counter,
    ):
        """Starts counting.

        Args:
          start_step: optimiser steps that are already done.
          total_steps: steps at the end of the run.
          batch_size: images per step, over all devices.
          flops_per_step: model FLOPs of one step over all devices; None: no MFU.
          peak_flops: of all devices together, see `matmul_peak`; None: no MFU.
          seconds: training seconds of earlier processes.
          now: the source of time, in seconds.
        """
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._share = flops_per_step / peak_flops if flops_per_step and peak_flops else None
        self._now = now
        self._earlier = seconds
        self._start = now()
        self._pauses = 0.0
        self._window = (start_step, seconds)  # step and training seconds of the last report
        self._first: tuple[int, float] | None = None  # step and pauses at the first report

    @property
    def seconds(self) -> float:
        return self._earlier + self._now() - self._start - self._pauses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside: validation, checkpoints, previews, compilation.

        Wait for the steps under way (`jax.block_until_ready`) before entering it, or their time is
        taken for a part of the pause.
        """
        start = self._now()
        try:
            yield
        finally:
            self._pauses += self._now() - start

    def report(self, step: int) -> dict[str, float | None]:
        """Numbers of the window since the last report (or the start), ready for `Writers.write`.

        Args:
          step: optimiser steps done, all of them finished on the device; more than at the last
            report.

        Returns:
          images_per_second over all devices; mfu, the share of the peak in [0, 1] (None where
          peak or FLOPs are unknown); seconds of training so far; eta_seconds until the last step,
          pauses included at the rate seen so far.
        """
        seconds = self.seconds
        steps = step - self._window[0]
        step_seconds = (seconds - self._window[1]) / steps
        self._window = (step, seconds)
        if self._first is None:
            self._first = (step, self._pauses)
        pause = (self._pauses - self._first[1]) / max(1, step - self._first[0])
        return {
            'images_per_second': self._batch_size / step_seconds,
            'mfu': None if self._share is None else self._share / step_seconds,
            'seconds': seconds,
            'eta_seconds': (self._total_steps - step) * (step_seconds + pause),
        }


def matmul_peak(devices: Sequence[jax.Device]) -> float:
    """FLOP/s that the devices together reach at best: what MFU is a share of.

    The known dense bf16 peak of TPUs and data-centre GPUs; that of others is measured.
    """
    if chip := known_chip(devices[0].device_kind):
        return chip.peak_flops * len(devices)
    return measured_matmul_peak(devices)


def measured_matmul_peak(devices: Sequence[jax.Device]) -> float:
    """FLOP/s of the devices together, by the best of some large products within a second on one.

    Float32 on CPU and bfloat16 elsewhere. The CPU devices of one process share its cores and count
    once.
    """
    if devices[0].platform == 'cpu':
        return _measure_matmul(2048, jnp.float32) * len({d.process_index for d in devices})
    return _measure_matmul(8192, jnp.bfloat16) * len(devices)


def _measure_matmul(size: int, dtype: Any) -> float:
    """FLOP/s of one size x size x size product on the default local device, best of a few."""
    product = jax.jit(jnp.matmul).lower(*[jax.ShapeDtypeStruct((size, size), dtype)] * 2).compile()
    matrix = jnp.full((size, size), 0.5, dtype)
    jax.block_until_ready(product(matrix, matrix))
    best, end = float('inf'), time.perf_counter() + 1.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def device_memory() -> dict[str, int]:
    """Bytes in use, at most so far and available, per local device, as scalars for a dashboard.

    Keys `memory/device_0_bytes_in_use`, `..._peak_bytes_in_use`, `..._bytes_limit`. Where devices
    keep no account (CPU), `memory/host_bytes_in_use`: what this process holds of main memory.
    """
    found = {}
    for i, device in enumerate(jax.local_devices()):
        statistics = device.memory_stats() or {}
        for name in ('bytes_in_use', 'peak_bytes_in_use', 'bytes_limit'):
            if name in statistics:
                found[f'memory/device_{i}_{name}'] = statistics[name]
    if not found:
        resident_pages = epath.Path('/proc/self/statm')
        if resident_pages.exists():
            pages = int(resident_pages.read_text().split()[1])
            found['memory/host_bytes_in_use'] = pages * os.sysconf('SC_PAGE_SIZE')
    return found


class ProfilerWindow:
    """A profiler trace of a few steps, for TensorBoard's profile tab or xprof.

    Call `before_step` ahead of every step and `close` at the end, also after an exception. A run
    that resumes inside the window traces what is left of it; after it, nothing. Process 0 only.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int, steps: int):
        """Plans the window.

        Args:
          workdir: the trace goes to `workdir/tensorboard/plugins/profile`.
          first_step: the first step that is traced, counted from 0 (`before_step`); 0: no window.
          steps: how many.
        """
        self._folder = epath.Path(workdir) / 'tensorboard'
        self._steps = range(first_step, first_step + steps)
        self._closed = first_step == 0 or jax.process_index() != 0
        self.active = False

    def before_step(self, step: int, running: Any = None) -> None:
        """Starts or ends the trace.

        Args:
          step: number of the step about to be dispatched.
          running: arrays that the steps under way produce (the train state, say); waited for at
            both edges of the window, so that it holds whole steps.
        """
        if self._closed or (not self.active and step not in self._steps):
            return
        if self.active and step not in self._steps:
            jax.block_until_ready(running)
            self.close()
        elif not self.active:
            jax.block_until_ready(running)
            self._traced = str(self._folder)
            if files.is_remote(self._folder):  # the profiler writes local files only
                self._traced = tempfile.mkdtemp(prefix='panoptic_jax_trace_')
            jax.profiler.start_trace(self._traced)
            self.active = True

    def close(self) -> None:
        """Writes the trace if one is open; nothing is traced afterwards."""
        if self.active:
            jax.profiler.stop_trace()
            if files.is_remote(self._folder):
                files.move_up(self._traced, self._folder)
        self.active = False
        self._closed = True
