#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts one method on one model; the scripts run_<method>_<model>.sh name both. Arguments after the script's name are
# Hydra overrides and take precedence over all settings here.
#
#   DATA_DIR          folder of `agpo data prepare`                                 (data)
#   TRAIN, VAL        names in it: TRAIN=gsm8k VAL="gsm8k aime24"                   (gsm8k; the benchmarks that are there)
#   MODEL_PATH        checkpoint folder or hub id                                   (from the model's config)
#   OUT               checkpoints, log and metrics; the same OUT resumes            (runs/<method>-<model>)
#   GPUS, NODES       per node, and nodes of the Ray cluster at RAY_ADDRESS         (8, 1)
#   GPU_MEMORY_GB     80 or 141: how much of it vLLM may take                       (80)
#   TENSOR_PARALLEL   GPUs per vLLM replica                                         (from the model's config)
#   BACKEND           fsdp2 or megatron                                             (fsdp2)
#   LORA_RANK         train a LoRA of this rank instead of all weights              (0)
#   TOKEN_BUDGET      end at this number of generated tokens, for any method          (none)
#   LOGGERS           wandb, trackio, tensorboard, ...: docs/launch.md              (console,file)
#   CPU               1: a rehearsal without a GPU: two steps of a tiny model on generated sums, in the same configs
#                     and code; installs what it needs                              (0)
#   AGPO_PYTHON       the Python with verl's GPU stack                              (python3)
#   AGPO_DRY_RUN      1: print the command and stop                                 (0)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# A function, because bash reads a script while it runs: editing the file must not affect a run that is in progress.
main() {
    method="$1" model="$2"
    shift 2
    # Absolute, because the workers of a Ray cluster that runs already are in another folder.
    out="$(realpath -m "${OUT:-runs/$method-$model}")"
    python="${AGPO_PYTHON:-python3}"
    data="$(realpath -m "${DATA_DIR:-data}")"
    train="${TRAIN:-gsm8k}"
    if [ "${CPU:-0}" = 1 ]; then
        if [ -z "${DATA_DIR:-}" ]; then data="$out/rehearsal/data"; fi
        train="${TRAIN:-reasoning_gym/chain_sum}"
        MODEL_PATH="${MODEL_PATH:-$out/rehearsal/model}"
        GPUS="${GPUS:-1}"
        export AGPO_CPU=1
        if [ "${AGPO_DRY_RUN:-0}" = 0 ]; then
            source scripts/lib/env.sh
            python="$PY"
            "$python" -m recipe.agpo.quickstart.rehearsal --model "$MODEL_PATH" --data "$data"
        fi
    fi

    local name value
    for name in GPUS NODES TENSOR_PARALLEL TOKEN_BUDGET LORA_RANK; do
        value="${!name:-1}"
        if [ "$name" = TOKEN_BUDGET ]; then value="${value//_/}"; fi # 2_000_000_000, as Hydra reads it
        case "$name=$value" in
            LORA_RANK=0) ;;
            *=0* | *= | *=*[!0-9]* | *=???????????????????*)
                echo "$name=${!name}: must be a whole number from 1, of at most 18 digits." >&2
                exit 2
                ;;
        esac
    done

    # A path as a value for Hydra: quoted where it holds more than its grammar allows in a bare word.
    quoted() {
        case "$1" in
            *[!A-Za-z0-9_./:@%+-]*) printf "'%s'" "${1//\'/\\\'}" ;;
            *) printf '%s' "$1" ;;
        esac
    }

    files() {
        local split="$1" name list=""
        shift
        for name in "$@"; do list="$list,$(quoted "$data/$name/$split.parquet")"; done
        echo "[${list#,}]"
    }

    validation="${VAL:-}"
    if [ -z "$validation" ]; then
        for folder in "$data"/*/; do
            if [ -f "$folder/test.parquet" ]; then validation="$validation $(basename "$folder")"; fi
        done
        validation="${validation:- $train}"
    fi

    # Megatron's critic has a section of another name.
    local group="$method"
    if [ "$method-${BACKEND:-fsdp2}" = ppo-megatron ]; then group=ppo_megatron; fi

    arguments=(
        --config-name "$model"
        "method=$group"
        "data.train_files=$(files train $train)"
        "data.val_files=$(files test $validation)"
        "trainer.default_local_dir=$(quoted "$out/checkpoints")"
        "trainer.experiment_name=$method-$model"
        "trainer.n_gpus_per_node=${GPUS:-8}"
        "trainer.nnodes=${NODES:-1}"
        "trainer.logger=[${LOGGERS:-console,file}]"
    )
    if [ "${CPU:-0}" = 1 ]; then arguments+=("+scale=rehearsal"); fi
    if [ -n "${MODEL_PATH:-}" ]; then
        if [ -d "$MODEL_PATH" ]; then MODEL_PATH="$(realpath "$MODEL_PATH")"; fi
        arguments+=("actor_rollout_ref.model.path=$(quoted "$MODEL_PATH")")
    fi
    if [ -n "${TENSOR_PARALLEL:-}" ]; then
        arguments+=("actor_rollout_ref.rollout.tensor_model_parallel_size=$TENSOR_PARALLEL")
    fi
    if [ -n "${TOKEN_BUDGET:-}" ]; then arguments+=("algorithm.agpo.token_budget=$TOKEN_BUDGET"); fi
    if [ "${LORA_RANK:-0}" != 0 ]; then
        # verl takes the rank of a LoRA from another key for each backend; layered summon loads it into vLLM piece by piece.
        case "${BACKEND:-fsdp2}" in
            megatron) arguments+=("actor_rollout_ref.model.lora.rank=$LORA_RANK" "actor_rollout_ref.model.lora.alpha=$((2 * LORA_RANK))") ;;
            *) arguments+=(
                "actor_rollout_ref.model.lora_rank=$LORA_RANK" "actor_rollout_ref.model.lora_alpha=$((2 * LORA_RANK))"
                "actor_rollout_ref.rollout.load_format=safetensors" "actor_rollout_ref.rollout.layered_summon=true"
            ) ;;
        esac
        arguments+=("actor_rollout_ref.actor.optim.lr=1e-5")
    fi
    case "${GPU_MEMORY_GB:-80}" in
        80) ;;
        141) arguments+=("actor_rollout_ref.rollout.gpu_memory_utilization=0.7" "actor_rollout_ref.rollout.max_num_seqs=1024") ;;
        *) echo "GPU_MEMORY_GB=$GPU_MEMORY_GB: settings are given for 80 and 141. Set one of them, and change" \
            "actor_rollout_ref.rollout.gpu_memory_utilization behind the script's name." >&2; exit 2 ;;
    esac
    case "${BACKEND:-fsdp2}" in
        fsdp2) ;;
        megatron) arguments+=(
            "model_engine=megatron" "actor_rollout_ref.actor.strategy=megatron" "actor_rollout_ref.ref.strategy=megatron"
            "critic.strategy=megatron" "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2"
            "actor_rollout_ref.ref.megatron.tensor_model_parallel_size=2" "critic.megatron.tensor_model_parallel_size=2"
        ) ;;
        *) echo "BACKEND=$BACKEND: known are fsdp2 and megatron." >&2; exit 2 ;;
    esac

    if [ "${AGPO_DRY_RUN:-0}" != 0 ]; then
        printf '%s\n' "${arguments[@]}" "$@"
        exit 0
    fi
    mkdir -p "$out"
    # Each tracker's own files lie in the run's folder, and the same OUT continues them.
    export TENSORBOARD_DIR="${TENSORBOARD_DIR:-$out/tensorboard}" WANDB_DIR="${WANDB_DIR:-$out}"
    export VERL_FILE_LOGGER_PATH="${VERL_FILE_LOGGER_PATH:-$out/metrics.$(date +%Y%m%d-%H%M%S).jsonl}"
    "$python" -m recipe.agpo.cli doctor --ranks "$((${GPUS:-8} * ${NODES:-1}))" --folder "$out"
    "$python" -m recipe.agpo.cli plan --strict --gpu-gb "${GPU_MEMORY_GB:-80}" "${arguments[@]}" "$@"
    # tee -i: Ctrl-C ends the training, and its last lines are written.
    exec "$python" -m recipe.agpo.main "${arguments[@]}" "$@" 2>&1 | tee -a -i "$out/train.log"
}

main "$@"; exit
