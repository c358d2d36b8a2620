# SPDX-License-Identifier: Apache-2.0
"""AGPO on verl's Megatron backend, for a machine with a GPU: ``pytest tests/gpu/test_megatron.py``.

Two steps of a tiny model with the real trainer, Ray and vLLM, then the same with FSDP2: probes, decisions and losses
have to agree. It skips where there is no GPU or no Megatron; the composition of its configs is tested everywhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("megatron", "fsdp2")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
NEEDS_MEGATRON = pytest.mark.skipif(importlib.util.find_spec("megatron") is None, reason="Megatron is not installed")
CHANGES = (
    "+scale=rehearsal",
    "actor_rollout_ref.rollout.calculate_log_probs=true",
    "actor_rollout_ref.rollout.agent.default_agent_loop=replay",
    f"actor_rollout_ref.rollout.agent.agent_loop_config_path={ROOT / 'tests/realstack/replay_agent.yaml'}",
    "reward.custom_reward_function.path=pkg://recipe.agpo.quickstart.task",
    "data.max_response_length=32",
)

ONE_GPU = tuple(
    f"{part}.megatron.tensor_model_parallel_size=1"
    for part in ("actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic")
)


def changes(backend: str) -> tuple[str, ...]:
    return CHANGES + (ONE_GPU if backend == "megatron" else ())


def knobs(folder: Path, backend: str) -> dict[str, str]:
    return {"BACKEND": backend, "OUT": str(folder / backend), "GPUS": "1", "AGPO_PYTHON": sys.executable}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_configs_compose(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.plan.compose import compose

    for name, value in knobs(tmp_path, backend).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    config = compose("scripts/run_agpo_qwen14b.sh", changes(backend))
    assert config.actor_rollout_ref.actor.strategy == backend
    assert ("megatron" in config.actor_rollout_ref.actor) == (backend == "megatron")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Steps and decisions of both backends on the same replayed responses."""
    from recipe.agpo.quickstart.rehearsal import make_model
    from recipe.agpo.quickstart.task import make_data

    folder = tmp_path_factory.mktemp("megatron")
    make_model(folder / "model")
    train, val = make_data(folder / "data", n_train=64, n_val=8)
    found = {}
    for backend in BACKENDS:
        environment = os.environ | knobs(folder, backend) | {"MODEL_PATH": str(folder / "model")}
        subprocess.run(
            [
                "bash",
                "scripts/run_agpo_qwen14b.sh",
                *changes(backend),
                f"data.train_files={train}",
                f"data.val_files={val}",
            ],
            cwd=ROOT,
            env=environment,
            check=True,
            timeout=1800,
        )
        out = folder / backend
        lines = [json.loads(line) for path in out.glob("metrics.*.jsonl") for line in path.open()]
        decisions = (out / "checkpoints/agpo_decisions.jsonl").read_text().splitlines()
        found[backend] = {
            "steps": {line["step"]: line["data"] for line in lines},
            "decisions": [json.loads(line) for line in decisions],
        }
    return found


@NEEDS_GPU
@NEEDS_MEGATRON
def test_two_steps_train_and_decide(runs: dict[str, dict[str, Any]]) -> None:
    last = runs["megatron"]["steps"][2]
    assert last["agpo/tau/min"] < last["agpo/tau/max"] and last["agpo/eps/min"] < last["agpo/eps/max"]
    assert last["actor/grad_norm"] > 0 and last["agpo/step_kl"] != 0


@NEEDS_GPU
@NEEDS_MEGATRON
def test_both_backends_take_the_same_decisions_and_losses(runs: dict[str, dict[str, Any]]) -> None:
    ours, theirs = (runs[backend]["decisions"] for backend in BACKENDS)
    first = [[d["tau"], d["outcomes"]] for d in ours if d["step"] == 1]
    assert first == [[d["tau"], d["outcomes"]] for d in theirs if d["step"] == 1]
    for key in ("actor/pg_loss", "agpo/signal/policy_entropy"):
        values = [runs[backend]["steps"][1][key] for backend in BACKENDS]
        assert values[0] == pytest.approx(values[1], rel=2e-2, abs=1e-3), key
