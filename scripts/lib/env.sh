#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Creates the project's Python environment on first use; later calls take a fraction of a second.
#
#   source scripts/lib/env.sh     # in a script: sets AGPO_ROOT, AGPO_VENV and PY
#   bash scripts/lib/env.sh       # by hand
#
# AGPO_VENV     folder of the environment (default: .venv in the project root)
# AGPO_PYTHON   the Python 3.11 to create it with (default: python3.11, else the one uv finds or downloads)
# AGPO_NO_SETUP set to 1: use the environment as it is, never install

AGPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
AGPO_VENV="${AGPO_VENV:-$AGPO_ROOT/.venv}"
PY="$AGPO_VENV/bin/python"
AGPO_UV_VERSION="0.13.8"
export AGPO_ROOT AGPO_VENV PY

agpo_fail() {
    echo "agpo: environment not ready: $*" >&2
    return 1
}

# What the environment depends on: the lock, our entry points, and the paths of the project and of Python.
agpo_stamp() {
    { cat "$AGPO_ROOT/requirements/cpu.txt" "$AGPO_ROOT/pyproject.toml"; echo "$AGPO_ROOT $AGPO_UV_VERSION"; } \
        | sha256sum | cut -d' ' -f1
}

agpo_find_python() {
    local candidate
    for candidate in "${AGPO_PYTHON:-}" python3.11; do
        # A version manager's shim may exist and still refuse to run, so ask the interpreter itself.
        if [ -n "$candidate" ] \
            && "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
        then
            command -v "$candidate"
            return 0
        fi
    done
    command -v uv >/dev/null || return 1
    uv python find 3.11 2>/dev/null || { uv python install 3.11 >&2 && uv python find 3.11; }
}

agpo_uv() {
    "$PY" -m uv pip install --quiet --python "${AGPO_INTO:-$PY}" --no-deps "$@"
}

# This machine's pip settings for uv: sets AGPO_TORCH (source of torch: local or index) and AGPO_UV_ARGS.
agpo_uv_settings() {
    local kind value torch
    AGPO_UV_ARGS=() AGPO_TORCH=index
    torch="$(agpo_torch)"
    while read -r kind value; do
        case "$kind" in
            env) export "${value?}" ;;
            arg) AGPO_UV_ARGS+=("$value") ;;
            torch) AGPO_TORCH="$value" ;;
        esac
    done < <("$PY" "$AGPO_ROOT/scripts/lib/uv_settings.py" "${torch/==/-}")
}

agpo_torch() {
    grep '^torch==' "$AGPO_ROOT/requirements/cpu.txt" || agpo_fail "no torch line in requirements/cpu.txt"
}

# torch is installed apart: its CPU build is in a local wheel folder, or on PyTorch's own index, which
# should not be asked for anything else.
agpo_install_torch() {
    local torch order mode
    torch="$(agpo_torch)" || return 1
    if [ "$AGPO_TORCH" = local ]; then order="plain backend"; else order="backend plain"; fi
    for mode in $order; do
        if [ "$mode" = plain ]; then
            agpo_uv "${AGPO_UV_ARGS[@]}" "$torch" 2>>"$AGPO_LOG" && return 0
        else
            agpo_uv --torch-backend cpu "$torch" 2>>"$AGPO_LOG" && return 0
        fi
    done
    tail -n 15 "$AGPO_LOG" >&2
    agpo_fail "no CPU build of $torch. Either let this machine reach the PyTorch package index, or put the" \
        "wheel into a folder and name it: PIP_FIND_LINKS=FOLDER."
}

# A run starts about ten processes that each import some five thousand modules. Compiled once, here, that takes
# half the time, also where PYTHONDONTWRITEBYTECODE is set. Only what training imports is compiled; a failure
# costs time later and nothing else.
agpo_write_bytecode() {
    PYTHONDONTWRITEBYTECODE='' AGPO_CPU=1 OMP_NUM_THREADS=1 "$PY" >>"$AGPO_LOG" 2>&1 -c '
import verl.trainer.main_ppo, verl.trainer.ppo.v1, verl.workers.engine_workers, transfer_queue
import verl.workers.rollout.vllm_rollout.vllm_async_server
import vllm.v1.engine.async_llm, vllm.v1.worker.cpu_worker, vllm.model_executor.models.qwen2
import transformers.models.qwen2.modeling_qwen2
import math_verify, reasoning_gym' || true
}

