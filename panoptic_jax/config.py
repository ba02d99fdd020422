"""Every setting with its meaning, unit and default, and the check that refuses impossible ones.

The files in `configs/` start from `default()`, change what their experiment changes and lock the
result. Only `main.py` and the mode files see this object: the folders of the package take plain
values, which `encoding`, `source`, `recipe` and `sampling` pick out.
"""

from typing import Any

import ml_collections

from panoptic_jax.models import build


def default() -> ml_collections.ConfigDict:
    """The full-size one-stream PDM on COCO 2017, as U-ViT trains; every experiment starts here."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # the only source of randomness in training
    config.data = data = ml_collections.ConfigDict()
    data.dir = 'data/coco'  # encoded shards: written by --mode=prepare, read by everything else
    data.cache = ''  # folder for local copies of a bucket's shards; '': a temporary one
    data.source = 'coco'  # COCO-panoptic folder | 'folder': captioned images | 'scenes': embedded
    data.root = ''  # folder that holds a folder of images per split; 'coco': and annotations/
    data.train_split = 'train2017'  # split that becomes our 'train'
    data.validation_split = 'val2017'  # split that becomes our 'validation'; '': none
    data.categories = ''  # 'coco': JSON with a list of categories; '': the panoptic JSON's own
    data.captions = 'file'  # 'coco': captions JSON | 'categories': made from the map
    data.flips = False  # True: every training image also mirrored, with the same captions
    data.train_images = 0  # only the first n images; 0: all. 'scenes': how many to draw
    data.validation_images = 0  # the same for the validation split
    data.scene_seed = 0  # 'scenes': which scenes are drawn
    data.images_per_shard = 1024  # images; the unit of work that a restart repeats
    data.autoencoder = 'taesd'  # 'sd': Stable Diffusion's | 'taesd': a tiny one | 'pixels'
    data.autoencoder_weights = ''  # 'sd', 'taesd': safetensors file with diffusers' names, or hf://
    data.text = 'words'  # 'clip': ViT-L/14's text tower | 'words': frozen random vector per word
    data.text_weights = ''  # 'clip': folder with model.safetensors and the vocabulary, or hf://
    data.text_tokens = 77  # L, tokens per caption; longer captions are cut
    data.text_features = 768  # D, numbers per token
    data.void_wins = False  # pooling of maps: True is the paper's literal min-pooling
    data.workers = 0  # loader processes; 0: threads of this process

    config.model = model = ml_collections.ConfigDict()
    model.name = 'one_stream'  # 'uvit' | 'one_stream' | 'two_stream'
    model.hidden_size = 512  # channels per token
    model.depth = 12  # blocks besides the middle one: depth/2 in, 1 middle, depth/2 out
    model.num_heads = 8
    model.patch_size = 2  # latent pixels per image token, along each side
    model.patch_factor = 2  # map pixels per latent pixel, along each side: 1, 2 or 4
    model.given_map = False  # True: the clean map is an input and only the image is denoised
    model.zero_map_input = False  # ablation B.2: the network never sees the noisy map
    model.map_prediction = 'data'  # the network predicts the map ('data') or its 'noise' (3.3)
    model.zero_conv_bias = False  # 'two_stream': True for imported weights; the paper has none
    model.dtype = 'auto'  # computation in 'float32', 'bfloat16'; 'auto': by platform

    # True: attention in one kernel on TPU (ours) and GPU (cuDNN's), in parts on CPU.
    config.fused_attention = True

    # Durations are optimiser steps; sizes are whole batches over all devices.
    config.steps = 1_000_000
    config.batch_size = 256
    config.microbatches = 1  # gradient accumulation: parts of a batch, one after another
    config.learning_rate = 2e-4  # between warm-up and cool-down
    config.warmup_steps = 5000  # linear from 0
    config.cooldown = 0.0  # share of the steps, at their end, linear to 0; the paper has none
    config.weight_decay = 0.03
    config.betas = (0.9, 0.9)
    config.ema_decay = 0.9999  # reached gradually: min(ema_decay, (1 + step) / (10 + step))
    config.text_dropout = 0.1  # probability that a caption is replaced by the empty one
    config.map_noise_std = 2.0  # s in m_t = alpha_t m_0 + sigma_t s eps
    config.init_weights = ''  # weights.safetensors to start from: a whole model or its image stream
    config.init_partial = False  # True: keep what fits of init_weights, start the rest afresh

    config.log_every = 100
    config.validate_every = 5000  # held-out loss; 0: never
    config.validation_batches = 4
    config.preview_every = 10_000  # fixed-seed sample grid and its MCD; 0: never
    config.preview_count = 16  # pairs in the grid
    config.checkpoint_every = 5000  # a multiple of log_every
    config.keep_last = 2  # checkpoints
    config.keep_every = 100_000  # and every checkpoint at a multiple of this many steps; 0: none
    config.profile_at = 0  # first step of a profiler window; 0: none
    config.profile_steps = 5

    config.sample = sample = ml_collections.ConfigDict()
    sample.weights = ''  # weights.safetensors; '': the newest checkpoint of the workdir
    sample.ema = True  # average weights rather than the last ones (checkpoints only)
    sample.prompts = ''  # a text file, one prompt a line, or one prompt; '': captions of `split`
    sample.split = 'validation'  # 'train' | 'validation'
    sample.count = 64  # pairs to generate
    sample.batch_size = 16  # pairs per call of the sampler, over one process's devices
    sample.seed = 0
    sample.evaluations = 50  # network evaluations (NFE); guidance counts as one
    sample.solver = 'fast'  # 'fast' (order 3 and a rest), '1', '2', '3' or '2M'
    sample.grid = 'time'  # steps uniform in 'time' or in 'lambda' = log(alpha/sigma)
    sample.guidance = 1.0  # out = cond + guidance * (cond - uncond); others call 1.0 two
    sample.map_init_std = 0.0  # std of the map's start; 0: map_noise_std (the paper's text: 1)
    sample.clip_map = True  # clip the guided map estimate to [-1, 1] inside the solver
    sample.decode = 'nearest'  # codes of no category: 'nearest' valid one or 'threshold' to void

    config.evaluate = evaluate = ml_collections.ConfigDict()
    evaluate.folder = ''  # others' images/, captions.json and maps; '': workdir/samples
    evaluate.inception = ''  # safetensors file of Inception, for FID; '': no FID
    evaluate.clip = ''  # folder of a CLIP (ViT-B/32), for CLIP score and CMMD; '': neither
    evaluate.reference = ''  # .npz such as U-ViT's; '': made from the images of sample.split

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
    return data.dir, data.root, config.init_weights, config.sample.weights, config.evaluate.folder


def encoding(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a run expects of its data, for `manifest.check_manifest`."""
    names = ('autoencoder', 'text', 'text_tokens', 'text_features', 'void_wins')
    return {name: config.data[name] for name in names}


