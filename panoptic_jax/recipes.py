"""What files in `configs/` share: their arguments, data sets with frozen encoders, our recipe."""

from typing import Any

import ml_collections

from panoptic_jax.models import names

ENCODERS = ('paper', 'light')
SIZES = tuple(names.SIZES)
_TRUTHS = {'0': False, '1': True}
_IN_WORDS = {bool: '1 or 0', int: 'a whole number', float: 'a number', str: 'a text'}


def use_coco(config: ml_collections.ConfigDict, encoders: str) -> None:
    """COCO 2017 where the README puts it, and the networks that encode and score it.

    Args:
      config: The config to change.
      encoders: 'paper', Stable Diffusion's autoencoder and CLIP's text tower, or 'light', TAESD and
        random word vectors, which need little memory and time.
    """
    data = config.data
    data.root = 'data/coco2017'
    if encoders == 'paper':
        data.dir = 'data/coco'
        data.autoencoder = 'sd'
        data.autoencoder_weights = (
            'hf://stabilityai/sd-vae-ft-ema/diffusion_pytorch_model.safetensors'
        )
        data.text = 'clip'
        data.text_weights = 'hf://openai/clip-vit-large-patch14'
    else:
        data.dir = 'data/coco_light'
        data.autoencoder = 'taesd'
        data.autoencoder_weights = 'hf://madebyollin/taesd/diffusion_pytorch_model.safetensors'
        data.text = 'words'
    config.evaluate.inception = 'data/inception/weights.safetensors'
    config.evaluate.clip = 'data/clip_b32'


def use_scenes(
    config: ml_collections.ConfigDict, train_images: int, validation_images: int
) -> None:
    """The embedded scenes, and encoders that need no download.

    Args:
      config: The config to change.
      train_images: Scenes to train on.
      validation_images: Held-out scenes.
    """
    data, sample = config.data, config.sample
    data.source = 'scenes'
    data.train_images = train_images
    data.validation_images = validation_images
    data.autoencoder = 'pixels'
    data.autoencoder_weights = 'scenes/decoder'
    data.text_tokens = 24
    data.text_features = 64
    config.model.patch_size = 4
    sample.batch_size = 32
    sample.decode = 'no_void'  # scenes have none
    sample.min_area = 0.002  # the smallest thing is eight times as large


def use_pdm(config: ml_collections.ConfigDict, name: str, text: str) -> None:
    """A PDM on COCO 2017, varied as the paper varies it.

    Args:
      config: The config to change.
      name: 'one_stream' or 'two_stream'.
      text: The config's arguments; `configs/one_stream.py` explains them.
    """
    variant = arguments(
        text,
        size=SIZES,
        patch_factor=2,
        given_map=False,
        zero_map_input=False,
        map_prediction=('data', 'noise'),
        map_noise=2.0,
        encoders=ENCODERS,
    )
    use_coco(config, variant.pop('encoders'))
    config.map.noise_std = variant.pop('map_noise')
    config.map.prediction = variant.pop('map_prediction')
    config.model.name = name
    config.model.update(names.SIZES[variant.pop('size')], **variant)


def use_joint(config: ml_collections.ConfigDict, size: str, *, instances: bool) -> None:
    """The joint network and its streams, which learn the image at small budgets too.

    Args:
      config: The config to change.
      size: A name of `names.SIZES`, or '' where the config sets the sizes itself.
      instances: Whether maps hold a code for each thing.
    """
    model = config.model
    model.name = 'joint'
    model.separate_times = True
    model.instance_bits = 8 if instances else 0
    if size:
        model.update(names.SIZES[size])
    config.optimizer = 'muon'
    config.betas = (0.9, 0.99)
    # Noise prediction would decide colour and layout by an error that is magnified 214 times.
    config.image.prediction = 'data'
    # Doubled noise hides the mean colour of a region, which a sample's start does not know.
    config.image.noise_std = 2.0
    # A thing has hundreds of bits: under less noise they give its kind away at nearly all times,
    # and neither the picture nor the caption is read for it (`docs/RECIPE.md`).
    config.map.noise_std = 10.0
    config.image.unit_input = config.map.unit_input = True
    # Under so much noise the outlines of things are decided near t = 200, by a small part of the
    # error: uniform times would hardly train them.
    config.times.power = 1.7
    # The image is the harder of the two, and its error the smaller number.
    config.image.loss_weight = 2.5
    config.sample.solver = '2M'


def use_small_joint(config: ml_collections.ConfigDict, *, instances: bool) -> None:
    """The joint recipe for the latents of `use_scenes`, at the quickstart's size."""
    use_joint(config, size='', instances=instances)
    config.model.update(hidden_size=128, depth=4, num_heads=4)
    config.image.clip = True  # 'pixels' has latents from -1 to 1


def arguments(text: str, **defaults: Any) -> dict[str, Any]:
    """Reads a config's own arguments, as in `--config=configs/two_stream.py:patch_factor=4`.

    Args:
      text: 'name=value,name=value'; may be empty. Truth values are 1 or 0.
      **defaults: The arguments that exist, with values of their types; a tuple lists the values
        to choose from, the first being the default.

    Returns:
      The defaults, with what `text` says put in.

    Raises:
      ValueError: naming an unknown argument or a value that it cannot have.
    """
    choices = {name: value for name, value in defaults.items() if isinstance(value, tuple)}
    values = defaults | {name: value[0] for name, value in choices.items()}
    for part in filter(None, (text or '').split(',')):
        name, _, given = part.partition('=')
        if name not in defaults:
            raise ValueError(f'The config has no argument {name!r}; it has {", ".join(defaults)}.')
        # The default's type is the argument's; 0 and 1 stand for truth values.
        kind = type(values[name])
        try:
            values[name] = _TRUTHS[given] if kind is bool else kind(given)
        except (KeyError, ValueError):
            raise ValueError(
                f'The config argument {name} is {given!r}; it must be {_IN_WORDS[kind]}.'
            ) from None
        if name in choices and values[name] not in choices[name]:
            allowed = ', '.join(map(str, choices[name]))
            raise ValueError(
                f'The config argument {name} is {given!r}; it must be one of {allowed}.'
            )
    return values
