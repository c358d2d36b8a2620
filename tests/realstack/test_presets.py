# SPDX-License-Identifier: Apache-2.0
"""The presets with replayed responses: `grpo` is verl's GRPO, those of the papers do what they say.

That `grpo` computes verl's own advantages and leaves verl's loss in place is tested in one process, too:
tests/recipe/test_advantages.py and tests/recipe/test_actor_loss.py.
"""

from __future__ import annotations

import pytest

from tests.realstack import stack

pytestmark = pytest.mark.nightly

COMMON = (*stack.REPLAY, "data.max_response_length=32")


def test_preset_grpo_trains_like_verls_grpo(launch):
    """Same responses, one update: the same losses, with our trainer and rollout and without."""
    common = [*COMMON, "trainer.total_training_steps=1", "actor_rollout_ref.actor.ppo_mini_batch_size=8"]
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


@pytest.mark.parametrize("preset", ["reference", "agpo_d"])
def test_presets_of_the_dual_feedback_paper_discard_their_probe(launch, preset):
    run = launch([f"algorithm.agpo.preset={preset}", *COMMON, "trainer.total_training_steps=2"])
    assert run.wait() == 0, run.tail()
    assert ("logprob_temperature=uncorrected" in run.log) == (preset == "reference"), "said at start-up"
    steps, decisions = run.steps(), run.decisions()
    assert sorted(steps) == [1, 2]
    for step, data in steps.items():
        kept = sum(sum(decision["tokens"]) for decision in decisions if decision["step"] == step)
        assert data["agpo/tokens/discarded"] == data["agpo/tokens/probe"] > 0
        assert data["agpo/tokens/generated"] == data["agpo/tokens/discarded"] + kept
        assert "agpo/step_size/scale" not in data
    for decision in decisions:
        assert decision["roles"] == ["rest"] * 4
        assert decision["eps_low"] == decision["eps_high"]


def test_preset_agpo_l_trains_without_a_probe(launch):
    run = launch(["algorithm.agpo.preset=agpo_l", *COMMON, "trainer.total_training_steps=2"])
    assert run.wait() == 0, run.tail()
    assert sorted(run.steps()) == [1, 2]
    for data in run.steps().values():
        assert data["agpo/tokens/probe"] == 0 and "agpo/eps/mean" not in data
        assert {"agpo/masked_share", "agpo/loss/weight_mean", "agpo/length/part"} <= set(data)


def test_a_loss_that_is_no_number_stops_the_run_and_is_not_saved(launch):
    # Finite for the checks before the start, infinite in float32.
    overflows = "actor_rollout_ref.actor.entropy_coeff=1e39"
    run = launch([*COMMON, "trainer.total_training_steps=40", "trainer.save_freq=1", overflows])
    assert run.wait() != 0
    assert "gradient has not been finite for 3 steps" in run.log, run.tail()
    assert [data["agpo/nonfinite_steps"] for data in run.steps().values()] == [1, 2]
    assert not list((run.folder / "checkpoints").glob("global_step_*")), "what did not learn is not saved"
