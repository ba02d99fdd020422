"""Workdir, data and samples in a bucket, by HTTP to a server on loopback: equal to local ones.

Three processes are killed (-9) while they send: in preparing, in training and in sampling.
"""

import io
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fsspec
import jax
import numpy as np
import one_device
import pytest
import sample_folders
import storage_server
from conftest import ROOT, TIMES, tiny_config
from etils import epath
from PIL import Image
from tensorboardX.proto import event_pb2

from panoptic_jax import export_weights, prepare
from panoptic_jax.data import folder as captioned
from panoptic_jax.data import loader, scene_words, shard_copies, shards
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import records, sample_selection
from panoptic_jax.export.layout import Layout
from panoptic_jax.logs import clock, dashboards, event_files, json_lines
from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import Interruption
from panoptic_jax.scoring.features import Features, Images
from panoptic_jax.scoring.networks import Networks
from panoptic_jax.scoring.reference import Reference, folders_of, statistics_of
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import steps as saved_steps
from panoptic_jax.weights import trained as trained_weights

BUCKET = 'gs://bucket'
RUN = f'{BUCKET}/deep/run'
DATA = f'{BUCKET}/deep/data'
COPIES = 'gs/bucket/deep/data/images/1.0.0'  # where a cache has the copies of image shards
# What differs between equal runs.
UNEQUAL = (*TIMES, 'memory/host_bytes_in_use')


@pytest.fixture(scope='module')
def server():
    """The port of a server with an empty bucket, which this process works with."""
    with storage_server.serve('bucket') as port, pytest.MonkeyPatch.context() as patch:
        for name, value in storage_server.point_to(port).items():
            patch.setenv(name, value)
        files.connect(BUCKET)
        yield port


@pytest.fixture(scope='module')
def kill(server):
    """kill(job, config, name): runs a job elsewhere until it is about to send an object."""
    # Forks of a process that has imported everything and not begun: three starts for one.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_remote'])

    def run_until(job, config, name):
        line = storage_server.DeadlyLine(server, f'"deep/{name}"'.encode())
        go = context.Event()
        process = context.Process(target=job_elsewhere, args=(job, config, line.port, go))
        process.start()
        line.victim = process.pid
        go.set()
        process.join(120)
        line.close()
        assert process.exitcode == -signal.SIGKILL

    return run_until


def job_elsewhere(job, config, port, go):
    """What the killed processes do."""
    os.environ.update(storage_server.point_to(port))
    go.wait()
    files.connect(BUCKET)
    job(config, RUN)


def prepare_data(config, workdir):
    one_device.prepare(config)


@pytest.fixture(scope='module')
def remote_config(tmp_path_factory):
    """`tiny_config` with its data in the bucket and their copies in a folder of this module."""
    config = tiny_config(DATA)
    config.data.cache = str(tmp_path_factory.mktemp('cache'))
    return config


@pytest.fixture(scope='module')
def prepared(server, kill, remote_config):
    """What was there after a kill, as {name: (bytes, time)}; the preparation is finished since."""
    kill(prepare_data, remote_config, 'data/images/1.0.0/images-train.array_record-00001-of-00002')
    before = {
        name: value
        for dataset in ('images', 'captions')
        for name, value in files.sizes_and_times(f'{DATA}/{dataset}/1.0.0').items()
    }
    prepare.prepare(remote_config)
    return before


@pytest.fixture(scope='module')
def local_run(tmp_path_factory, scenes):
    """(workdir, config) of an unbroken local run, its samples, evaluation and exported weights."""
    workdir, config = tmp_path_factory.mktemp('local'), tiny_config(scenes)
    settings(config)
    assert one_device.train(config, workdir)
    one_device.evaluate(config, workdir)
    export_weights.export_weights(config, str(workdir))
    return workdir, config


def settings(config):
    config.checkpoint_every = 2
    config.validate_every = 4


