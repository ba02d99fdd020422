"""Files that are there whole or not at all, and what is said where a disk refuses them."""

import contextlib
import errno
import os
import resource
import signal

import pytest

from panoptic_jax.machine import files


@contextlib.contextmanager
def small_files():
    """Lets this process write files of 1,000 bytes at most, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / 'new' / 'a [1]*?.json'
    files.write_json(path, {'a': 1})
    files.write_whole(path, 'second')
    assert path.read_text() == 'second'
    assert [*path.parent.iterdir()] == [path]


def test_a_refused_file_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / 'file'
    files.write_whole(path, 'old')
    with (
        small_files(),
        pytest.raises(ValueError, match='file is larger than its disk or the limit'),
    ):
        files.write_whole(path, os.urandom(5000))
    assert path.read_text() == 'old'
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_writer_leaves_nothing(tmp_path):
    def fail():
        with files.appearing(tmp_path / 'file') as unfinished:
            with open(unfinished, 'w') as file:
                file.write('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not [*tmp_path.iterdir()]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with files.appearing(tmp_path / 'file') as first, files.appearing(tmp_path / 'file') as second:
        for name in (first, second):
            with open(name, 'w') as file:
                file.write(name)
    assert (tmp_path / 'file').read_text() == first


def test_unfinished_files_alone_are_removed(tmp_path):
    for name in ('a.json', 'a.json.0f.tmp', 'b.tmp'):
        (tmp_path / name).write_text(name)
    (tmp_path / 'folder.tmp').mkdir()
    files.remove_unfinished(tmp_path)
    files.remove_unfinished(tmp_path / 'missing')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.json', 'folder.tmp']


def said(code, path, size=None):
    return str(files.explained(OSError(code, os.strerror(code)), path, size))


def test_a_full_disk_is_explained_with_folder_and_bytes(tmp_path):
    sentence = said(errno.ENOSPC, tmp_path / 'new' / 'shard', 1234567)
    assert (
        f'The disk of the folder {tmp_path} is full: shard takes at least 1,234,567 bytes'
        in sentence
    )
    assert 'bytes are free; make room, and run the same command again' in sentence
    assert 'shard was not written' in said(errno.EDQUOT, tmp_path / 'shard')


@pytest.mark.parametrize(
    ('code', 'words'),
    [
        (errno.EROFS, 'its disk is read-only; choose another folder'),
        (errno.EACCES, 'this user has no permission'),
        (errno.EIO, 'cannot be read or written: Input/output error'),
        (errno.ENAMETOOLONG, 'cannot be read or written: File name too long'),
    ],
)
def test_other_refusals_are_explained(tmp_path, code, words):
    sentence = said(code, tmp_path / 'file')
    assert sentence.startswith(str(tmp_path / 'file'))
    assert words in sentence


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'file is a file where a folder should be'):
        files.write_whole(tmp_path / 'file' / 'a', 'x')
    with pytest.raises(ValueError, match=r'link is a link to .*nowhere, which does not exist'):
        files.write_whole(tmp_path / 'link' / 'a', 'x')


def test_words_of_other_libraries_are_understood(tmp_path):
    def fail(words):
        with files.explaining(tmp_path / 'shard', 7):
            raise RuntimeError(words)

    with pytest.raises(ValueError, match='is full: shard takes at least 7 bytes'):
        fail('write() failed: No space left on device; writing x; at byte 1048576')
    with pytest.raises(RuntimeError, match='another matter'):
        fail('another matter')


def test_a_bucket_path_that_is_a_pattern_is_refused():
    with pytest.raises(ValueError, match=r'gs://bucket/run\[1\] has one of'):
        files.connect('gs://bucket/run[1]')
