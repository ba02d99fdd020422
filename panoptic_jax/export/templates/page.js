// The list of pairs: tabs, search, filter, sort, pages and keys.

(() => {
  const { facts, rows } = panoptic;
  const find = (id) => document.getElementById(id);
  const PAIRS_OF_A_PAGE = 200;
  const SHORT_LEGEND = 24;
  const grid = find('cards');
  const tabs = [...document.querySelectorAll('[role=tab]')];
  const pagers = [...document.querySelectorAll('.pager')];
  const state = { rejected: false, words: [], categories: new Set(), sort: -1, worst: true, page: 0 };
  let shown = []; // the pairs that were found, in their order
  let inGrid = new Map(); // element -> its card

  // --- What is found.

  const has = (row) =>
    state.words.every((word) => row.searched.includes(word)) &&
    [...state.categories].every((id) => row.categories.includes(id));

  const find_pairs = () => {
    const own = rows.filter((row) => !row.accepted === state.rejected);
    shown = own.filter(has);
    if (state.sort >= 0) {
      const lower = facts.scores[state.sort][1];
      const sign = lower === state.worst ? -1 : 1;
      const value = (row) => row.scores[state.sort] ?? null;
      // Pairs without the score come last, whatever the direction.
      shown.sort((a, b) => {
        const [first, second] = [value(a), value(b)];
        if (first === null || second === null) return (first === null) - (second === null);
        return sign * (first - second);
      });
    }
    const all = own.length === shown.length;
    const noun = `${state.rejected ? 'rejected ' : ''}pair${own.length === 1 ? '' : 's'}`;
    find('found').textContent = all
      ? `${own.length.toLocaleString('en')} ${noun}`
      : `${shown.length.toLocaleString('en')} of ${own.length.toLocaleString('en')} ${noun}`;
    find('clear').hidden = !state.words.length && !state.categories.size;
    draw_page(0);
  };

  // --- A page of them.

  const near = new IntersectionObserver(
    (found) => {
      for (const { isIntersecting, target } of found) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        inGrid.get(target).fill();
      }
    },
    { rootMargin: '800px' },
  );

  const draw_page = (page) => {
    const last = Math.max(0, Math.ceil(shown.length / PAIRS_OF_A_PAGE) - 1);
    state.page = Math.min(last, Math.max(0, page));
    near.disconnect();
    const first = state.page * PAIRS_OF_A_PAGE;
    const made = shown.slice(first, first + PAIRS_OF_A_PAGE).map((row) => new cards.Card(row));
    inGrid = new Map(made.map((card) => [card.root, card]));
    if (state.sort >= 0) made.forEach((card) => card.numbers(state.sort));
    grid.replaceChildren(...inGrid.keys());
    for (const root of inGrid.keys()) near.observe(root);
    for (const pager of pagers) {
      pager.hidden = last === 0;
      pager.querySelector('.number').value = state.page + 1;
      pager.querySelector('.number').max = last + 1;
      pager.querySelector('.of').textContent = `of ${last + 1}`;
      pager.querySelector('.back').disabled = state.page === 0;
      pager.querySelector('.on').disabled = state.page === last;
    }
    const complete = rows.length === facts.count;
    const place = `the folder ${(facts.files[0] || '').split('/')[0]}/ belongs beside it`;
    find('message').hidden = complete && shown.length > 0;
    find('message').textContent = complete
      ? 'No pair fits.'
      : `This page shows ${rows.length} of ${facts.count} pairs: ${place}.`;
  };

  const turn = (pages) => {
    const before = state.page;
    draw_page(state.page + pages);
    if (state.page !== before) find('pairs').scrollIntoView();
  };

  for (const pager of pagers) {
    pager.querySelector('.back').addEventListener('click', () => turn(-1));
    pager.querySelector('.on').addEventListener('click', () => turn(1));
    const number = pager.querySelector('.number');
    number.addEventListener('change', () => turn(number.value - 1 - state.page));
  }

  // --- Search, sort, view.

  let waiting;
  find('search').addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.words = find('search').value.toLowerCase().split(/\s+/).filter(Boolean);
      find_pairs();
    }, 120);
  });

  facts.scores.forEach(([name], at) => find('sort').add(new Option(name, at)));
  find('sort').parentElement.hidden = !facts.scores.length;
  find('sort').addEventListener('change', () => {
    state.sort = find('sort').value === '' ? -1 : +find('sort').value;
    state.worst = true;
    sorted();
  });
  find('direction').addEventListener('click', () => {
    state.worst = !state.worst;
    sorted();
  });
  const sorted = () => {
    find('direction').hidden = state.sort < 0;
    find('direction').textContent = state.worst ? 'worst first' : 'best first';
    find_pairs();
  };

  const show_view = () => {
    const { value } = document.querySelector('[name=view]:checked');
    find('pairs').classList.toggle('apart', value === 'apart');
    if (value !== 'apart') cards.value = +value;
    for (const card of inGrid.values()) card.wipe(cards.value);
  };
  for (const view of document.querySelectorAll('[name=view]')) {
    view.addEventListener('change', show_view);
  }

  // --- The legend, which filters.

  const draw_legend = () => {
    const counts = new Map();
    for (const row of rows) {
      if (!row.accepted !== state.rejected) continue;
      for (const id of row.categories) counts.set(id, (counts.get(id) || 0) + 1);
    }
    const kept = [...state.categories].filter((id) => !counts.has(id));
    const ordered = [...kept.map((id) => [id, 0]), ...[...counts].sort((a, b) => b[1] - a[1])];
    const buttons = ordered.map(([id, count]) => {
      const { name, colour } = panoptic.category(id);
      const button = cards.element('button');
      button.type = 'button';
      button.dataset.category = id;
      button.setAttribute('aria-pressed', state.categories.has(id));
      button.append(cards.swatch(colour), name, cards.element('span', 'count', count.toLocaleString('en')));
      button.addEventListener('click', () => {
        if (!state.categories.delete(id)) state.categories.add(id);
        button.setAttribute('aria-pressed', state.categories.has(id));
        find_pairs();
      });
      return button;
    });
    find('legend').replaceChildren(...buttons);
    const more = buttons.slice(SHORT_LEGEND);
    if (!more.length) return;
    more.forEach((button) => (button.hidden = true));
    const all = cards.element('button', 'more', `${more.length} more`);
    all.type = 'button';
    all.addEventListener('click', () => {
      more.forEach((button) => (button.hidden = false));
      more[0].focus();
      all.remove();
    });
    find('legend').append(all);
  };

  find('clear').addEventListener('click', () => {
    find('search').value = '';
    state.words = [];
    state.categories.clear();
    draw_legend();
    find_pairs();
    find('search').focus();
  });

  // --- Tabs and keys.

  const open_tab = (tab) => {
    for (const each of tabs) {
      each.setAttribute('aria-selected', each === tab);
      each.tabIndex = each === tab ? 0 : -1;
    }
    const panel = tab.getAttribute('aria-controls');
    for (const section of document.querySelectorAll('[role=tabpanel]')) {
      section.hidden = section.id !== panel;
    }
    if (panel !== 'pairs') return;
    find('pairs').setAttribute('aria-labelledby', tab.id);
    state.rejected = tab.id === 'tab-rejected';
    draw_legend();
    find_pairs();
  };
  for (const tab of tabs) {
    tab.addEventListener('click', () => open_tab(tab));
    tab.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const present = tabs.filter((each) => !each.hidden);
      const next = present[(present.indexOf(tab) + step + present.length) % present.length];
      next.focus();
      open_tab(next);
    });
  }

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || find('pairs').hidden) return;
    // Letters that somebody types are no commands.
    if (event.target.matches('select, input:not([type=range], [type=radio])')) return;
    if (event.key === '/') find('search').focus();
    else if (event.key === '[') turn(-1);
    else if (event.key === ']') turn(1);
    else return;
    event.preventDefault();
  });

  const rejected = rows.filter((row) => !row.accepted).length;
  const counts = { 'tab-accepted': rows.length - rejected, 'tab-rejected': rejected };
  for (const [id, count] of Object.entries(counts)) {
    find(id).querySelector('.count').textContent = count.toLocaleString('en');
  }
  find('tab-rejected').hidden = !rejected;
  // A browser may remember what a reader chose before.
  show_view();
  open_tab(tabs[0]);
})();