def source(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Which data set is prepared, for `sources.SourceSettings`."""
    names = (
        'source', 'root', 'train_split', 'validation_split', 'categories', 'captions',
        'train_images', 'validation_images', 'scene_seed',
    )  # fmt: skip
    return {name: config.data[name] for name in names}


def recipe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How a model is trained, for `train_step.Recipe`."""
    names = (
        'seed', 'steps', 'batch_size', 'microbatches', 'learning_rate', 'warmup_steps', 'cooldown',
        'weight_decay', 'betas', 'ema_decay', 'text_dropout',
    )  # fmt: skip
    return {name: config[name] for name in names}


def sampling(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """How pairs are drawn, for `sampler.Sampling`."""
    names = ('evaluations', 'solver', 'grid', 'guidance', 'map_init_std', 'clip_map', 'decode')
    return {name: config.sample[name] for name in names}


_CHOICES = {
    'data.source': ('coco', 'folder', 'scenes'),
    'data.captions': ('file', 'categories'),
    'data.autoencoder': ('sd', 'taesd', 'pixels'),
    'data.text': ('clip', 'words'),
    'model.name': build.NAMES,
    'model.patch_factor': (1, 2, 4),
    'model.map_prediction': ('data', 'noise'),
    'foreign.kind': ('model', 'tower'),
    'model.dtype': ('auto', 'float32', 'bfloat16'),
    'sample.split': ('train', 'validation'),
    'sample.solver': ('fast', '1', '2', '3', '2M'),
    'sample.grid': ('time', 'lambda'),
    'sample.decode': ('nearest', 'threshold'),
}
_POSITIVE = (
    'data.images_per_shard', 'data.text_tokens', 'data.text_features', 'model.hidden_size',
    'model.depth', 'model.num_heads', 'model.patch_size', 'steps', 'batch_size', 'microbatches',
    'learning_rate', 'map_noise_std', 'log_every', 'validation_batches', 'preview_count',
    'checkpoint_every', 'keep_last', 'profile_steps', 'sample.count', 'sample.batch_size',
    'sample.evaluations', 'plan.num_slices', 'plan.batch_per_device',
)  # fmt: skip
_NOT_NEGATIVE = (
    'data.train_images', 'data.validation_images', 'data.workers', 'warmup_steps',
    'weight_decay', 'validate_every', 'preview_every', 'keep_every',
    'profile_at', 'sample.map_init_std',
)  # fmt: skip
_SHARES = ('cooldown', 'ema_decay', 'text_dropout')


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses impossible values. Raises ValueError naming field, value and what would be right."""

    def value(name):
        reached = config
        for part in name.split('.'):
            reached = reached[part]
        return reached

    def require(holds, name, expected):
        if not holds:
            raise ValueError(f'{name} is {value(name)!r}; it must be {expected}.')

    for name, choices in _CHOICES.items():
        require(value(name) in choices, name, 'one of ' + ', '.join(map(repr, choices)))
    for name in _POSITIVE:
        require(value(name) > 0, name, 'positive')
    for name in _NOT_NEGATIVE:
        require(value(name) >= 0, name, 'zero or more')
    for name in _SHARES:
        require(0 <= value(name) <= 1, name, 'between 0 and 1')
    model, sample = config.model, config.sample
    has_map = build.has_map(model.name)
    require(model.depth % 2 == 0, 'model.depth', 'even: as many in blocks as out blocks')
    require(
        model.hidden_size % (2 * model.num_heads) == 0,
        'model.hidden_size',
        f'a multiple of twice model.num_heads ({model.num_heads})',
    )
    require(32 % model.patch_size == 0, 'model.patch_size', 'a divisor of the latent side 32')
    require(
        not model.given_map or (has_map and not model.zero_map_input),
        'model.given_map',
        'False for a model without maps and together with model.zero_map_input',
    )
    require(
        model.map_prediction == 'data'
        or (has_map and not (model.given_map or model.zero_map_input)),
        'model.map_prediction',
        "'data' where no map is predicted, or its noise not seen (model.zero_map_input)",
    )
    require(
        not model.zero_conv_bias or model.name == 'two_stream',
        'model.zero_conv_bias',
        f'False for {model.name!r}, which has no zero-convs',
    )
    require(
        config.batch_size % config.microbatches == 0,
        'batch_size',
        f'a multiple of microbatches ({config.microbatches})',
    )
    require(
        config.checkpoint_every % config.log_every == 0,
        'checkpoint_every',
        f'a multiple of log_every ({config.log_every})',
    )
    require(
        sample.solver in ('fast', '2M') or sample.evaluations % int(sample.solver) == 0,
        'sample.evaluations',
        f'a multiple of sample.solver ({sample.solver})',
    )
