"""Every setting with its meaning, unit and default, and the check that refuses impossible ones.

The files in `configs/` start from `default()`, change what their experiment changes and lock the
result. Only `main.py` and the mode files see this object: the folders of the package take plain
values, which `encoding`, `source`, `recipe`, `streams` and `sampling` pick out. `command/fields.py`
says of which type and in which range each setting is, and `command/combinations.py` which settings
fit together. Every setting has its comment, on its line or above it, since --help prints them.
"""

from typing import Any

import ml_collections

from panoptic_jax.command import combinations, fields
from panoptic_jax.command import paths as typed_paths
from panoptic_jax.diffusion.names import NAMES
from panoptic_jax.logs import environment


def default() -> ml_collections.ConfigDict:
    """The full-size one-stream PDM on COCO 2017, as U-ViT trains; every experiment starts here."""
    config = ml_collections.ConfigDict()
    config.workdir = ''  # folder of the run that --workdir may leave out; --workdir wins
    config.seed = 0  # the only source of randomness in training; at most 2^32 - 1
    config.data = data = ml_collections.ConfigDict()
    data.dir = 'data/coco'  # encoded shards: written by --mode=prepare, read by everything else
    data.cache = ''  # folder for local copies of a bucket's shards; '': a temporary one
    data.source = 'coco'  # or 'tfds' | 'folder': captioned images | 'scenes': drawn here
    data.tfds_name = 'coco/2017_panoptic'  # 'tfds': name of the data set below `root`
    data.root = ''  # folder of images by split; 'coco': and annotations/; 'tfds': its data_dir
    data.train_split = 'train2017'  # split that becomes our 'train'
    data.validation_split = 'val2017'  # split that becomes our 'validation'; '': none
    data.categories = ''  # JSON list of categories; '': the panoptic JSON's; 'tfds': COCO's
    data.captions = 'file'  # 'coco', 'tfds': captions JSON | 'categories': made from the map
    data.flips = False  # True: every training image also mirrored, with the same captions
    data.train_images = 0  # only the first n images; 0: all. 'scenes': how many to draw
    data.validation_images = 0  # the same for the validation split
    data.scene_seed = 0  # 'scenes': which scenes are drawn
    data.repeats = False  # 'scenes': True: several things of one kind, touching or overlapping
    data.images_per_shard = 1024  # images; the unit of work that a restart repeats
    data.autoencoder = 'taesd'  # 'sd': Stable Diffusion's | 'taesd': a tiny one | 'pixels'
    data.autoencoder_weights = ''  # 'sd', 'taesd': safetensors file with diffusers' names, or hf://
    data.text = 'words'  # 'clip': ViT-L/14's text tower | 'words': frozen random vector per word
    data.text_weights = ''  # 'clip': folder with model.safetensors and the vocabulary, or hf://
    data.text_tokens = 77  # L, tokens per caption; longer captions are cut
    data.text_features = 768  # D, numbers per token
    data.void_wins = False  # pooling of maps: True is the paper's literal min-pooling
    data.workers = 0  # loader processes, where `waiting_for_data` is high; 0: threads of this one

    config.model = model = ml_collections.ConfigDict()
    model.name = 'one_stream'  # 'uvit' | 'one_stream' | 'two_stream'
    model.hidden_size = 512  # channels per token
    model.depth = 12  # blocks besides the middle one: depth/2 in, 1 middle, depth/2 out
    model.num_heads = 8  # attention heads; twice their number divides hidden_size
    model.patch_size = 2  # latent pixels per image token, along each side
    model.patch_factor = 2  # map pixels per latent pixel, along each side: 1, 2 or 4
    model.given_map = False  # True: the clean map is an input and only the image is denoised
    model.zero_map_input = False  # ablation B.2: the network never sees the noisy map
    model.join = 'tokens'  # 'one_stream': tokens of image and map, or both as 'channels' of a token
    model.separate_times = False  # True: the network takes a time for each stream
    model.instance_bits = 0  # 8: maps hold codes that tell things of one category apart; 0: none
    model.zero_conv_bias = False  # 'two_stream': True for imported weights; the paper has none
    model.remat = False  # True: activations inside blocks computed again, for memory at more time
    model.dtype = 'auto'  # computation in 'float32', 'bfloat16'; 'auto': by platform

    # The streams: z_t = alpha_t z_0 + sigma_t noise_std eps. The network says their 'noise' eps,
    # 'data' z_0, or 'velocity' alpha_t eps - sigma_t z_0 / noise_std. The paper is the default.
    config.image = image = ml_collections.ConfigDict()
    image.noise_std = 1.0  # s of the image's latent
    image.prediction = 'noise'  # or 'data' | 'velocity'
    image.unit_input = False  # True: the network sees z_t divided by its size at its time
    image.loss_weight = 1.0  # factor of the image's loss
    image.start_std = 0.0  # std of the noise that sampling starts from; 0: noise_std
    image.clip = False  # True: clip the data prediction to [-1, 1] inside the solver
    config.map = map_ = ml_collections.ConfigDict()
    map_.noise_std = 2.0  # s of the map's bits
    map_.prediction = 'data'  # or 'noise' (3.3) | 'velocity'
    map_.unit_input = False  # the same for the map
    map_.loss_weight = 1.0  # factor of the map's loss
    map_.start_std = 0.0  # the same for the map's bits (the paper's text: 1)
    map_.clip = True  # clip the guided map estimate to [-1, 1] inside the solver

    # Which times the examples of a batch have where model.separate_times is set; the rest of the
    # batch has two independent times.
    config.times = times = ml_collections.ConfigDict()
    times.shared = 0.5  # share of the examples with one time for both streams
    times.clean_image = 0.17  # share with a clean image, which trains image -> map
    times.clean_map = 0.17  # share with a clean map, which trains map -> image
    times.power = 1.0  # power of the uniform numbers that become times: above 1 more are near 0

    # True: attention in one kernel on TPU (blocks' halves, too) and GPU (cuDNN's), in parts on CPU.
    config.fused_attention = True

    config.steps = 1_000_000  # optimiser steps of the training; the unit of durations below
    config.batch_size = 256  # images a step, over all devices
    config.microbatches = 1  # gradient accumulation: parts of a batch, one after another
    config.optimizer = 'adamw'  # or 'muon': for matrices between hidden channels; AdamW the rest
    config.learning_rate = 2e-4  # between warm-up and cool-down
    config.warmup_steps = 5000  # steps in which the learning rate rises linearly from 0
    config.cooldown = 0.0  # share of the steps, at their end, with a rate that falls linearly to 0
    config.weight_decay = 0.03  # a rate of 1 takes this share off a parameter; 0: none
    config.betas = (0.9, 0.9)  # AdamW's: decay of the means of gradients and of their squares
    config.ema_decay = 0.9999  # reached gradually: min(ema_decay, (1 + step) / (10 + step))
    config.text_dropout = 0.1  # probability that a caption is replaced by the empty one
    config.init_weights = ''  # as sample.weights: a model to start from, or its image stream
    config.init_partial = False  # True: keep what fits of init_weights, start the rest afresh

    config.log_every = 100  # a line of metrics and a point in TensorBoard
    config.validate_every = 5000  # held-out loss; 0: never
    config.validation_batches = 4  # held-out batches, the same ones each time
    config.preview_every = 10_000  # fixed-seed sample grid and its scores; 0: never
    config.preview_count = 16  # pairs in the grid
    config.checkpoint_every = 5000  # a multiple of log_every
    config.keep_last = 2  # newest checkpoints that stay
    config.checkpoint_best = ''  # also keeps the best by 'agreement', 'mcd' (previews) or 'loss'
    config.keep_every = 100_000  # and every checkpoint at a multiple of this many steps; 0: none
    config.profile_at = 0  # first step of a profiler window, counted from 0; 0: no window
    config.profile_steps = 5  # length of that window

    config.sample = sample = ml_collections.ConfigDict()
    # weights.safetensors, hf:// or a name such as 'scenes/joint'; '': the workdir's checkpoint
    sample.weights = ''
    sample.fallback = ''  # the same, where sample.weights is '' and the workdir has no checkpoint
    sample.checkpoint = 'newest'  # or 'best' by checkpoint_best, where sample.weights is ''
    sample.ema = True  # average weights rather than the last ones (checkpoints only)
    sample.prompt = ''  # one prompt; '': those of `prompts`, or captions of `split`
    sample.prompts = ''  # a file: text, a prompt a line, or .jsonl with caption, id, seed, map, ...
    sample.split = 'validation'  # 'train' | 'validation'
    # What is given besides the caption: 'nothing', or the 'map' or 'image' of each image of `split`
    # (a map also by `prompts`); models with model.given_map always take a map.
    sample.given = 'nothing'
    # pairs to generate; 0: one a prompt or image of `split`; evaluate takes a finished folder as is
    sample.count = 0
    sample.folder = 'samples'  # name of the folder in the workdir that the pairs go to
    sample.name = 'generated'  # name of the set of pairs in it, as COCO has 'train2017'
    sample.format = 'folder'  # COCO's layout | 'tar': shards for WebDataset, for millions of pairs
    sample.shard_pairs = 1000  # 'tar': pairs in a shard, at most 1000
    sample.image_format = 'png'  # or 'jpg' | 'webp'
    sample.refine = False  # True: the bits of maps are enlarged to the image's size, then decoded
    sample.redo = ''  # 'failed': pairs that were not finite are drawn once more
    sample.batch_size = 16  # pairs per call of the sampler, over one process's devices
    sample.seed = 0  # decides noise, and captions where a split has several; at most 2^32 - 1
    sample.evaluations = 50  # network evaluations (NFE); guidance counts as one
    sample.solver = 'fast'  # 'fast' (order 3 and a rest), '1', '2', '3' or '2M'
    sample.grid = 'time'  # steps uniform in 'time' or in 'lambda' = log(alpha/sigma)
    # out = cond + guidance * (cond - uncond), -100 to 100; 0: none; others call 1.0 two
    sample.guidance = 1.0
    sample.guidance_ratio_map = 1.0  # the map's guidance, as a multiple of `guidance`
    sample.guidance_from = 0.0  # guidance acts at times from here, 0 (clean) to 1 (noise),
    sample.guidance_to = 1.0  # to here; both are the stream's own time
    # Share of the evaluations by which the map is ahead of the image, -0.5 to 0.5: 0 draws them
    # together, 0.5 the map first, -0.5 the image first. Needs model.separate_times.
    sample.offset = 0.0
    # Areas below this share of a generated map join what surrounds them; 0: all are written.
    sample.min_area = 0.0005
    sample.decode = 'nearest'  # codes of no category: 'nearest' one, 'no_void', 'threshold' to void
    sample.keep = ''  # which pairs are kept, such as 'agreement>0.9 and crumbs<0.02'; '': all
    # Of a request's copies keep the best by this score, or by 'keep': the scores of sample.keep in
    # their order; '': all that pass.
    sample.best_of = ''
    sample.second_map = False  # True: for their agreement, a second map is drawn of each image
    sample.drop_duplicates = False  # near copies of training images are not kept; reads all of them

    config.evaluate = evaluate = ml_collections.ConfigDict()
    evaluate.folder = ''  # others' images/, captions.json and maps; '': workdir/samples
    evaluate.inception = ''  # safetensors file of Inception, for FID; '': no FID
    evaluate.clip = ''  # folder of a CLIP (ViT-B/32), for CLIP score and CMMD; '': neither
    evaluate.mcd_bins = 256  # category ids that MCD counts, from 0; the authors' code counts 201
    evaluate.synonyms = ''  # JSON such as {"couch": ["sofa"]}; '': the package's words, for COCO
    evaluate.nearest = False  # find the nearest training image of each pair; reads all of them once
    evaluate.reference = ''  # .npz such as U-ViT's; '': made from the images of sample.split

    config.export_dtype = 'float32'  # --mode=export; 'float16' takes half of the bytes
    config.foreign = foreign = ml_collections.ConfigDict()  # --mode=import
    foreign.path = ''  # a .pth file, or hf://
    foreign.kind = 'model'  # 'model': U-ViT or PDM, as config.model says; 'tower': Inception, CLIP
    foreign.allow_missing = ''  # comma-separated patterns of its names that may start fresh
    foreign.allow_extra = ''  # comma-separated patterns of its names that may be passed over

    config.plan = plan = ml_collections.ConfigDict()  # --mode=plan
    plan.topology = 'v5e:2x2'  # a TPU slice by generation and shape, like 'v5p:4x4x4'
    plan.num_slices = 1  # slices of this kind in one job
    plan.batch_per_device = 16  # images a chip, in the place of batch_size
    plan.xla_only = True  # also compile without our attention kernel, whose time is assumed

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = -1  # devices along the batch; -1: all that are left
    mesh.fsdp = 1  # devices that share one copy of the parameters
    return config


