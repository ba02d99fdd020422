"""report.html: what a model made, on one page that can be mailed: pairs, metrics, loss curve.

Everything is inside the file: pictures as base64, the style, a few lines of script. The page asks
no other host for anything. `metrics/` measures the numbers. `export/cards.py` shows the pairs, and
`export/loss_curve.py` and `export/ruler.py` draw the small figures.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from panoptic_jax.data.example import Category
from panoptic_jax.export.cards import Pair, card
from panoptic_jax.export.loss_curve import loss_curve
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
    """The page's title, and names to values that are shown under it."""

    title: str
    settings: Mapping[str, Any]


def write_report(
    path: epath.PathLike,
    *,
    pairs: Sequence[Pair],
    categories: Sequence[Category],
    metrics: Sequence[Metric],
    log_lines: Sequence[Mapping[str, Any]],
    heading: Heading,
) -> None:
    """Writes the page; the file is there whole or not at all.

    Args:
      path: The HTML file, local or remote.
      pairs: The pairs, shown in this order; each takes about 150 kB.
      categories: The list that the maps' ids refer to; ids outside it are shown by number.
      metrics: Rows of the table; may be empty.
      log_lines: Lines of metrics.jsonl (`json_lines.read`) for the loss curve; may be empty.
      heading: What stands on top of the page.
    """
    # Void is in no category list.
    names = {0: 'void'}
    names.update({category.id: category.name for category in categories})
    # Inside the page, so that it needs no second file.
    style = epath.Path(__file__).with_name('report.css').read_text()
    settings = f'<dl class="settings">{_settings_list(heading.settings)}</dl>'
    cards = ''.join(card(pair, names) for pair in pairs)
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(heading.title)}</title>
<style>{style}</style>
<main>
<header><h1>{_text(heading.title)}</h1>{settings}</header>
{_metrics_table(metrics) if metrics else ''}
<section><div class="heading"><h2>Training loss</h2>
<p class="note">Per stream; faint as logged, bold its running mean. Both axes are logarithmic.</p>
</div>
<div class="panel curve-panel">{loss_curve(log_lines)}</div></section>
<section><div class="heading"><h2>Samples</h2>
<p class="note">Image and segmentation map are generated together from the caption.</p></div>
<div class="blend"><label>image
<input id="blend" type="range" min="0" max="1" step="0.01" value="0"
aria-label="Blend the map over the image">
map over image</label></div>
<div class="cards">
{cards}</div></section>
</main>
<script>
const blend = document.getElementById('blend');
const show = () => document.documentElement.style.setProperty('--blend', blend.value);
blend.addEventListener('input', show);
show();
</script>
</html>
"""
    # Captions of old data may hold halves of characters, which no file can.
    files.write_whole(path, page.encode(errors='replace'))


def _settings_list(settings: Mapping[str, Any]) -> str:
    """The items of a description list: names and values."""
    return ''.join(
        f'<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>'
        for name, value in settings.items()
    )


def _metrics_table(metrics: Sequence[Metric]) -> str:
    """The section with the table of metrics, one row for each."""
    rows = []
    for metric in metrics:
        # A metric that was not measured still says what it would show.
        number, scale = '–', ''
        if metric.value is not None:
            number = f'{metric.value:.3f}'
            scale = ruler(metric.value, metric.yardsticks, metric.low, metric.high)
        rows.append(
            f'<tr><th scope="row">{_text(metric.name)}<small>{_text(metric.detail)}</small></th>'
            f'<td class="value">{number}</td>'
            f'<td class="marks">{scale}</td><td class="reading">{_text(metric.reading)}</td></tr>\n'
        )
    return (
        '<section><div class="heading"><h2>Metrics</h2></div><div class="panel"><table>'
        '<thead><tr><th scope="col">Metric</th><th scope="col">Value</th>'
        '<th scope="col">Beside its yardsticks</th><th scope="col">How to read it</th></tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _text(value: Any) -> str:
    """A value as text in which HTML sees no tags."""
    return html.escape(str(value))
