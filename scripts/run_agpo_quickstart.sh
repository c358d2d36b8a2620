#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# AGPO on a small model with verl, Ray and vLLM, without a GPU: environment, data, model, training, picture.
#
#   bash scripts/run_agpo_quickstart.sh                     # the full method
#   bash scripts/run_agpo_quickstart.sh --method grpo       # verl's plain GRPO on the same task
#   bash scripts/run_agpo_quickstart.sh --fresh --steps 40 algorithm.agpo.temperature.gain=0.3
#
# AGPO_DRY_RUN=1 prints what the run would be started with, and starts nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${AGPO_DRY_RUN:-0}" != 0 ]; then
    PY="${AGPO_PYTHON:-python3}" # prints the command's arguments: no environment is made for that
else
    source scripts/lib/env.sh
fi
exec "$PY" -W ignore::SyntaxWarning -m recipe.agpo.quickstart.run "$@"
