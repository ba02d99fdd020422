"""The page read back: pictures and maps exact, text harmless, few data in memory, figures right.

`test_report_browser.py` uses the page as readers do.
"""

import base64
import html.parser
import json
import re
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest
from etils import epath
from page_pairs import CAPTION, pair_of, png, write

from panoptic_jax.export import page_pair, report
from panoptic_jax.export.loss_curve import loss_curve
from panoptic_jax.export.ruler import ruler

VOID_ELEMENTS = {'meta', 'img', 'input'}
HALF = '\ud83d'  # half of a character, which no file can hold


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

    def json(self, name):
        """The content of the JSON script of that id."""
        (text,) = re.findall(
            f'<script type="application/json" id="{name}">(.*?)</script>', self.page
        )
        return json.loads(text)


def read(path):
    page = _Page(path.read_text())
    page.page = path.read_text()
    return page


def decode(detail):
    """(h, w) labels from the runs of a pair, as the page's script decodes them."""
    numbers, number, shift = [], 0, 0
    for byte in base64.b64decode(detail['runs']):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    labels = np.repeat(numbers[::2], numbers[1::2])
    return labels.reshape(detail['size'])


@pytest.fixture
def mcd():
    return report.mcd_metric(
        value=0.4, count=1234, chance=1.3, best_fixed_map=0.9, same_caption=None
    )


@pytest.fixture
def page(tmp_path, mcd):
    """A page of two pairs with scores and a curve."""
    fid = report.Metric(name='FID', value=None, yardsticks={}, reading='Not <measured>.')
    write(
        tmp_path / 'report.html',
        [pair_of(0, caption=CAPTION), pair_of(1)],
        metrics=[mcd, fid],
        log_lines=[{'step': s, 'loss_image': 1 / s, 'loss_map': None} for s in range(1, 50)],
        heading=report.Heading('Title <1>', {'guidance': 1.0, 'solver': f'<fast> {HALF}'}),
    )
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']
    return read(tmp_path / 'report.html')


def test_page_asks_no_other_host(page):
    names = {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}  # of the curve's kind
    assert set(re.findall(r'https?:[^"<\s]*', page.page)) <= names
    links = [attrs.get('src', '') + attrs.get('href', '') for _, attrs in page.tags]
    assert not [link for link in links if link and not link.startswith('#')]


def test_text_of_others_runs_no_script(page):
    """The page has scripts of its own, and one in a caption is only text of its data."""
    scripts = [attrs for tag, attrs in page.tags if tag == 'script']
    assert [attrs.get('id') for attrs in scripts] == ['facts', 'rows', 'details', None, None]
    assert CAPTION not in page.page
    assert page.json('rows')[0][1] == CAPTION


@pytest.mark.parametrize(
    'expected',
    [
        'Title <1>',
        'solver<fast> ?',
        '0.400',
        '1,234 images',
        'best fixed map 0.9',
        'Not <measured>.',
        'training step',
    ],
)
def test_page_shows_everything(page, expected):
    assert expected in re.sub(r'\s*\n\s*', '', ''.join(page.text))


def test_pictures_and_maps_are_the_given_ones(page):
    for number, detail in enumerate(page.json('details')):
        pair = pair_of(number)
        content = base64.b64decode(detail['image'].removeprefix('data:image/png;base64,'))
        assert content == pair.image
        table = np.array(detail['segments'])
        labels = decode(detail)
        np.testing.assert_array_equal(table[labels, 0], pair.category)
        np.testing.assert_array_equal(np.bincount(labels.flat), table[:, 1])
        assert (np.diff(table[:, 1]) <= 0).all()  # the largest first


def test_segments_and_runs_of_any_map():
    rng = np.random.default_rng(0)
    category = rng.integers(0, 255, (40, 30)).astype(np.uint8)
    instance = rng.integers(0, 3, (40, 30)).astype(np.uint8)
    for things in (instance, None):
        labels, table = page_pair.segments(category, things)
        np.testing.assert_array_equal(table[labels, 0], category)
        detail = {'size': labels.shape, 'runs': page_pair.runs(labels)}
        np.testing.assert_array_equal(decode(detail), labels)
    assert len(table) == len(np.unique(category))
    one = np.zeros((300, 300), np.uint8)
    assert len(base64.b64decode(page_pair.runs(one))) == 4  # label 0, then 90,000 in three bytes


def test_numbers_that_json_lacks_are_none():
    pair = pair_of(0, scores={'MCD': float('nan'), 'CLIP': None, 'void': np.float32(0.1)})
    names = ['other']
    assert page_pair.row(pair, names)[2] == [None, None, None, 0.1]
    assert names == ['other', 'MCD', 'CLIP', 'void']


