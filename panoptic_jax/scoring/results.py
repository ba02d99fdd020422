"""Where the scores of a folder go: metrics.json, TensorBoard, the page and the screen.

`scoring/score.py` says what metrics.json holds, and `export/samples.py` writes the page.
"""

import json
from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath

from panoptic_jax.export import samples
from panoptic_jax.logs import dashboards
from panoptic_jax.machine import files
from panoptic_jax.scoring.folder import Folder
from panoptic_jax.scoring.score import Score, metrics_json


def write(
    workdir: epath.Path,
    folder: Folder,
    scores: Sequence[Score],
    *,
    pair_scores: Mapping[str, Sequence[float]],
    left_out: Sequence[str],
) -> None:
    """Writes metrics.json, TensorBoard's file and the page, and prints the table.

    Args:
      workdir: The run's folder.
      folder: What was scored; its suffix keeps the scores of several folders apart.
      scores: At least one.
      pair_scores: {name: a number of each pair, low for a good one} for the page; may be empty.
      left_out: What could not be scored and why.

    Raises:
      ValueError: a score is not finite; nothing is written then.
    """
    numbers = metrics_json(scores, folder.facts)
    if folder.suffix:
        # Two folders may have one name, so the file says which one it is about.
        numbers = {name: entry | {'folder': str(folder.path)} for name, entry in numbers.items()}
    path = workdir / (f'metrics{folder.suffix}.json' if folder.suffix else 'metrics.json')
    _warn_of_others(path, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, numbers)
    logging.info('Wrote %s.', path)
    for entry in numbers.values():
        print(f'{entry["label"]:60} {entry["value"]:9.4f}')
    if left_out:
        print(left_out_line(left_out), flush=True)
    number = folder.facts['weights'].removeprefix('step ')
    step = int(number) if number.isdecimal() else 0
    # With the step, so that evaluations of earlier steps stay visible.
    place = workdir / 'tensorboard' / f'evaluate{folder.suffix}'
    writer = dashboards.TensorBoardWriter(place, step)
    writer.write_scalars(step, {entry['label']: entry['value'] for entry in numbers.values()})
    writer.close()
    if folder.is_own:
        metrics = [score.metric for score in scores]
        samples.write_page(folder.path, workdir / 'metrics.jsonl', metrics, pair_scores)


def left_out_line(left_out: Sequence[str]) -> str:
    """One line that names the scores that are left out, each with the reason in brackets."""
    return f'Left out: {"; ".join(left_out)}.'


def _warn_of_others(path: epath.Path, folder: Folder) -> None:
    """Says so where scores of another folder are going to be replaced."""
    if not (folder.suffix and path.exists()):
        return
    try:
        before = next(iter(json.loads(path.read_text()).values()))['folder']
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return
    if before != str(folder.path):
        logging.warning('%s held the scores of %s, which are replaced.', path, before)
