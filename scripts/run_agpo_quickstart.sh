#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# AGPO on a small model with verl, Ray and vLLM, without a GPU: environment, data, model, training, picture.
#
#   bash scripts/run_agpo_quickstart.sh                     # the full method
#   bash scripts/run_agpo_quickstart.sh --method grpo       # verl's plain GRPO on the same task
#   bash scripts/run_agpo_quickstart.sh --fresh --steps 40 algorithm.agpo.temperature.gain=0.3
#
# AGPO_DRY_RUN=1 prints what the run would be started with, and starts nothing.
exec bash "$(dirname "${BASH_SOURCE[0]}")/lib/cpu_run.sh" recipe.agpo.quickstart.run "$@"
