#!/usr/bin/env bash
# Creates a slice of Cloud TPUs, trains on it and deletes it. `--help` explains the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec 3>&1  # where commands are shown, also while a function's output is captured
poll_seconds=${POLL_SECONDS:-30}

usage() {
  cat <<'EOF'
bash launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [OPTIONS] [ARGUMENTS OF panoptic_jax.main]

  create  requests a slice as a queued resource, and waits until it is there
  setup   copies the last commit to all workers and installs
  run     starts the command on all workers, in the background; exit code 75 starts it again
  logs    follows the first worker's log
  resume  brings an interrupted run back: creates the slice again if it was preempted, runs again
  delete  deletes the slice; what is in the bucket stays
  all     create, setup, run, logs

  --type=TYPE        of the accelerators, such as v5litepod-256 (create, resume, all)
  --version=VERSION  of the machines' software; by default the one for the type
  --slices=N         several slices as one job, connected by the data centre's network
  --spot             cheaper, and may be preempted at any time
  --project=PROJECT  by default gcloud's own
  --watch            resume: stay, and resume whenever needed, until the run is complete
  --dry-run          print the commands, run none; needs no gcloud

Every command is printed before it runs, and can be copied. An example:

  bash launch/tpu_pod.sh all --dry-run --name=pdm --zone=us-west4-a --type=v5litepod-256 --spot \
      --config=configs/one_stream.py --workdir=gs://BUCKET/one_stream \
      --config.data.dir=gs://BUCKET/coco
EOF
}

fail() {
  echo "error: $*" >&2
  exit 1
}

quote() {  # $1 as a word of the shell
  local mark="'" escaped="'\\''"
  case $1 in
    '' | *[!A-Za-z0-9_./:=@%+,-]*) printf '%s' "'${1//$mark/$escaped}'" ;;
    *) printf '%s' "$1" ;;
  esac
}

line() {  # the arguments as a line of the shell
  local word words=''
  for word in "$@"; do
    words+="$(quote "$word") "
  done
  printf '%s' "${words% }"
}

run_it() {
  printf '%s\n' "$(line "$@")" >&3
  [[ -n $dry_run ]] || "$@" 3>&-
}

tpus() {  # queued-resources, with what every call needs
  run_it gcloud compute tpus queued-resources "$@" --zone="$zone" ${project:+--project="$project"}
}

on_workers() {  # worker, command
  tpus ssh "$name" --node="$1" --worker="$1" --command="$2"
}

state() {  # ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ... or NONE
  local errors found
  errors=$(mktemp)
  if found=$(tpus describe "$name" --format='value(state.state)' 2>"$errors"); then
    echo "$found"
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    rm "$errors"
    return 1
  fi
  rm "$errors"
}

# The functions below return at the first failure themselves. The shell's errexit does not apply where
# a caller asks whether a function succeeded.

wait_until_active() {
  local now
  while true; do
    now=$(state) || return
    [[ -z $dry_run ]] || return 0
    case $now in
      ACTIVE) return ;;
      NONE | FAILED | SUSPEND* | DELETING)
        echo "error: $name is not coming, it is $now; 'resume' requests it again." >&2
        return 1
        ;;
    esac
    echo "$name: $now"
    sleep "$poll_seconds"
  done
}

create() {
  local nodes=(--node-id="$name")
  ((slices == 1)) || nodes=(--node-count="$slices" --node-prefix="$name")
  tpus create "$name" "${nodes[@]}" --accelerator-type="$type" --runtime-version="$version" \
    ${spot:+--spot} || return
  wait_until_active
}

setup() {
  # A bundle and no files: the workers then know the commit, and a file that a new commit lacks goes.
  local bundle=${TMPDIR:-/tmp}/panoptic_jax.bundle
  [[ -z $(git status --porcelain --untracked-files=no) ]] ||
    echo '# Changes that are not committed are not copied.'
  run_it git bundle create "$bundle" HEAD || return
  tpus scp "$bundle" "$name:" --node=all --worker=all || return
  on_workers all "git init -q panoptic_jax && cd panoptic_jax && git fetch -q\
 ../panoptic_jax.bundle HEAD && git checkout -q --force FETCH_HEAD &&\
 bash launch/tpu_worker.sh setup"
}

run() {
  on_workers all "bash panoptic_jax/launch/tpu_worker.sh start $(line "${arguments[@]}")"
}

