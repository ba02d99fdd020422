#!/usr/bin/env bash
# Lint and tests, as CI runs them. Arguments are pytest's: bash launch/test.sh tests/test_scenes.py -k maps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv tests/requirements.txt requirements.txt

.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
# A file's tests stay on one worker: they share what its fixtures have prepared or trained.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
