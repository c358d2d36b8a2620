#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All checks: lint, types, fast tests, then the tests that start Ray, verl and vLLM.
#
#   bash scripts/run_tests.sh           # what every change must pass
#   bash scripts/run_tests.sh --fast    # without the real stack
#   bash scripts/run_tests.sh --all     # and the starts marked nightly, which CONTRIBUTING.md lists
#   bash scripts/run_tests.sh [--fast | --all] -- -k clipping   # what follows -- goes to pytest
#   AGPO_TEST_PARALLEL=1 bash scripts/run_tests.sh      # one test file at a time, for a machine with little memory
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fast_only=0 starts="realstack and not nightly"
case "${1:-}" in
    --fast) fast_only=1; shift ;;
    --all) starts=realstack; shift ;;
esac
case "${1:-}" in
    --) shift ;;
    "") ;;
    *) echo "run_tests.sh: unknown option $1; known are --fast, --all, and -- before arguments for pytest." >&2; exit 2 ;;
esac

source scripts/lib/env.sh
agpo_test_env
# Test files at a time. A start of the real stack keeps one core busy and waits half of its time; it takes 6 GB.
PARALLEL="${AGPO_TEST_PARALLEL:-2}"
# One thread per process: Ray and vLLM start many processes, whose thread pools would compete for few cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0

failed=""
stage() {
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed="$failed $name"
}

stage format "$PY" -m ruff format --check .
stage ruff "$PY" -m ruff check .
stage mypy "$PY" -m mypy
if [ -n "$failed" ]; then echo "== FAILED so far:$failed (the run will end non-zero)" >&2; fi

stage "tests" "$PY" -m pytest -m "not realstack" -q -n "$PARALLEL" --dist loadfile "$@"
if [ -n "${AGPO_TRL:-}" ]; then
    PYTHONPATH="$AGPO_TRL" stage "tests with TRL" "$PY" -m pytest -q tests/stacks/test_trl.py \
        tests/stacks/test_contract.py::test_trl
fi
# The real stack takes minutes: it is not started on code that has failed already.
if [ -z "$failed" ] && [ "$fast_only" = 0 ]; then
    stage "realstack" "$PY" -m pytest -m "$starts" -q -n "$PARALLEL" --dist loadgroup --durations 40 "$@"
fi
[ -z "$failed" ]
