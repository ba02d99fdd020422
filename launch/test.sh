#!/usr/bin/env bash
# Lint and tests, as CI runs them. Arguments are pytest's: bash launch/test.sh tests/test_scenes.py -k maps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv tests/requirements.txt requirements.txt
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Compiling is most of the tests' time; what took half a second and more is kept between runs.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
# A file's tests stay on one worker: they share what its fixtures have prepared or trained.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
