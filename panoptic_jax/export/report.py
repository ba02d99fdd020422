"""report.html: what a model made, on one page: pairs, those that were rejected, scores, loss curve.

The page is opened from disk, and asks no other host for anything. `export/page_pair.py` says what a
pair is, `export/page_files.py` where its data lie, and `export/templates/` holds markup, style and
script. `metrics/` measures the numbers.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from etils import epath

from panoptic_jax.data import categories as category_lists
from panoptic_jax.data.example import Category
from panoptic_jax.export import page_files
from panoptic_jax.export.page_files import PageData
from panoptic_jax.export.page_pair import PagePair
from panoptic_jax.export.ruler import ruler
from panoptic_jax.machine import files


class Metric(NamedTuple):
    """A number and what a reader needs to judge it.

    Attributes:
      name: The name of the metric.
      value: The number, shown with three decimals; None where it could not be measured.
      yardsticks: Names to values on the same scale, such as chance and ceiling.
      reading: A sentence on how to read the number.
      low: Left end of the scale on which the value is drawn.
      high: Right end of that scale.
      detail: A few words under the name: the better direction, the number of images.
    """

    name: str
    value: float | None
    yardsticks: Mapping[str, float]
    reading: str
    low: float = 0.0
    high: float = 1.0
    detail: str = ''


def mcd_metric(
    *, value: float, count: int, chance: float, best_fixed_map: float, same_caption: float | None
) -> Metric:
    """The row of the MCD (section 3.6).

    Args:
      value: The MCD, in [0, 2].
      count: Number of images that were scored.
      chance: The yardstick `mcd.chance`.
      best_fixed_map: The yardstick `mcd.best_fixed_map`.
      same_caption: The yardstick `mcd.same_caption_floor`; None where no caption is shared.
    """
    yardsticks = {'chance': chance, 'best fixed map': best_fixed_map}
    reading = (
        'How far the area of each category is from the true map’s, from 0 (equal) to 2 '
        '(nothing in common). A model that uses its captions lies far below the best fixed map'
    )
    # The floor exists only where images share a caption.
    if same_caption is not None:
        yardsticks['same caption'] = same_caption
        reading += (
            '; below what two pictures of the same caption differ by it cannot be expected to get'
        )
    return Metric(
        name='MCD',
        value=value,
        yardsticks=yardsticks,
        reading=reading + '.',
        high=2.0,
        detail=f'lower is better, {count:,} images',
    )


class Heading(NamedTuple):
    """What the page is about.

    Attributes:
      title: The title.
      settings: Names to values that stand under it.
      lower_is_better: Those of the pairs' scores of which a high value is a bad one; the page shows
        the worst first.
    """

    title: str
    settings: Mapping[str, Any]
    lower_is_better: Collection[str] = ()


def write_report(
    path: epath.PathLike,
    *,
    pairs: Iterable[PagePair],
    categories: Sequence[Category],
    metrics: Sequence[Metric],
    log_lines: Sequence[Mapping[str, Any]],
    heading: Heading,
) -> None:
    """Writes the page; it is there whole or not at all.

    Up to 200 pairs stand inside the page, more of them in a folder beside it, see
    `export/page_files.py`. The pairs may come from a generator: no more than 200 of them are in
    memory at a time.

    Args:
      path: The HTML file, local or remote.
      pairs: The pairs, in the order in which the page shows them first.
      categories: The list that the maps' ids refer to; ids outside it are shown by number.
      metrics: What the page shows of the whole set; may be empty.
      log_lines: Lines of metrics.jsonl (`json_lines.read`) for the loss curve; may be empty.
      heading: What stands on top of the page.

    Raises:
      ValueError, FileNotFoundError: a picture cannot be shown, see `page_files.write`.
    """
    page = epath.Path(path)
    data = page_files.write(page, pairs)
    environment = _environment()
    text = environment.get_template('report.html.j2').render(
        heading=heading,
        data=data,
        facts=_facts(data, categories, heading),
        metrics=[(metric, _ruler_of(metric)) for metric in metrics],
        curve=_curve(log_lines),
    )
    # Titles and settings may hold halves of characters, which no file can.
    files.write_whole(page, text.encode(errors='replace'))
    page_files.remove_others(page, data)


def _environment() -> jinja2.Environment:
    """Jinja with the page's templates, in which everything that is filled in is text."""
    folder = epath.Path(__file__).with_name('templates')
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(folder)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # Style and script stand in the page as they are; Jinja would take their braces for its own.
    environment.globals['source_of'] = lambda name: (folder / name).read_text()
    return environment


def _facts(data: PageData, categories: Sequence[Category], heading: Heading) -> dict[str, Any]:
    """What the page's script has to know from the start."""
    listed = [Category(0, 'void', is_thing=False), *categories]
    return {
        'count': data.count,
        'pairsOfAFile': page_files.PAIRS_OF_A_FILE,
        'files': data.pair_files,
        'scores': [[name, name in heading.lower_is_better] for name in data.scores],
        'categories': {entry.id: [entry.name, entry.is_thing] for entry in listed},
        'palette': ['#' + colour.tobytes().hex() for colour in category_lists.palette()],
    }


def _curve(log_lines: Sequence[Mapping[str, Any]]) -> str:
    if not log_lines:
        return ''
    # Matplotlib takes half a second, for which the page of a single prompt need not wait.
    from panoptic_jax.export.loss_curve import loss_curve

    return loss_curve(log_lines)


def _ruler_of(metric: Metric) -> Any:
    """The metric on its scale; None if it was not measured."""
    if metric.value is None:
        return None
    return ruler(metric.value, metric.yardsticks, metric.low, metric.high)