@pytest.fixture(scope='module')
def remote_run(prepared, kill, remote_config):
    """A run in the bucket, killed while it saved step 6, and stopped after step 7 by a SIGTERM."""
    settings(remote_config)
    kill(one_device.train, remote_config, 'run/checkpoints/00000006/commit_success.txt')
    unfinished = contents(f'{RUN}/checkpoints/00000006')
    assert 'state/manifest.ocdbt' in unfinished
    assert 'commit_success.txt' not in unfinished
    write = dashboards.Writers.write

    def stop_at_6(self, step, scalars):
        write(self, step, scalars)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, Interruption() as interruption:
        # The signal comes while step 7 runs.
        patch.setattr(dashboards.Writers, 'write', stop_at_6)
        assert not one_device.train(remote_config, RUN, interruption=interruption)
    assert one_device.train(remote_config, RUN)
    return RUN


def contents(folder):
    """{path below the folder: bytes} of all objects."""
    storage, name = fsspec.core.url_to_fs(folder, finalize_on_close=True)
    return {path.removeprefix(f'{name}/'): storage.cat_file(path) for path in storage.find(name)}


def local_contents(folder):
    """The same of a local folder, whose locks stay."""
    paths = [path for path in folder.rglob('*') if path.is_file() and path.name != 'writer.lock']
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_equal_folders(found, expected, except_for=()):
    """Two dicts of contents must have the same names and, but for some of these, the same bytes."""
    assert found.keys() == expected.keys()
    for name in expected.keys() - set(except_for):
        assert found[name] == expected[name], name


def lines(workdir, name):
    found = json_lines.read(epath.Path(workdir) / name)
    return [{key: value for key, value in line.items() if key not in UNEQUAL} for line in found]


# --- Data.


def test_preparation_goes_on_after_a_kill(prepared):
    done = 'images-train.array_record-00000-of-00002'
    assert done in prepared
    assert 'captions-train.array_record-00001-of-00002' in prepared
    assert 'images-train.array_record-00001-of-00002' not in prepared  # in the midst of it
    assert files.sizes_and_times(f'{DATA}/images/1.0.0')[done] == prepared[done]  # not made again


def test_killed_preparation_equals_a_local_one(prepared, scenes):
    assert_equal_folders(contents(DATA), local_contents(scenes))


def test_broken_off_copies_leave_nothing_behind(prepared, tmp_path, monkeypatch):
    def broken_off(path, local):
        Path(local).write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, 'download', broken_off)
        with pytest.raises(KeyboardInterrupt):
            loader.Split(DATA, 'validation', str(tmp_path))
    loader.Split(DATA, 'validation', str(tmp_path))
    (copy,) = (tmp_path / COPIES).iterdir()  # of the split's shards alone
    assert copy.read_bytes() == epath.Path(f'{DATA}/images/1.0.0/{copy.name}').read_bytes()


@pytest.fixture
def copy(prepared, tmp_path):
    """The one copy of the validation split's images."""
    loader.Split(DATA, 'validation', str(tmp_path))
    (copy,) = (tmp_path / COPIES).iterdir()
    return copy


def test_copies_are_taken_once(copy, tmp_path):
    inode = copy.stat().st_ino
    loader.Split(DATA, 'validation', str(tmp_path))
    assert copy.stat().st_ino == inode


def test_copies_are_taken_again_of_a_changed_original(copy, tmp_path):
    split, inode = loader.Split(DATA, 'validation', str(tmp_path)), copy.stat().st_ino
    record = split[3]
    copy.write_bytes(copy.read_bytes()[:-1000])  # its time is another, too
    np.testing.assert_equal(loader.Split(DATA, 'validation', str(tmp_path))[3], record)
    assert copy.stat().st_ino != inode


def test_damaged_copies_are_named_with_their_original(copy, tmp_path):
    """Copies that are damaged but look the same."""
    status = copy.stat()
    copy.write_bytes(bytes(status.st_size))
    os.utime(copy, (status.st_atime, status.st_mtime))
    with pytest.raises(ValueError, match=f'Shard {copy}, a copy of {DATA}/.* is damaged: .*delete'):
        loader.Split(DATA, 'validation', str(tmp_path))


def test_missing_originals_are_named(prepared, tmp_path):
    path = epath.Path(DATA) / 'images/1.0.0' / 'images-validation.array_record-00000-of-00002'
    with pytest.raises(FileNotFoundError, match=f'Shard {path} is missing'):
        shard_copies.local_copies([path], str(tmp_path))


