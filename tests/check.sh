#!/usr/bin/env bash
# The quick gate, for use before each commit: under three minutes on two cores.
#   bash tests/check.sh          all of it
#   bash tests/check.sh lint     without the tests
set -euo pipefail
cd "$(dirname "$0")/.."
lint() {
    ruff format --check .
    ruff check .
    mypy
    lint-imports
}
if [ "${1:-}" = lint ]; then
    lint
    exit
fi
lint &
trap 'kill $! 2>/dev/null || true' EXIT
pytest -q -n 2 -m "not slow and not browser and not cuda"
wait $!
