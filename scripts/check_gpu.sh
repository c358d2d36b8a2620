#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One GPU and thirty minutes: does AGPO work on it? Writes one report to attach to an issue.
#
#   bash scripts/check_gpu.sh            # the report is runs/gpu-check/report.md
#   CPU=1 bash scripts/check_gpu.sh      # a rehearsal without a GPU
#
#   OUT           folder of the report, the logs, the model and the run            (runs/gpu-check)
#   AGPO_PYTHON   the Python with verl's GPU stack                                 (python3)
#   LIMIT         seconds that one part may take                                   (900)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    out="${OUT:-runs/gpu-check}" limit="${LIMIT:-900}" python="${AGPO_PYTHON:-python3}" failed=0 number=0
    case "$limit" in
        "" | 0 | *[!0-9]*) echo "LIMIT=$limit: must be a number of seconds, at least 1." >&2; exit 2 ;;
    esac
    mkdir -p "$out" || exit 2
    out="$(realpath "$out")" report="$out/report.md"
    if [ "${CPU:-0}" = 1 ]; then
        export AGPO_CPU=1
        if [ -z "${AGPO_PYTHON:-}" ]; then source scripts/lib/env.sh && python="$PY" || exit 2; fi
        speed=(--rounds 1 --prompts 16 --group 4 --rows 8 --tokens 16) # shows that it runs; the times mean nothing
    else
        speed=(--device cuda)
    fi
    running=""
    trap stop INT TERM
    printf '# AGPO GPU check\n\n%s; CPU=%s\n' "$(date -u +%Y-%m-%d)" "${CPU:-0}" >"$report"

    part "Versions" "$python" -m recipe.agpo.cli --version
    part "GPU" gpu
    part "Doctor" "$python" -m recipe.agpo.cli doctor
    if has pytest && has hypothesis; then
        part "CUDA tests of agpo_core" "$python" -m pytest -q -rs -p no:cacheprovider tests/core -k cuda
    else
        skip "CUDA tests of agpo_core" 'pytest or hypothesis is missing: pip install -e ".[test]"'
    fi
    if has verl; then
        part "Kernel timings" timings
        if [ "${CPU:-0}" = 1 ]; then
            part "Two steps of training" env CPU=1 OUT="$out/run" bash scripts/run_agpo_qwen14b.sh
        elif "$python" -m recipe.agpo.cli model --help >/dev/null 2>&1; then
            part "Two steps of training" train
        else
            skip "Two steps of training" "this version has no command agpo model"
        fi
        if compgen -G "$out/run/metrics.*.jsonl" >/dev/null; then part "What the steps logged" metrics; fi
    else
        skip "Kernel timings" 'verl is missing: pip install -e ".[gpu]"'
        skip "Two steps of training" 'verl is missing: pip install -e ".[gpu]"'
    fi

    printf '\n%s part(s) failed.\n' "$failed" >>"$report"
    echo "check_gpu: $failed part(s) failed. Attach this file to an issue: $report"
    [ "$failed" = 0 ]
}

stop() {
    [ -z "$running" ] || { kill "$running" 2>/dev/null; wait "$running"; }
    echo "interrupted" >>"$report"
    echo "check_gpu: interrupted; so far: $report" >&2
    exit 130
}

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

skip() {
    echo "== $1: skipped, $2"
    printf '\n## %s\n\nskipped: %s\n' "$1" "$2" >>"$report"
}

# part TITLE COMMAND...: its status and its last lines go into the report, without this machine's paths and name.
part() {
    local title="$1" began=$SECONDS status log
    shift
    number=$((number + 1)) log="$out/$number.log"
    echo "== $title"
    export -f gpu timings train metrics
    export python out
    speed_words="${speed[*]}" timeout --kill-after=30 "$limit" bash -c '"$@"' _ "$@" >"$log" 2>&1 &
    running=$! # in the background, because bash handles Ctrl-C only after a command in the foreground has ended
    wait "$running"
    status=$? running=""
    case "$status" in
        0) status=ok ;;
        124 | 137) status="FAILED: longer than $limit s" failed=$((failed + 1)) ;;
        *) status="FAILED: exit code $status" failed=$((failed + 1)) ;;
    esac
    echo "   $status ($((SECONDS - began)) s); log in $log"
    {
        printf '\n## %s\n\n%s, %s s\n\n```\n' "$title" "$status" "$((SECONDS - began))"
        tail -n 60 "$log" | private | cut -c1-400
        printf '```\n'
    } >>"$report"
}

private() {
    local home="${HOME:-/}" host
    host="$(uname -n)"
    sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e "s|$out|OUT|g" -e "s|$PWD|.|g" \
        -e "$([ "${#home}" -gt 1 ] && echo "s|$home|~|g")" -e "s|$host|HOST|g" -e 's/\r/\n/g' -e 's/^```/ ```/'
}

gpu() {
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
    else
        echo "no nvidia-smi"
    fi
    "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "devices", torch.cuda.device_count())'
}

# The ratios are what counts; exit code 1 only says that a ratio is above its target.
timings() {
    local code=0
    "$python" benchmarks/core_speed.py $speed_words || code=$?
    [ "$code" -le 1 ] || return "$code"
}

train() {
    local data="$out/data"
    "$python" -m recipe.agpo.cli model get smollm2-135m --out "$out/model" || return
    "$python" -m recipe.agpo.cli data prepare reasoning_gym:chain_sum --size 64 --out "$data" || return
    "$python" -m recipe.agpo.cli data prepare reasoning_gym:chain_sum --size 16 --split test --out "$data" || return
    MODEL_PATH="$out/model" DATA_DIR="$data" TRAIN=reasoning_gym/chain_sum GPUS=1 TENSOR_PARALLEL=1 OUT="$out/run" \
        bash scripts/run_agpo_qwen14b.sh trainer.total_training_steps=2 trainer.save_freq=2 trainer.test_freq=-1 \
        trainer.val_before_train=false data.train_batch_size=32 data.val_batch_size=16 data.max_prompt_length=256 \
        data.max_response_length=256 actor_rollout_ref.actor.ppo_mini_batch_size=8 \
        actor_rollout_ref.rollout.gpu_memory_utilization=0.3 actor_rollout_ref.actor.optim.lr_warmup_steps=0
}

metrics() {
    "$python" -c '
import json, pathlib, sys
wanted = ("timing_s/", "agpo/overhead_s", "agpo/step", "agpo/tau/mean", "agpo/eps/mean", "agpo/tokens/generated",
          "critic/score/mean", "actor/grad_norm", "perf/max_memory", "rollout_corr/kl", "val-core/")
for file in sorted(pathlib.Path(sys.argv[1]).glob("metrics.*.jsonl")):
    for record in map(json.loads, file.open()):
        print("step", record["step"])
        for key, value in sorted(record["data"].items()):
            if key.startswith(wanted):
                print(f"  {key} {value:.6g}" if isinstance(value, float) else f"  {key} {value}")
' "$out/run"
}

main "$@"; exit
