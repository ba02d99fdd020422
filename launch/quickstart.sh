#!/usr/bin/env bash
# From a clone to a page of generated pairs: prepares the embedded scenes, trains a small model,
# samples and evaluates it. Started again, it goes on where it was interrupted. Every mode gets the
# arguments of the script: bash launch/quickstart.sh --config.steps=900
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

config=configs/quickstart.py
workdir=runs/quickstart
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

times=()
stage() {  # number, title, what to run
  local title=$2 start=$SECONDS status=0
  echo
  echo "== $1/5  $title =="
  "${@:3}" || status=$?
  if ((status)); then
    echo "The stage '$title' stopped with exit code $status; the same command goes on from there." >&2
    exit "$status"
  fi
  times+=("$(printf '%-36s %4d s' "$title" $((SECONDS - start)))")
}

mode() {  # mode, arguments of the script
  .venv/bin/python -m panoptic_jax.main --config="$config" --workdir="$workdir" --mode="$1" "${@:2}"
}

stage 1 'Installing' make_venv requirements.txt
stage 2 'Preparing the scenes' mode prepare "$@"
stage 3 'Training' mode train "$@"
stage 4 'Sampling' mode sample "$@"
stage 5 'Evaluating' mode evaluate "$@"
cp "$workdir/samples/report.html" "$workdir/report.html"

echo
printf '%s\n' "${times[@]}"
echo
echo "Look at $PWD/$workdir/report.html"
