"""What a trained model is: its network, its encoders, its categories; stored with its weights.

A description builds the network and says what follows from its settings. Parameters are in
`weights/`, the prepared data's own facts in `data/manifest.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from panoptic_jax.data import categories
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.diffusion import bits, streams
from panoptic_jax.models import build, names
from panoptic_jax.models.forms import PLAIN, Forms

# Names that version 0.3 had for the map's stream.
_OLD_NOISE_STD = 'map_noise_std'
_OLD_PREDICTION = 'map_prediction'


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The fields of `config.model`, which explains them, but for those of its training alone.

    Older files lack those with a default.
    """

    name: str
    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    patch_factor: int
    given_map: bool
    zero_map_input: bool
    join: str = 'tokens'
    separate_times: bool = False
    instance_bits: int = 0
    zero_conv_bias: bool = False
    dtype: str = 'auto'


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything that a sampler has to know besides the parameters.

    Attributes:
      model: The network's kind and sizes.
      streams: Noise and prediction of 'image' and 'map'; of a model without maps only the image's
        counts.
      autoencoder: What identifies the autoencoder of the latents.
      text: What identifies the text encoder.
      categories: What the map ids stand for.
      origin: Where an exported or imported file's weights come from, such as the training step.
    """

    model: ModelSettings
    streams: Mapping[str, streams.Stream]
    autoencoder: AutoencoderFacts
    text: TextFacts
    categories: CategoryList
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_map(self) -> bool:
        """Whether the network reads a map: both PDMs do, the plain U-ViT does not."""
        return names.has_map(self.model.name)

    @property
    def given_map(self) -> bool:
        """Whether the clean map is an input and only the image is generated."""
        return self.model.given_map

    @property
    def predicts_map(self) -> bool:
        """Whether the network generates a map."""
        return self.has_map and not self.given_map

    @property
    def map_channels(self) -> int:
        """Channels of a map: the bits of a category, and those of a thing's code if there are."""
        return bits.NUM_BITS + self.model.instance_bits

    @property
    def map_side(self) -> int:
        """Side of the model's maps in pixels."""
        return self.autoencoder.latent_shape[0] * self.model.patch_factor

    @property
    def num_tokens(self) -> int:
        """Tokens of one example in attention: caption, places of image and map, and times."""
        places = (self.autoencoder.latent_shape[0] // self.model.patch_size) ** 2
        if self.model.name == 'joint':  # whose times act through layer norms
            return self.text.tokens + places
        own_map_tokens = self.has_map and self.model.join == 'tokens'
        times = 2 if self.model.separate_times else 1
        return times + self.text.tokens + (2 if own_map_tokens else 1) * places

    def valid_codes(self) -> np.ndarray:
        """(n + 1,) uint8: void and the category ids, what a map may hold."""
        return categories.valid_codes(self.categories.entries)

    def build(self, dtype: Any, forms: Forms = PLAIN) -> nn.Module:
        """The network.

        Args:
          dtype: Type of the computation; parameters are float32.
          forms: Forms of the network's heaviest parts, see `forms.for_mesh`.
        """
        # Every setting of a network has the same name here, in the config and in `build.build`.
        settings = dataclasses.asdict(self.model)
        del settings['dtype']  # a wish, which `compute_dtype` turns into a type
        del settings['instance_bits']  # channels of the map
        return build.build(
            **settings,
            latent_shape=self.autoencoder.latent_shape,
            text_tokens=self.text.tokens,
            map_channels=self.map_channels,
            # Clean bits are within -1 and 1; noise and velocity have no bounds.
            map_bounded=self.streams['map'].prediction == 'data',
            dtype=dtype,
            forms=forms,
        )

    def inputs(self, batch_size: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Abstract inputs of the network: (x_t, m_t, text, t)."""
        return build.example_inputs(
            latent_shape=self.autoencoder.latent_shape,
            patch_factor=self.model.patch_factor,
            text_shape=(self.text.tokens, self.text.features),
            map_channels=self.map_channels,
            separate_times=self.model.separate_times,
            batch_size=batch_size,
        )

    def initial_parameters(self, key: jax.Array) -> dict:
        """Fresh float32 parameters; `jax.eval_shape` of this function gives their shapes."""
        return build.first_parameters(self.build(np.float32), key, self.inputs())

    def abstract_parameters(self) -> dict:
        """Shapes of the parameters."""
        return build.abstract_parameters(self.build(np.float32), self.inputs())

    def is_frozen(self) -> Callable[[str], bool]:
        """The rule that says of a parameter's path whether training leaves it alone."""
        return build.frozen_rule(self.model.name)

    def blank_text(self) -> np.ndarray:
        """(L, D) float16 zeros for the empty caption's features, where only shapes matter."""
        return np.zeros((self.text.tokens, self.text.features), np.float16)

    def to_json(self) -> dict[str, Any]:
        """What weights files and checkpoints store."""
        return {
            # By name, as the config's own JSON has them.
            'model': dict(sorted(dataclasses.asdict(self.model).items())),
            'streams': {name: dataclasses.asdict(each) for name, each in self.streams.items()},
            'autoencoder': dataclasses.asdict(self.autoencoder),
            'text': dataclasses.asdict(self.text),
            'categories': self.categories.to_json(),
            **self.origin,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Description':
        """Reads what `to_json` wrote, also in older versions.

        Raises:
          KeyError, TypeError: it is no description.
        """
        # Exports add their origin at the top level, beside the description's own parts.
        own = {field.name for field in dataclasses.fields(cls)} | {_OLD_NOISE_STD}
        model = dict(content['model'])
        old_prediction = model.pop(_OLD_PREDICTION, streams.PAPER['map'].prediction)
        if 'streams' in content:
            described = streams.of_settings(content['streams'])
        else:
            map_stream = streams.Stream(content[_OLD_NOISE_STD], old_prediction)
            described = streams.PAPER | {'map': map_stream}
        return cls(
            model=ModelSettings(**model),
            streams=described,
            autoencoder=AutoencoderFacts.from_json(content['autoencoder']),
            text=TextFacts(**content['text']),
            categories=CategoryList.from_json(content['categories']),
            origin={name: value for name, value in content.items() if name not in own},
        )


def describe(
    model: Mapping[str, Any],
    stream_settings: Mapping[str, Mapping[str, Any]],
    manifest: Manifest,
    data_dir: str,
) -> Description:
    """The description of a model that trains on prepared data.

    Args:
      model: The fields of `config.model`.
      stream_settings: Fields of `streams.Stream` for 'image' and 'map'.
      manifest: The data's manifest.
      data_dir: Where the data are, for messages.

    Raises:
      ValueError: a model with maps, and data without.
    """
    settings = settings_of(model)
    if names.has_map(settings.name) and not manifest.categories.entries:
        raise ValueError(
            f'The data in {data_dir} have no maps, which model.name={settings.name!r} '
            "learns; train 'uvit' on them, or prepare data with maps."
        )
    described = streams.of_settings(stream_settings)
    return Description(
        settings, described, manifest.autoencoder, manifest.text, manifest.categories
    )


def assume(
    model: Mapping[str, Any],
    stream_settings: Mapping[str, Mapping[str, Any]],
    autoencoder: AutoencoderFacts,
    text: TextFacts,
) -> Description:
    """What `describe` would say of data of these encoders, where only shapes matter."""
    # One category stands for all: to compare with more codes costs next to nothing.
    entry = categories.Category(1, 'thing', is_thing=True)
    one_category = CategoryList((entry,), (entry.id,))
    described = streams.of_settings(stream_settings)
    return Description(settings_of(model), described, autoencoder, text, one_category)


def settings_of(model: Mapping[str, Any]) -> ModelSettings:
    """What `config.model` says of the network, whatever its training computes twice."""
    # A misspelt setting would be a TypeError here; configs are locked before.
    return ModelSettings(**{name: value for name, value in model.items() if name != 'remat'})
