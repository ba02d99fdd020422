// A pair as a card: image and map under a slider, the segments under the pointer or the keys.

const cards = (() => {
  const template = document.getElementById('card').content;
  const spoken = document.getElementById('spoken');
  const CHIPS = 8;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const entries = (list, pairs) => {
    for (const [name, value] of pairs) {
      const item = element('div');
      item.append(element('dt', '', name), value instanceof Node ? value : element('dd', '', value));
      list.append(item);
    }
  };

  const swatch = (colour) => {
    const made = element('i');
    made.style.background = colour;
    return made;
  };

  const number = (value) => {
    if (value === null || value === undefined) return '–';
    return String(+(Math.abs(value) < 0.1 ? value.toFixed(4) : value.toPrecision(3)));
  };

  class Card {
    constructor(row) {
      this.root = template.firstElementChild.cloneNode(true);
      this.root.dataset.id = row.id;
      this.row = row;
      this.segments = null; // until the pair's data are there
      this.pinned = null; // the segment that stays named when the pointer leaves
      this.find = (selector) => this.root.querySelector(selector);
      this.find('.caption').textContent = row.caption;
      this.find('.id').textContent = row.id;
      const slider = this.find('.wipe');
      slider.setAttribute('aria-label', `Image and map: ${row.caption}`);
      this.wipe(cards.value);
      slider.addEventListener('input', () => this.wipe(+slider.value));
      slider.addEventListener('keydown', (event) => this.key(event));
      this.listen(this.find('.frame'));
      this.numbers();
    }

    numbers(sorted) {
      const list = this.find('.numbers');
      list.replaceChildren();
      const scores = panoptic.facts.scores.map(([name], at) => [name, number(this.row.scores[at])]);
      entries(list, scores);
      if (sorted !== undefined) list.children[sorted].className = 'sorted';
    }

    // Where the image ends and the map begins, in percent from the left.
    wipe(value) {
      this.find('.wipe').value = value;
      this.find('.wipe').setAttribute('aria-valuetext', `${value} % image, ${100 - value} % map`);
      // The line stays over the middle of the slider's knob, but at the ends nothing is left over.
      const between = `calc(var(--knob) / 2 + (100% - var(--knob)) * ${value / 100})`;
      this.root.style.setProperty('--wipe', value % 100 ? between : `${value}%`);
    }

    async fill() {
      if (this.asked) return;
      this.asked = true;
      let detail;
      try {
        detail = await panoptic.detail(this.row);
      } catch {
        this.show('data missing: keep the folder beside the page');
        return;
      }
      this.segments = new Segments(detail);
      this.segments.paint(this.find('canvas'));
      this.find('img').src = detail.image;
      for (const svg of this.root.querySelectorAll('.outline')) {
        svg.setAttribute('viewBox', `0 0 ${this.segments.width} ${this.segments.height}`);
        svg.setAttribute('preserveAspectRatio', 'none');
      }
      this.chips();
      if (!this.row.accepted) {
        this.find('.reason').hidden = false;
        this.find('.reason').textContent = detail.reason || 'rejected';
      }
      this.find('details').addEventListener('toggle', () => this.provenance(detail), { once: true });
      this.root.classList.add('filled');
    }

    chips() {
      const shares = new Map(); // category -> its segments and share
      this.segments.list.forEach((segment, label) => {
        const entry = shares.get(segment.id) || { ...segment, share: 0, labels: [] };
        entry.share += segment.share;
        entry.labels.push(label);
        shares.set(segment.id, entry);
      });
      const ordered = [...shares.values()].sort((a, b) => b.share - a.share);
      for (const { name, colour, share, labels } of ordered.slice(0, CHIPS)) {
        const chip = element('li');
        const times = labels.length > 1 ? ` ×${labels.length}` : '';
        chip.append(swatch(colour), `${name}${times}`, element('span', '', percent(share)));
        chip.addEventListener('pointerenter', () => this.outline(labels));
        chip.addEventListener('pointerleave', () => this.choose(this.pinned));
        this.find('.chips').append(chip);
      }
      const others = ordered.length - CHIPS;
      if (others > 0) this.find('.chips').append(element('li', '', `${others} more`));
    }

    provenance(detail) {
      const list = this.find('.provenance dl');
      entries(list, detail.provenance);
      if (!detail.nearest) return;
      const value = element('dd', '', number(detail.distance));
      // Another host's picture is named and not fetched.
      if (detail.nearest.includes('://')) {
        value.append(` ${detail.nearest}`);
      } else {
        const picture = element('img', 'nearest');
        picture.alt = 'Nearest training image';
        picture.src = detail.nearest;
        value.append(picture);
      }
      entries(list, [['nearest training image, distance', value]]);
    }

    listen(frame) {
      const label = (event) => {
        const layer = event.target.closest('.layer') || this.find('.layer.map');
        const { left, top, width, height } = layer.getBoundingClientRect();
        return this.segments.at((event.clientX - left) / width, (event.clientY - top) / height);
      };
      frame.addEventListener('pointermove', (event) => {
        if (this.segments && event.pointerType !== 'touch') this.choose(label(event));
      });
      frame.addEventListener('pointerleave', (event) => {
        if (event.pointerType !== 'touch') this.choose(this.pinned);
      });
      frame.addEventListener('click', (event) => {
        if (!this.segments) return;
        const clicked = label(event);
        this.pinned = this.pinned === clicked ? null : clicked;
        this.choose(this.pinned);
      });
    }

    key(event) {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (event.key === 'Escape') this.pin(null);
      if (!step || !this.segments) return;
      event.preventDefault();
      const count = this.segments.list.length;
      const before = this.pinned === null ? (step > 0 ? -1 : count) : this.pinned;
      this.pin((before + step + count) % count);
    }

    pin(label) {
      this.pinned = label;
      this.choose(label);
      spoken.textContent = label === null ? '' : this.segments.name(label);
    }

    choose(label) {
      this.outline(label === null ? [] : [label]);
      this.show(label === null ? '' : this.segments.name(label));
      if (label !== null) this.find('.name').prepend(swatch(this.segments.list[label].colour));
    }

    show(text) {
      this.find('.name').textContent = text;
      this.find('.name').hidden = !text;
    }

    outline(labels) {
      const key = labels.join();
      if (key === this.outlined) return;
      this.outlined = key;
      const path = labels.length ? this.segments.outline(labels) : '';
      for (const each of this.root.querySelectorAll('.outline path')) each.setAttribute('d', path);
    }
  }

  return { Card, element, swatch, value: 50 };
})();
