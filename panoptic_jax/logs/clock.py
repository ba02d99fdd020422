"""What the machine does while it trains: time, throughput, MFU, memory, profiler window.

This module measures, and `logs/dashboards.py` writes the numbers down. `machine/chips.py` knows the
peaks of chips by name.
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

    Compile before the clock is made or inside `paused()`, so that the first steps are like all
    others.

    Attributes:
      seconds_at_peak: What a step would take at the devices' peak: its model FLOPs over
        `matmul_peak`; None for no MFU.
      seconds: Training seconds so far, those of earlier processes included; pauses do not count.
        Save it with the checkpoint, and hand it back to the constructor on resume.
    """

    def __init__(
        self,
        *,
        start_step: int,
        total_steps: int,
        batch_size: int,
        seconds_at_peak: float | None = None,
        seconds: float = 0.0,
        now: Callable[[], float] = time.perf_counter,
    ):
        """Starts counting.

        Args:
          start_step: Optimiser steps that are already done.
          total_steps: Steps at the end of the run.
          batch_size: Images per step, over all devices.
          seconds_at_peak: The attribute, which may also be set later.
          seconds: Training seconds of earlier processes.
          now: Source of the time, in seconds.
        """
        self._total_steps = total_steps
        self._batch_size = batch_size
        self.seconds_at_peak = seconds_at_peak
        self._now = now
        self._earlier = seconds
        self._start = now()
        self._pauses = 0.0
        self._waited = 0.0  # seconds since the last report
        self._window = (start_step, seconds)  # step and training seconds of the last report
        self._first: tuple[int, float] | None = None  # step and pauses at the first report

    @property
    def seconds(self) -> float:
        return self._earlier + self._now() - self._start - self._pauses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside: validation, checkpoints, previews, compilation.

        Before entering it, wait for the steps that were dispatched (`jax.block_until_ready`).
        Otherwise their time is taken for a part of the pause.
        """
        start = self._now()
        try:
            yield
        finally:
            self._pauses += self._now() - start

    def next_of(self, batches: Iterator[Any], running: jax.Array) -> Any:
        """The next batch; how long it took is waiting for data, if the devices had nothing to do.

        Args:
          batches: The loader.
          running: Something that the last dispatched step computes. Devices that are still at it
            when the batch comes did not wait.
        """
        start = self._now()
        batch = next(batches)
        if running.is_ready():
            self._waited += self._now() - start
        return batch

    def report(self, step: int) -> dict[str, float | None]:
        """Numbers of the window since the last report (or the start), ready for `Writers.write`.

        Args:
          step: Optimiser steps done, all of them finished on the device; more than at the last
            report.

        Returns:
          images_per_second over all devices; mfu, the share of the peak in [0, 1] (None where peak
          or FLOPs are unknown); waiting_for_data, the share of the time in which the devices had no
          batch; seconds of training so far; eta_seconds until the last step, with pauses at the
          rate seen so far.
        """
        seconds = self.seconds
        last_step, last_seconds = self._window
        step_seconds = (seconds - last_seconds) / (step - last_step)
        waiting, self._waited = self._waited / (seconds - last_seconds), 0.0
        self._window = (step, seconds)
        # Pauses before the first report do not come again: compilation, restoring, first files.
        if self._first is None:
            self._first = (step, self._pauses)
        first_step, first_pauses = self._first
        pause_per_step = (self._pauses - first_pauses) / max(1, step - first_step)
        steps_left = self._total_steps - step
        return {
            'images_per_second': self._batch_size / step_seconds,
            'mfu': None if self.seconds_at_peak is None else self.seconds_at_peak / step_seconds,
            'waiting_for_data': waiting,
            'seconds': seconds,
            'eta_seconds': steps_left * (step_seconds + pause_per_step),
        }


def matmul_peak(devices: Sequence[jax.Device]) -> float:
    """FLOP/s that the devices together reach at best; MFU is a share of it.

    For TPUs and data-centre GPUs it is the known dense bfloat16 peak. For other devices it is
    measured.
    """
    if chip := known_chip(devices[0].device_kind):
        return chip.peak_flops * len(devices)
    return measured_matmul_peak(devices)


def measured_matmul_peak(devices: Sequence[jax.Device]) -> float:
    """FLOP/s of the devices together: the best of some large products within a second on one.

    The products are float32 on CPU and bfloat16 elsewhere.
    """
    if devices[0].platform == 'cpu':
        # The CPU devices of one process share its cores and count once.
        processes = {device.process_index for device in devices}
        return _measure_matmul(2048, jnp.float32) * len(processes)
    return _measure_matmul(8192, jnp.bfloat16) * len(devices)


def _measure_matmul(size: int, dtype: Any) -> float:
    """FLOP/s of one size x size x size product on the default local device, best of a few."""
    shape = jax.ShapeDtypeStruct((size, size), dtype)
    product = jax.jit(jnp.matmul).lower(shape, shape).compile()
    # Random numbers: a GPU multiplies equal ones faster, since fewer of its wires change.
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    # The first call also pays for loading the program.
    jax.block_until_ready(product(matrix, matrix))
    # The best and not the mean: other jobs on the machine only ever make a product slower.
    best, end = float('inf'), time.perf_counter() + 1.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def device_memory() -> dict[str, int]:
    """Bytes in use, at most so far and available, per local device, as scalars for a dashboard.

    Returns:
      `memory/device_0_bytes_in_use`, `..._peak_bytes_in_use`, `..._bytes_limit` and so on. Where
      devices keep no account (CPU), `memory/host_bytes_in_use`: this process's share of main
      memory.
    """
    scalars = {}
    for i, device in enumerate(jax.local_devices()):
        statistics = device.memory_stats() or {}
        for name in ('bytes_in_use', 'peak_bytes_in_use', 'bytes_limit'):
            if name in statistics:
                scalars[f'memory/device_{i}_{name}'] = statistics[name]
    if not scalars:
        # Linux alone has this file. Its second number is the resident set in pages.
        memory_status = epath.Path('/proc/self/statm')
        if memory_status.exists():
            pages = int(memory_status.read_text().split()[1])
            scalars['memory/host_bytes_in_use'] = pages * os.sysconf('SC_PAGE_SIZE')
    return scalars


class ProfilerWindow:
    """A profiler trace of a few steps, for TensorBoard's profile tab or xprof.

    Call `before_step` ahead of every step and `close` at the end, also after an exception. A run
    that resumes inside the window traces what is left of it, and after the window nothing. Only
    process 0 traces.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int, steps: int):
        """Plans the window.

        Args:
          workdir: The trace goes to `workdir/tensorboard/plugins/profile`.
          first_step: First step that is traced, counted from 0 (`before_step`); 0 for no window.
          steps: Number of steps that are traced.
        """
        self._folder = epath.Path(workdir) / 'tensorboard'
        self._steps = range(first_step, first_step + steps)
        # Traces of all processes would be large and look alike.
        self._closed = first_step == 0 or jax.process_index() != 0
        self.active = False

    def before_step(self, step: int, running: Any = None) -> None:
        """Starts or ends the trace.

        Args:
          step: Number of the step that is dispatched next.
          running: Arrays that the dispatched steps produce, such as the train state. They are
            waited for at both edges of the window, so that it holds whole steps.
        """
        inside = step in self._steps
        if self._closed or inside == self.active:
            return
        jax.block_until_ready(running)
        if not inside:
            self.close()
            return
        self._traced = str(self._folder)
        # The profiler writes local files only.
        if files.is_remote(self._folder):
            self._traced = tempfile.mkdtemp(prefix='panoptic_jax_trace_')
        jax.profiler.start_trace(self._traced)
        self.active = True

    def close(self) -> None:
        """Writes the trace if one is open; nothing is traced afterwards.

        Raises:
          ValueError: the disk is full, or refuses otherwise.
        """
        was_active, self.active, self._closed = self.active, False, True
        if was_active:
            with files.explaining(os.path.join(self._traced, 'plugins')):
                jax.profiler.stop_trace()
            if files.is_remote(self._folder):
                files.move_up(self._traced, self._folder)
