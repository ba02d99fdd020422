"""`--mode=sample`: captions -> pairs of image and map, as an offline job.

The job works off fixed batches, each with its own done marker, so that it restarts where it was;
several processes share them out.
The sampler is made in `sampler.py`, the folder's format is `export/samples.py`, scores are
`evaluate.py`'s.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.data.geometry import true_ids
from panoptic_jax.encoders.load import (
    load_encoders,
)
from panoptic_jax.export import samples
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import hosts, sharding
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs.sampler import (
    category_list,
    keys,
    make_sampler,
    map_side,
)
from panoptic_jax.weights import file as weights_file


def requests(
    config: ml_collections.ConfigDict, description: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What to generate: for each pair its caption and, from a split, the picture it belongs to.

    Prompts repeat in order until `config.sample.count`; of a split's pictures each comes with one
    of its captions, drawn by (seed, number).

    Returns:
      dicts with 'caption', and from a split 'image_id' and 'record' (its index in the split).

    Raises:
      ValueError: An empty file of prompts, or prompts for a model that needs maps beside them.
    """
    settings = config.sample
    if settings.prompts:
        if description['model']['given_map']:
            raise ValueError(
                'This model needs a map beside each caption; leave sample.prompts empty to take '
                'captions and maps of sample.split.'
            )
        prompts = _read_prompts(settings.prompts)
        return [{'caption': prompts[i % len(prompts)]} for i in range(settings.count)]
    split = loader.Split(config.data.dir, settings.split, config.data.cache)

    @functools.cache  # reading a record with its text features costs far more than keeping these
    def picture(index):
        record = split[index]
        return record['captions'], int(record['image_id'])

    drawn = []
    for i in range(settings.count):
        index = i % len(split)
        captions, image_id = picture(index)
        caption = np.random.default_rng([settings.seed, i]).choice(captions)
        drawn.append({'caption': str(caption), 'image_id': image_id, 'record': index})
    return drawn


def sample(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Generates `config.sample.count` pairs into `workdir/samples`; goes on where it was stopped.

    Of several processes each draws its share of the batches on its own devices, and the first one
    puts them together.

    Writes images/*.png, panoptic/*.png, panoptic.json (COCO-panoptic results), captions.json and
    report.html.

    Raises:
      FileNotFoundError, ValueError: No weights or data, or a folder with samples of other settings.
    """
    # --- Everything that the job needs is opened and checked before anything is written.
    settings = config.sample
    mesh = sharding.local_mesh(config.mesh.fsdp)
    if settings.batch_size % mesh.size:
        raise ValueError(
            f'sample.batch_size is {settings.batch_size}; it must be a multiple of the {mesh.size} '
            'devices of a process.'
        )
    params, empty_text, description, name = weights_file.load_for_sampling(config, workdir)
    wanted = requests(config, description)
    autoencoder, text_encoder = load_encoders(
        description, config.data.autoencoder_weights, config.data.text_weights
    )
    manifest = None if settings.prompts else manifests.open_manifest(config.data.dir)
    given_map = description['model']['given_map']
    if given_map and not manifest['map_size']:
        raise ValueError(
            f'The data in {config.data.dir} have no maps, which this model is given; take other '
            "data, or a model that needs none: 'uvit'."
        )
    where = config.data.dir, settings.split, config.data.cache
    split = loader.Split(*where) if given_map else None

    # --- The folder, new or begun with the same settings.
    folder, log = epath.Path(workdir) / 'samples', epath.Path(workdir) / 'metrics.jsonl'
    listed, side = category_list(description), map_side(description)
    source = [wanted, manifest and manifest['fingerprint']]
    facts = {
        'weights': name,
        'ema': settings.ema and name.startswith('step '),
        'model': description['model'],
        'map_size': side,
        'sample': settings.to_dict(),
        'requests': hashlib.sha256(json.dumps(source).encode()).hexdigest(),
        'categories': description['categories'],
    }
    process, processes = jax.process_index(), jax.process_count()
    if process:
        hosts.wait_for(lambda: samples.is_begun(folder), f'process 0 to begin {folder}')
    done = samples.parts(folder)  # before the next line: they are removed when all is finished
    if not samples.begin(folder, facts):
        logging.info('%s is finished already: %d pairs.', folder, len(wanted))
        if not process and not (folder / 'report.html').exists():
            samples.write_page(folder, log)
        return

    # --- Batch by batch.
    rows = sharding.of_batch(mesh)
    sampler = make_sampler(
        description,
        empty_text,
        settings,
        compute_dtype(config.model.dtype),
        for_mesh(mesh, config.fused_attention),
    )
    split_params = sharding.of_tree(params, mesh)
    params = sharding.place(params, split_params)
    draw = jax.jit(sampler, in_shardings=(split_params, rows, rows, rows))
    firsts = range(0, len(wanted), settings.batch_size)
    batches = {
        first: wanted[first : first + settings.batch_size]
        for first in firsts[process::processes]
        if first not in done
    }
    progress = Progress('sample', 'pairs', sum(map(len, batches.values())))
    for first, batch in batches.items():
        # The last batch is filled up, so that one compilation serves all.
        padded = batch + [batch[-1]] * (settings.batch_size - len(batch))
        texts = text_encoder.encode([request['caption'] for request in padded])
        given = None
        if given_map:
            records = [split[request['record']] for request in padded]
            given = np.stack([true_ids(r, side, manifest['void_wins']) for r in records])
        texts, given = sharding.place((texts, given), rows)
        latents, ids = draw(params, texts, keys(settings.seed, first, len(padded)), given)
        images = autoencoder.decode(np.asarray(latents))
        ids = None if ids is None else np.asarray(ids)
        samples.write_part(folder, first, batch, images, ids, listed)
        progress.add(len(batch))
    if process:
        hosts.wait_for(lambda: samples.is_finished(folder), f'process 0 to finish {folder}')
        return
    hosts.wait_for(lambda: samples.parts(folder) >= {*firsts}, 'the pairs of other processes')
    samples.finish(folder, listed)
    samples.write_page(folder, log)


def _read_prompts(text: str) -> list[str]:
    """The lines of a file, or the text itself where there is no such file."""
    try:
        path = epath.Path(text)
        is_file = path.is_file()
    except OSError:  # a prompt longer than a path may be
        is_file = False
    lines = path.read_text().splitlines() if is_file else [text]
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f'sample.prompts is {text!r}, which holds no prompt; write one a line.')
    return prompts
