"""A folder that a job fills part by part: claimed first, finished last, taken up after a kill.

Prepared data are a folder of this kind; what its parts are stands in `preparation/claim.py`.
Samples folders, which a larger job extends, have `export/sample_claim.py`. Processes meet in
`machine/hosts.py`.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from etils import epath

from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption

Part = TypeVar('Part')


class WorkFolder(NamedTuple):
    """One folder and the two files that say how far its job is.

    Attributes:
      path: The folder.
      claim: Name of the JSON file that is written first: what the folder is going to hold.
      seal: Name of the file that is written last: its presence means that everything is there.
    """

    path: epath.Path
    claim: str
    seal: str

    def is_begun(self) -> bool:
        """Whether a job has claimed the folder, or finished it."""
        return any((self.path / name).exists() for name in (self.claim, self.seal))

    def is_finished(self) -> bool:
        """Whether everything is there."""
        return (self.path / self.seal).exists()

    def begin(
        self, promise: Mapping[str, Any], check: Callable[[Mapping[str, Any] | None], None]
    ) -> bool:
        """Claims the folder for a job, or takes up an unfinished job; process 0 comes first.

        Args:
          promise: What the folder is going to hold, JSON-able.
          check: Gets the promise that the folder was claimed with, or None where nobody has
            claimed it. Raises ValueError where the job must not use the folder.

        Returns:
          Whether there is work to do: False if the folder is finished.
        """
        # The other processes compare with what process 0 has written, so that no two claims differ.
        if jax.process_index():
            hosts.wait_for(self.is_begun, f'process 0 to begin {self.path}')
        claim = self.path / self.claim
        if not self.is_begun():
            nobody = None
            check(nobody)
            self.path.mkdir(parents=True, exist_ok=True)
            files.write_json(claim, promise)
            return True
        check(self.promise())
        return not self.is_finished()

    def promise(self) -> dict[str, Any] | None:
        """What the folder was claimed for; None where nobody has claimed it.

        Raises:
          ValueError: the file is damaged.
        """
        if not self.is_begun():
            return None
        claim = self.path / self.claim
        # The claim may be gone once the seal, which then repeats it, is there.
        path = claim if claim.exists() else self.path / self.seal
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f'{path} is damaged ({error}); restore it, or delete the folder {self.path}.'
            ) from error
        if not isinstance(content, dict):
            raise ValueError(f'{path} is none of ours; restore it, or delete {self.path}.')
        return content

    def wait_for_parts(
        self,
        parts: Sequence[Part],
        present: Callable[[], Collection[Part]],
        what: str,
        interruption: Interruption = UNINTERRUPTED,
    ) -> bool:
        """Waits until the processes of the job have made all parts.

        Args:
          parts: All parts of the job.
          present: Lists the parts that are there.
          what: Names the parts for the log, such as 'the shards of other processes'.
          interruption: Ends the waiting, too.

        Returns:
          Whether this process has to finish the folder. It is the first one; the other processes
          have waited until the folder was finished.
        """
        if jax.process_index():
            hosts.wait_for(self.is_finished, f'process 0 to finish {self.path}', interruption)
            return False
        # Parts are listed again and again: other processes do not report what they finish.
        hosts.wait_for(lambda: set(present()) >= set(parts), what, interruption)
        return True


def own_share(parts: Sequence[Part]) -> Sequence[Part]:
    """Every n-th part, beginning with this process's number, where n processes share the work."""
    return parts[jax.process_index() :: jax.process_count()]
