# SPDX-License-Identifier: Apache-2.0
"""AGPO with what else is popular in verl, several parts at a time; the arithmetic is tested in tests/recipe.

Outcomes are planted. Two of the runs end with a failure, which must end in one clear error and leave the last
checkpoint whole.
"""

from __future__ import annotations

import json
import math

import pytest

from agpo_core import AllocationConfig, ClipConfig, allocate
from tests.realstack.combinations import COMBINATIONS, NIGHTLY, overrides
from tests.realstack.planted import OUTCOMES

STEPS = 2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in COMBINATIONS]
)
def test_combination_trains(launch, name):
    parts, outcomes, end = COMBINATIONS[name]
    run = launch(
        [
            *overrides(name),
            # The prompts of both workers meet in one plan.
            f"actor_rollout_ref.rollout.agent.num_workers={2 if 'allocation' in parts else 1}",
            "data.max_response_length=24",
            "data.shuffle=false",
            "trainer.save_freq=1",
            f"trainer.total_training_steps={STEPS if end == 'done' else 400}",
        ],
        outcomes=outcomes,
    )
    steps, decisions = until_the_end(run, end)
    for data in steps.values():
        assert math.isfinite(data["actor/pg_loss"]) and data["actor/grad_norm"] > 0
        assert math.isfinite(data["agpo/step_kl"])
    assert steps[2]["agpo/tau/min"] < steps[2]["agpo/tau/max"]
    if "clip-higher" in parts:
        bounds = ClipConfig()
        for decision in decisions:
            if bounds.min < decision["eps_low"] < 1.0:
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
        assert steps[2]["agpo/masked_share"] == 0, "each group of equals is all right or all wrong: it has a sign"
    if "signed groups" in parts:
        assert "agpo/masked_share" not in steps[2]
    if "adaptive loss" in parts:
        assert 0 < steps[2]["agpo/loss/weight_mean"] <= math.e
    if "GSPO" in parts:
        scales = [(decision["eps_low"] / 3e-4, decision["eps_high"] / 4e-4) for decision in decisions]
        assert all(0.24 < low < 2.01 and high == pytest.approx(low, rel=1e-4) for low, high in scales), scales
    if "CISPO" in parts:
        assert {decision["eps_low"] for decision in decisions} == {10.0}
    if "fused kernels, so corrected scoring" in parts:
        assert "This run uses algorithm.agpo.logprob_temperature=corrected" in run.log, "said at start-up"
        assert 0.5 < steps[2]["rollout_corr/rollout_is_mean"] < 1.5
    if "average of the weights" in parts:
        average = run.folder / "checkpoints" / f"global_step_{STEPS}" / "actor" / "average" / "agpo_average.json"
        assert json.loads(average.read_text())["updates"] == STEPS * 2
        assert any(key.startswith("val-") for key in steps[2]), "vLLM sampled with the average"
    if "allocation" in parts:
        check_allocation(steps, decisions)


def until_the_end(run, end):
    """Metrics and decisions of both steps; asserts that the run ended as it was to end."""
    if end == "vLLM dies":
        run.wait_for(lambda: STEPS in run.steps())
        run.kill("vLLMHttpServer", "VLLM::EngineCore")
    code = run.wait()
    if end == "done":
        assert code == 0, run.tail()
    else:
        assert code != 0 and run.checkpoint()[0] >= 1
        causes = {
            "vLLM dies": ["vLLM rollout server died"],
            "no verdicts": ["no response got a reward", "verifier is down"],
        }[end]
        assert all(cause in run.log for cause in causes), run.tail()
        assert "continues from global_step_" in run.log
    if end == "no verdicts":
        assert run.checkpoint()[0] == STEPS
    assert run.survivors() == []
    steps = {step: data for step, data in run.steps().items() if step <= STEPS}
    assert sorted(steps) == list(range(1, STEPS + 1)), run.tail()
    return steps, [decision for decision in run.decisions() if decision["step"] <= STEPS]


def check_allocation(steps, decisions):
    """Every step spends plain GRPO's total, on the prompts that the probes left open."""
    for step, data in steps.items():
        prompts = sorted((d for d in decisions if d["step"] == step), key=lambda d: d["prompt"])
        assert sum(len(d["outcomes"]) for d in prompts) == 8 * 4
        assert [d["roles"][:2] for d in prompts] == [["probe", "probe"]] * 8
        planted = [sorted(OUTCOMES[row % 4][:2]) for row in range(8)]
        assert [sorted(d["outcomes"][:2]) for d in prompts] == planted, "the rows come in their order"
        extra = allocate([sum(p) for p in planted], [2] * 8, probe_size=2, group_size=4, config=AllocationConfig())
        assert len(set(extra)) > 1
        assert [len(d["outcomes"]) - 2 for d in prompts] == extra, "both workers followed one plan"
        scored = [sum(o is not None for o in d["outcomes"]) for d in prompts]
        assert (data["agpo/group_size/min"], data["agpo/group_size/max"]) == (min(scored), max(scored))
