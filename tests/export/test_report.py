"""The report page read back: pictures bit-exact, text escaped, figures where the numbers say."""

import base64
import html.parser
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import categories as category_lists
from panoptic_jax.data.example import Category
from panoptic_jax.export import figures, report

LIST = (Category(1, 'ball <round>', True), Category(92, 'grass', False))
VOID_ELEMENTS = {'meta', 'img', 'input'}


class _Page(html.parser.HTMLParser):
    """Every start tag, the text, and that each element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(name='pairs')
def _pairs():
    generator = np.random.default_rng(0)
    maps = generator.choice(np.array([0, 1, 1, 1, 92], np.uint8), (2, 16, 16))
    images = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return [
        report.Pair(images[0], maps[0], '<script>alert(1)</script> & a "ball"', 'MCD 0.25'),
        report.Pair(images[1], maps[1], 'a ball'),
    ]


def _write(tmp_path, pairs, lines=(), categories=LIST):
    metrics = [
        report.mcd_metric(0.4, 1234, chance=1.3, best_fixed_map=0.9, same_caption=None),
        report.Metric('FID', None, {}, 'Not <measured>.'),
    ]
    settings = {'guidance': 1.0, 'solver': '<fast>'}
    path = tmp_path / 'report.html'
    report.write_report(path, pairs, categories, metrics, lines, 'Title <1>', settings)
    assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']
    return path.read_text()


def test_page_holds_everything_and_asks_no_other_host(tmp_path, pairs):
    lines = [{'step': step, 'loss_image': 1 / step, 'loss_map': None} for step in range(1, 50)]
    text = _write(tmp_path, pairs, lines)
    page = _Page(text)
    assert '//' not in re.sub(r'data:image/png;base64,[A-Za-z0-9+/=]+', '', text)
    assert 'url(' not in text
    assert [tag for tag, _ in page.tags].count('script') == 1
    shown = ' '.join(''.join(page.text).split())
    for expected in (
        'Title <1>',
        'solver<fast>',
        '<script>alert(1)</script> & a "ball"MCD 0.25',
        '0.400',
        '1,234 images',
        'best fixed map 0.9',
        'Not <measured>.',
        'training step',
    ):
        assert expected in shown


def test_pictures_are_the_given_ones(tmp_path, pairs):
    page = _Page(_write(tmp_path, pairs))
    sources = [attrs['src'] for tag, attrs in page.tags if tag == 'img']
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(source.removeprefix('data:image/png;base64,'))))
        for source in sources
    ]
    assert len(pictures) == 6  # image, map over it, map; twice
    for pair, image, over, ids in zip(
        pairs, pictures[::3], pictures[1::3], pictures[2::3], strict=True
    ):
        np.testing.assert_array_equal(np.asarray(image), pair.image)
        np.testing.assert_array_equal(
            np.asarray(ids.convert('RGB')), category_lists.colour(pair.category)
        )
        np.testing.assert_array_equal(np.asarray(ids), np.asarray(over))


def test_legend_names_the_categories_by_share(tmp_path):
    category = np.zeros((10, 100), np.uint8)
    category[:6] = 92
    category[6, :3] = 1
    category[7:9] = 200  # in no list
    image = np.zeros((10, 10, 3), np.uint8)
    text = _write(tmp_path, [report.Pair(image, category, 'x')])
    chips = re.search(r'<ul class="chips">(.*?)</ul>', text).group(1)
    found = re.findall(r'background:(#\w+)"></i>([^<]+) <span>([^<]+)</span>', chips)
    colours = ['#' + bytes(category_lists.palette()[i]).hex() for i in (92, 200, 0, 1)]
    assert found == [
        (colours[0], 'grass', '60 %'),
        (colours[1], 'id 200', '20 %'),
        (colours[2], 'void', '20 %'),
        (colours[3], 'ball &lt;round&gt;', '&lt;1 %'),
    ]


def test_long_legends_are_summed_up(tmp_path):
    category = np.repeat(np.arange(20, dtype=np.uint8), 5).reshape(10, 10)
    text = _write(tmp_path, [report.Pair(np.zeros((4, 4, 3), np.uint8), category, 'x')])
    assert '10 more 50 %' in text


def _points(svg, kind, stream):
    for line in ElementTree.fromstring(svg).iter('polyline'):
        if line.get('class') == f'{kind} {stream}':
            return np.array([pair.split(',') for pair in line.get('points').split()], float)
    raise AssertionError(f'no {kind} {stream} in the figure')


def test_loss_curve_is_straight_where_the_loss_is_a_power():
    lines = [
        {'step': step, 'loss': None, 'loss_image': 3 * step**-0.5, 'loss_map': 2 * step**-1.0}
        for step in range(1, 3000)
    ]
    lines.append({'step': 3000, 'loss_image': None})
    svg = figures.loss_curve(lines)
    slopes = {}
    for stream in ('image', 'map'):
        points = _points(svg, 'raw', stream)
        assert 50 < len(points) <= 240
        slope, start = np.polyfit(*points.T, 1)
        np.testing.assert_allclose(points[:, 1], start + slope * points[:, 0], atol=0.8)
        slopes[stream] = slope
    assert slopes['image'] > 0  # downwards
    assert slopes['map'] == pytest.approx(2 * slopes['image'], rel=0.02)
    texts = [e for e in ElementTree.fromstring(svg).iter('text') if e.get('x')]
    steps = {e.text: float(e.get('x')) for e in texts if e.get('text-anchor') == 'middle'}
    decades = np.diff([steps[tick] for tick in ('1', '10', '100', '1,000')])
    np.testing.assert_allclose(decades, decades[0], atol=0.2)


def test_loss_curve_of_next_to_nothing():
    assert 'No loss curve' in figures.loss_curve([])
    assert 'No loss curve' in figures.loss_curve([{'step': 1, 'loss_image': 1.0}])
    constant = figures.loss_curve([{'step': s, 'loss_image': 1.0} for s in (1, 2)])
    assert np.isfinite(_points(constant, 'mean', 'image')).all()


def test_ruler_places_value_and_marks():
    svg = figures.ruler(0.5, {'chance & co': 2.0, 'floor': 0.0, 'near': 1.98}, 0.0, 2.0)
    root = ElementTree.fromstring(svg)
    assert float(root.find('circle').get('cx')) == pytest.approx(8 + 0.25 * 384)
    marks = [float(e.get('x1')) for e in root.iter('line') if e.get('class') == 'mark']
    assert marks == pytest.approx([8, 8 + 0.99 * 384, 392], abs=0.06)
    rows = {e.text: float(e.get('y')) for e in root.iter('text')}
    assert rows['near 1.98'] != rows['chance & co 2']  # they would overlap
    assert rows['near 1.98'] == rows['floor 0']
    outside = ElementTree.fromstring(figures.ruler(9.0, {}, 0.0, 2.0))
    assert float(outside.find('circle').get('cx')) == 392
