"""The card of exported weights: what they are, how to draw with them, and what they score.

It is the page that the Hugging Face Hub shows of a model. What it says comes from the files of the
run; `export/templates/model_card.md.j2` has the words. `export_weights.py` writes it.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
from etils import epath

from panoptic_jax.logs import environment, json_lines

# What somebody has written down about the weights, in Markdown; the card ends with it.
NOTES = 'notes.md'
NO_NOTES = "None have been written down. A file notes.md in the run's folder would stand here."
_LICENSE = 'apache-2.0'  # the package's, and so that of weights that were trained on its scenes
_SENTENCES = {
    True: 'Draws an image and its panoptic segmentation map from a caption, denoised together.',
    False: 'Draws an image from a caption.',
}
# Where the data lie, how often something is logged, and what only other modes read.
_UNSAID = (
    'workdir', 'data.dir', 'data.cache', 'data.root', 'sample', 'evaluate', 'foreign', 'plan',
    'mesh', 'log_every', 'checkpoint_every', 'validate_every', 'preview_every', 'export_dtype',
)  # fmt: skip


class Weights(NamedTuple):
    """What the card says of the weights themselves.

    Attributes:
      file: The name of the file.
      facts: The description, JSON-able, see `description.Description`.
      step: Optimiser steps done.
      parameters: How many numbers the network has.
      dtype: Their type in the file.
    """

    file: str
    facts: Mapping[str, Any]
    step: int
    parameters: int
    dtype: str


def text(
    workdir: epath.Path, weights: Weights, defaults: Mapping[str, Any], *, caption: str
) -> str:
    """The card in Markdown.

    Args:
      workdir: The run's folder, whose config.json, environment.json, metrics.jsonl, metrics.json
        and notes.md are read as far as they are there.
      weights: The weights.
      defaults: All settings with dotted names and the values that nobody has changed.
      caption: One for the example.
    """
    facts = weights.facts
    recorded = environment.flat(_json(workdir / 'config.json'))
    notes = workdir / NOTES
    scores = _json(workdir / 'metrics.json')
    scored = f'step {weights.step}'
    # Scores of an earlier checkpoint are not those of this file.
    scores = {name: entry for name, entry in scores.items() if entry['weights'] == scored}
    template = _templates().get_template('model_card.md.j2')
    draws_maps = facts['model']['name'] != 'uvit'
    return template.render(
        license=_LICENSE,
        name=workdir.name,
        sentence=_SENTENCES[draws_maps],
        draws_maps=draws_maps,
        file=weights.file,
        arguments=_arguments(weights.file, recorded),
        caption=caption,
        model=_model(weights),
        training=_training(workdir, weights.step, recorded),
        changed=_changed(recorded, defaults),
        scores=_rows(scores),
        scored=_conditions(scores),
        faults=notes.read_text().strip() if notes.exists() else NO_NOTES,
    )


def _json(path: epath.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader('panoptic_jax.export')
    # Markdown, which is no place for HTML's escapes.
    return jinja2.Environment(
        loader=loader,
        autoescape=False,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def _arguments(file: str, recorded: Mapping[str, Any]) -> str:
    """What `pipeline.load` is given in the example."""
    arguments = [repr(file)]
    for encoder in ('autoencoder', 'text'):
        if path := recorded.get(f'data.{encoder}_weights'):
            arguments.append(f'{encoder}_weights={path!r}')
    return ', '.join(arguments)


def _model(weights: Weights) -> dict[str, str]:
    facts, model = weights.facts, weights.facts['model']
    height, width, channels = facts['autoencoder']['latent_shape']
    rows = {
        'network': f'{model["name"]}, {model["hidden_size"]} channels, depth {model["depth"]}',
        'parameters': f'{weights.parameters:,} of type {weights.dtype}',
        'image': f'256 x 256 pixels; latents of {facts["autoencoder"]["name"]!r}, '
        f'{height} x {width} x {channels}',
        'caption': f'{facts["text"]["name"]!r}, {facts["text"]["tokens"]} tokens',
    }
    if categories := facts['categories']:
        rows['categories'] = ', '.join(entry['name'] for entry in categories)
    if model['instance_bits']:
        rows['instances'] = f'codes of {model["instance_bits"]} bits tell things of a kind apart'
    return rows


def _training(workdir: epath.Path, step: int, recorded: Mapping[str, Any]) -> dict[str, str | int]:
    machine = _json(workdir / 'environment.json')
    lines = [line for line in json_lines.read(workdir / 'metrics.jsonl') if line['step'] <= step]
    rows: dict[str, str | int] = {'optimiser steps': step}
    if recorded:
        rows['images a step'] = recorded['batch_size']
        rows['seed'] = recorded['seed']
        rows['data'] = recorded['data.source']
    if recorded.get('data.source') == 'scenes':
        repeats = ', with repeats' if recorded['data.repeats'] else ''
        rows['data'] += f', seed {recorded["data.scene_seed"]}{repeats}'
    if lines:
        rows['hours'] = f'{lines[-1]["seconds"] / 3600:.2f}'
    if machine:
        rows['devices'] = ', '.join(machine['devices'])
        rows['commit'] = machine['commit'] or 'unknown'
    return rows


def _changed(recorded: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that are not the defaults."""
    return {
        name: value
        for name, value in recorded.items()
        if not name.startswith(_UNSAID) and name in defaults and _differ(value, defaults[name])
    }


def _differ(value: Any, default: Any) -> bool:
    # JSON has lists in the place of tuples.
    return list(value) != list(default) if isinstance(default, tuple) else value != default


def _rows(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each score, with its yardsticks in words."""
    rows = []
    for name, entry in scores.items():
        if '/' in name:
            continue
        beside = [
            f'{other.partition("/")[2]} {value["value"]:.3f}'
            for other, value in scores.items()
            if other.startswith(f'{name}/')
        ]
        rows.append({'label': name, 'value': entry['value'], 'yardsticks': ', '.join(beside)})
    return rows


def _conditions(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """How the scored pairs were drawn."""
    if not scores:
        return ''
    first = next(iter(scores.values()))
    weights = 'averaged' if first['ema'] else 'last'
    return (
        f'Of {first["n"]:,} pairs: {first["nfe"]} network evaluations, guidance '
        f'{first["guidance"]}, {weights} weights.'
    )
