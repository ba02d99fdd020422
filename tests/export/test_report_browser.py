"""The page in a real browser, without a server: mouse, touch, keys, narrow screens, many pairs."""

import shutil
import time

import numpy as np
import pytest
from page_pairs import CAPTION, pair_of, png, write

from panoptic_jax.export import report

sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
BALL_AT_THE_RIGHT = 'M4 4h4M4 8h4M4 4v4M8 4v4'  # its outline, in pixels of the map


@pytest.fixture(scope='module')
def browser():
    programs = [path for path in map(shutil.which, NAMES) if path]
    if not programs:
        pytest.skip(f'no browser on PATH ({", ".join(NAMES)}): apt-get install chromium')
    with sync_api.sync_playwright() as playwright:
        # In a container the browser's own sandbox cannot be made.
        browser = playwright.chromium.launch(executable_path=programs[0], chromium_sandbox=False)
        yield browser
        browser.close()


def scored(number, **changes):
    """A pair whose scores are in another order than the pairs; every tenth is rejected."""
    scores = {'MCD': (number * 7 % 100) / 100, 'CLIP': None if number == 5 else float(number)}
    rejected = {'accepted': False, 'reason': 'void 0.5 > 0.25'} if number % 10 == 9 else {}
    return pair_of(number, scores=scores, **rejected, **changes)


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """A page with 20 pairs inside, and one with 450 beside it."""
    folder = tmp_path_factory.mktemp('pages')
    (folder / 'images').mkdir()
    for number in range(8):
        (folder / 'images' / f'{number}.png').write_bytes(png(number))
    lines = [{'step': step, 'loss_image': 1 / step} for step in range(1, 30)]
    few = [scored(i, **({'caption': CAPTION} if i == 0 else {})) for i in range(20)]
    metric = report.Metric('MCD', 0.4, {'chance': 1.3}, 'How far.', high=2.0)
    write(folder / 'few.html', few, metrics=[metric], log_lines=lines)
    write(folder / 'many.html', (scored(i, image=f'images/{i % 8}.png') for i in range(450)))
    return folder


