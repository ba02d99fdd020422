"""A folder that a job fills part by part: claimed first, finished last, taken up after a kill.

Prepared data and samples are folders of this kind. What their parts are and how a part is written
stands in `prepare.py` and `export/samples.py`; processes meet in `machine/hosts.py`.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from etils import epath

from panoptic_jax.machine import files, hosts

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
        # The claim may be gone once the seal, which then repeats it, is there.
        promised = claim if claim.exists() else self.path / self.seal
        check(json.loads(promised.read_text()))
        return not self.is_finished()

    def wait_for_parts(
        self, parts: Sequence[Part], present: Callable[[], Collection[Part]], what: str
    ) -> bool:
        """Waits until the processes of the job have made all parts.

        Args:
          parts: All parts of the job.
          present: Lists the parts that are there.
          what: Names the parts for the log, such as 'the shards of other processes'.

        Returns:
          Whether this process has to finish the folder. It is the first one; the other processes
          have waited until the folder was finished.
        """
        if jax.process_index():
            hosts.wait_for(self.is_finished, f'process 0 to finish {self.path}')
            return False
        # Parts are listed again and again: other processes do not report what they finish.
        hosts.wait_for(lambda: set(present()) >= set(parts), what)
        return True


def own_share(parts: Sequence[Part]) -> Sequence[Part]:
    """Every n-th part, beginning with this process's number, where n processes share the work."""
    return parts[jax.process_index() :: jax.process_count()]
