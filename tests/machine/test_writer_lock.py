"""One writer for each folder: second jobs are refused, and a kill frees the lock."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import storage_server

from panoptic_jax.machine import files, hosts, writer_lock, writer_marker
from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.machine.writer_lock import writing

ROOT = Path(__file__).parents[2]
# A process that holds a lock until it is killed.
HOLD = """
import sys, time
from panoptic_jax.machine.writer_lock import writing
with writing(sys.argv[1], 'training'):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope='module')
def bucket():
    with storage_server.serve('locks') as port, pytest.MonkeyPatch.context() as patch:
        for name, value in storage_server.point_to(port).items():
            patch.setenv(name, value)
        files.connect('gs://locks')
        yield 'gs://locks'


@pytest.fixture(params=['local', 'bucket'])
def folder(request, tmp_path):
    """A folder that does not exist yet, on the disk and in a bucket."""
    if request.param == 'local':
        return tmp_path / 'run [1]'
    return f'{request.getfixturevalue("bucket")}/{request.node.originalname}/run ü'


@pytest.fixture
def lively(monkeypatch):
    """Markers are renewed and watched several times a second."""
    monkeypatch.setattr(writer_marker, '_RENEW_SECONDS', 0.2)
    monkeypatch.setattr(writer_marker, '_LOOK_SECONDS', 0.1)


@pytest.fixture
def quick(lively, monkeypatch):
    """They are given up in a fraction of a second, too."""
    monkeypatch.setattr(writer_marker, '_STALE_SECONDS', 0.6)


def take(folder, what='training'):
    with writing(folder, what):
        return True


def test_a_second_job_is_refused_by_name(folder, lively):
    with writing(folder, 'preparation'):
        message = (
            rf'Another preparation \(process {os.getpid()} on .*, since 20..-.*\) writes into '
        )
        with pytest.raises(ValueError, match=message + re.escape(str(folder))):
            take(folder)
        # Nor does the one who was refused free the lock of the other.
        with pytest.raises(ValueError, match='Another preparation'):
            take(folder)
    assert take(folder)


def test_a_failed_job_frees_the_lock(folder):
    with pytest.raises(KeyError), writing(folder, 'preparation'):
        raise KeyError
    assert take(folder)


def test_a_killed_job_frees_the_lock_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=rf'Another training \(process {process.pid} on '):
        take(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert take(tmp_path)


def test_a_marker_of_a_process_that_is_gone_is_taken_at_once(bucket):
    gone = subprocess.Popen(['true'])
    gone.wait()
    left = writer_marker.owner('training') | {'process': gone.pid, 'renewed': time.time()}
    files.write_json(f'{bucket}/gone/writer.lock', left)
    started = time.monotonic()
    assert take(f'{bucket}/gone')
    assert time.monotonic() - started < 10


def test_folders_do_not_share_a_lock(tmp_path):
    with writing(tmp_path / 'a', 'training'):
        assert take(tmp_path / 'b')


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ValueError, match=r'file is a file where a folder should be'):
        take(tmp_path / 'file' / 'run')


def test_a_marker_of_another_machine_goes_stale(bucket, quick):
    path = f'{bucket}/stale/writer.lock'
    left = writer_marker.owner('training') | {'machine': 'elsewhere', 'renewed': time.time()}
    files.write_json(path, left)
    started = time.monotonic()
    assert take(f'{bucket}/stale')
    assert time.monotonic() - started > 0.4


@pytest.mark.parametrize('content', ['', '[]', 'half of {', json.dumps({'renewed': 0})])
def test_a_damaged_marker_goes_stale_too(bucket, quick, content):
    files.write_whole(f'{bucket}/damaged/writer.lock', content)
    assert take(f'{bucket}/damaged')


def test_a_wait_for_a_marker_can_be_interrupted(bucket, quick):
    left = writer_marker.owner('training') | {'machine': 'elsewhere', 'renewed': time.time()}
    files.write_json(f'{bucket}/waiting/writer.lock', left)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        lock = writing(f'{bucket}/waiting', 'training', interruption)
        with pytest.raises(Interrupted):
            lock.__enter__()


def test_a_job_whose_marker_was_taken_ends(bucket, quick):
    with Interruption() as interruption, writing(f'{bucket}/lost', 'training', interruption):
        files.write_json(f'{bucket}/lost/writer.lock', writer_marker.owner('preparation'))
        wait_until(interruption.asked)
    assert 'preparation' in files.epath.Path(f'{bucket}/lost/writer.lock').read_text()


def wait_until(done):
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def two_processes(monkeypatch):
    """Two processes of one job are played by two threads."""
    index = threading.local()
    monkeypatch.setattr('jax.process_count', lambda: 2)
    monkeypatch.setattr('jax.process_index', lambda: getattr(index, 'value', 0))
    monkeypatch.setattr(writer_lock, '_LOCAL_SECONDS', 0.02)
    told, number_known = [], threading.Event()

    def of_first(number):
        if not getattr(index, 'value', 0):
            told.append(number)
            number_known.set()
        assert number_known.wait(10)
        return told[0]

    monkeypatch.setattr(hosts, 'of_first', of_first)

    def run(folder, work):
        """Results or errors of `work(index, interruption)` inside the lock, for each process."""
        results = [None, None]
        told.clear()
        number_known.clear()

        def process(number):
            index.value = number
            with Interruption() as interruption:
                try:
                    with writing(folder, 'preparation', interruption):
                        results[number] = work(number, interruption)
                except Exception as error:
                    results[number] = error

        threads = [threading.Thread(target=process, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    return run


def test_the_processes_of_a_job_share_the_lock(tmp_path, two_processes):
    met = threading.Barrier(2)

    def work(number, interruption):
        met.wait(10)
        return number

    assert two_processes(tmp_path, work) == [0, 1]


@pytest.mark.parametrize('told', [0, 1])
def test_the_interruption_of_one_process_is_that_of_all(tmp_path, two_processes, told):
    def work(number, interruption):
        if number == told:
            interruption.ask()
        wait_until(interruption.asked)
        interruption.leave_if_asked()

    assert [type(result) for result in two_processes(tmp_path, work)] == [Interrupted] * 2
    # The note is for that job alone.
    assert (tmp_path / 'writer.stop').exists()
    with writing(tmp_path, 'preparation'):
        assert not (tmp_path / 'writer.stop').exists()


def test_a_refusal_reaches_all_processes(tmp_path, two_processes):
    with writing(tmp_path, 'training'):
        results = two_processes(tmp_path, lambda number, interruption: 'worked')
    assert [type(result) for result in results] == [ValueError] * 2
    assert 'Another training' in str(results[0])