logs() {
  on_workers 0 'tail -n 50 -F panoptic_jax/runs/worker/log'
}

delete() {
  tpus delete "$name" --force --quiet
}

bring_back() {  # $1: state of the slice
  case $1 in
    ACTIVE) ;;
    CREATING | ACCEPTED | PROVISIONING | WAITING*) wait_until_active || return ;;
    NONE) create || return ;;
    *)
      delete || return
      create || return
      ;;
  esac
  setup || return
  run
}

status_of_run() {  # on the first worker
  on_workers 0 "bash panoptic_jax/launch/tpu_worker.sh status || echo 'not started'" || echo unknown
}

resume() {
  local now run_is=unknown
  now=$(state)
  if [[ -n $dry_run ]]; then
    echo '# If the slice was preempted:'
    bring_back SUSPENDED
    return
  fi
  [[ $now != ACTIVE ]] || run_is=$(status_of_run)
  case $run_is in
    running) echo 'The run goes on.' ;;
    'ended with exit code 0') echo 'The run is complete.' ;;
    *) bring_back "$now" ;;
  esac
  [[ -z $watch ]] || watch_run
}

watch_run() {
  local now run_is ended=0
  while true; do
    sleep "$poll_seconds"
    now=$(state) || continue  # gcloud has said why, and the next time may not fail
    run_is='not started'
    [[ $now != ACTIVE ]] || run_is=$(status_of_run)
    case $run_is in
      running) ended=0 ;;
      unknown) ;;  # no connection
      'ended with exit code 0')
        echo 'The run is complete.'
        return
        ;;
      'ended with exit code '*)
        # On a slice that is being preempted, runs may fail a moment before its state says so.
        ((++ended < 3)) || fail "The run $run_is; 'logs' shows why."
        ;;
      *)
        ended=0
        echo "$name is $now, its run $run_is."
        bring_back "$now" || echo "Trying again in $poll_seconds s."
        ;;
    esac
  done
}

command=${1:-} name='' zone='' type='' version='' slices=1 spot='' project='' watch='' dry_run=''
arguments=()
[[ $# -eq 0 ]] || shift
case $command in
  create | setup | run | logs | resume | delete | all) ;;
  '' | help | -h | --help)
    usage
    exit
    ;;
  *) fail "There is no command '$command'; --help lists them." ;;
esac
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    --name=*) name=$value ;;
    --zone=*) zone=$value ;;
    --type=*) type=$value ;;
    --version=*) version=$value ;;
    --slices=*) slices=$value ;;
    --project=*) project=$value ;;
    --spot) spot=yes ;;
    --watch) watch=yes ;;
    --dry-run) dry_run=yes ;;
    --config=* | --config.*=* | --workdir=* | --mode=*) arguments+=("$argument") ;;
    -h | --help)
      usage
      exit
      ;;
    *) fail "There is no option '$argument'; options are given as --name=VALUE, --help lists them." ;;
  esac
done

[[ -n $name ]] || fail "--name=NAME is missing: what the slice is to be called."
[[ -n $zone ]] || fail "--zone=ZONE is missing: where the slice is, such as us-west4-a."
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices is '$slices'; it must be a positive number."
case $command in
  create | resume | all)
    [[ -n $type ]] || fail "--type=TYPE is missing: such as v5litepod-256, 256 chips of v5e."
    case $type in
      v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
      v5p-*) version=${version:-v2-alpha-tpuv5} ;;
      v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
      v[234]-*) version=${version:-tpu-ubuntu2204-base} ;;
    esac
    [[ -n $version ]] || fail "--version=VERSION is missing: the software for machines of type $type."
    ;;
esac
case $command in
  run | resume | all)
    all=" ${arguments[*]-} "
    [[ $all == *' --config='* ]] || fail '--config=FILE is missing: what to run.'
    # A slice's own disks go when it goes, and each worker has another one.
    [[ $all == *' --workdir=gs://'* || $all == *' --mode=prepare '* ]] ||
      fail '--workdir=gs://BUCKET/FOLDER is missing: the workdir must be in a bucket, which outlives' \
        'the slice and which all workers see.'
    ;;
esac
if [[ -z $dry_run ]] && ! command -v gcloud >/dev/null; then
  fail 'There is no gcloud; install the Google Cloud CLI, or look with --dry-run.'
fi

if [[ $command == all ]]; then
  create
  setup
  run
  logs
else
  "$command"
fi
