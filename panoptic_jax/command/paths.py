"""Paths as people type them: ~ for the home folder, and what cannot be a run's folder or start.

What disks refuse later, while something is written, is explained by `machine/disk.py`.
"""

import os

from etils import epath

from panoptic_jax.machine import files, shipped


def expanded(path: str, name: str) -> str:
    """A path with the home folder in the place of a leading ~ or ~USER.

    Variables such as $HOME stay as they are: a shell replaces them where they are meant.

    Args:
      path: Any path; one of a bucket has no home folder.
      name: The setting or flag that it comes from, for the message.

    Raises:
      ValueError: there is no such user.
    """
    if not path.startswith('~'):
        return path
    whole = os.path.expanduser(path)
    if whole == path:
        user = path.partition('/')[0]
        raise ValueError(
            f'{name} is {path!r}, and there is no home folder of {user!r}; write ./{path} for a '
            'folder of that name.'
        )
    return whole


def require_folder(path: str, name: str, *, writes: bool) -> None:
    """Refuses a path that is no folder and cannot become one; nothing is made.

    Args:
      path: A path; those of buckets are not looked at.
      name: The setting or flag that it comes from, for the message.
      writes: Whether something is going to be written there.

    Raises:
      ValueError: a file is in the way, or the folder, or the one to make it in, is not writable.
    """
    if files.is_remote(path):
        return
    place = os.path.abspath(path)
    # What exists of it; a link to nothing is in the way, too.
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise ValueError(
            f'{name} is {path!r}, but {place} is no folder; it must be a folder, or one that can '
            'be made.'
        )
    if writes and not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f'{name} is {path!r}, but {place} cannot be written to by this user; it must be a '
            'folder to write in.'
        )


def require_start(path: str, workdir: str, *, network: str) -> None:
    """Refuses to begin a training whose initial weights are missing, before anything is loaded.

    Args:
      path: The setting init_weights; '' starts from nothing.
      workdir: The run's folder. Where it holds a checkpoint, that is the start.
      network: The model's name, such as 'two_stream'.

    Raises:
      ValueError: there is no such file; the sentence says how to get it.
    """
    # Whether the Hub has a file, only a download says.
    comes_later = path.startswith('hf://') or shipped.path_of(path)
    if not path or comes_later or epath.Path(path).exists():
        return
    checkpoints = epath.Path(workdir) / 'checkpoints'
    if checkpoints.is_dir() and any(step.name.isdigit() for step in checkpoints.iterdir()):
        return
    if network == 'two_stream':
        ways = (
            'a two-stream model starts from a U-ViT. Import the published one (--config=uvit '
            '--workdir=runs/uvit --mode=import --config.foreign.path=mscoco_uvit_small.pth), or '
            'train one (--config=uvit --workdir=runs/uvit) and export it (the same with '
            '--mode=export), or name another file with --config.init_weights=FILE.'
        )
    else:
        ways = (
            'it must be a weights.safetensors of --mode=export or --mode=import, a name in the '
            f"package ({', '.join(shipped.names())}), or '' to start from random weights."
        )
    raise ValueError(f'init_weights is {path!r}. There is no weights file of that name; {ways}')
