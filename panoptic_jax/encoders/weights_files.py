"""Where a weights file lies: at a path, in this package, or where the Hugging Face Hub delivers it.

`encoders/torch_layout.py` reads what is inside of published files, `weights/file.py` reads ours.
"""

import os
import re
from pathlib import Path

from panoptic_jax.machine import shipped

_HUB = 'hf://'


def locate(path: str, field: str, what: str) -> str:
    """The local path of a file, downloaded into the Hub's own cache where it is not there yet.

    Args:
      path: What `address` takes, but no bucket.
      field: Name of the setting that `path` comes from, for messages.
      what: The file in words, for messages.

    Raises:
      FileNotFoundError: there is no such file, or it cannot be downloaded.
      ValueError: the path begins with hf:// but does not have the Hub's form.
    """
    found = address(path, field)
    if not found or not Path(found).is_file():
        raise FileNotFoundError(
            f'{field} is {path!r}, and there is no such file; give the path of {what}.'
        )
    return found


def address(path: str, field: str) -> str:
    """A path in the place of a name in this package or of an hf:// address; others stay.

    Args:
      path: A path, a name of `shipped.names`, or 'hf://OWNER/NAME/FILE', with '@REVISION' after
        the name for another revision than the newest.
      field: Name of the setting that `path` comes from, for messages.

    Raises:
      FileNotFoundError: the Hub cannot deliver the file.
      ValueError: the path begins with hf:// but does not have the Hub's form.
    """
    if not path.startswith(_HUB):
        return shipped.path_of(path) or path
    repository, revision, name = _parts(path, field)
    # Imported here, so that runs from local files need neither the package's time nor a network.
    import huggingface_hub
    from huggingface_hub import errors

    # A missing network, a missing file and a full disk come as these three.
    try:
        return huggingface_hub.hf_hub_download(repository, name, revision=revision)
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        raise FileNotFoundError(
            f'{field} is {path!r}, which could not be downloaded ({reason}); where there is no '
            f'network, put {os.path.basename(name)} of {repository} somewhere and give its path.'
        ) from error


def locate_if_there(path: str, field: str) -> str:
    """The local path of a file that may be missing, and then ''.

    Args:
      path: A local path or hf:// address, see `locate`.
      field: Name of the setting that `path` comes from, for messages.
    """
    try:
        return locate(path, field, 'the file')
    except FileNotFoundError:
        return ''


def _parts(address: str, field: str) -> tuple[str, str | None, str]:
    """Repository, revision and file of an hf:// address."""
    parts = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?/([\w./-]+)', address)
    if not parts:
        raise ValueError(f'{field} is {address!r}; on the Hub it must be hf://OWNER/NAME/FILE.')
    return parts[1], parts[2], parts[3]
