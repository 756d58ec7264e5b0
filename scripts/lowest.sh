#!/usr/bin/env bash
# The quick suite with the oldest versions that pyproject.toml promises, in an environment of their own (.venv-lowest).
#
#   scripts/lowest.sh [OPTION of pytest ...]    # PYTHON: by default the oldest that pyproject.toml promises
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.10}
venv=.venv-lowest

"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$venv/bin/uv" pip compile --quiet --no-annotate --resolution lowest-direct --python "$venv/bin/python" \
  pyproject.toml --all-extras --group dev -o "$venv/requirements.txt"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r "$venv/requirements.txt"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps -e .
"$venv/bin/python" -m pytest -n 2 --dist worksteal -m "not slow" "$@"
