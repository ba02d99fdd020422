"""Where a run is written down: TensorBoard files, metrics.jsonl, the console, picture grids.

This module is the only one that imports clu's metric writers, which it makes work without
TensorFlow. The numbers come from the callers and from `logs/clock.py`; `logs/json_lines.py` and
`logs/event_files.py` write the files.
"""

import os
import shlex
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import parameter_overview as clu_overview
from etils import epath

from panoptic_jax.logs import console, event_files, json_lines, progress

# clu.metric_writers imports its TensorFlow writer when it is loaded. An empty module takes that
# name first, so that nobody has to install TensorFlow for a writer that is never used. tensorboardX
# looks for PyTorch and for Google's client, in whose place `event_files` writes: together three
# seconds of a start. This package has no other patches.
_stub = types.ModuleType('clu.metric_writers.summary_writer')
_stub.SummaryWriter = None
sys.modules.setdefault('clu.metric_writers.summary_writer', _stub)
_hidden = {'torch', 'google.cloud.storage'} - set(sys.modules)
sys.modules.update(dict.fromkeys(_hidden))
import tensorboardX  # noqa: E402
from clu import metric_writers  # noqa: E402
from tensorboardX import record_writer, summary  # noqa: E402

for _name in _hidden:
    del sys.modules[_name]


class TensorBoardWriter(metric_writers.MetricWriter):
    """A clu metric writer over tensorboardX.

    Event files of an earlier process stay. TensorBoard hides their steps after `start_step`, which
    a resumed run takes again.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        start_step: int = 0,
        *,
        part_bytes: int = event_files.PART_BYTES,
    ):
        """Opens a new event file.

        Args:
          folder: Where the file lies, local or remote.
          start_step: Steps that are done.
          part_bytes: Size of the parts of a remote file, see `logs/event_files.py`.
        """
        scheme, place, folders = event_files.place_of(folder, part_bytes=part_bytes)
        record_writer.register_writer_factory(scheme, folders)
        self._writer = tensorboardX.SummaryWriter(
            place,
            purge_step=start_step + 1,
            flush_secs=30,
            # tensorboardX's own names count seconds: two starts within one would share a file.
            filename_suffix=f'.{time.time_ns()}',
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
                # TensorBoard shows one picture per tag and step.
                tag = name if len(stack) == 1 else f'{name}/{i}'
                self._writer.add_image(tag, picture, step, dataformats='HWC')

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
        """Flat names to values; values that are no number, truth value or text become text."""
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in hparams.items()
        }
        # tensorboardX's own add_hparams would open a second run beside this one.
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
        """See `create_writers`; `first` says whether this process writes."""
        self._total_steps = total_steps
        self._first = first
        if first:
            workdir = epath.Path(workdir)
            workdir.mkdir(parents=True, exist_ok=True)
            # A thread of its own: encoding pictures must not hold up the next step.
            self._clu = metric_writers.AsyncWriter(
                TensorBoardWriter(workdir / 'tensorboard', start_step)
            )
            self._log = json_lines.JsonLines(workdir / 'metrics.jsonl', start_step)
            self._validation = json_lines.JsonLines(workdir / 'validation.jsonl', start_step)
            self._bar = progress.bar('train', 'steps', total_steps, start_step)
        else:
            self._clu = metric_writers.MultiWriter([])

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One log step: TensorBoard, a line of metrics.jsonl and a line on the console.

        Args:
          step: Optimiser steps done.
          scalars: At least loss, loss_image, loss_map, grad_norm, learning_rate and what
            `Clock.report` gives. None stands for a number that does not exist, such as the map's
            loss of a plain U-ViT. None and values that are not finite become null in the file.
        """
        if self._first:
            numbers = json_lines.plain(scalars)
            present = _present(numbers)
            self._clu.write_scalars(step, present)
            self._log.write(step, numbers)
            self._bar.update(step - self._bar.n)
            progress.say(console.line_of(step, self._total_steps, present), sys.stdout)

    def write_validation(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Held-out losses and scores of previews: TensorBoard, validation.jsonl, the console."""
        # They have a file of their own, since every line of metrics.jsonl has the same keys.
        if self._first:
            numbers = json_lines.plain(scalars)
            present = _present(numbers)
            self._clu.write_scalars(step, present)
            self._validation.write(step, numbers)
            line = '  '.join(f'{name} {value:.4g}' for name, value in present.items())
            progress.say(f'step {step:,}  {line}', sys.stdout)

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
        """Puts everything on disk.

        Call it before a checkpoint is saved: a run that resumes there does not write the lines of
        earlier steps again.
        """
        self._clu.flush()
        if self._first:
            self._log.flush()
            self._validation.flush()

    def close(self) -> None:
        self.flush()
        self._clu.close()
        if self._first:
            self._bar.close()


def create_writers(workdir: epath.PathLike, start_step: int, total_steps: int) -> Writers:
    """Opens the run's records: workdir/tensorboard, metrics.jsonl and validation.jsonl.

    Call it after the restore. What earlier processes wrote for steps after `start_step` is cut off
    (JSON lines) or hidden (TensorBoard), and so is a last line that was written in part.

    Args:
      workdir: The run's folder, also `gs://`; made if missing.
      start_step: Steps that are done; 0 for a new run.
      total_steps: Steps at the end of the run, for the console.
    """
    return Writers(workdir, start_step, total_steps, first=jax.process_index() == 0)


def command(workdir: epath.PathLike) -> str:
    """The command that shows the curves and pictures of a run in a browser."""
    return f'tensorboard --logdir {shlex.quote(os.fspath(epath.Path(workdir) / "tensorboard"))}'


def parameter_overview(params: Any) -> str:
    """clu's table of names, shapes, sizes and shardings, as Markdown for `Writers.write_text`."""
    overview = clu_overview.get_parameter_overview(params, include_stats='sharding')
    # Markdown would join the lines outside a code block.
    return f'```\n{overview}\n```'


def _present(numbers: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers that exist: dashboards have gaps where the files have null."""
    return {name: value for name, value in numbers.items() if value is not None}
