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
from panoptic_jax.diffusion import bits
from panoptic_jax.models import build
from panoptic_jax.models.forms import PLAIN, Forms


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The fields of `config.model`, which explains them. Older files lack those with a default."""

    name: str
    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    patch_factor: int
    given_map: bool
    zero_map_input: bool
    map_prediction: str = 'data'
    zero_conv_bias: bool = False
    dtype: str = 'auto'


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything that a sampler has to know besides the parameters.

    Attributes:
      model: The network's kind and sizes.
      map_noise_std: s in m_t = alpha_t m_0 + sigma_t s eps (Eq. 3).
      autoencoder: What identifies the autoencoder of the latents.
      text: What identifies the text encoder.
      categories: What the map ids stand for.
      origin: Where an exported or imported file's weights come from, such as the training step.
    """

    model: ModelSettings
    map_noise_std: float
    autoencoder: AutoencoderFacts
    text: TextFacts
    categories: CategoryList
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_map(self) -> bool:
        """Whether the network reads a map: both PDMs do, the plain U-ViT does not."""
        return build.has_map(self.model.name)

    @property
    def given_map(self) -> bool:
        """Whether the clean map is an input and only the image is generated."""
        return self.model.given_map

    @property
    def predicts_map(self) -> bool:
        """Whether the network generates a map."""
        return self.has_map and not self.given_map

    @property
    def predicts_map_noise(self) -> bool:
        """Whether the network says the map's noise instead of the clean map (section 3.3)."""
        return self.model.map_prediction == 'noise'

    @property
    def map_side(self) -> int:
        """Side of the model's maps in pixels."""
        return self.autoencoder.latent_shape[0] * self.model.patch_factor

    @property
    def num_tokens(self) -> int:
        """Tokens of one example: time, caption, image, and as many of the map as of the image."""
        image_tokens = (self.autoencoder.latent_shape[0] // self.model.patch_size) ** 2
        streams = 2 if self.has_map else 1
        return 1 + self.text.tokens + streams * image_tokens

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
        return build.build(
            **settings,
            latent_shape=self.autoencoder.latent_shape,
            text_tokens=self.text.tokens,
            map_channels=bits.NUM_BITS,
            dtype=dtype,
            forms=forms,
        )

    def inputs(self, batch_size: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Abstract inputs of the network: (x_t, m_t, text, t)."""
        return build.example_inputs(
            latent_shape=self.autoencoder.latent_shape,
            patch_factor=self.model.patch_factor,
            text_shape=(self.text.tokens, self.text.features),
            map_channels=bits.NUM_BITS,
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
            'map_noise_std': self.map_noise_std,
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
        own = {field.name for field in dataclasses.fields(cls)}
        return cls(
            model=ModelSettings(**content['model']),
            map_noise_std=content['map_noise_std'],
            autoencoder=AutoencoderFacts.from_json(content['autoencoder']),
            text=TextFacts(**content['text']),
            categories=CategoryList.from_json(content['categories']),
            origin={name: value for name, value in content.items() if name not in own},
        )


def describe(
    model: Mapping[str, Any], map_noise_std: float, manifest: Manifest, data_dir: str
) -> Description:
    """The description of a model that trains on prepared data.

    Args:
      model: The fields of `config.model`.
      map_noise_std: s, see `Description`.
      manifest: The data's manifest.
      data_dir: Where the data are, for messages.

    Raises:
      ValueError: a model with maps, and data without.
    """
    # A misspelt setting would be a TypeError here; configs are locked before.
    settings = ModelSettings(**model)
    if build.has_map(settings.name) and not manifest.categories.entries:
        raise ValueError(
            f'The data in {data_dir} have no maps, which model.name={settings.name!r} '
            "learns; train 'uvit' on them, or prepare data with maps."
        )
    return Description(
        settings, map_noise_std, manifest.autoencoder, manifest.text, manifest.categories
    )


def assume(
    model: Mapping[str, Any], map_noise_std: float, autoencoder: AutoencoderFacts, text: TextFacts
) -> Description:
    """What `describe` would say of data of these encoders, where only shapes matter."""
    # One category stands for all: to compare with more codes costs next to nothing.
    entry = categories.Category(1, 'thing', is_thing=True)
    one_category = CategoryList((entry,), (entry.id,))
    return Description(ModelSettings(**model), map_noise_std, autoencoder, text, one_category)


def check_same_model(now: Description, before: Description, workdir: str) -> None:
    """Refuses to go on from a checkpoint in `workdir` that belongs to another model.

    Raises:
      ValueError: naming the settings that differ. The computation's type may differ.
    """
    # Sizes change the parameters' shapes; the other settings change what they mean.
    there = dataclasses.asdict(before.model)
    changed = [
        f'model.{name}: {there[name]!r} there, {value!r} in this config'
        for name, value in dataclasses.asdict(now.model).items()
        if name != 'dtype' and there[name] != value
    ]
    if now.has_map and now.map_noise_std != before.map_noise_std:
        stds = f'{before.map_noise_std} there, {now.map_noise_std} in this config'
        changed.append(f'map_noise_std: {stds}')
    changed += [
        f'{name}: not as in the data that it was trained on'
        for name in ('autoencoder', 'text', 'categories')
        if getattr(now, name) != getattr(before, name)
    ]
    if changed:
        raise ValueError(
            f'{workdir} holds checkpoints of another model ({", ".join(changed)}); use the config '
            'and data that it was trained with, or another --workdir.'
        )


def check_encoders(description: Description, manifest: Manifest, path: str) -> None:
    """Refuses weights (of `path`) trained on other latents or text features than the data hold.

    Raises:
      ValueError: naming the encoder that differs.
    """
    # The hash, since two versions of an encoder have the same name and other latents.
    for kind in ('autoencoder', 'text'):
        theirs, ours = getattr(description, kind), getattr(manifest, kind)
        if (theirs.name, theirs.sha256) != (ours.name, ours.sha256):
            raise ValueError(
                f'{path} was trained with {kind} {theirs.name!r} (hash '
                f'{theirs.sha256[:12]}), the data are prepared with {ours.name!r} (hash '
                f'{ours.sha256[:12]}); take other weights or prepare the data again.'
            )