def paths(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The settings that may be paths in a bucket; '' where one is not set."""
    data = config.data
    weights = config.init_weights, config.sample.weights, config.sample.fallback
    return data.dir, data.root, *weights, config.evaluate.folder


def with_home(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the home folder in the place of a leading ~, in every setting that is a path.

    Raises:
      ValueError: ~NAME, and there is no user of this name.
    """
    flat = environment.flat(config.to_dict())
    expanded = {name: typed_paths.expanded(flat[name], name) for name in fields.PATHS}
    changed = {name: path for name, path in expanded.items() if path != flat[name]}
    if not changed:
        return config
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(changed)
    return copy


def encoding(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a run expects of its data, for `manifest.check_manifest`."""
    names = ('autoencoder', 'text', 'text_tokens', 'text_features', 'void_wins')
    return {name: config.data[name] for name in names}


def source(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Which data set is prepared, for `sources.SourceSettings`."""
    names = (
        'source', 'tfds_name', 'root', 'train_split', 'validation_split', 'categories', 'captions',
        'void_wins', 'train_images', 'validation_images', 'scene_seed', 'repeats',
    )  # fmt: skip
    return {name: config.data[name] for name in names}


def recipe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How a model is trained, for `train_step.Recipe`."""
    # Where it is used: --help and a misspelt setting need this module, but no JAX.
    from panoptic_jax.diffusion.times import Shares

    names = (
        'seed', 'steps', 'batch_size', 'microbatches', 'optimizer', 'learning_rate', 'warmup_steps',
        'cooldown', 'weight_decay', 'betas', 'ema_decay', 'text_dropout',
    )  # fmt: skip
    values = {name: config[name] for name in names}
    values['remat'] = config.model.remat
    values['loss_weights'] = {name: config[name].loss_weight for name in NAMES}
    values['shares'] = Shares(**config.times)
    return values


def streams(config: ml_collections.ConfigDict) -> dict[str, dict[str, Any]]:
    """Noise and prediction of each stream, for `streams.of_settings`."""
    names = ('noise_std', 'prediction', 'unit_input')
    return {stream: {name: config[stream][name] for name in names} for stream in NAMES}


def asked(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a sampling job is asked for, for `requested.Asked`."""
    names = ('prompt', 'prompts', 'split', 'count', 'seed', 'given', 'guidance', 'offset')
    return {name: config.sample[name] for name in names}


def selection(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Which pairs are kept, for `sample_selection`."""
    return {name: config.sample[name] for name in ('keep', 'best_of', 'drop_duplicates')}


def sampling(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How pairs are drawn, for `sampler.Sampling`."""
    names = (
        'evaluations', 'solver', 'grid', 'guidance', 'guidance_ratio_map', 'guidance_from',
        'guidance_to', 'offset', 'decode', 'refine',
    )  # fmt: skip
    values = {name: config.sample[name] for name in names}
    for stream in NAMES:
        values[f'{stream}_start_std'] = config[stream].start_std
        values[f'clip_{stream}'] = config[stream].clip
    return values


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses impossible values. Raises ValueError naming field, value and what would be right."""
    values = environment.flat(config.to_dict())
    fields.check_fields(values)
    combinations.check(values)
