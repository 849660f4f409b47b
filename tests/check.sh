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
# One core has some folders' tests, the other the linters and then all other tests.
some=(tests/panels tests/recording tests/space)
quick=(pytest -q -m "not slow and not browser and not cuda")
log=$(mktemp)
"${quick[@]}" "${some[@]}" >"$log" 2>&1 &
trap 'kill $! 2>/dev/null || true; rm -f "$log"' EXIT
lint
others=passed
"${quick[@]}" "${some[@]/#/--ignore=}" || others=failed
wait $! || others=failed
cat "$log"
[ $others = passed ]
