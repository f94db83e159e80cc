#!/usr/bin/env bash
# Sets up a virtual environment in .venv, with the tested versions, and passes lint, types, layers and tests. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt --editable '.[test]'
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
.venv/bin/pytest -n "${LEDGERTAIL_TEST_WORKERS:-2}" --durations=40 "$@"
