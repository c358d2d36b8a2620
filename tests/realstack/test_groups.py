# SPDX-License-Identifier: Apache-2.0
"""Zero-variance rules, adaptive loss and length reward through verl: on one rank, on two, and killed half-way.

The same replayed responses each time, so the decisions and losses must be the same too.
"""

from __future__ import annotations

import math
import os
import signal

import pytest

from tests.realstack import stack

pytestmark = pytest.mark.xdist_group("groups")  # one process runs all of them, on one uninterrupted run

STEPS = 5
# Both controllers and everything of the adaptive-loss paper at once; the replayed responses differ in length and many
# groups are equal.
ADAPTIVE = (
    *stack.REPLAY,
    "algorithm.agpo.advantage.zero_variance=signed_mask",
    "algorithm.agpo.advantage.outcome_max=1",
    "algorithm.agpo.loss.adaptive=exp",
    "algorithm.agpo.loss.floor=0.02",
    "algorithm.agpo.length.weight=0.3",
    "actor_rollout_ref.actor.optim.lr=3e-3",
    "algorithm.agpo.step_size.start=1",  # at once: the loss is to be seen to adapt
    "data.max_response_length=32",
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=2",
)

COMPARED = (
    "actor/pg_loss", "actor/grad_norm", "agpo/signal/policy_entropy", "agpo/loss/weight_mean", "agpo/masked_share",
)  # fmt: skip


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory, inputs):
    run = stack.start(tmp_path_factory.mktemp("one_rank"), inputs, ADAPTIVE)
    assert run.wait() == 0, run.tail()
    return run


def test_the_adaptive_loss_paper_trains_and_says_what_it_did(one_rank):
    steps = one_rank.steps()
    assert sorted(steps) == list(range(1, STEPS + 1))
    for data in steps.values():
        assert math.isfinite(data["actor/pg_loss"]) and data["actor/grad_norm"] > 0
        assert data["agpo/length/part"] > 0 and 0 <= data["agpo/masked_share"] < 1
        assert data["agpo/loss/weight_mean"] != 1.0
    for decision in one_rank.decisions():
        parts = zip(decision.get("length", []), decision["outcomes"], strict=False)
        right = [part for part, outcome in parts if outcome]
        assert sum(right) == pytest.approx(0.0, abs=1e-5), "centred among the right ones"


def test_groups_split_over_ranks_and_micro_batches_decide_and_train_alike(one_rank, launch):
    """Two ranks and micro-batches of two rows cut every group into pieces."""
    split = launch(
        [
            *ADAPTIVE,
            "trainer.n_gpus_per_node=2",
            "trainer.total_training_steps=2",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
        ]
    )
    assert split.wait() == 0, split.tail()
    ours, theirs = split.decisions(), [d for d in one_rank.decisions() if d["step"] <= 2]
    assert [d["tau"] for d in ours] == [d["tau"] for d in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        # The forward pass rounds differently when rows are batched differently: equal to some digits, not bit for bit.
        assert mine["eps_low"] == pytest.approx(other["eps_low"], abs=2e-5)
    for step in (1, 2):
        for key in COMPARED:
            whole, pieces = one_rank.steps()[step][key], split.steps()[step][key]
            assert pieces == pytest.approx(whole, rel=2e-3, abs=1e-5), (step, key)


def test_killed_run_resumes_with_the_same_decisions(one_rank, launch):
    killed = launch(ADAPTIVE)
    killed.wait_for(lambda: 3 in killed.steps())
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.stop()
    assert max(killed.steps()) < STEPS

    resumed = launch(ADAPTIVE)
    assert resumed.wait() == 0, resumed.tail()
    assert min(resumed.steps()) == 3, "went on from the checkpoint of step 2"
    assert resumed.decisions() == one_rank.decisions()
    for step, data in resumed.steps().items():
        expected = one_rank.steps()[step]
        for key in (*COMPARED, "agpo/step_kl", "agpo/tokens/generated_cumulative", "agpo/state/updates",
                    "agpo/step_size/scale"):  # fmt: skip
            assert data[key] == expected[key], (step, key)
