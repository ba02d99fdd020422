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
from panoptic_jax.export import report
from panoptic_jax.export.cards import Pair
from panoptic_jax.export.loss_curve import loss_curve
from panoptic_jax.export.ruler import ruler

LIST = (
    Category(id=1, name='ball <round>', is_thing=True),
    Category(id=92, name='grass', is_thing=False),
)
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
        Pair(
            image=images[0],
            category=maps[0],
            caption='<script>alert(1)</script> & a "ball"',
            note='MCD 0.25',
        ),
        Pair(image=images[1], category=maps[1], caption='a ball'),
    ]


def _write(tmp_path, pairs, lines=()):
    """Writes a report with two metrics and returns its text."""
    mcd = report.mcd_metric(
        value=0.4, count=1234, chance=1.3, best_fixed_map=0.9, same_caption=None
    )
    fid = report.Metric(name='FID', value=None, yardsticks={}, reading='Not <measured>.')
    path = tmp_path / 'report.html'
    report.write_report(
        path,
        pairs=pairs,
        categories=LIST,
        metrics=[mcd, fid],
        log_lines=lines,
        heading=report.Heading('Title <1>', {'guidance': 1.0, 'solver': '<fast>'}),
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ['report.html']
    return path.read_text()


@pytest.fixture(name='text')
def _page_text(tmp_path, pairs):
    lines = [{'step': step, 'loss_image': 1 / step, 'loss_map': None} for step in range(1, 50)]
    return _write(tmp_path, pairs, lines)


def test_page_asks_no_other_host(text):
    assert '//' not in re.sub(r'data:image/png;base64,[A-Za-z0-9+/=]+', '', text)
    assert 'url(' not in text


def test_text_of_others_runs_no_script(text):
    """The page has a script of its own, and one in a caption is only shown."""
    assert [tag for tag, _ in _Page(text).tags].count('script') == 1


@pytest.mark.parametrize(
    'expected',
    [
        'Title <1>',
        'solver<fast>',
        '<script>alert(1)</script> & a "ball"MCD 0.25',
        '0.400',
        '1,234 images',
        'best fixed map 0.9',
        'Not <measured>.',
        'training step',
    ],
)
def test_page_shows_everything(text, expected):
    shown = ' '.join(''.join(_Page(text).text).split())
    assert expected in shown


def _decode(url):
    content = base64.b64decode(url.removeprefix('data:image/png;base64,'))
    return Image.open(io.BytesIO(content))


def test_pictures_are_the_given_ones(text, pairs):
    urls = [attrs['src'] for tag, attrs in _Page(text).tags if tag == 'img']
    pictures = [_decode(url) for url in urls]
    assert len(pictures) == 6  # image, map over it, map; twice
    for pair, image, over, ids in zip(
        pairs, pictures[::3], pictures[1::3], pictures[2::3], strict=True
    ):
        np.testing.assert_array_equal(np.asarray(image), pair.image)
        painted = np.asarray(ids.convert('RGB'))
        np.testing.assert_array_equal(painted, category_lists.colour(pair.category))
        np.testing.assert_array_equal(np.asarray(ids), np.asarray(over))


def test_legend_names_the_categories_by_share(tmp_path):
    category = np.zeros((10, 100), np.uint8)
    category[:6] = 92
    category[6, :3] = 1
    category[7:9] = 200  # in no list
    image = np.zeros((10, 10, 3), np.uint8)
    text = _write(tmp_path, [Pair(image=image, category=category, caption='x')])
    chips = re.search(r'<ul class="chips">(.*?)</ul>', text).group(1)
    entries = re.findall(r'background:(#\w+)"></i>([^<]+) <span>([^<]+)</span>', chips)
    colours = ['#' + bytes(category_lists.palette()[i]).hex() for i in (92, 200, 0, 1)]
    assert entries == [
        (colours[0], 'grass', '60 %'),
        (colours[1], 'id 200', '20 %'),
        (colours[2], 'void', '20 %'),
        (colours[3], 'ball &lt;round&gt;', '&lt;1 %'),
    ]


def test_long_legends_are_summed_up(tmp_path):
    category = np.repeat(np.arange(20, dtype=np.uint8), 5).reshape(10, 10)
    image = np.zeros((4, 4, 3), np.uint8)
    text = _write(tmp_path, [Pair(image=image, category=category, caption='x')])
    assert '10 more 50 %' in text


def _points(svg, kind, stream):
    """(n, 2) places on the drawing of a stream's 'raw' or 'mean' curve."""
    for line in ElementTree.fromstring(svg).iter('polyline'):
        if line.get('class') == f'{kind} {stream}':
            return np.array([pair.split(',') for pair in line.get('points').split()], float)
    raise AssertionError(f'no {kind} {stream} in the figure')


@pytest.fixture(name='power_curve', scope='module')
def _power_curve():
    """The figure of two losses that are powers of the step."""
    lines = [
        {'step': step, 'loss': None, 'loss_image': 3 * step**-0.5, 'loss_map': 2 * step**-1.0}
        for step in range(1, 3000)
    ]
    lines.append({'step': 3000, 'loss_image': None})
    return loss_curve(lines)


def test_loss_curve_is_straight_where_the_loss_is_a_power(power_curve):
    slopes = {}
    for stream in ('image', 'map'):
        points = _points(power_curve, 'raw', stream)
        assert 50 < len(points) <= 240
        slope, start = np.polyfit(*points.T, 1)
        np.testing.assert_allclose(points[:, 1], start + slope * points[:, 0], atol=0.8)
        slopes[stream] = slope
    assert slopes['image'] > 0  # downwards
    assert slopes['map'] == pytest.approx(2 * slopes['image'], rel=0.02)


def test_decades_of_the_loss_curve_are_equally_long(power_curve):
    texts = [e for e in ElementTree.fromstring(power_curve).iter('text') if e.get('x')]
    steps = {e.text: float(e.get('x')) for e in texts if e.get('text-anchor') == 'middle'}
    decades = np.diff([steps[tick] for tick in ('1', '10', '100', '1,000')])
    np.testing.assert_allclose(decades, decades[0], atol=0.2)


def test_loss_curve_of_next_to_nothing_is_a_sentence():
    assert 'No loss curve' in loss_curve([])
    assert 'No loss curve' in loss_curve([{'step': 1, 'loss_image': 1.0}])


def test_loss_curve_of_a_constant_is_drawn():
    constant = loss_curve([{'step': step, 'loss_image': 1.0} for step in (1, 2)])
    assert np.isfinite(_points(constant, 'mean', 'image')).all()


@pytest.fixture(name='drawn_ruler', scope='module')
def _drawn_ruler():
    marks = {'chance & co': 2.0, 'floor': 0.0, 'near': 1.98}
    return ElementTree.fromstring(ruler(0.5, marks, 0.0, 2.0))


def test_ruler_places_value_and_marks(drawn_ruler):
    assert float(drawn_ruler.find('circle').get('cx')) == pytest.approx(8 + 0.25 * 384)
    lines = drawn_ruler.iter('line')
    marks = [float(e.get('x1')) for e in lines if e.get('class') == 'mark']
    assert marks == pytest.approx([8, 8 + 0.99 * 384, 392], abs=0.06)


def test_ruler_names_marks_that_would_overlap_in_separate_rows(drawn_ruler):
    rows = {e.text: float(e.get('y')) for e in drawn_ruler.iter('text')}
    assert rows['near 1.98'] != rows['chance & co 2']
    assert rows['near 1.98'] == rows['floor 0']


def test_ruler_draws_a_value_outside_at_its_end():
    outside = ElementTree.fromstring(ruler(9.0, {}, 0.0, 2.0))
    assert float(outside.find('circle').get('cx')) == 392
