"""The last line of a sampling job: what became of its requests.

`export/stores.py` and `export/sample_tars.py` keep the pairs.
"""

from collections.abc import Mapping, Sequence

from absl import logging

from panoptic_jax.data.requests import Rejected, Request
from panoptic_jax.export import sample_claim, sample_selection
from panoptic_jax.export.sample_tars import TarStore
from panoptic_jax.export.stores import FolderStore

Store = FolderStore | TarStore


def report(
    store: Store,
    asked: Mapping[int, Request],
    rejected: Sequence[Rejected],
    *,
    was_finished: bool,
) -> None:
    """Says in the last line what became of the requests.

    Args:
      store: Finished.
      asked: {number: request} of the job.
      rejected: Lines of the requests that are wrong.
      was_finished: Whether the job had nothing to do.

    Raises:
      FloatingPointError: some pairs could not be drawn.
    """
    failed = {number: why for number, why in store.failed().items() if number in asked}
    logging.info(
        '%s%s: %s, %s rejected%s. %s',
        store.folder,
        ' is finished already' if was_finished else '',
        _counted(len(asked) - len(failed), 'pair'),
        _counted(len(rejected), 'line'),
        f' (see {store.folder / sample_claim.REJECTED})' if rejected else '',
        sample_selection.sentence(store.folder),
    )
    if len(asked) == 1 and not failed:
        logging.info('The pair is %s.', store.where(*asked))
    if failed:
        number, reason = next(iter(failed.items()))
        raise FloatingPointError(
            f'{len(failed)} of {len(asked)} pairs could not be drawn, the first of them {number}, '
            f'and the others are there; --config.sample.redo=failed draws them again. {reason}'
        )


def _counted(count: int, word: str) -> str:
    return f'{count} {word}' if count == 1 else f'{count} {word}s'
