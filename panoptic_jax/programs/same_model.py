"""Whether a description fits a checkpoint, or the data: what differs is named.

`programs/description.py` says what a description is.
"""

import dataclasses

from panoptic_jax.data.manifest import Manifest
from panoptic_jax.diffusion import streams
from panoptic_jax.programs.description import Description


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
    for stream in streams.NAMES if now.has_map else ('image',):
        theirs, ours = (dataclasses.asdict(each.streams[stream]) for each in (before, now))
        changed += [
            f'{stream}.{name}: {theirs[name]!r} there, {value!r} in this config'
            for name, value in ours.items()
            if theirs[name] != value
        ]
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