def test_a_full_disk_is_named(prepared, tmp_path, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage(folder)._replace(free=10))
    with pytest.raises(ValueError, match=r'0\.0 GB free, and .*--config\.data\.cache'):
        loader.Split(DATA, 'validation', str(tmp_path))


# --- Training.


@pytest.mark.parametrize(
    ('name', 'steps'), [('metrics.jsonl', [2, 4, 6, 8]), ('validation.jsonl', [4, 8])]
)
def test_killed_training_logs_what_an_unbroken_local_one_does(remote_run, local_run, name, steps):
    found = lines(remote_run, name)
    assert [line['step'] for line in found] == steps
    assert found == lines(local_run[0], name)


def test_killed_training_ends_with_the_weights_of_an_unbroken_local_one(remote_run, local_run):
    ours, theirs = (
        trained_weights.from_checkpoint(str(run), ema=False) for run in (RUN, local_run[0])
    )
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert ours.step == 8


def test_nothing_is_left_of_checkpoints_that_are_not_kept(remote_run):
    steps = {path.split('/')[0] for path in contents(f'{RUN}/checkpoints')}
    assert steps == {'00000007', '00000008'}


def test_unfinished_checkpoint_is_none(remote_run):
    workdir = f'{BUCKET}/unfinished'
    names = contents(f'{RUN}/checkpoints/00000008')
    for name, content in names.items():
        if name != 'commit_success.txt':
            files.write_whole(f'{workdir}/checkpoints/00000008/{name}', content)
    assert saved_steps.numbers(RUN)
    assert not saved_steps.numbers(workdir)
    with pytest.raises(FileNotFoundError, match='unfinished holds no checkpoint'):
        trained_weights.from_checkpoint(workdir, ema=True)
    files.write_whole(f'{workdir}/checkpoints/00000008/commit_success.txt', b'now')
    assert trained_weights.from_checkpoint(workdir, ema=True).step == 8


def steps_in(log):
    return [line['step'] for line in json_lines.read(log)]


def test_log_is_not_written_at_every_step(server):
    path = f'{BUCKET}/rare.jsonl'
    json_lines.JsonLines(path, 0).write(1, {'loss': 0.5})
    assert json_lines.read(path) == []


def test_log_is_in_the_bucket_before_long(server):
    path = f'{BUCKET}/log.jsonl'
    log = json_lines.JsonLines(path, 0, seconds_between_uploads=0.5)
    log.write(1, {'loss': 0.5})
    time.sleep(0.6)
    log.write(2, {'loss': 0.25})
    assert steps_in(path) == [1, 2]
    log.write(3, {'loss': 0.125})
    assert json_lines.JsonLines(path, 1).flush() is None
    assert steps_in(path) == [1]


def test_event_files_come_in_parts_that_make_up_a_whole(server):
    writer = dashboards.TensorBoardWriter(f'{BUCKET}/board', part_bytes=3000)
    random = np.random.default_rng(0)
    for step in range(6):
        writer.write_images(step, {'noise': random.random((32, 32, 3))})
        writer.flush()
        time.sleep(0.2)  # until the writer's own thread has taken it
    writer.close()
    parts = sorted(contents(f'{BUCKET}/board').items())
    assert len(parts) > 2
    assert [name.startswith(parts[0][0]) for name, _ in parts] == [True] * len(parts)
    events = io.BytesIO(b''.join(content for _, content in parts))
    steps = []
    while header := events.read(12):
        event = event_pb2.Event.FromString(events.read(struct.unpack('<Q', header[:8])[0]))
        events.read(4)
        steps += [event.step for value in event.summary.value if value.tag == 'noise']
    assert steps == [0, 1, 2, 3, 4, 5]


