// Segments of a map: which pixels are whose, what each is called, and its outline.

class Segments {
  constructor(detail) {
    [this.height, this.width] = detail.size;
    this.labels = Segments.decode(detail.runs, this.height * this.width);
    const numbers = new Map(); // category -> segments so far
    this.list = detail.segments.map(([category, area]) => {
      const number = (numbers.get(category) || 0) + 1;
      numbers.set(category, number);
      return { ...panoptic.category(category), share: area / this.labels.length, number };
    });
    for (const segment of this.list) segment.count = numbers.get(segment.id);
  }

  // Runs of label and length, seven bits of a number in each byte, the lowest first.
  static decode(text, size) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const labels = new Uint16Array(size);
    let place = 0;
    const next = () => {
      let number = 0;
      for (let shift = 0; ; shift += 7) {
        const byte = bytes[place++];
        number |= (byte & 127) << shift;
        if (byte < 128) return number;
      }
    };
    for (let pixel = 0; pixel < size; ) {
      const label = next();
      const end = pixel + next();
      labels.fill(label, pixel, end);
      pixel = end;
    }
    return labels;
  }

  at(x, y) {
    const clamp = (share, side) => Math.min(side - 1, Math.max(0, Math.floor(share * side)));
    return this.labels[clamp(y, this.height) * this.width + clamp(x, this.width)];
  }

  name(label) {
    const { name, share, number, count } = this.list[label];
    return `${name}${count > 1 ? ` ${number} of ${count}` : ''} · ${percent(share)}`;
  }

  paint(canvas) {
    canvas.width = this.width;
    canvas.height = this.height;
    const picture = new ImageData(this.width, this.height);
    const pixels = new Uint32Array(picture.data.buffer);
    const colours = this.list.map(({ colour }) => {
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      return (255 << 24) | (blue << 16) | (green << 8) | red;
    });
    this.labels.forEach((label, pixel) => (pixels[pixel] = colours[label]));
    canvas.getContext('2d').putImageData(picture, 0, 0);
  }

  // The borders of the given segments, as an SVG path in pixels of the map; things of one category
  // that touch have a border between them.
  outline(labels) {
    const { width, height } = this;
    const chosen = new Set(labels);
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height;
    const label = (x, y) => (inside(x, y) ? this.labels[y * width + x] : -1);
    const border = (a, b) => a !== b && (chosen.has(a) || chosen.has(b));
    const parts = [];
    const lines = (rows, length, isBorder, write) => {
      for (let row = 0; row <= rows; row++) {
        for (let at = 0; at < length; at++) {
          const start = at;
          while (at < length && isBorder(row, at)) at++;
          if (at > start) parts.push(write(row, start, at - start));
        }
      }
    };
    lines(height, width, (y, x) => border(label(x, y - 1), label(x, y)), (y, x, n) => `M${x} ${y}h${n}`);
    lines(width, height, (x, y) => border(label(x - 1, y), label(x, y)), (x, y, n) => `M${x} ${y}v${n}`);
    return parts.join('');
  }
}

// '0 %' would deny what the map shows.
const percent = (share) => (share >= 0.01 ? `${Math.round(100 * share)} %` : '<1 %');
