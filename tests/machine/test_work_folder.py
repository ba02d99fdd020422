"""A folder that a job fills: whose it is, and how far its job is."""

import json
import random

import pytest

from panoptic_jax.machine.work_folder import WorkFolder, own_share


@pytest.fixture
def folder(tmp_path):
    return WorkFolder(tmp_path / 'new' / 'folder', claim='claim.json', seal='seal.json')


def accept(found):
    """Any job may use the folder."""


def test_the_first_job_claims_the_folder_with_its_promise(folder):
    asked = []
    assert not folder.is_begun()
    assert folder.begin({'seed': 3}, asked.append)
    assert asked == [None]
    assert json.loads((folder.path / 'claim.json').read_text()) == {'seed': 3}
    assert folder.is_begun()
    assert not folder.is_finished()


def test_a_job_that_is_refused_leaves_nothing(folder):
    def refuse(found):
        raise ValueError('not here')

    with pytest.raises(ValueError, match='not here'):
        folder.begin({'seed': 3}, refuse)
    assert not folder.path.exists()


def test_a_later_job_sees_what_was_promised(folder):
    folder.begin({'seed': 3}, accept)
    asked = []
    assert folder.begin({'seed': 4}, asked.append)
    assert asked == [{'seed': 3}]
    assert json.loads((folder.path / 'claim.json').read_text()) == {'seed': 3}


@pytest.mark.parametrize('claim_stays', [True, False])
def test_a_sealed_folder_has_no_work_left(folder, claim_stays):
    folder.begin({'seed': 3}, accept)
    (folder.path / 'seal.json').write_text('{"seed": 5}')
    if not claim_stays:
        (folder.path / 'claim.json').unlink()
    asked = []
    assert folder.is_finished()
    assert not folder.begin({'seed': 3}, asked.append)
    assert asked == [{'seed': 3 if claim_stays else 5}]


def test_the_first_process_finishes_once_all_parts_are_there(folder):
    folder.begin({}, accept)
    present, asked = set(), []

    def look():
        asked.append(len(present))
        present.add(len(present))
        return present

    assert folder.wait_for_parts(range(1), look, 'parts')
    assert asked == [0]


def test_the_shares_of_all_processes_are_the_whole(monkeypatch):
    parts = random.Random(0).sample(range(100), 23)
    shares = []
    for process in range(4):
        monkeypatch.setattr('jax.process_index', lambda process=process: process)
        monkeypatch.setattr('jax.process_count', lambda: 4)
        shares.append(own_share(parts))
    assert sorted(part for share in shares for part in share) == sorted(parts)
    assert {len(share) for share in shares} == {5, 6}