def test_bucket_out_of_reach_costs_no_event(server, monkeypatch):
    path = f'{BUCKET}/events'

    from gcsfs.retry import HttpError  # not before the environment is set, which decides its ways

    def out_of_reach(path, content):
        raise HttpError({'message': 'not now', 'code': 503})

    file = event_files.BucketFiles(path)
    file.write(b'one')
    with monkeypatch.context() as patch:
        patch.setattr(files, 'write_whole', out_of_reach)
        file.flush()
    file.write(b'two')
    file.close()
    assert epath.Path(path).read_bytes() == b'onetwo'


def test_profile_ends_up_in_the_bucket(server):
    profiler = clock.ProfilerWindow(f'{BUCKET}/profiled', 1, 1)
    profiler.before_step(1)
    profiler.close()
    names = [*contents(f'{BUCKET}/profiled')]
    assert [name for name in names if name.startswith('tensorboard/plugins/profile/')] == names
    assert any(name.endswith('.xplane.pb') for name in names)


# --- Samples and their evaluation.


@pytest.fixture(scope='module')
def remote_samples(remote_run, kill, remote_config):
    """What was there after a kill, like `prepared`; samples, scores and weights are there since."""
    kill(one_device.sample, remote_config, 'run/samples/parts/00000004.jsonl')
    before = files.sizes_and_times(f'{RUN}/samples/generated')
    assert len(before) == 6
    assert [*files.sizes_and_times(f'{RUN}/samples/parts')] == ['00000000.jsonl']
    one_device.evaluate(remote_config, RUN)  # samples first
    export_weights.export_weights(remote_config, RUN)
    return before


def test_sampling_goes_on_after_a_kill(remote_samples):
    first = '00000000.png'
    after = files.sizes_and_times(f'{RUN}/samples/generated')
    assert after[first] == remote_samples[first]  # not made again


def test_killed_sampling_equals_a_local_job(remote_samples, local_run):
    found, expected = contents(f'{RUN}/samples'), local_contents(local_run[0] / 'samples')
    assert len([name for name in found if name.endswith('.png')]) == 18
    # The page has the loss curve with its times.
    assert_equal_folders(found, expected, except_for={'report.html'})


@pytest.mark.parametrize('name', ['metrics.json', 'weights.safetensors'])
def test_scores_and_exported_weights_equal_local_ones(remote_samples, local_run, name):
    assert epath.Path(f'{RUN}/{name}').read_bytes() == (local_run[0] / name).read_bytes()


def test_exported_weights_are_read_from_a_bucket(remote_samples):
    weights = weights_file.load(f'{RUN}/weights.safetensors')
    assert weights.description.origin['step'] == 8


