"""Runs small trainings and samplings of the embedded scenes and writes docs/STUDY.md.

    python studies/grid.py --folder=runs/study                  # all rows that are missing
    python studies/grid.py --folder=runs/study --rows=paper,ours --seeds=3
    python studies/grid.py --folder=runs/study --report=docs/STUDY.md

A training gets as many steps as fit its processor time, which a short run of the same settings
measures first; a sampling draws with weights of the package. Each row and seed leaves a JSON with
its scores, its commands and the commit, and is not repeated. The report is made of these alone.
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import tables

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.logs import environment
from panoptic_jax.machine import files

ROOT = pathlib.Path(__file__).parents[1]
PROBE = 20, 60  # steps of the two runs whose difference is the time of a step
SCORES = (
    'thing_recall_map',
    'colour_recall_image',
    'shape_recall_image',
    'stuff_recall_map',
    'stuff_recall_image',
    'image_map_agreement',
    'MCD',
    'pair_PQ',
)
OURS = 'configs/quickstart.py'
PAPER = f'{OURS}:recipe=paper'
DATA = ('data.train_images=3072', 'data.validation_images=512', 'data.images_per_shard=256')


class Row(NamedTuple):
    """A training, or a sampling of the package's weights.

    Attributes:
      config: Value of --config.
      settings: Further settings.
      seconds: Processor time of the training; 0: no training, scenes/joint draws.
      reading: What the row is, for the table.
    """

    config: str
    settings: tuple[str, ...]
    seconds: int
    reading: str


# What longer trainings have; the quickstart has less noise and uniform times.
LONG = ('map.noise_std=10.0', 'times.power=1.7')
ROWS = {
    'ours': Row(OURS, (), 300, 'our recipe (the quickstart)'),
    'paper': Row(PAPER, (), 300, "the paper's one-stream recipe"),
    'ours half': Row(OURS, (), 150, 'our recipe, half of the time'),
    'small noise': Row(OURS, ('map.noise_std=2.0',), 300, 'ours, map noise 2'),
    'large noise': Row(OURS, LONG, 300, 'ours, map noise 10, `times.power` 1.7'),
    'large noise half': Row(OURS, LONG, 150, 'the same, half of the time'),
    'image alone': Row(PAPER, ('model.name=uvit',), 300, 'U-ViT: the image alone'),
    'no map input': Row(PAPER, ('model.zero_map_input=True',), 300, 'one-stream, map unseen (B.2)'),
    'map noise': Row(PAPER, ('map.prediction=noise',), 300, 'one-stream, noise for the map (3.3)'),
}
ROWS |= {
    name: Row('configs/scenes.py', (f'sample.evaluations={name.split()[0]}',), 0, name)
    for name in ('50 evaluations', '20 evaluations', '10 evaluations', '5 evaluations')
}
ROWS |= {
    f'guidance {value}': Row(
        'configs/scenes.py',
        ('sample.evaluations=20', f'sample.guidance={value}'),
        0,
        f'20 evaluations, guidance {value}',
    )
    for value in (0, 2, 3)
}
ROWS |= {
    name: Row(
        'configs/scenes.py', ('sample.evaluations=20', *settings), 0, f'20 evaluations, {name}'
    )
    for name, settings in {
        'solver of order 1': ('sample.solver=1',),
        'solver of order 2': ('sample.solver=2',),
        'steps uniform in log-SNR': ('sample.grid=lambda',),
        'guidance in the noisy half': ('sample.guidance_from=0.5',),
        'guidance in the clean half': ('sample.guidance_to=0.5',),
        'start of deviation 1': ('image.start_std=1.0', 'map.start_std=1.0'),
    }.items()
}
ROWS['map first'] = Row(
    'configs/scenes.py',
    ('sample.evaluations=20', 'sample.offset=0.5'),
    0,
    '20 evaluations, guidance 1, the map first',
)


def run(row: Row, workdir: pathlib.Path, mode: str, *settings: str) -> tuple[list[str], float]:
    """Calls the package; returns the command and the processor seconds that it took."""
    data = f'data.dir={workdir.parent / "data"}', *DATA
    given = [f'--config.{setting}' for setting in (*data, *row.settings, *settings)]
    command = [sys.executable, '-m', 'panoptic_jax.main', f'--config={row.config}']
    command += [f'--mode={mode}', f'--workdir={workdir}', *given]
    variables = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'compiled')}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT, env=variables)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ['python', *command[1:]], seconds


def steps_within(row: Row, folder: pathlib.Path) -> int:
    """How many steps of a row fit its processor time, starting and compilation left out."""
    taken = []
    # The first run compiles; the others find its programs.
    for steps in (1, *PROBE):
        workdir = folder / 'probe'
        shutil.rmtree(workdir, ignore_errors=True)
        taken.append(run(row, workdir, 'train', f'steps={steps}', 'log_every=1')[1])
    per_step = (taken[2] - taken[1]) / (PROBE[1] - PROBE[0])
    return max(1, round(row.seconds / per_step))


def measure(name: str, seed: int, folder: pathlib.Path, count: int) -> dict:
    """One row with one seed: trained, drawn and scored."""
    row, workdir = ROWS[name], folder / f'{name.replace(" ", "_")}_{seed}'
    commands, seconds, steps = [], 0.0, 0
    settings = [f'sample.seed={seed}', f'sample.count={count}', 'sample.batch_size=100']
    if row.seconds:
        steps = steps_within(row, folder)
        training = [f'steps={steps}', f'seed={seed}', 'checkpoint_every=100000']
        command, seconds = run(row, workdir, 'train', *training)
        commands.append(command)
        settings += training
    else:
        settings += ['sample.weights=scenes/joint']
    command, _ = run(row, workdir, 'evaluate', *settings)
    commands.append(command)
    metrics = json.loads((workdir / 'metrics.json').read_text())
    return {
        'row': name,
        'seed': seed,
        'scores': {score: metrics[score]['value'] for score in SCORES if score in metrics},
        'pairs': count,
        'steps': steps,
        'processor_seconds': round(seconds),
        'commands': [' '.join(command) for command in commands],
        'commit': environment.commit(),
    }


def table_of(found: list[dict]) -> str:
    """The rows in Markdown: means, and standard deviations where there are several seeds."""
    groups = collections.defaultdict(list)
    for entry in found:
        groups[entry['row']].append(entry)
    # A sampling trains nothing.
    efforts = {'steps': 'steps', 'processor_seconds': 'processor s'}
    if not any(ROWS[name].seconds for name in groups):
        efforts = {}
    rows = []
    for name in (name for name in ROWS if name in groups):
        group = groups[name]
        effort = [round(np.mean([own[key] for own in group])) for key in efforts]
        scores = [
            tables.mean_and_spread(
                [own['scores'][score] for own in group if score in own['scores']]
            )
            for score in SCORES
        ]
        rows.append([ROWS[name].reading, len(group), *effort, *scores])
    titles = ['', 'seeds', *efforts.values(), *(name.replace('_', ' ') for name in SCORES)]
    return tables.table(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', required=True, help='where runs and results go')
    parser.add_argument('--rows', default=','.join(ROWS), help='which rows')
    parser.add_argument('--seeds', type=int, default=1, help='seeds 0, 1, ... of each row')
    parser.add_argument('--pairs', type=int, default=200, help='held-out captions of each row')
    parser.add_argument('--report', help='a file of Markdown, whose table is written anew')
    options = parser.parse_args()
    folder = pathlib.Path(options.folder).absolute()
    results = folder / 'results'
    results.mkdir(parents=True, exist_ok=True)
    if not options.report:
        run(ROWS['ours'], folder / 'ours', 'prepare')
        # Seeds outermost: a study that is cut short has every row.
        for seed in range(options.seeds):
            for name in options.rows.split(','):
                result = results / f'{name.replace(" ", "_")}_{seed}.json'
                if result.exists():
                    continue
                entry = measure(name, seed, folder, options.pairs)
                files.write_json(result, entry)
    found = [json.loads(path.read_text()) for path in sorted(results.glob('*.json'))]
    print(table_of(found))
    if options.report:
        write(pathlib.Path(options.report), found)


def write(path: pathlib.Path, found: list[dict]) -> None:
    """Puts the tables between the marks of a Markdown file."""
    text = path.read_text()
    for kind, trained in (('trainings', True), ('samplings', False)):
        start, end = f'<!-- {kind} -->\n', f'<!-- /{kind} -->'
        before, rest = text.split(start)
        own = [entry for entry in found if bool(ROWS[entry['row']].seconds) == trained]
        text = before + start + table_of(own) + '\n' + end + rest.split(end)[1]
    path.write_text(text)


if __name__ == '__main__':
    main()
