# SPDX-License-Identifier: Apache-2.0
"""The presets on the real stack: `grpo` is verl's GRPO, `reference` throws its probe away."""

from __future__ import annotations

import pytest

from tests.realstack import stack


def test_preset_grpo_trains_like_verls_grpo(launch):
    """Same replayed responses, one update: the same losses, with our trainer and rollout and without."""
    common = [*stack.REPLAY, "trainer.total_training_steps=1", "actor_rollout_ref.actor.ppo_mini_batch_size=8",
              "data.max_response_length=32"]  # fmt: skip
    ours = launch(["algorithm.agpo.preset=grpo", *common], folder="ours")
    assert ours.wait() == 0, ours.tail()
    verls = launch(["algorithm.adv_estimator=grpo", "~algorithm.agpo", *common], folder="verls")
    assert verls.wait() == 0, verls.tail()
    mine, other = ours.steps()[1], verls.steps()[1]
    assert mine["critic/score/mean"] == other["critic/score/mean"] > 0
    assert mine["critic/advantages/max"] == other["critic/advantages/max"]
    for key in ("actor/pg_loss", "actor/grad_norm", "actor/entropy"):
        # Rows come in another order, so sums round differently.
        assert mine[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    assert "agpo/eps/mean" not in mine
    assert mine["agpo/tokens/probe"] == 0
    assert not any(key.startswith("agpo/") for key in other), "without a section algorithm.agpo verl is untouched"


def test_preset_reference_discards_its_probe(launch):
    run = launch(
        ["algorithm.agpo.preset=reference", "trainer.total_training_steps=2", "data.max_response_length=32",
         "reward.custom_reward_function.name=by_hash"],
        reward=stack.HERE / "bad_reward.py",
    )  # fmt: skip
    assert run.wait() == 0, run.tail()
    assert "scoring=uncorrected" in run.log, "said at start-up"
    for data in run.steps().values():
        assert data["agpo/tokens/discarded"] == data["agpo/tokens/probe"] > 0
        assert data["agpo/tokens/generated"] > 1.5 * data["agpo/tokens/discarded"]
    for decision in run.decisions():
        assert decision["roles"] == ["rest"] * 4
        assert decision["eps_low"] == decision["eps_high"]
