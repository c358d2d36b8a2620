# SPDX-License-Identifier: Apache-2.0
"""The launch scripts with CPU=1: the shipped configs and the real stack, a tiny model, two steps or a token budget."""

from __future__ import annotations

import json
import math
import os
import subprocess

import pytest

from recipe.agpo.processes import MARKER, end_marked, new_run_id
from recipe.agpo.training.checkpoint import read_ledger
from tests.realstack import stack

# A step spends between 32 tokens (one for each response) and 768 (24 for each): whatever is sampled, a budget of 2000
# is reached after the second step and before the 63rd.
BUDGET = 2000
ENDLESS = 99


@pytest.fixture
def script(tmp_path):
    """Run a script to its end; nothing it starts outlives the test."""
    marker = new_run_id()

    def run(name, *overrides, **knobs):
        environment = (
            os.environ
            | stack.python_env()
            | knobs
            | {
                "CPU": "1",
                "OUT": str(tmp_path),
                "AGPO_NO_SETUP": "1",
                MARKER: marker,
            }
        )
        done = subprocess.run(
            ["bash", f"scripts/{name}", *overrides],
            cwd=stack.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * stack.START_LIMIT,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        lines = [json.loads(line) for path in tmp_path.glob("metrics.*.jsonl") for line in path.open()]
        return done.stdout, {line["step"]: line["data"] for line in lines}

    yield run
    end_marked(marker)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["run_grpo_llama8b.sh", "run_ppo_gemma9b.sh"])
def test_two_steps(script, tmp_path, name):
    output, steps = script(name)
    assert sorted(steps) == [0, 1, 2], "validated before, then two steps"
    for step in (1, 2):
        assert math.isfinite(steps[step]["actor/pg_loss"]) and math.isfinite(steps[step]["actor/grad_norm"])
        assert steps[step]["agpo/tokens/generated"] > 0
    assert ("critic/vf_loss" in steps[1]) == ("ppo" in name)
    assert "agpo/eps/mean" not in steps[1], "neither has a controller"
    assert "val-core/reasoning_gym:chain_sum/acc/mean@1" in steps[2]
    assert read_ledger(tmp_path / "checkpoints" / "global_step_2").generated == sum(
        steps[step]["agpo/tokens/generated"] for step in (1, 2)
    )
    assert "update(s) per batch" in output, "the plan comes first"


def test_agpo_ends_at_its_token_budget_and_its_learning_rate_with_it(script, tmp_path):
    rate = 1e-3
    output, steps = script(
        "run_agpo_qwen14b.sh",
        f"trainer.total_training_steps={ENDLESS}",
        f"trainer.total_epochs={ENDLESS}",
        f"trainer.save_freq={ENDLESS}",
        f"trainer.test_freq={ENDLESS}",
        "algorithm.agpo.lr_schedule=tokens",
        "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine",
        f"actor_rollout_ref.actor.optim.lr={rate}",
        TOKEN_BUDGET=str(BUDGET),
    )
    last = max(steps)
    spent = {step: steps[step]["agpo/tokens/generated_cumulative"] for step in range(1, last + 1)}
    assert 1 < last < ENDLESS and spent[last] >= BUDGET > spent[last - 1]
    assert steps[1]["agpo/tokens/probe"] > 0 and "agpo/eps/mean" in steps[1]
    for step, tokens in spent.items():
        expected = rate * 0.5 * (1 + math.cos(math.pi * min(1.0, tokens / BUDGET)))
        assert steps[step]["actor/lr"] == pytest.approx(expected, abs=1e-9), step
    assert "val-core/reasoning_gym:chain_sum/acc/mean@1" in steps[last], "validated at the end"
    assert read_ledger(tmp_path / "checkpoints" / f"global_step_{last}").generated == spent[last]
    # verl's own measure of the same thing: every response of a step is in its batch.
    assert steps[1]["agpo/tokens/generated"] == round(steps[1]["response_length/mean"] * 8 * 4)
    assert steps[last]["agpo/tokens/validation_cumulative"] > 0, "counted apart"
    assert "token budget reached in step" in output
    assert "update(s) per batch" in output, "the plan comes first"
