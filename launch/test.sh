#!/usr/bin/env bash
# Lint and tests, the same as in CI. Arguments go to pytest:
#   bash launch/test.sh tests/data/test_scenes.py -k maps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv tests/requirements.txt requirements.txt

.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
# The tests of a file stay on one worker, since they share what its fixtures prepare or train. Files
# keep the order of tests/conftest.py; xdist would begin those of few tests last, however long.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
