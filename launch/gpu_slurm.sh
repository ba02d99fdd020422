#!/usr/bin/env bash
# Trains on GPUs: on the nodes of a Slurm cluster, or on this machine. From the repository's folder,
# with the packages in .venv (launch/requirements-gpu.txt):
#
#   sbatch --nodes=2 launch/gpu_slurm.sh --config=configs/one_stream.py --workdir=runs/one_stream
#   bash launch/gpu_slurm.sh --config=configs/one_stream.py --workdir=runs/one_stream
#   bash launch/gpu_slurm.sh --dry-run --config=...    # prints what both would run
#
# Folders must be on a file system that all nodes see. Options of sbatch before the script's name
# replace those below, for example --ntasks-per-node=4 --gpus-per-node=4 for nodes with 4 GPUs.
#
# There is one process per GPU. In a Slurm job, JAX gives the n-th process of a node the n-th GPU. For
# that, each process has to see all GPUs of its node: no --gpus-per-task, no --gpu-bind.
#SBATCH --job-name=panoptic_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# The processes that train get SIGTERM 120 s before the time is over. With `B:` only this script would
# get it, and it cannot pass the signal on, since srun answers SIGTERM by ending its processes.
#SBATCH --signal=TERM@120
# A job that is queued again goes on in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail
# SIGTERM came, and what was done is saved. 143 is SIGTERM, too, but ends what does not go on: the modes
# plan, import and benchmark.
readonly RUN_AGAIN=75

# Slurm runs a copy of this script, from a folder of its own.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
if [[ ! -f launch/xla_flags.sh ]]; then
  echo "error: $PWD is not the repository's folder; submit the job from there." >&2
  exit 1
fi
source launch/xla_flags.sh gpu

dry_run=''
if [[ ${1:-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
python=.venv/bin/python
[[ -x $python ]] || python=python
command=("$python" -m panoptic_jax.main "$@")
# Slurm must not kill the other processes when one ends, since they may still save; JAX ends them.
# srun does not take the number of CPUs over from sbatch.
step=(srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" "${command[@]}")

if [[ -n $dry_run ]]; then
  echo "export XLA_FLAGS='$XLA_FLAGS' XLA_PYTHON_CLIENT_MEM_FRACTION=$XLA_PYTHON_CLIENT_MEM_FRACTION"
  echo '# In a job of Slurm, which is queued again after exit code 75:'
  printf '%q ' "${step[@]}"
  printf '\n# On one machine, one process for all of its GPUs:\n'
  printf '%q ' "${command[@]}"
  echo
  exit
fi
[[ -n ${SLURM_JOB_ID:-} ]] || exec "${command[@]}"

# Cancelling the job signals this script too. It has to live on until its processes have saved.
cancelled=''
trap 'cancelled=yes' TERM
status=0
"${step[@]}" || status=$?
if ((status == RUN_AGAIN)) && [[ -z $cancelled ]]; then
  echo "Exit code $RUN_AGAIN: everything is saved, queueing the job again."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