@pytest.fixture
def open_page(browser, pages):
    """Opens a page in a window; at the end nothing must have gone wrong in any of them."""
    contexts, wrong, asked = [], [], []

    def opened(name, width=1200, height=900, **options):
        context = browser.new_context(viewport={'width': width, 'height': height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on('console', lambda message: wrong.append(message.text))
        page.on('pageerror', lambda error: wrong.append(str(error)))
        page.on('request', lambda request: asked.append(request.url))
        page.goto((pages / f'{name}.html').as_uri())
        page.wait_for_selector('.card.filled')
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong
    assert all(url.startswith(('file:', 'data:')) for url in asked)


def cards(page):
    """The numbers of the pairs that are shown."""
    ids = page.eval_on_selector_all('.card', 'cards => cards.map((card) => card.dataset.id)')
    return [int(number) for number in ids]


def found(page, text):
    sync_api.expect(page.locator('#found')).to_have_text(text)
    return cards(page)


def place(page, selector, x, y):
    """Where a share of an element lies on the screen."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    return box['x'] + x * box['width'], box['y'] + y * box['height']


FIRST = '.card:first-child'
BORDER = '(card) => getComputedStyle(card).borderTopColor'


def named(page, card=FIRST):
    name = page.locator(f'{card} .name')
    return name.inner_text() if name.is_visible() else None


def outline(page):
    return page.locator(f'{FIRST} .layer.map .line').get_attribute('d')


def test_captions_with_markup_are_text(open_page):
    page = open_page('few')
    assert page.locator(f'{FIRST} .caption').text_content() == CAPTION
    assert page.evaluate('window.hacked') is None
    assert page.locator('.card b').count() == 0
    chips = page.locator(f'{FIRST} .chips li').all_inner_texts()
    assert [' '.join(chip.split()) for chip in chips] == ['grass 50 %', 'ball <round> ×2 50 %']


def test_pictures_and_maps_are_drawn(open_page):
    for name in ('few', 'many'):
        page = open_page(name)
        page.wait_for_function("document.querySelector('.card img').naturalWidth === 16")
        pixels = page.evaluate(
            "[...document.querySelector('.card canvas').getContext('2d')"
            '.getImageData(0, 0, 8, 8).data.slice(0, 4)]'
        )
        assert '#' + bytes(pixels[:3]).hex() == page.evaluate('panoptic.facts.palette[92]')


def test_pointer_names_and_outlines_one_instance(open_page):
    page = open_page('few')
    page.mouse.move(*place(page, f'{FIRST} .frame', 0.8, 0.8))
    assert named(page) == 'ball <round> 2 of 2 · 25 %'
    assert outline(page) == BALL_AT_THE_RIGHT
    # The left half shows the image, whose segments are the same.
    page.mouse.move(*place(page, f'{FIRST} .frame', 0.2, 0.8))
    assert named(page) == 'ball <round> 1 of 2 · 25 %'
    page.mouse.move(*place(page, f'{FIRST} .frame', 0.2, 0.2))
    assert named(page) == 'grass · 50 %'
    page.mouse.move(0, 0)
    assert (named(page), outline(page)) == (None, '')
    page.hover(f'{FIRST} .chips li:last-child')
    # Both balls, and the border between them.
    assert outline(page) == 'M0 4h8M0 8h8M0 4v4M4 4v4M8 4v4'


def test_side_by_side_both_pictures_name_segments(open_page):
    page = open_page('few')
    page.click('text=side by side')
    for layer in ('image', 'map'):
        page.mouse.move(*place(page, f'{FIRST} .layer.{layer}', 0.9, 0.9))
        assert named(page) == 'ball <round> 2 of 2 · 25 %'
    assert not page.locator(f'{FIRST} .wipe').is_visible()


def border(page, card=FIRST):
    """Where the image ends and the map begins, as a share of the frame."""
    frame, line = (page.locator(f'{card} {part}').bounding_box() for part in ('.frame', '.divider'))
    return (line['x'] + line['width'] / 2 - frame['x']) / frame['width']


def test_sliders_move_the_border_of_image_and_map(open_page):
    page = open_page('few')
    assert border(page) == pytest.approx(0.5, abs=0.001)
    page.mouse.move(*place(page, f'{FIRST} .wipe', 0.5, 0.5))
    page.mouse.down()
    x, y = place(page, f'{FIRST} .wipe', 0.8, 0.5)
    page.mouse.move(x, y)
    # The line follows the pointer.
    assert border(page) == pytest.approx(0.8, abs=0.01)
    page.mouse.move(x + 1000, y)
    page.mouse.up()
    assert border(page) == 1.0
    clip = page.locator(f'{FIRST} .layer.map').evaluate('(map) => getComputedStyle(map).clipPath')
    assert clip == 'inset(0px 0px 0px 100%)'
    assert border(page, '.card:nth-child(2)') == pytest.approx(0.5, abs=0.001)
    for view, place_of_all in (('map', 0.0), ('image', 1.0), ('both', 0.5)):
        page.click(f'.view >> text={view}')
        for card in (FIRST, '.card:nth-child(2)'):
            assert border(page, card) == pytest.approx(place_of_all, abs=0.001)


def test_search_finds_all_words_anywhere(open_page):
    page = open_page('many')
    page.fill('#search', 'BALLS 41')
    found(page, '14 of 405 pairs')
    assert set(cards(page)) == {41, 141, 241, 341, 441, *range(410, 419)}
    page.fill('#search', 'nothing of this')
    found(page, '0 of 405 pairs')
    assert page.locator('#message').inner_text() == 'No pair fits.'
    page.click('#clear')
    assert len(found(page, '405 pairs')) == 200
    assert page.input_value('#search') == ''


def test_legend_filters_by_category(open_page):
    page = open_page('few')
    legend = page.locator('#legend button')
    texts = [' '.join(text.split()) for text in legend.all_inner_texts()]
    assert texts == ['ball <round> 18', 'grass 14', 'void 4']
    page.click('#legend button:has-text("void")')
    assert found(page, '4 of 18 pairs') == [3, 7, 11, 15]
    assert page.get_attribute('#legend button:has-text("void")', 'aria-pressed') == 'true'
    page.click('#legend button:has-text("grass")')
    assert found(page, '0 of 18 pairs') == []
    page.click('#legend button:has-text("void")')
    found(page, '14 of 18 pairs')


def test_long_legends_are_cut_short(open_page, pages):
    """Of 32 categories; those that no list names are shown by number."""
    category = np.arange(64, dtype=np.uint8).reshape(8, 8) // 2
    write(pages / 'colourful.html', [pair_of(0, category=category, instance=None)])
    page = open_page('colourful')
    assert page.locator(f'{FIRST} .chips li').last.inner_text() == '24 more'
    legend = page.locator('#legend button:visible')
    assert (legend.count(), legend.last.inner_text()) == (25, '8 more')
    legend.last.click()
    assert (legend.count(), ' '.join(legend.last.inner_text().split())) == (32, 'id 31 1')


def test_sort_by_any_score_shows_the_worst_first(open_page):
    page = open_page('few')
    accepted = [number for number in range(20) if number % 10 != 9]
    page.select_option('#sort', label='MCD')
    worst = sorted(accepted, key=lambda number: -(number * 7 % 100))
    assert cards(page) == worst
    assert page.locator(f'{FIRST} .sorted').text_content() == 'MCD0.98'
    page.click('#direction')
    assert cards(page) == worst[::-1]
    # A high score is a good one here, and the pair without it comes last either way.
    page.select_option('#sort', label='CLIP')
    others = [number for number in accepted if number != 5]
    assert cards(page) == [*others, 5]
    page.click('#direction')
    assert cards(page) == [*others[::-1], 5]
    page.select_option('#sort', label='as drawn')
    assert cards(page) == accepted
    assert not page.locator('#direction').is_visible()


def test_rejected_pairs_have_their_own_tab(open_page):
    page = open_page('few')
    page.click('#tab-rejected')
    assert found(page, '2 rejected pairs') == [9, 19]
    page.wait_for_selector('.card.filled')
    assert page.locator(f'{FIRST} .reason').inner_text() == 'void 0.5 > 0.25'
    page.click('#tab-accepted')
    found(page, '18 pairs')
    assert page.locator('.reason:visible').count() == 0


def test_pages_of_200_pairs(open_page):
    page = open_page('many')
    accepted = [number for number in range(450) if number % 10 != 9]
    assert cards(page) == accepted[:200]
    page.click('.pager >> nth=0 >> .on')
    assert cards(page) == accepted[200:400]
    # These pairs lie in files that were not loaded before.
    page.wait_for_selector(f'{FIRST}.filled')
    page.keyboard.press(']')
    assert cards(page) == accepted[400:]
    assert page.locator('.pager >> nth=0 >> .on').is_disabled()
    page.keyboard.press('[')
    assert cards(page) == accepted[200:400]
    page.fill('.pager >> nth=0 >> .number', '1')
    page.keyboard.press('Enter')
    assert cards(page) == accepted[:200]
    # Sorting is about all pairs, not about those of the page.
    page.select_option('#sort', label='CLIP')
    page.click('#direction')
    assert cards(page)[0] == 448
    page.wait_for_selector(f'{FIRST}.filled')
    page.mouse.move(*place(page, f'{FIRST} .frame', 0.8, 0.8))
    assert named(page) == 'ball <round> 2 of 2 · 25 %'


def test_provenance_is_shown_on_demand(open_page):
    page = open_page('few')
    provenance = page.locator(f'{FIRST} .provenance dl')
    assert not provenance.is_visible()
    page.click(f'{FIRST} summary')
    provenance.locator('dt').first.wait_for()  # a busy machine opens it later than it answers
    assert provenance.inner_text().split() == ['seed', '0', 'request', '<i>3</i>']


def test_everything_is_reached_by_keys(open_page):
    page = open_page('few')
    for _ in range(40):
        page.keyboard.press('Tab')
        if page.evaluate("document.activeElement.className === 'wipe'"):
            break
    assert page.evaluate("document.activeElement.closest('.card').dataset.id") == '0000'
    page.keyboard.press('ArrowRight')
    assert border(page) == pytest.approx(0.51, abs=0.002)
    names = []
    for key in ('ArrowDown', 'ArrowDown', 'ArrowDown', 'ArrowUp', 'Escape'):
        page.keyboard.press(key)
        names.append(named(page))
        assert page.locator('#spoken').text_content() == (names[-1] or '')
    balls = [f'ball <round> {n} of 2 · 25 %' for n in (1, 2)]
    assert names == ['grass · 50 %', *balls, balls[0], None]
    # What has the focus is seen to have it.
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    borders = [page.locator(f'.card:nth-child({n})').evaluate(BORDER) for n in (1, 2)]
    assert borders[0] != borders[1]
    page.keyboard.press('/')
    page.keyboard.type('number 1[/')
    found(page, '0 of 18 pairs')
    page.focus('#tab-accepted')
    page.keyboard.press('ArrowRight')
    assert page.evaluate('document.activeElement.id') == 'tab-rejected'
    page.keyboard.press('ArrowRight')
    assert page.locator('.metric').is_visible()


def test_scores_and_curve_have_tabs(open_page):
    page = open_page('few')
    page.click('#tab-scores')
    text = ' '.join(page.locator('.metric').inner_text().split())
    assert text == 'MCD 0.400 chance 1.3 How far.'
    page.click('#tab-training')
    assert page.locator('#training svg').bounding_box()['width'] > 600
    assert page.locator('#cards').is_hidden()
    # What a page has nothing of has no tab.
    assert open_page('many').locator('[role=tab]:visible').count() == 2


@pytest.mark.parametrize(('width', 'scheme'), [(320, 'light'), (360, 'dark'), (390, 'light')])
def test_phones_show_everything_without_scrolling_sideways(open_page, width, scheme):
    page = open_page('few', width, 800, has_touch=True, is_mobile=True, color_scheme=scheme)
    for tab in ('accepted', 'rejected', 'scores', 'training'):
        page.tap(f'#tab-{tab}')
        assert page.evaluate('document.documentElement.scrollWidth') == width
    page.tap('#tab-accepted')
    page.wait_for_selector(f'{FIRST}.filled')
    x, y = place(page, f'{FIRST} .frame', 0.8, 0.8)
    page.touchscreen.tap(x, y)
    assert named(page) == 'ball <round> 2 of 2 · 25 %'
    page.touchscreen.tap(x, y)
    assert named(page) is None
    assert page.locator(f'{FIRST} .frame').bounding_box()['width'] > width - 40


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.documentElement);
  const of = (name) => light(style.getPropertyValue(name).trim());
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const found = [];
  for (const text of ['--ink', '--quiet', '--warn'])
    for (const ground of ['--page', '--card']) found.push(contrast(of(text), of(ground)));
  return Math.min(...found);
}"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_stands_out_from_its_ground(open_page, scheme):
    page = open_page('few', color_scheme=scheme)
    assert page.evaluate(CONTRAST) >= 4.5  # WCAG AA
    ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (int(ground[4:].split(',')[0]) < 50) == (scheme == 'dark')


def test_page_without_its_data_says_so(browser, pages, tmp_path):
    shutil.copy(pages / 'many.html', tmp_path / 'many.html')
    page = browser.new_page()
    page.goto((tmp_path / 'many.html').as_uri())
    message = page.locator('#message').inner_text()
    assert message == 'This page shows 0 of 450 pairs: the folder many/ belongs beside it.'
    page.close()


def test_thousands_of_pairs_open_soon(open_page, pages):
    """10,000 pairs take 1 to 2 s on two cores; this is a fifth of them on a busy machine."""
    write(pages / 'thousands.html', (scored(i, image='images/0.png') for i in range(2000)))
    start = time.monotonic()
    page = open_page('thousands')
    assert time.monotonic() - start < 8
    page.fill('#search', 'number 199')
    found(page, '9 of 1,800 pairs')
