'use strict';
// The pairs: a row of each from the start, the rest of it when it is shown. The scripts beside the
// page call `panoptic.index` and `panoptic.pairs`.

const panoptic = (() => {
  const read = (id) => {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  };
  const facts = read('facts');
  const rows = [];
  const files = new Map(); // number of a file -> promise of its pairs
  const arrived = new Map(); // number of a file -> its pairs

  const add = ([id, caption, scores, categories, accepted]) => {
    const searched = caption.toLowerCase();
    rows.push({ number: rows.length, id, caption, searched, scores, categories, accepted });
  };
  (read('rows') || []).forEach(add);
  if (!facts.files.length) files.set(0, Promise.resolve(read('details')));

  const load = (number) =>
    new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = facts.files[number];
      script.onload = () => (arrived.has(number) ? resolve(arrived.get(number)) : reject());
      script.onerror = () => reject(new Error(`${facts.files[number]} is missing beside the page.`));
      document.head.append(script);
    });

  return {
    facts,
    rows,
    index: (_, text) => JSON.parse(text).forEach(add),
    pairs: (number, text) => arrived.set(number, JSON.parse(text)),

    // A promise of what a row does not say about its pair.
    async detail(row) {
      const number = facts.files.length ? Math.floor(row.number / facts.pairsOfAFile) : 0;
      if (!files.has(number)) files.set(number, load(number));
      return (await files.get(number))[row.number - number * facts.pairsOfAFile];
    },

    category(id) {
      const [name, isThing] = facts.categories[id] || [`id ${id}`, false];
      return { id, name, isThing, colour: facts.palette[id] };
    },
  };
})();
