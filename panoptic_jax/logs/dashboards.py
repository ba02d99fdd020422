"""Where a run is written down: TensorBoard files, metrics.jsonl, the console, picture grids.

Importing this module is what lets clu's metric writers work without TensorFlow; import them from
nowhere else. The numbers come from the callers and from `clock.py`.
"""

import os
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX
from clu import parameter_overview as clu_overview
from etils import epath
from tensorboardX import record_writer, summary

from panoptic_jax.logs import event_files, json_lines
from panoptic_jax.machine import files

# clu.metric_writers imports its TensorFlow writer at load. A stand-in takes that module's place.
_stub = types.ModuleType('clu.metric_writers.summary_writer')
_stub.SummaryWriter = None
sys.modules.setdefault('clu.metric_writers.summary_writer', _stub)
from clu import metric_writers  # noqa: E402


class TensorBoardWriter(metric_writers.MetricWriter):
    """A clu metric writer over tensorboardX.

    Event files of an earlier process stay; TensorBoard hides their steps after `start_step`, which
    a resumed run takes again.
    """

    def __init__(self, folder: epath.PathLike, start_step: int = 0):
        """Opens a new event file in `folder`; `start_step`: steps that are done."""
        if files.is_remote(folder):
            record_writer.register_writer_factory('gs', event_files.BucketFolders())
        self._writer = tensorboardX.SummaryWriter(
            os.fspath(folder),
            purge_step=start_step + 1,
            flush_secs=30,
            filename_suffix=f'.{time.time_ns()}',  # two starts within a second: two files
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Pictures (N, H, W, 3) or (H, W, 3), uint8 or float in [0, 1]."""
        for name, value in images.items():
            stack = np.asarray(value)
            stack = stack[None] if stack.ndim == 3 else stack
            for i, picture in enumerate(stack):
                name_i = name if len(stack) == 1 else f'{name}/{i}'
                self._writer.add_image(name_i, picture, step, dataformats='HWC')

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        for name, values in arrays.items():
            buckets = (num_buckets or {}).get(name)
            self._writer.add_histogram(name, np.asarray(values), step, max_bins=buckets)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Flat names to values; what is no number, truth value or text is written as text."""
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in hparams.items()
        }
        # add_hparams of tensorboardX would open a second run beside this one.
        for part in summary.hparams(plain, {'loss': None}):
            self._writer.file_writer.add_summary(part)

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        raise NotImplementedError('a run has no audio')

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        raise NotImplementedError('a run has no videos')

    def write_summaries(self, step: int, values: Any, metadata: Any = None) -> None:
        raise NotImplementedError('a run has no summaries of its own making')

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Writers:
    """All places that a run is written to, as one object; see `create_writers`.

    On every process but the first all methods do nothing, so the loop needs no cases.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int, total_steps: int, first: bool):
        """See `create_writers`; `first`: this process writes."""
        self._total_steps = total_steps
        self._first = first
        if first:
            workdir = epath.Path(workdir)
            workdir.mkdir(parents=True, exist_ok=True)
            # In a thread of its own: encoding pictures must not hold up the next step.
            self._clu = metric_writers.AsyncWriter(
                TensorBoardWriter(workdir / 'tensorboard', start_step)
            )
            self._log = json_lines.JsonLines(workdir / 'metrics.jsonl', start_step)
            self._validation = json_lines.JsonLines(workdir / 'validation.jsonl', start_step)
        else:
            self._clu = metric_writers.MultiWriter([])

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One log step: TensorBoard, a line of metrics.jsonl and a line on the console.

        Args:
          step: optimiser steps done.
          scalars: at least loss, loss_image, loss_map, grad_norm, learning_rate and what
            `Clock.report` gives. None (no such number: the map's loss of a plain U-ViT) and
            non-finite values become null in the file.
        """
        if self._first:
            numbers = json_lines.plain(scalars)
            self._clu.write_scalars(step, _present(numbers))
            self._log.write(step, numbers)
            print(_console_line(step, self._total_steps, numbers), flush=True)

    def write_validation(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Held-out losses and the like: TensorBoard, validation.jsonl and a console line.

        They have a file of their own: every line of metrics.jsonl has the same keys.
        """
        if self._first:
            numbers = json_lines.plain(scalars)
            self._clu.write_scalars(step, _present(numbers))
            self._validation.write(step, numbers)
            listed = '  '.join(f'{name} {value:.4g}' for name, value in _present(numbers).items())
            print(f'step {step:,}  {listed}', flush=True)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Names to pictures (N, H, W, 3) or (H, W, 3), uint8 or float in [0, 1]."""
        self._clu.write_images(step, images)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Flat names of settings to values; once per start."""
        self._clu.write_hparams(hparams)

    def write_text(self, step: int, texts: Mapping[str, str]) -> None:
        """Names to Markdown."""
        self._clu.write_texts(step, texts)

    def flush(self) -> None:
        """Puts everything on disk. Call it before a checkpoint is saved: a resume from that
        checkpoint cannot write lost lines again."""
        self._clu.flush()
        if self._first:
            self._log.flush()
            self._validation.flush()

    def close(self) -> None:
        self.flush()
        self._clu.close()


def create_writers(workdir: epath.PathLike, start_step: int, total_steps: int) -> Writers:
    """Opens the run's records: workdir/tensorboard, metrics.jsonl and validation.jsonl.

    Call it after the restore: whatever earlier processes wrote for steps after `start_step` is cut
    off (JSON lines) or hidden (TensorBoard), a half-written last line too.

    Args:
      workdir: the run's folder, also `gs://`; made if missing.
      start_step: steps that are done; 0 for a new run.
      total_steps: steps at the end of the run, for the console.
    """
    return Writers(workdir, start_step, total_steps, first=jax.process_index() == 0)


def parameter_overview(params: Any) -> str:
    """clu's table of names, shapes, sizes and shardings, as Markdown for `Writers.write_text`."""
    return f'```\n{clu_overview.get_parameter_overview(params, include_stats="sharding")}\n```'


def _present(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}


def _console_line(step: int, total_steps: int, numbers: Mapping[str, float | None]) -> str:
    """`step 1,200/50,000  loss 0.412 = image 0.210 + map 0.202  311 img/s  MFU 41.2 %  ETA ...`."""
    shown = _present(numbers)
    loss = f'loss {shown["loss"]:.4f}' if 'loss' in shown else 'loss not finite'
    streams = [
        f'{stream} {shown[name]:.4f}'
        for stream, name in (('image', 'loss_image'), ('map', 'loss_map'))
        if name in shown
    ]
    if streams:
        loss += f' = {" + ".join(streams)}'
    parts = [f'step {step:,}/{total_steps:,}', loss]
    if 'images_per_second' in shown:
        parts.append(f'{shown["images_per_second"]:,.1f} img/s')
    if 'mfu' in shown:
        parts.append(f'MFU {100 * shown["mfu"]:.1f} %')
    if 'eta_seconds' in shown:
        minutes, seconds = divmod(round(shown['eta_seconds']), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f'ETA {hours}:{minutes:02}:{seconds:02}')
    return '  '.join(parts)
