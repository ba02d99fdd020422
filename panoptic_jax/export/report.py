"""report.html: what a model made, on one page that can be mailed: pairs, metrics, loss curve.

Everything is inside the file (pictures as base64, style, a few lines of script); it asks no other
host for anything. Numbers are measured in `metrics/`, the small figures drawn in `figures.py`.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from panoptic_jax.data import categories as category_lists
from panoptic_jax.data.example import Category
from panoptic_jax.export import figures
from panoptic_jax.machine import files

_CHIPS = 10  # categories named under a map; the rest is summed up


class Pair(NamedTuple):
    """A generated picture and its map.

    Attributes:
      image: (H, W, 3) uint8.
      category: (h, w) uint8 ids, 0 void; drawn as large as the image.
      caption: what both were generated from.
      note: a few words beside the caption, like 'MCD 0.21'.
    """

    image: np.ndarray
    category: np.ndarray
    caption: str
    note: str = ''


class Metric(NamedTuple):
    """A number and what a reader needs to judge it.

    Attributes:
      name: of the metric.
      value: shown with three decimals; None where it could not be measured.
      yardsticks: names to values on the same scale, such as chance and ceiling.
      reading: a sentence on how to read it.
      low: left end of the scale that the value is drawn on.
      high: right end.
      detail: under the name: direction, number of images.
    """

    name: str
    value: float | None
    yardsticks: Mapping[str, float]
    reading: str
    low: float = 0.0
    high: float = 1.0
    detail: str = ''


def mcd_metric(
    value: float, count: int, chance: float, best_fixed_map: float, same_caption: float | None
) -> Metric:
    """The MCD's row; the yardsticks are those of `metrics/mcd.py`, `count` the images scored."""
    yardsticks = {'chance': chance, 'best fixed map': best_fixed_map}
    if same_caption is not None:
        yardsticks['same caption'] = same_caption
    return Metric(
        name='MCD',
        value=value,
        yardsticks=yardsticks,
        reading='How far the area of each category is from the true map’s, from 0 (equal) to 2 '
        '(nothing in common). A model that uses its captions lies far below the best fixed map'
        + (
            '; below what two pictures of the same caption differ by it cannot be expected to get.'
            if same_caption is not None
            else '.'
        ),
        high=2.0,
        detail=f'lower is better, {count:,} images',
    )


def write_report(
    path: epath.PathLike,
    pairs: Sequence[Pair],
    categories: Sequence[Category],
    metrics: Sequence[Metric],
    loss_curve: Sequence[Mapping[str, Any]],
    title: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes the page; the file is there whole or not at all.

    Args:
      path: of the HTML file, local or remote.
      pairs: shown in this order; about 150 kB each.
      categories: the list that the maps' ids refer to; ids outside it are shown by number.
      metrics: rows of the table; may be empty.
      loss_curve: lines of metrics.jsonl (`json_lines.read`); may be empty.
      title: the page's heading.
      settings: names to values, shown under the heading.
    """
    names = {0: 'void', **{category.id: category.name for category in categories}}
    style = epath.Path(__file__).with_name('report.css').read_text()
    listed = ''.join(
        f'<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>'
        for name, value in settings.items()
    )
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{style}</style>
<main>
<header><h1>{_text(title)}</h1><dl class="settings">{listed}</dl></header>
{_metrics_table(metrics) if metrics else ''}
<section><div class="heading"><h2>Training loss</h2>
<p class="note">Per stream; faint as logged, bold its running mean. Both axes are logarithmic.</p>
</div>
<div class="panel curve-panel">{figures.loss_curve(loss_curve)}</div></section>
<section><div class="heading"><h2>Samples</h2>
<p class="note">Image and segmentation map are generated together from the caption.</p></div>
<div class="blend"><label>image
<input id="blend" type="range" min="0" max="1" step="0.01" value="0"
aria-label="Blend the map over the image">
map over image</label></div>
<div class="cards">
{''.join(_card(pair, names) for pair in pairs)}</div></section>
</main>
<script>
const blend = document.getElementById('blend');
const show = () => document.documentElement.style.setProperty('--blend', blend.value);
blend.addEventListener('input', show);
show();
</script>
</html>
"""
    files.write_whole(path, page)


def _metrics_table(metrics: Sequence[Metric]) -> str:
    rows = []
    for metric in metrics:
        measured = metric.value is not None
        scale = (
            figures.ruler(metric.value, metric.yardsticks, metric.low, metric.high)
            if measured
            else ''
        )
        rows.append(
            f'<tr><th scope="row">{_text(metric.name)}<small>{_text(metric.detail)}</small></th>'
            f'<td class="value">{f"{metric.value:.3f}" if measured else "–"}</td>'
            f'<td class="marks">{scale}</td><td class="reading">{_text(metric.reading)}</td></tr>\n'
        )
    return (
        '<section><div class="heading"><h2>Metrics</h2></div><div class="panel"><table>'
        '<thead><tr><th scope="col">Metric</th><th scope="col">Value</th>'
        '<th scope="col">Beside its yardsticks</th><th scope="col">How to read it</th></tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _card(pair: Pair, names: Mapping[int, str]) -> str:
    image, ids = _png(Image.fromarray(pair.image)), _png(_painted(pair.category))
    found, counts = np.unique(pair.category, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    shares = [(int(found[i]), counts[i] / pair.category.size) for i in order]
    bar = ''.join(
        f'<i style="background:{_colour(number)};flex:{share:.5f}"></i>' for number, share in shares
    )
    chips = ''.join(
        f'<li><i style="background:{_colour(number)}"></i>'
        f'{_text(names.get(number, f"id {number}"))} <span>{_percent(share)}</span></li>'
        for number, share in shares[:_CHIPS]
    )
    if len(shares) > _CHIPS:
        rest = _percent(sum(share for _, share in shares[_CHIPS:]))
        chips += f'<li><span>{len(shares) - _CHIPS} more {rest}</span></li>'
    note = f'<small>{_text(pair.note)}</small>' if pair.note else ''
    return (
        '<figure class="card panel"><div class="pair">'
        f'<div class="frame"><img src="{image}" alt="Generated image">'
        f'<img class="ids over" src="{ids}" alt=""></div>'
        f'<img class="ids" src="{ids}" alt="Generated segmentation map"></div>'
        f'<div class="shares" aria-hidden="true">{bar}</div><figcaption>'
        f'<p class="caption">{_text(pair.caption)}{note}</p><ul class="chips">{chips}</ul>'
        '</figcaption></figure>\n'
    )


def _painted(category: np.ndarray) -> Image.Image:
    """A map as a picture with a palette: the ids stay readable and the file is small."""
    picture = Image.fromarray(category)
    picture.putpalette(category_lists.palette().tobytes())
    return picture


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(content.getvalue()).decode('ascii')


def _colour(number: int) -> str:
    return '#' + category_lists.palette()[number].tobytes().hex()


def _percent(share: float) -> str:
    return f'{100 * share:.0f} %' if share >= 0.01 else '&lt;1 %'


def _text(value: Any) -> str:
    return html.escape(str(value))
