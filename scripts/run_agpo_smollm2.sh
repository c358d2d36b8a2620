#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# AGPO on a pretrained language model (SmolLM2-135M-Instruct) with verl, Ray and vLLM, without a GPU: environment,
# model, data, training, picture and report. 40 steps; docs/smollm2.md says what a step takes and what was measured.
#
#   bash scripts/run_agpo_smollm2.sh                     # the full method
#   bash scripts/run_agpo_smollm2.sh --method grpo       # verl's plain GRPO on the same task
#
# AGPO_DRY_RUN=1 prints what the run would be started with, and starts nothing.
exec bash "$(dirname "${BASH_SOURCE[0]}")/lib/cpu_run.sh" recipe.agpo.quickstart.smollm2 "$@"
