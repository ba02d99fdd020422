"""Paths as people type them: ~, files in the way, missing initial weights."""

import os
import re

import pytest

from panoptic_jax import config as settings
from panoptic_jax.command import fields, paths
from panoptic_jax.logs import environment


@pytest.mark.parametrize(
    'path', ['', 'runs/a', 'gs://bucket/~', './~', 'a/~/b', '$HOME/x', '[a]~', '/x/~root']
)
def test_paths_without_a_leading_tilde_stay_as_they_are(path):
    assert paths.expanded(path, 'workdir') == path


def test_a_tilde_is_the_home_folder_and_that_of_a_user(monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    assert paths.expanded('~', 'workdir') == '/home/somebody'
    assert paths.expanded('~/runs/[1]', 'workdir') == '/home/somebody/runs/[1]'
    assert paths.expanded('~root/x', 'workdir') == os.path.expanduser('~root') + '/x'
    with pytest.raises(ValueError, match=r"data\.dir is '~nobody1/x', and .* '~nobody1'; write"):
        paths.expanded('~nobody1/x', 'data.dir')


def test_a_tilde_is_expanded_in_every_setting_that_is_a_path(monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    config = settings.default()
    before = environment.flat(config.to_dict())
    texts = [name for name, value in before.items() if isinstance(value, str)]
    are_paths = {name for name in texts if ' path of one line' in fields.FIELDS[name].expected}
    assert set(fields.PATHS) == are_paths
    config.update_from_flattened_dict({name: f'~/{name}' for name in fields.PATHS})
    config.lock()
    expanded = settings.with_home(config)
    assert expanded.is_locked
    settings.check(expanded)
    after = environment.flat(expanded.to_dict())
    assert after == before | {name: f'/home/somebody/{name}' for name in fields.PATHS}
    assert config.data.dir == '~/data.dir'  # the caller's config stays as it is


def test_folders_that_can_be_made_are_taken_and_nothing_is_made(tmp_path):
    for name in ('', 'new', 'a/b/c', 'runs [1]/*', 'Größe'):
        paths.require_folder(str(tmp_path / name), 'The workdir', writes=True)
    paths.require_folder('gs://bucket/x', 'The workdir', writes=True)
    (tmp_path / 'link').symlink_to(tmp_path)
    paths.require_folder(str(tmp_path / 'link' / 'x'), 'The workdir', writes=True)
    assert {path.name for path in tmp_path.iterdir()} == {'link'}


def test_a_file_or_a_broken_link_in_the_way_is_named(tmp_path):
    file, link = tmp_path / 'file', tmp_path / 'link'
    file.touch()
    link.symlink_to(tmp_path / 'nothing')
    for path, culprit in ((file, file), (file / 'x' / 'y', file), (link, link), (link / 'x', link)):
        expected = f'data.dir is {str(path)!r}, but {culprit} is no folder; it must be a folder'
        with pytest.raises(ValueError, match=f'^{re.escape(expected)}'):
            paths.require_folder(str(path), 'data.dir', writes=False)


def test_a_folder_without_the_right_to_write_is_refused_where_the_mode_writes(
    tmp_path, monkeypatch
):
    # The tests may run as a user who may do everything.
    monkeypatch.setattr(paths.os, 'access', lambda path, mode: not mode & os.W_OK)
    with pytest.raises(ValueError, match=f'but {tmp_path} cannot be written to'):
        paths.require_folder(str(tmp_path / 'run'), 'The workdir', writes=True)
    paths.require_folder(str(tmp_path / 'run'), 'The workdir', writes=False)


def test_missing_initial_weights_are_refused_unless_the_run_has_begun(tmp_path):
    path, workdir = str(tmp_path / 'weights.safetensors'), tmp_path / 'run [1]'
    for network in ('one_stream', 'two_stream', 'uvit'):
        with pytest.raises(ValueError, match=r'^init_weights is .*There is no weights file'):
            paths.require_start(path, str(workdir), network=network)
    with pytest.raises(ValueError, match=r'--mode=import --config\.foreign\.path=.*--mode=export'):
        paths.require_start(path, str(workdir), network='two_stream')
    # The folder alone, or what an unfinished save left, is no checkpoint.
    (workdir / 'checkpoints' / '00000004.orbax-checkpoint-tmp').mkdir(parents=True)
    with pytest.raises(ValueError, match='There is no weights file'):
        paths.require_start(path, str(workdir), network='two_stream')
    (workdir / 'checkpoints' / '00000002').mkdir()
    paths.require_start(path, str(workdir), network='two_stream')
    paths.require_start('', str(tmp_path), network='uvit')
    (tmp_path / 'weights.safetensors').touch()
    paths.require_start(path, str(tmp_path), network='two_stream')
