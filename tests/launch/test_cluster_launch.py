"""gpu_slurm.sh, with Slurm programs that only note what they are asked, and the JobSet for GKE."""

import os
import re
import shlex
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from launch_tools import PROMPT, ROOT, RUN, flags_for, program

from panoptic_jax import main

SLURM = ROOT / 'launch' / 'gpu_slurm.sh'
JOBSET = ROOT / 'launch' / 'gke_jobset.yaml'

FAKE_SRUN = """#!/bin/bash
{ printf '%q ' srun "$@"; echo; echo "$XLA_FLAGS"; } >>"$CALLS"
[[ -z ${CANCEL:-} ]] || kill -TERM $PPID
exit "$STATUS"
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs a copy of the script, as Slurm does, from the repository; returns (done, calls)."""
    calls = tmp_path / 'calls'
    program(tmp_path / 'bin' / 'srun', FAKE_SRUN)
    program(tmp_path / 'bin' / 'scontrol', '#!/bin/bash\necho "scontrol $*" >>"$CALLS"\n')
    program(tmp_path / 'bin' / 'python', '#!/bin/bash\necho "python $*" >>"$CALLS"\nexit 7\n')
    shutil.copytree(ROOT / 'launch', tmp_path / 'clone' / 'launch')
    script = tmp_path / 'spool' / 'slurm_script'
    program(script, SLURM.read_text())

    def run(*arguments, job='42', path=script, **environment):
        calls.write_text('')
        inherited = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS' and 'SLURM' not in k}
        job = {'SLURM_JOB_ID': job, 'SLURM_SUBMIT_DIR': str(tmp_path / 'clone')} if job else {}
        done = subprocess.run(
            ['bash', path, *arguments],
            env=inherited
            | {'CALLS': str(calls), 'PATH': f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}'}
            | {'SLURM_CPUS_PER_TASK': '12', 'STATUS': '0'}
            | job
            | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done, calls.read_text().splitlines()

    return run


def test_slurm_runs_the_command_on_the_tasks_of_the_job(slurm):
    done, (call, flags) = slurm(*RUN, PROMPT)
    assert done.returncode == 0, done.stderr
    assert shlex.split(call) == [
        'srun', '--kill-on-bad-exit=0', '--cpus-per-task=12',
        'python', '-m', 'panoptic_jax.main', *RUN, PROMPT,
    ]  # fmt: skip
    assert flags.split() == flags_for('gpu')['XLA_FLAGS'].split()


@pytest.mark.parametrize(
    ('status', 'environment', 'requeued'),
    [
        (75, {}, True),
        (1, {}, False),
        (137, {}, False),
        (143, {}, False),
        (75, {'CANCEL': 'yes'}, False),
    ],
)
def test_slurm_queues_the_job_again_after_exit_code_75_only(slurm, status, environment, requeued):
    done, calls = slurm(*RUN, STATUS=str(status), **environment)
    assert done.returncode == status
    assert ('scontrol requeue 42' in calls) == requeued


def test_without_slurm_the_plain_command_runs_here(slurm, tmp_path):
    done, calls = slurm(*RUN, job='', path=tmp_path / 'clone' / 'launch' / 'gpu_slurm.sh')
    assert done.returncode == 7
    assert calls == [f'python -m panoptic_jax.main {" ".join(RUN)}']


def test_a_dry_run_of_slurm_shows_both_and_runs_neither(slurm):
    done, calls = slurm('--dry-run', *RUN, PROMPT)
    assert calls == []
    commands = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith('#')]
    assert [command[0] for command in commands] == ['export', 'srun', 'python']
    assert commands[1][-3:] == commands[2][-3:] == [*RUN, PROMPT]


def test_a_job_submitted_from_elsewhere_is_refused(slurm, tmp_path):
    done, calls = slurm(*RUN, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: {tmp_path} is not the repository's folder; submit the job from there.\n"
    )
    assert calls == []


def test_slurm_signals_the_processes_and_gives_each_gpu_one():
    text = SLURM.read_text()
    directives = dict(re.findall(r'^#SBATCH --([\w-]+)=?(\S*)$', text, re.MULTILINE))
    assert len(directives) == text.count('\n#SBATCH')
    assert text.index('set -euo') > text.rindex('#SBATCH')  # sbatch reads no further
    assert directives['ntasks-per-node'] == directives['gpus-per-node']
    assert re.fullmatch(r'TERM@\d+', directives['signal'])
    assert {'requeue', 'open-mode'} <= set(directives)
    assert re.findall(r'^readonly RUN_AGAIN=(\d+)', text, re.M) == [str(main.RUN_AGAIN)]


