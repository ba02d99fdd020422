#!/usr/bin/env bash
# From a clone to pages of generated pairs: prepares the embedded scenes, draws with the weights that
# the package brings, then trains a small model, samples and evaluates it. Started again, it goes on
# where it was interrupted. Every mode gets the arguments of the script:
# bash launch/quickstart.sh --config.steps=900 trains on after a first run, and draws the pairs of its
# page anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

config=configs/quickstart.py
workdir=runs/quickstart
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# glibc then asks for large pages: half of the processor time that the kernel takes.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

times=()
stage() {  # number, title, what to run
  local title=$2 start=$SECONDS status=0
  echo
  echo "== $1/6  $title =="
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

newest_step() {  # prints the number of the newest checkpoint, 0 without any
  local path step=0
  for path in "$workdir"/checkpoints/*; do
    path=${path##*/}
    if [[ $path =~ ^[0-9]+$ ]] && ((10#$path > step)); then step=$((10#$path)); fi
  done
  echo "$step"
}

stage 1 'Installing' make_venv requirements.txt
stage 2 'Preparing the scenes' mode prepare "$@"
stage 3 'Drawing with shipped weights' mode evaluate "$@" \
  --config.sample.weights=scenes/joint --config.sample.folder=shipped --config.sample.count=32
echo "Pairs of trained weights: $PWD/$workdir/shipped/report.html"
stage 4 'Training' mode train "$@"
# A second run with more steps draws pairs of its own, into a folder named after its step, so that
# those of the first run stay. A folder that the arguments name comes first.
step=$(newest_step) folder=samples
if [[ -e $workdir/samples/settings.json ]] &&
  ! grep -q "\"weights\": \"step $step\"" "$workdir/samples/settings.json"; then
  folder=samples_$step
fi
for argument in "$@"; do
  case $argument in --config.sample.folder=?*) folder=${argument#*=} ;; esac
done
stage 5 'Sampling' mode sample "$@" --config.sample.folder="$folder"
stage 6 'Evaluating' mode evaluate "$@" --config.sample.folder="$folder"
page=$workdir/report.html
if [[ -d $workdir/$folder/report ]]; then
  # A page of many pairs has its data beside it, and stays there.
  page=$workdir/$folder/report.html
else
  cp "$workdir/$folder/report.html" "$page"
fi

echo
printf '%s\n' "${times[@]}"
echo
echo "Weights that the package brings: $PWD/$workdir/shipped/report.html"
echo "Look at $PWD/$page"
