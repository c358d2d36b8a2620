# SPDX-License-Identifier: Apache-2.0
"""AGPO with what else is popular in verl, several parts at a time; the arithmetic is tested in tests/recipe."""

from __future__ import annotations

import math

import pytest

from agpo_core import AllocationConfig, ClipConfig, allocate
from tests.realstack import stack
from tests.realstack.combinations import COMBINATIONS, overrides


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combination_trains(launch, name):
    parts, reward = COMBINATIONS[name]
    run = launch(
        [
            *overrides(name),
            # The prompts of both workers meet in one plan.
            f"actor_rollout_ref.rollout.agent.num_workers={2 if 'allocation' in parts else 1}",
            f"reward.custom_reward_function.name={reward}",
            "data.max_response_length=24",
            "trainer.total_training_steps=2",
        ],
        reward=stack.HERE / "bad_reward.py",
    )
    assert run.wait() == 0, run.tail()
    steps = run.steps()
    assert sorted(steps) == [1, 2]
    for data in steps.values():
        assert math.isfinite(data["actor/pg_loss"]) and data["actor/grad_norm"] > 0
        assert math.isfinite(data["agpo/step_kl"])
    assert steps[2]["agpo/tau/min"] < steps[2]["agpo/tau/max"]
    decisions = run.decisions()
    if "clip-higher" in parts:
        bounds = ClipConfig()
        for decision in decisions:
            if bounds.min < decision["eps_low"]:
                # Both sides widen and tighten by one factor, each within the same bounds.
                assert decision["eps_high"] == pytest.approx(min(bounds.max, 1.4 * decision["eps_low"]), rel=1e-4)
    if "dynamic sampling" in parts:
        # Groups that verl filtered have cost tokens too; those that trained differ in their outcomes.
        assert sum(data.get("training/filter_groups/evicted_samples", 0) for data in steps.values()) > 0
        for decision in decisions:
            valid = [o for o in decision["outcomes"] if o is not None]
            assert len(set(valid)) == 2 or len(valid) < 4, "only a failed verdict keeps a group of equals"
        trained = sum(sum(decision["tokens"]) for decision in decisions)
        assert steps[2]["agpo/tokens/generated_cumulative"] > trained
    if "KL loss" in parts:
        assert math.isfinite(steps[2]["actor/kl_loss"])
    if "length reward" in parts:
        assert "agpo/length/part" in steps[2]
    if "signed and masked groups" in parts:
        assert 0 <= steps[2]["agpo/masked_share"] <= 1
    if "signed groups" in parts:
        assert "agpo/masked_share" not in steps[2]
    if "adaptive loss" in parts:
        assert 0 < steps[2]["agpo/loss/weight_mean"] <= math.e
    if "allocation" in parts:
        check_allocation(steps, decisions)


def check_allocation(steps, decisions):
    """Every step spends plain GRPO's total, on the prompts that the probes left open."""
    for step, data in steps.items():
        prompts = sorted((d for d in decisions if d["step"] == step), key=lambda d: d["prompt"])
        assert sum(len(d["outcomes"]) for d in prompts) == 8 * 4
        assert [d["roles"][:2] for d in prompts] == [["probe", "probe"]] * 8
        probes = [[o for o in d["outcomes"][:2] if o is not None] for d in prompts]
        extra = allocate(
            [sum(p) for p in probes], [len(p) for p in probes], probe_size=2, group_size=4, config=AllocationConfig()
        )
        assert [len(d["outcomes"]) - 2 for d in prompts] == extra, "both workers followed one plan"
        scored = [sum(o is not None for o in d["outcomes"]) for d in prompts]
        assert (data["agpo/group_size/min"], data["agpo/group_size/max"]) == (min(scored), max(scored))
    assert len({len(d["outcomes"]) for d in decisions}) > 1, "some prompts got more than others"
