#!/usr/bin/env bash
# Every worker of a slice runs this script in its copy of the repository; tpu_pod.sh starts it:
#   setup            installs into .venv
#   start ARGUMENTS  starts the command line in the background, unless one is running here
#   status           says `running`, `ended with exit code N` or `not started`
# Exit code 75 means that SIGTERM came and what was done is saved: the same command then starts again.
# Any other exit code ends the run, also 143, with which SIGTERM ends a mode that does not go on. runs/worker/ holds the log and the exit code. Workers do not share
# it, since each one is a machine with a disk of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly RUN_AGAIN=75
folder=runs/worker

can_make_venv() {  # with the Python $1
  "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

setup() {
  source launch/venv.sh
  # The machines run Ubuntu 22.04, whose own Python is 3.10. At boot, apt is often busy.
  if ! can_make_venv python3.11 && ! can_make_venv python3.12 && ! can_make_venv python3; then
    sudo apt-get update -qq
    sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 python3.11 python3.11-venv
  fi
  make_venv launch/requirements-tpu.txt requirements.txt
}

start() {
  mkdir -p "$folder"
  exec 9>"$folder/lock"  # the processes started below hold it as long as they live
  if ! flock -n 9; then
    echo "error: A run goes on on $(hostname) already; follow it with 'logs', or end it with" \
      "'delete'." >&2
    return 1
  fi
  rm -f "$folder/exit_code"
  nohup bash launch/tpu_worker.sh again "$@" >>"$folder/log" 2>&1 </dev/null &
  echo "$(hostname): started, see $PWD/$folder/log"
}

again() {
  local status
  source launch/xla_flags.sh tpu
  while true; do
    status=0
    .venv/bin/python -m panoptic_jax.main "$@" || status=$?
    ((status == RUN_AGAIN)) || break
    echo "Exit code $RUN_AGAIN: everything is saved, starting again."
  done
  echo "Ended with exit code $status."
  echo "$status" >"$folder/exit_code"
}

status() {
  if [[ -e $folder/lock ]] && ! flock -n "$folder/lock" true; then
    echo running
  elif [[ -e $folder/exit_code ]]; then
    echo "ended with exit code $(cat "$folder/exit_code")"
  else
    echo 'not started'  # or the machine has restarted since
  fi
}

case ${1:-} in
  setup | start | again | status) "$@" ;;
  *)
    echo "error: There is no command '${1:-}'; launch/tpu_pod.sh calls setup, start and status." >&2
    exit 1
    ;;
esac
