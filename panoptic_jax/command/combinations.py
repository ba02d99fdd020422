"""Conditions that join several settings: which values fit together.

`command/fields.py` asks each setting by itself first.
"""

from collections.abc import Mapping
from typing import Any

from panoptic_jax.command import fields
from panoptic_jax.models import names

_LATENT_SIDE = 32
# Names of other folders beside a set of pairs.
_TAKEN = ('annotations', 'images', 'parts', 'rejected')


def check(values: Mapping[str, Any]) -> None:
    """Refuses settings that do not fit together.

    Args:
      values: All settings with dotted names, each of which `fields.check_fields` has taken.

    Raises:
      ValueError: one sentence with field, value and what would be right.
    """
    _check_sizes(values)
    _check_maps(values)
    _check_run(values)


def _require(holds: bool, values: Mapping[str, Any], name: str, expected: str) -> None:
    if not holds:
        raise ValueError(f'{name} is {fields.shown(values[name])}; it must be {expected}.')


def _check_sizes(values: Mapping[str, Any]) -> None:
    """The network's sizes."""
    heads, hidden = values['model.num_heads'], values['model.hidden_size']
    patch = values['model.patch_size']
    is_joint = values['model.name'] == 'joint'
    _require(
        is_joint or values['model.depth'] % 2 == 0,
        values,
        'model.depth',
        'even: as many in blocks as out blocks',
    )
    _require(
        hidden % (2 * heads) == 0,
        values,
        'model.hidden_size',
        f'a multiple of twice model.num_heads ({heads})',
    )
    _require(
        not is_joint or hidden % (4 * heads) == 0,
        values,
        'model.hidden_size',
        f"a multiple of four times model.num_heads ({heads}) for 'joint'",
    )
    _require(
        _LATENT_SIDE % patch == 0, values, 'model.patch_size', 'a divisor of the latent side 32'
    )
    _require(
        not is_joint or patch > 1,
        values,
        'model.patch_size',
        "2 at least for 'joint', whose convolutions lie between latent pixels and places",
    )


def _check_maps(values: Mapping[str, Any]) -> None:
    """What the network does with maps, and what it says of them."""
    name = values['model.name']
    has_map = names.has_map(name)
    gives, hides = values['model.given_map'], values['model.zero_map_input']
    _require(
        not gives or (has_map and not hides and name != 'joint'),
        values,
        'model.given_map',
        "False for a model without maps, for 'joint' and together with model.zero_map_input",
    )
    _require(
        not hides or name != 'joint',
        values,
        'model.zero_map_input',
        "False for 'joint', whose places hold image and map",
    )
    sees_noisy_map = has_map and not (gives or hides)
    _require(
        values['map.prediction'] == 'data' or sees_noisy_map,
        values,
        'map.prediction',
        "'data' where no map is predicted, or its noise not seen (model.zero_map_input)",
    )
    _require(
        not values['model.separate_times'] or sees_noisy_map,
        values,
        'model.separate_times',
        'False for a model that does not see a noisy map',
    )
    _require(
        values['model.join'] == 'tokens' or name == 'one_stream',
        values,
        'model.join',
        f"'tokens' for {name!r}; 'channels' is a form of 'one_stream'",
    )
    _require(
        not values['model.instance_bits'] or sees_noisy_map,
        values,
        'model.instance_bits',
        '0 for a model that does not generate maps',
    )
    _require(
        not values['model.zero_conv_bias'] or name == 'two_stream',
        values,
        'model.zero_conv_bias',
        f'False for {name!r}, which has no zero-convs',
    )
    _require(
        values['model.separate_times'] or values['times.power'] == 1,
        values,
        'model.separate_times',
        f'True where times.power is {values["times.power"]}: one time for both is uniform',
    )
    shares = ('times.shared', 'times.clean_image', 'times.clean_map')
    _require(
        sum(values[share] for share in shares) <= 1,
        values,
        'times.shared',
        'so small that the three shares of `times` sum to 1 at most',
    )


def _check_run(values: Mapping[str, Any]) -> None:
    """Training, sampling and data."""
    _require(
        values['batch_size'] % values['microbatches'] == 0,
        values,
        'batch_size',
        f'a multiple of microbatches ({values["microbatches"]})',
    )
    _require(
        values['checkpoint_every'] % values['log_every'] == 0,
        values,
        'checkpoint_every',
        f'a multiple of log_every ({values["log_every"]})',
    )
    solver = values['sample.solver']
    _require(
        solver in ('fast', '2M') or values['sample.evaluations'] % int(solver) == 0,
        values,
        'sample.evaluations',
        f'a multiple of sample.solver ({solver})',
    )
    _require(
        values['sample.guidance_from'] <= values['sample.guidance_to'],
        values,
        'sample.guidance_from',
        f'at most sample.guidance_to ({values["sample.guidance_to"]})',
    )
    name = values['sample.name']
    _require(
        name not in _TAKEN and not name.startswith('semantic_'),
        values,
        'sample.name',
        f'none of {", ".join(_TAKEN)}, and nothing that begins with semantic_',
    )
    _require(
        values['sample.format'] != 'tar' or not values['sample.best_of'],
        values,
        'sample.best_of',
        "'' where sample.format is 'tar', whose shards would part the copies of a request",
    )
    _require(
        values['data.source'] != 'tfds' or bool(values['data.tfds_name']),
        values,
        'data.tfds_name',
        "the name of a TFDS data set where data.source is 'tfds'",
    )
