"""What a training says on the console: one line for each window of `log_every` steps.

`logs/dashboards.py` prints it and writes the same numbers to files.
"""

import datetime
from collections.abc import Mapping

_WORTH_SAYING = 0.05  # share of the time without a batch


def line_of(step: int, total_steps: int, shown: Mapping[str, float]) -> str:
    """`step 1,200/50,000  loss 0.412 = image 0.210 + map 0.202  311 img/s  MFU 41.2 %  ETA ...`.

    Args:
      step: Optimiser steps done.
      total_steps: Steps at the end of the run.
      shown: The window's numbers that exist; any may be missing.
    """
    # A loss that is not finite is left out on its way here.
    loss = f'loss {shown["loss"]:.4f}' if 'loss' in shown else 'loss not finite'
    streams = [name for name in ('image', 'map') if f'loss_{name}' in shown]
    if streams:
        loss += ' = ' + ' + '.join(f'{name} {shown[f"loss_{name}"]:.4f}' for name in streams)
    parts = [f'step {step:,}/{total_steps:,}', loss]
    if 'images_per_second' in shown:
        parts.append(f'{shown["images_per_second"]:,.1f} img/s')
    if 'mfu' in shown:
        parts.append(f'MFU {100 * shown["mfu"]:.1f} %')
    # Below it is what any loader does now and then.
    if shown.get('waiting_for_data', 0.0) >= _WORTH_SAYING:
        parts.append(f'waiting for data {100 * shown["waiting_for_data"]:.0f} %')
    if 'eta_seconds' in shown:
        parts.append(f'ETA {datetime.timedelta(seconds=round(shown["eta_seconds"]))}')
    return '  '.join(parts)
