#!/usr/bin/env bash
# The scripts beside it source this file, in the repository's root. `make_venv FILE...` makes .venv, or
# reuses it, and installs the first requirements file; the other files are those that it includes.

_works() {  # whether $1 runs and is new enough
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

make_venv() {
  local candidate python=''
  if [[ -x .venv/bin/python ]] && ! _works .venv/bin/python; then
    echo 'error: .venv does not hold a Python of at least 3.11; delete .venv and start again.' >&2
    return 1
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    for candidate in python3.11 python3.12 python3; do
      if _works "$candidate"; then
        python=$candidate
        break
      fi
    done
    if [[ -z $python ]]; then
      echo 'error: There is no python3.11, python3.12 or python3 of at least version 3.11 on PATH;' \
        'install Python 3.11.' >&2
      return 1
    fi
    echo "Making .venv with $($python --version)."
    "$python" -m venv .venv || return
  fi

  # The stamp says what was installed last, so that only a changed file is installed again.
  local stamp
  stamp=.venv/installed-${1//\//-}
  if [[ $(cat "$stamp" 2>/dev/null) != "$(cat "$@" | cksum)" ]]; then
    echo "Installing $1 into .venv, which takes some minutes the first time."
    .venv/bin/python -m pip install -qq --disable-pip-version-check \
      --requirement "$1" || return
    cat "$@" | cksum >"$stamp"
  fi
}