def test_many_pairs_stand_beside_the_page(tmp_path):
    folder = epath.Path(tmp_path)
    (tmp_path / 'a#b.png').write_bytes(png(0))
    write(folder / 'p.html', (pair_of(i, image='a#b.png') for i in range(2450)))
    names = sorted(path.name for path in (tmp_path / 'p').iterdir())
    assert [name[:10] for name in names if name[:5] == 'index'] == [
        f'index-000{i}' for i in range(3)
    ]
    assert len([name for name in names if name[:5] == 'pairs']) == 13
    page = read(tmp_path / 'p.html')
    assert len(page.page) < 100_000
    sources = [attrs['src'] for tag, attrs in page.tags if 'src' in attrs and tag == 'script']
    assert sources == [f'p/{name}' for name in names[:3]]
    facts = page.json('facts')
    assert (facts['count'], facts['files']) == (2450, [f'p/{name}' for name in names[3:]])
    ((number, text),) = re.findall(
        r'^panoptic\.pairs\((\d+), (".*")\);$', (tmp_path / facts['files'][12]).read_text()
    )
    details = json.loads(json.loads(text))
    assert (number, len(details), details[0]['image']) == ('12', 50, 'a%23b.png')

    # Fewer pairs: what the page no longer names goes, and what is not ours stays.
    (tmp_path / 'p' / 'notes.js').write_text('')
    write(folder / 'p.html', [pair_of(i) for i in range(201)])
    names = {path.name for path in (tmp_path / 'p').iterdir()}
    assert len(names) == 4
    (tmp_path / 'p' / 'notes.js').unlink()
    write(folder / 'p.html', [pair_of(0)])
    assert not (tmp_path / 'p').exists()


def test_pictures_beside_a_small_page_become_part_of_it(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / '0.png').write_bytes(png(3))
    nearest = page_pair.Nearest('images/0.png', 0.25)
    far = page_pair.Nearest('https://example.org/1.jpg', 0.5)
    pairs = [
        pair_of(i, image='images/0.png', nearest=each) for i, each in enumerate((nearest, far))
    ]
    write(tmp_path / 'report.html', pairs)
    first, second = read(tmp_path / 'report.html').json('details')
    expected = 'data:image/png;base64,' + base64.b64encode(png(3)).decode()
    assert first['image'] == first['nearest'] == second['image'] == expected
    assert (first['distance'], second['nearest']) == (0.25, 'https://example.org/1.jpg')
    with pytest.raises(FileNotFoundError):
        write(tmp_path / 'report.html', [pair_of(0, image='images/1.png')])


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        ('/tmp/0.png', 'not relative'),
        ('https://example.org/0.png', 'not relative'),
        (b'GIF89a', 'no PNG, JPEG or WebP'),
    ],
)
def test_pictures_that_cannot_be_shown_are_refused(tmp_path, image, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / 'report.html', [pair_of(0, image=image)])
    assert not (tmp_path / 'report.html').exists()


def test_memory_does_not_grow_with_the_set(tmp_path):
    peaks = []
    # The first page also loads what all pages need.
    for count in (300, 500, 2000):
        tracemalloc.start()
        write(tmp_path / 'report.html', (pair_of(i, image='0.png') for i in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 500_000  # the rows of a file that is not full yet


def test_empty_page_is_written(tmp_path):
    write(tmp_path / 'report.html', [])
    assert read(tmp_path / 'report.html').json('facts')['count'] == 0


# --- Figures.


def curve_of(svg, name):
    """(n, 2) places on the drawing of the curve of that id."""
    for group in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}g'):
        if group.get('id') == name:
            numbers = re.findall(r'[\d.]+', group[0].get('d'))
            return np.array(numbers, float).reshape(-1, 2)
    raise AssertionError(f'no {name} in the figure')


@pytest.fixture(scope='module')
def power_curve():
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
        points = curve_of(power_curve, f'logged-{stream}')
        slope, start = np.polyfit(*points.T, 1)
        np.testing.assert_allclose(points[:, 1], start + slope * points[:, 0], atol=1.0)
        slopes[stream] = slope
    assert slopes['image'] > 0  # downwards
    assert slopes['map'] == pytest.approx(2 * slopes['image'], rel=0.02)


def test_loss_curve_has_numbers_names_and_the_colours_of_the_page(power_curve):
    texts = re.findall(r'<text[^>]*>([^<]*)</text>', power_curve)
    assert {'1', '10', '100', '1,000', 'training step', 'loss', 'image', 'map'} <= set(texts)
    assert set(re.findall(r'(?:stroke|fill): ([^;"]+)', power_curve)) == {
        'none', 'var(--line)', 'var(--quiet)', 'var(--image)', 'var(--map)',
    }  # fmt: skip


def test_the_same_losses_give_the_same_curve(power_curve):
    lines = [{'step': step, 'loss_image': 1 / step} for step in range(1, 30)]
    assert loss_curve(lines) == loss_curve(lines)


def test_loss_curve_of_next_to_nothing_is_left_out():
    assert loss_curve([]) == loss_curve([{'step': 1, 'loss_image': 1.0}]) == ''


def test_loss_curve_of_a_constant_is_drawn():
    constant = loss_curve([{'step': step, 'loss_image': 1.0} for step in (1, 2)])
    assert np.isfinite(curve_of(constant, 'mean-image')).all()


@pytest.fixture(scope='module')
def drawn_ruler():
    return ruler(0.5, {'chance & co': 2.0, 'floor': 0.0, 'near': 1.98}, 0.0, 2.0)


def test_ruler_places_value_and_marks(drawn_ruler):
    assert drawn_ruler.place == 0.25
    assert [mark.place for mark in drawn_ruler.marks] == pytest.approx([0, 0.99, 1])
    assert [mark.text for mark in drawn_ruler.marks] == ['floor 0', 'near 1.98', 'chance & co 2']


def test_ruler_names_marks_that_would_overlap_in_separate_rows(drawn_ruler):
    assert [mark.row for mark in drawn_ruler.marks] == [0, 0, 1]
    assert drawn_ruler.rows == 2
    assert all(0 < mark.centre < 1 for mark in drawn_ruler.marks)


def test_ruler_draws_a_value_outside_at_its_end():
    assert ruler(9.0, {}, 0.0, 2.0).place == 1
