# SPDX-License-Identifier: Apache-2.0
"""AGPO with what else is popular in verl. docs/method.md has the table; the arithmetic is tested in tests/recipe."""

from __future__ import annotations

import math

import pytest

from tests.realstack import stack

COMBINATIONS = {
    # A third of the responses is right, by hash; every eighth raises: filtered groups are generated anew.
    "dynamic_sampling-clip_higher-dr_grpo-cispo": (
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=acc",
        "actor_rollout_ref.actor.clip_ratio_high=0.28",
        "algorithm.norm_adv_by_std_in_grpo=False",
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm",
        "actor_rollout_ref.actor.policy_loss.loss_mode=cispo",
        "reward.custom_reward_function.name=unequal",
    ),
    "gspo-lora-kl_loss": (
        "actor_rollout_ref.actor.policy_loss.loss_mode=gspo",
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean",
        "actor_rollout_ref.model.lora_rank=4",
        "actor_rollout_ref.model.lora_alpha=8",
        "actor_rollout_ref.rollout.load_format=safetensors",
        "actor_rollout_ref.rollout.layered_summon=true",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
        "reward.custom_reward_function.name=by_hash",
    ),
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combination_trains(launch, name):
    run = launch(
        [*COMBINATIONS[name], "data.max_response_length=24", "trainer.total_training_steps=2"],
        reward=stack.HERE / "bad_reward.py",
    )
    assert run.wait() == 0, run.tail()
    steps = run.steps()
    assert sorted(steps) == [1, 2]
    for data in steps.values():
        assert math.isfinite(data["actor/pg_loss"]) and data["actor/grad_norm"] > 0
        assert math.isfinite(data["agpo/step_kl"])
    assert steps[2]["agpo/tau/min"] < steps[2]["agpo/tau/max"]
    if "clip_higher" in name:
        assert steps[2]["agpo/eps_high/mean"] == pytest.approx(1.4 * steps[2]["agpo/eps/mean"], rel=0.02)
    if "dynamic_sampling" in name:
        # Groups that verl filtered have cost tokens too; those that trained differ in their outcomes.
        filtered = sum(data.get("training/filter_groups/evicted_samples", 0) for data in steps.values())
        assert filtered > 0
        for decision in run.decisions():
            valid = [o for o in decision["outcomes"] if o is not None]
            assert len(set(valid)) == 2 or len(valid) < 4, "only a failed verdict keeps a group of equals"
        trained = sum(sum(decision["tokens"]) for decision in run.decisions())
        assert steps[2]["agpo/tokens/generated_cumulative"] > trained
    if "kl_loss" in name:
        assert math.isfinite(steps[2]["actor/kl_loss"])
