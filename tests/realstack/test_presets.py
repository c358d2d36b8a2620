# SPDX-License-Identifier: Apache-2.0
"""The presets on the real stack: `grpo` is verl's GRPO, those of the papers do what they say."""

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


TWO_STEPS = ("trainer.total_training_steps=2", "data.max_response_length=32",
             "reward.custom_reward_function.name=by_hash")  # fmt: skip


def test_preset_reference_discards_its_probe(launch):
    """agpo_d, the other one that does, trains in test_failures.py."""
    run = launch(["algorithm.agpo.preset=reference", *TWO_STEPS], reward=stack.HERE / "bad_reward.py")
    assert run.wait() == 0, run.tail()
    assert "logprob_temperature=uncorrected" in run.log, "said at start-up"
    stack.check_discarded_probes(run)


def test_preset_agpo_l_trains_without_a_probe(launch):
    run = launch(["algorithm.agpo.preset=agpo_l", *TWO_STEPS], reward=stack.HERE / "bad_reward.py")
    assert run.wait() == 0, run.tail()
    for data in run.steps().values():
        assert data["agpo/tokens/probe"] == 0 and "agpo/eps/mean" not in data
        assert {"agpo/masked_share", "agpo/loss/weight_mean", "agpo/length/part"} <= set(data)