@pytest.fixture
def features(server, request):
    """(features of five random pictures, sizes of the network's batches, the right features)."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 256, 256, 3), np.uint8)
    asked = []

    def network(images):
        asked.append(len(images))
        return images.reshape(len(images), -1)[:, :3].astype(np.float32)

    def opened():
        return Features(
            [f'{BUCKET}/features/{request.node.name}'],
            Networks(
                network,
                clip_images=None,
                clip_captions=None,
                hashes={'inception': 'f00'},
                missing={},
                block=2,
            ),
            Images(5, image=lambda i: pictures[i], name=str, identity='random'),
            chunk=3,
        )

    return opened, asked, pictures.reshape(5, -1)[:, :3]


def test_features_of_pictures_are_kept(features):
    opened, asked, expected = features
    for _ in range(2):
        found = np.concatenate([*opened().chunks('inception')])
        np.testing.assert_array_equal(found, expected)
    assert asked == [2, 1, 2]


def test_statistics_of_pictures_are_kept(features):
    (folder,) = folders_of(f'{BUCKET}/data', f'{BUCKET}/run')
    assert not files.sizes_and_times(folder)  # what tried to write there is gone

    def reference():
        path = folder / 'statistics.npz'
        return Reference(features[0](), provenance={'of': 'random'}, paths=[path])

    statistics = statistics_of(reference())
    asked = len(features[1])
    again = statistics_of(reference())
    np.testing.assert_array_equal(again.mean, statistics.mean)
    assert len(features[1]) == asked


# --- Buckets.


def test_what_others_write_is_seen(server):
    folder = epath.Path(f'{BUCKET}/others')
    (folder / 'first').write_text('1')
    assert [path.name for path in folder.iterdir()] == ['first']
    address = f'http://127.0.0.1:{server}/upload/storage/v1/b/bucket/o?uploadType=media'
    request = urllib.request.Request(f'{address}&name=others/second', b'22', method='POST')
    urllib.request.urlopen(request).close()
    assert sorted(path.name for path in folder.iterdir()) == ['first', 'second']
    assert {name: size for name, (size, _) in files.sizes_and_times(folder).items()} == {
        'first': 1,
        'second': 2,
    }
    assert files.sizes_and_times(f'{BUCKET}/nowhere') == {}


def test_large_files_are_sent_and_fetched_in_parts(server, tmp_path):
    content = np.random.default_rng(0).bytes(60 * 2**20)  # gcsfs's parts are 50 MiB
    (tmp_path / 'there').write_bytes(content)
    files.upload(tmp_path / 'there', f'{BUCKET}/large')
    files.download(f'{BUCKET}/large', tmp_path / 'back')
    assert (tmp_path / 'back').read_bytes() == content


def test_broken_off_write_leaves_the_old_object(server):
    path = epath.Path(f'{BUCKET}/data/images/shard')
    features = shards.caption_features(2, 3)
    record = {'text': np.ones((2, 3), np.float16), 'caption': 'a', 'image_id': 1}
    shards.write_shard(path, features, [record])
    before = path.read_bytes()

    def broken():
        yield record
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(path, features, broken())
    assert path.read_bytes() == before


def test_pictures_are_read_from_a_bucket(server, tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        content = io.BytesIO()
        pixels = random.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(content, format='PNG')
        (tmp_path / 'train').mkdir(exist_ok=True)
        for folder in (str(tmp_path), f'{BUCKET}/pictures'):
            files.write_whole(f'{folder}/train/{number}.png', content.getvalue())
            files.write_whole(f'{folder}/train/{number}.txt', f'picture {number}')
    here, there = (
        captioned.CaptionedFolder(str(folder), 'train', 0)
        for folder in (tmp_path, f'{BUCKET}/pictures')
    )
    assert len(there) == 3
    for ours, theirs in zip(there, here, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        assert ours.captions == theirs.captions


def test_unknown_buckets_are_refused(server):
    with pytest.raises(ValueError, match=r'The bucket gs://nobody cannot be used .*credentials'):
        files.connect('gs://nobody/run')


def test_other_schemes_are_refused():
    with pytest.raises(ValueError, match='s3://bucket/run is neither a local path nor'):
        files.connect('local', 's3://bucket/run')


def test_missing_gcsfs_is_named():
    arguments = ['main', '--config=configs/quickstart.py', '--workdir=gs://bucket/run']
    code = (
        f'import runpy, sys; sys.modules["gcsfs"] = None; sys.argv = {arguments}\n'
        'runpy.run_module("panoptic_jax.main", run_name="__main__")'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        'error: gs://bucket is a bucket, which needs gcsfs; pip install gcsfs.\n'
    )


def test_pairs_that_are_rejected_move_within_a_bucket(server):
    rng = np.random.default_rng(0)
    folder, own = epath.Path(f'{BUCKET}/selected'), scene_words.categories()
    images = rng.integers(0, 256, (3, 256, 256, 3), np.uint8)
    ids = rng.choice(np.uint8([entry.id for entry in own]), (3, 32, 32))
    listed = CategoryList(tuple(own), tuple(entry.id for entry in own))
    sample_folders.write(folder, listed, 'abc', images=images, ids=ids)
    before = contents(str(folder))
    layout = Layout(folder, 'generated')
    lines_there = list(records.read_lines(layout.records))
    sample_selection.move(layout, {1: 'bad'}, lines_there, has_maps=True)
    moved = {name for name in contents(str(folder)) if name.startswith('rejected/')}
    places = 'generated', 'annotations/panoptic_generated', 'semantic_generated'
    assert moved == {f'rejected/{place}/00000001.png' for place in places}
    assert len(contents(str(folder))) == len(before)
    sample_selection.move(layout, {}, lines_there, has_maps=True)
    after = contents(str(folder))
    assert after.keys() == before.keys()
