"""What the studies measure with and write; the studies themselves take an hour each."""

import functools
import importlib
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax import config as settings
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.diffusion import loss, schedule
from panoptic_jax.diffusion.streams import Stream

STUDIES = Path(__file__).parents[1] / 'studies'
CATEGORIES = Scenes(0, 1, 'train').categories
IDS = np.array([category.id for category in CATEGORIES], np.uint8)
THINGS = {category.id for category in CATEGORIES if category.is_thing}


def loaded(name):
    """A script, as `python studies/NAME.py` loads it: its folder comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(STUDIES)
        return importlib.import_module(name)


@pytest.fixture(scope='module')
def usefulness():
    return loaded('usefulness')


@pytest.fixture(scope='module')
def grid():
    return loaded('grid')


@pytest.fixture(scope='module')
def frechet():
    return loaded('frechet')


@pytest.fixture(scope='module')
def photographs():
    return loaded('photographs')


class Told:
    """A segmenter that says what it is told, in the place of looking."""

    def __init__(self, labels):
        self.labels = labels

    def apply(self, variables, images):
        return np.eye(len(IDS))[self.labels]


def test_scores_of_perfect_and_of_wrong_maps(usefulness):
    images, maps = usefulness.true_scenes(8, 'validation')
    assert images.shape == (8, 64, 64, 3)
    assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1
    labels = np.searchsorted(IDS, maps)
    assert (IDS[labels] == maps).all()

    def scores(told):
        network = Told(told)
        return usefulness.scores_of(network, {}, (images, maps), ids=IDS, thing_ids=THINGS)

    assert scores(labels) == {'mIoU': 1.0, 'PQ': 1.0, 'PQ_things': 1.0}
    wrong = scores(np.roll(labels, 1, axis=0))
    assert max(wrong.values()) < 0.5


def test_a_segmenter_learns_what_it_sees(usefulness):
    images, maps = usefulness.true_scenes(4, 'train')
    labels = np.searchsorted(IDS, maps)
    network, params = usefulness.train(images, labels, np.ones(len(IDS)), seed=0, steps=60)
    found = np.asarray(network.apply({'params': params}, images)).argmax(-1)
    assert (found == labels).mean() > 0.8


def test_each_condition_trains_on_what_it_says(usefulness):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 4, 4, 3)), rng.integers(0, 9, (3, 4, 4))
    images, maps = rng.normal(size=(12, 4, 4, 3)), rng.integers(0, 9, (12, 4, 4))
    passes = np.arange(12) % 2 == 0
    generated = images, maps, passes

    others = images[:5], maps[:5], np.ones(5, bool)

    found = {
        name: usefulness.data_of(name, true, generated, others)
        for name in usefulness.OWN + usefulness.OTHERS
    }
    assert {name: len(own) for name, (own, _) in found.items()} == {
        'true': 3,
        'true and mirrored': 6,
        'generated': 12,
        'filtered': 6,
        'filtered and true': 12,  # six that pass, and twice three true ones
        'others': 5,
        'others and true': 8,
    }
    none = usefulness.data_of('filtered and true', true, (images, maps, ~passes & passes), None)
    assert len(none[0]) == 0  # and not the true ones alone
    np.testing.assert_array_equal(found['others'][1], maps[:5])
    np.testing.assert_array_equal(found['filtered'][1], maps[passes])
    np.testing.assert_array_equal(found['true and mirrored'][1][3:], true[1][:, :, ::-1])
    for own, labels in found.values():
        assert len(own) == len(labels)


def test_the_table_has_means_and_deviations(usefulness):
    row = {'scenes': 64, 'condition': 'both', 'pictures': 512, 'PQ': 0.5, 'PQ_things': 0.25}
    lines = usefulness.table_of([row | {'mIoU': 0.5}, row | {'mIoU': 0.75}]).splitlines()
    assert lines[2] == '| 64 | both | 512 | 0.625 ± 0.125 | 0.500 ± 0.000 | 0.250 ± 0.000 |'
    assert len({line.count('|') for line in lines}) == 1


def result(row, seed, **scores):
    return {'row': row, 'seed': seed, 'steps': 90 + seed, 'processor_seconds': 7, 'scores': scores}


def test_the_study_puts_its_tables_between_their_marks(grid, tmp_path):
    """Rows in the order of the grid, with means and deviations; what else is there stays."""
    found = [
        result('20 evaluations', 0, MCD=0.5, pair_PQ=0.25),
        result('image alone', 0, shape_recall_image=0.125),
        result('ours', 0, MCD=0.5),
        result('ours', 1, MCD=1.0),
    ]
    path = tmp_path / 'STUDY.md'
    marks = (
        '<!-- trainings -->\nold\n<!-- /trainings -->\n\n<!-- samplings -->\n<!-- /samplings -->'
    )
    path.write_text(f'# Before\n\n{marks}\nafter\n')
    for _ in range(2):  # the second time over its own table
        grid.write(path, found)
    text = path.read_text()
    assert 'old' not in text
    assert text.startswith('# Before\n')
    assert text.endswith('<!-- /samplings -->\nafter\n')
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ')]
    assert [row[0] for row in rows] == [
        '| ',
        '| our recipe (the quickstart)',
        '| U-ViT: the image alone',
        '| ',
        '| 20 evaluations',
    ]
    assert rows[1][1:4] == ['2', '90', '7']
    assert rows[1][-2] == '0.750 ± 0.250'
    assert rows[2][6] == '0.125'
    # A sampling has no steps and no time of training.
    assert [len(row) for row in rows] == [12, 12, 12, 10, 10]
    assert rows[4][-2:] == ['0.500', '0.250 |']


@pytest.mark.parametrize('budget', [100, 250])
def test_a_training_gets_the_steps_that_fit_its_time(grid, monkeypatch, tmp_path, budget):
    """Two runs that differ in steps alone tell what a step takes; the first one compiles."""
    taken = {1: 50.0, 20: 10 + 20 * 0.4, 60: 10 + 60 * 0.4}

    def run(row, workdir, mode, *settings):
        assert mode == 'train'
        (steps,) = [int(text.split('=')[1]) for text in settings if text.startswith('steps=')]
        return [], taken[steps]

    monkeypatch.setattr(grid, 'run', run)
    row = grid.ROWS['ours']._replace(seconds=budget)
    assert grid.steps_within(row, tmp_path) == budget / 0.4


def test_every_row_of_the_grid_is_a_config_with_settings_that_exist(grid):
    for row in grid.ROWS.values():
        path, _, arguments = row.config.partition(':')
        config = runpy.run_path(STUDIES.parent / path)['get_config'](arguments)
        config.unlock()
        known = config.copy_and_resolve_references()
        for setting in (*grid.DATA, *row.settings):
            name, _, value = setting.partition('=')
            *rooms, last = name.split('.')
            place = functools.reduce(lambda node, room: node[room], rooms, known)
            place[last] = type(place[last])({'True': 1}.get(value, value))
        settings.check(known)


@pytest.mark.parametrize('noise_std', [1, 2, 10])
@pytest.mark.parametrize('log_snr', [-5, -2, 1])
def test_the_time_of_a_ratio_of_signal_to_noise(photographs, noise_std, log_snr):
    time = photographs.time_at(log_snr, noise_std)
    alpha, sigma = schedule.training_table()[time - 1 : time + 2].T
    before, at, after = 2 * np.log(alpha / (sigma * noise_std)) - log_snr
    assert abs(at) <= min(abs(before), abs(after))
    assert before > 0 > after
    with pytest.raises(ValueError, match=r'Noise of deviation 0\.5 has no time of log-SNR -5'):
        photographs.time_at(-5, 0.5)


class Network:
    """Says of both streams what it is told, whatever it sees."""

    def __init__(self, image, map_):
        self.said = image, map_

    def apply(self, variables, *seen):
        return self.said


class Described:
    """What `errors_of` asks a description."""

    class model:
        separate_times = False

    def __init__(self, **streams):
        self.streams = streams


def test_errors_are_those_of_the_data_whatever_a_network_says(photographs):
    """Noise or data, unit input or not: the same mistake in the clean image is the same error."""
    rng = np.random.default_rng(0)
    image, map_ = rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(3, 8, 8, 16))
    wrong_image, wrong_map = rng.normal(size=image.shape), rng.normal(size=map_.shape)
    eps = {'image': rng.normal(size=image.shape), 'map': rng.normal(size=map_.shape)}
    clean = {'image': image, 'map': map_}
    inputs = loss.Inputs(clean, eps, {}, np.zeros((3, 5, 6)))
    alpha, sigma = schedule.training_table()[700]
    noise = eps['image'] - alpha * wrong_image / (sigma * 2)  # of the clean image and its mistake
    networks = {
        'noise': Network(jnp.asarray(noise), jnp.asarray(map_ + wrong_map)),
        'data': Network(jnp.asarray(image + wrong_image), jnp.asarray(map_ + wrong_map)),
    }
    for prediction, network in networks.items():
        described = Described(image=Stream(2.0, prediction), map=Stream(10.0, 'data', True))
        found = jax.jit(functools.partial(photographs.errors_of, network, described, {}))(
            inputs=inputs, time=700
        )
        np.testing.assert_allclose(found['image'], (wrong_image**2).mean((1, 2, 3)), rtol=1e-3)
        # Codes of things do not count.
        expected = (wrong_map[..., :8] ** 2).mean((1, 2, 3))
        np.testing.assert_allclose(found['map'], expected, rtol=1e-3)


def test_the_distance_grows_with_what_is_wrong(frechet, tmp_path, monkeypatch, capsys):
    """Pairs that are true scenes, and the same ones in blocks of 32 pixels."""
    monkeypatch.setattr(frechet, 'TRAINED', 16)
    monkeypatch.setattr(frechet, 'HELD_OUT', 40)
    monkeypatch.setitem(frechet.usefulness.train.__kwdefaults__, 'steps', 20)

    class Folder:
        """What is read of a samples folder."""

        def __init__(self, path):
            self.path = path

        def __len__(self):
            return 40

        def image(self, number):
            image = Scenes(0, 40, 'validation')[number].image
            if self.path.name == 'true':
                return image
            return image[16::32, 16::32].repeat(32, axis=0).repeat(32, axis=1)

    monkeypatch.setattr(frechet, 'Pairs', Folder)
    argv = ['frechet.py', '--pairs=40', f'one={tmp_path}/true', f'two={tmp_path}/blocks']
    monkeypatch.setattr('sys.argv', argv)
    frechet.main()
    rows = [line.split('|') for line in capsys.readouterr().out.splitlines() if '| 40 |' in line]
    distances = {cells[1].strip(): float(cells[3]) for cells in rows}
    assert list(distances) == ['other true scenes', 'one', 'two']
    assert distances['one'] < 0.01  # those are the very scenes of the truth
    assert distances['two'] > 0.03
    assert distances['other true scenes'] > distances['one']
