#!/usr/bin/env bash
# The quick gate, for use before each commit: under three minutes on two cores.
#   bash tests/check.sh          all of it
#   bash tests/check.sh lint     without the tests
set -euo pipefail
cd "$(dirname "$0")/.."
ruff format --check .
ruff check .
mypy
lint-imports
[ "${1:-}" = lint ] || pytest -q -m "not slow and not browser and not cuda"