# --- Google Kubernetes Engine.


@pytest.fixture
def jobset():
    return yaml.safe_load(JOBSET.read_text())


def test_the_job_fits_the_schema_of_kubernetes(jobset):
    (replicated,) = jobset['spec']['replicatedJobs']
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'slice'}}
    kubernetes_validate.validate(job | replicated['template'], '1.33', strict=True)
    replicated['template']['spec']['backoflimit'] = 0
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job | replicated['template'], '1.33', strict=True)


def test_the_jobset_has_the_fields_of_its_kind_only(jobset):
    """JobSet's own schema is in no package; these are its fields as of 0.8."""
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    spec = jobset['spec']
    assert set(spec) == {'network', 'failurePolicy', 'replicatedJobs'}
    assert spec['network'] == {'enableDNSHostnames': True}
    assert set(spec['failurePolicy']) == {'restartStrategy', 'maxRestarts', 'rules'}
    assert spec['failurePolicy']['restartStrategy'] == 'BlockingRecreate'
    (replicated,) = spec['replicatedJobs']
    assert set(replicated) == {'name', 'replicas', 'template'}
    # Names of pods are made of these three and two numbers, and at most 63 characters long.
    assert len(jobset['metadata']['name']) + len(replicated['name']) < 50


def test_hosts_and_chips_are_those_of_the_topology(jobset):
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    pod = job['template']['spec']
    rows, columns = pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')
    (container,) = pod['containers']
    resources = container['resources']
    chips = resources['requests']['google.com/tpu']
    assert resources['limits']['google.com/tpu'] == chips == 4
    assert job['completions'] == job['parallelism'] == int(rows) * int(columns) // chips == 64


def test_an_interruption_restarts_without_counting_and_an_error_counts(jobset):
    policy = jobset['spec']['failurePolicy']
    (rule,) = policy['rules']
    assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
    assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
    assert 0 < policy['maxRestarts'] < 10
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    assert job['backoffLimit'] == 0
    by_code, by_condition = job['podFailurePolicy']['rules']
    assert by_code['action'] == by_condition['action'] == 'FailJob'
    (container,) = job['template']['spec']['containers']
    assert by_code['onExitCodes'] == {
        'containerName': container['name'], 'operator': 'In', 'values': [main.RUN_AGAIN],
    }  # fmt: skip
    assert by_condition['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
    assert job['template']['spec']['restartPolicy'] == 'Never'  # a podFailurePolicy needs it
    assert job['template']['spec']['terminationGracePeriodSeconds'] >= 60


def test_the_container_replaces_its_shell_by_the_command(jobset, tmp_path):
    """So that the SIGTERM of its end reaches the process that saves."""
    pod = jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
    (container,) = pod['containers']
    program(
        tmp_path / 'python',
        '#!/bin/bash\nprintf "%s\\n" $$ "$LIBTPU_INIT_ARGS" "$@"\n',
    )
    process = subprocess.Popen(
        container['command'] + container['args'],
        cwd=ROOT,
        env=os.environ | {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'},
        stdout=subprocess.PIPE,
        text=True,
    )
    number, flags, *arguments = process.communicate(timeout=30)[0].splitlines()
    assert int(number) == process.pid
    assert flags.split() == flags_for('tpu').get('LIBTPU_INIT_ARGS', '').split()
    assert arguments == ['-m', 'panoptic_jax.main', *container['args']]
    assert all('gs://BUCKET/' in value for value in container['args'][1:])
    assert (ROOT / container['args'][0].split('=')[1]).exists()


def test_the_image_holds_what_the_container_runs():
    text = (ROOT / 'launch' / 'Dockerfile').read_text()
    copied = {word for line in re.findall(r'^COPY (.*)$', text, re.M) for word in line.split()[:-1]}
    assert {'configs', 'launch', 'panoptic_jax', 'requirements.txt'} <= copied
    assert all((ROOT / name).exists() for name in copied)