agpo_install() {
    local lock="$AGPO_ROOT/requirements/cpu.txt" python began=$SECONDS
    case "$(uname -sm)" in
        "Linux x86_64") ;;
        *) agpo_fail "the lock is for Linux on x86-64, this is $(uname -sm). Install the extra 'cpu' or 'gpu'" \
            "by hand and set AGPO_NO_SETUP=1."; return 1 ;;
    esac
    if [ ! -x "$PY" ]; then
        python="$(agpo_find_python)" || {
            agpo_fail "Python 3.11 not found. Install it, or install uv, or name one with AGPO_PYTHON."; return 1; }
        echo "agpo: creating $AGPO_VENV with $python (first run only)" >&2
        "$python" -m venv "$AGPO_VENV" || { agpo_fail "could not make $AGPO_VENV with $python"; return 1; }
    fi
    AGPO_LOG="$AGPO_VENV/agpo-install.log"
    : >"$AGPO_LOG"
    "$PY" -m pip install --quiet --disable-pip-version-check "uv==$AGPO_UV_VERSION" 2>>"$AGPO_LOG" || {
        tail -n 15 "$AGPO_LOG" >&2
        agpo_fail "pip could not install uv: the package index is out of reach."
        return 1
    }
    agpo_uv_settings
    echo "agpo: installing the lock into $AGPO_VENV" >&2
    agpo_install_torch || return 1
    agpo_uv "${AGPO_UV_ARGS[@]}" -r <(grep -v '^torch==' "$lock") 2>>"$AGPO_LOG" || {
        tail -n 15 "$AGPO_LOG" >&2
        agpo_fail "could not install requirements/cpu.txt."
        return 1
    }
    agpo_uv --no-build-isolation -e "$AGPO_ROOT" 2>>"$AGPO_LOG" || {
        tail -n 15 "$AGPO_LOG" >&2
        agpo_fail "could not install the project itself."
        return 1
    }
    agpo_write_bytecode
    echo "agpo: environment ready in $((SECONDS - began)) s" >&2
}

# Packages that only some tests need, and that training must not import, are in separate folders. Without them those
# tests are skipped with a message.
# Sets AGPO_BROWSER_PYTHON, AGPO_TRL, AGPO_MEGATRON, AGPO_CORE_PYTHON and AGPO_DOCS_PYTHON.
agpo_test_env() {
    local browser="$AGPO_VENV/browser" trl="$AGPO_VENV/trl" megatron="$AGPO_VENV/megatron" core="$AGPO_VENV/core"
    local docs="$AGPO_VENV/docs"
    if [ -z "${AGPO_BROWSER_PYTHON:-}" ] && agpo_extra "$browser" browser.txt; then
        export AGPO_BROWSER_PYTHON="$browser/bin/python"
    fi
    if agpo_extra "$trl" trl.txt --target "$trl"; then export AGPO_TRL="$trl"; fi
    if agpo_extra "$megatron" megatron.txt --target "$megatron"; then export AGPO_MEGATRON="$megatron"; fi
    if agpo_extra "$core" core.txt; then export AGPO_CORE_PYTHON="$core/bin/python"; fi
    if agpo_extra "$docs" docs.txt; then export AGPO_DOCS_PYTHON="$docs/bin/python"; fi
}

# agpo_extra FOLDER LOCK [--target FOLDER]: requirements/LOCK in a separate environment, or next to ours; created once.
agpo_extra() {
    local folder="$1" lock="$AGPO_ROOT/requirements/$2" AGPO_INTO="$1/bin/python"
    shift 2
    cmp -s "$lock" "$folder/installed.txt" && return 0
    [ "${AGPO_NO_SETUP:-0}" = 1 ] && return 1
    echo "agpo: installing requirements/$(basename "$lock") into $folder" >&2
    rm -rf "$folder"
    AGPO_LOG="$AGPO_VENV/agpo-install.log"
    agpo_uv_settings
    if "$PY" -m venv --without-pip "$folder" \
        && { ! grep -q '^torch==' "$lock" || agpo_install_torch; } \
        && agpo_uv "$@" "${AGPO_UV_ARGS[@]}" -r <(grep -v '^torch==' "$lock")
    then
        cp "$lock" "$folder/installed.txt"
    else
        echo "agpo: not installed; its tests will skip." >&2
        return 1
    fi
}

agpo_env() {
    local stamp
    if [ "${AGPO_NO_SETUP:-0}" = 1 ]; then
        [ -x "$PY" ] || agpo_fail "AGPO_NO_SETUP=1 and no Python at $PY"
        return
    fi
    stamp="$(agpo_stamp)"
    [ "$(cat "$AGPO_VENV/.agpo-stamp" 2>/dev/null)" = "$stamp" ] && return 0
    agpo_install || return 1
    echo "$stamp" >"$AGPO_VENV/.agpo-stamp"
}

agpo_env
