"""Samples folders as a job writes them, of pairs that a test has made."""

from panoptic_jax.export import sample_claim, stores
from panoptic_jax.export.pair_files import Drawn
from panoptic_jax.quality import judge

# The settings that a folder knows itself by.
SETTINGS = {
    'name': 'generated', 'format': 'folder', 'image_format': 'png', 'shard_pairs': 1000,
    'seed': 0, 'evaluations': 3, 'guidance': 1.0,
}  # fmt: skip


def write(folder, categories, captions, *, images, ids, instances=None, **settings):
    """Writes a finished folder of one batch; `ids` is None for pairs without maps."""
    facts = sample_claim.promise(
        SETTINGS | settings,
        categories,
        None,
        weights='step 1',
        ema=True,
        model={'name': 'one_stream'},
        map_size=None if ids is None else ids.shape[1],
        decoder='',
    )
    requests = {number: {'caption': caption} for number, caption in enumerate(captions)}
    has_maps = ids is not None
    own_judge = judge.judge_of(
        categories.entries, keep='', best_of='', synonyms='', maps=int(has_maps)
    )
    job = stores.Job(folder, facts, requests, [], has_maps, own_judge, {})
    store = stores.FolderStore(job)
    store.check()
    store.claim()
    (unit,) = store.units(lambda numbers: [[*requests]])
    judged = [judge.Judged({})] * len(captions)
    store.add(unit, unit.batches[0], Drawn(images, ids, instances, judged))
    store.finish()
