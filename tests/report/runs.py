# SPDX-License-Identifier: Apache-2.0
"""Run folders made by the code that writes real ones: decisions, step metrics, state and ledger come from the package.

Only what verl itself logs is written out here, under the names and in the line format of its file logger.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from agpo_core import ControllerState, Resolved, TokenLedger, update_state
from recipe.agpo import run_folder
from recipe.agpo.columns import PROBE, REST
from recipe.agpo.rollout.outcomes import Scored
from recipe.agpo.rollout.probe import decide
from recipe.agpo.settings import RunConfig
from recipe.agpo.training import checkpoint
from recipe.agpo.training.batch import StepGroups
from recipe.agpo.training.decisions import clip_columns, decision_rows
from recipe.agpo.training.metrics import rate_metrics, step_metrics, update_shares
from recipe.agpo.training.token_ledger import ledger_metrics
from tests.recipe.steps import Row, gather

ACCURACY = "val-core/sums/acc/mean@1"
PROMPTS, GROUP, LENGTH = 4, 4, 25
SETTINGS = Resolved(tau_base=1.0, clip_low=0.2, clip_high=0.2, probe_size=GROUP // 2, group_size=GROUP)
Change = Callable[[int, dict[str, Any]], None]


def verl_metrics(step: int, rng: random.Random) -> dict[str, Any]:
    """What verl logs of a training step, as far as the page reads it."""
    length = 25 + rng.random()
    return {
        "training/global_step": step,
        "critic/score/mean": min(1.0, 0.3 + 0.01 * step + 0.05 * rng.random()),
        "response_length/mean": length,
        "response_length/max": 40.0 + step % 3,
        "response_length/clip_ratio": 1 / 16,
        "prompt_length/mean": 11.0,
        "perf/total_num_tokens": round(16 * (length + 11)),
        "perf/time_per_step": 8.0 + rng.random(),
        "actor/entropy": 0.08 - 0.0004 * step,
        "actor/grad_norm": 0.4 + 0.1 * rng.random(),
        "actor/lr": 1e-4,
        "actor/pg_clipfrac": 0.002,
        "actor/ppo_kl": 0.0003,
        "rollout_corr/log_ppl_abs_diff": 2e-6,
    }


def groups(step: int, rng: random.Random, state: ControllerState, config: RunConfig) -> StepGroups:
    """A step of ``PROMPTS`` prompts with ``GROUP`` responses each, half of them probes, decided by the controllers."""
    rows = []
    for p in range(PROMPTS):
        scored = [_scored(rng, 0.2 + 0.2 * p) for _ in range(GROUP)]
        probe = decide(scored[: GROUP // 2], state, config, SETTINGS.tau_base)
        first = Row(f"{step:08d}-{p:06d}", 0, length=LENGTH, entropy=0.08 - 0.0004 * step, seconds=0.02)
        for session, score in enumerate(scored):
            row = replace(first, session=session, outcome=score.outcome, vote_key=score.vote_key, role=PROBE)
            if session >= GROUP // 2:
                row = replace(row, role=REST, tau=probe.tau)
            rows.append(row)
    out = gather(rows, config, state)
    clip_columns(out, state, config, SETTINGS)
    return out


def _scored(rng: random.Random, chance: float) -> Scored:
    right = rng.random() < chance
    return Scored(float(right), float(right), "n:42" if right else rng.choice(["", "n:1", "n:2"]))


def line(step: int, data: dict[str, Any]) -> bytes:
    """As verl's file logger writes it: NaN becomes null."""
    return orjson.dumps({"step": step, "data": data}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def agpo_run(
    folder: Path,
    steps: int = 30,
    *,
    config: RunConfig | None = None,
    change: Change | None = None,
    first: int = 1,
    file: str = "metrics.000.jsonl",
    validate: int = 5,
) -> Path:
    """A run with both controllers. ``change(step, data)`` edits the logged values of a step."""
    config, rng, ledger = config or RunConfig(), random.Random(7), TokenLedger()
    state, folder = ControllerState.initial(config), Path(folder)
    checkpoints = folder / "checkpoints"
    decisions = checkpoint.DecisionLog(checkpoints / run_folder.DECISIONS_FILE, resumed_step=first - 1)
    with (folder / file).open("wb") as log:
        log.write(line(first - 1, {ACCURACY: 0.4}))
        for step in range(first, first + steps):
            of_step, data = groups(step, rng, state, config), verl_metrics(step, rng)
            data |= step_metrics(of_step, state, config)
            sums = {"tokens": 400.0, "kl_sum": 0.2, "kl_k3_sum": 0.1, "clip_low_tokens": 1.0, "clip_high_tokens": 2.0}
            data |= update_shares(sums | {"nonfinite_tokens": 0.0})
            data |= rate_metrics({"lr_sum": 4e-6, "updates": 4.0, "stopped": 0.0}, state)
            spent = TokenLedger(generated=400, probe=200, validation=100 if step % validate == 0 else 0)
            ledger += spent
            data |= ledger_metrics(spent, ledger, config.token_budget)
            data |= {"agpo/step_size/scale": 0.5, "agpo/step_size/lr": 0.5 * data["actor/lr"]}
            if step % validate == 0:
                data[ACCURACY] = 0.4 + 0.01 * step
            if change is not None:
                change(step, data)
            log.write(line(step, data))
            decisions.append(decision_rows(of_step, step))
            state = update_state(of_step.stats, of_step.signals(step_kl=5e-4, step_kl_k3=5e-4), state, config)
    last = checkpoints / f"global_step_{first + steps - 1}"
    checkpoint.write_state(last, state, config)
    checkpoint.write_ledger(last, ledger)
    planned = {"steps": first + steps - 1, "validation_problems": {"sums": 256}}
    run_folder.write_launch(folder, {"planned": planned, "settings": config.to_dict()})
    return folder


def grpo_run(folder: Path, steps: int = 20) -> Path:
    """A baseline of verl's own trainer: nothing under ``agpo/``, no decisions, no validation."""
    rng = random.Random(3)
    with (folder / "metrics.000.jsonl").open("wb") as log:
        for step in range(1, steps + 1):
            log.write(line(step, verl_metrics(step, rng)))
    return folder


def dump(folder: Path, step: int, responses: list[tuple[str, str, float]]) -> None:
    """Responses as verl's ``_write_generations`` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{step}.jsonl").open("w", encoding="utf-8") as file:
        for prompt, response, score in responses:
            entry = {"input": prompt, "output": response, "gts": "42", "score": score, "step": step, "uid": "a_0_0"}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def nan(step: int, data: dict[str, Any]) -> None:
    """A change: the gradient of every step is not finite."""
    data["actor/grad_norm"] = math.nan
