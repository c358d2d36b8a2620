#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# cpu_run.sh MODULE [ARGUMENT ...]: starts a Python module of this project in the environment without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "${AGPO_DRY_RUN:-0}" != 0 ]; then
    PY="${AGPO_PYTHON:-python3}" # prints the command's arguments: no environment is made for that
else
    source scripts/lib/env.sh
fi
exec "$PY" -W ignore::SyntaxWarning -m "$@"
