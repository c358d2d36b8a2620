# SPDX-License-Identifier: Apache-2.0
"""Zero-variance rules, adaptive loss, length reward and allocation through verl, on one rank and on two."""

from __future__ import annotations

import math

import pytest

from agpo_core import AllocationConfig, allocate
from tests.realstack import stack

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
    "trainer.total_training_steps=2",
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
    assert sorted(steps) == [1, 2]
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
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
        ]
    )
    assert split.wait() == 0, split.tail()
    ours, theirs = split.decisions(), one_rank.decisions()
    assert [d["tau"] for d in ours] == [d["tau"] for d in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        # The forward pass rounds differently when rows are batched differently: equal to some digits, not bit for bit.
        assert mine["eps_low"] == pytest.approx(other["eps_low"], abs=2e-5)
    for step in (1, 2):
        for key in COMPARED:
            whole, pieces = one_rank.steps()[step][key], split.steps()[step][key]
            assert pieces == pytest.approx(whole, rel=2e-3, abs=1e-5), (step, key)


def test_allocation_spends_grpos_total_where_outcomes_are_open(launch):
    run = launch(
        [
            *stack.REPLAY,
            "algorithm.agpo.allocation.enabled=true",
            "actor_rollout_ref.rollout.agent.num_workers=2",
            "data.max_response_length=32",
            "trainer.total_training_steps=2",
        ]
    )
    assert run.wait() == 0, run.tail()
    for step, data in run.steps().items():
        decisions = sorted((d for d in run.decisions() if d["step"] == step), key=lambda d: d["prompt"])
        assert sum(len(d["outcomes"]) for d in decisions) == 8 * 4, "plain GRPO's total, spent"
        probes = [sum(d["outcomes"][:2]) for d in decisions]
        assert [d["roles"][:2] for d in decisions] == [["probe", "probe"]] * 8
        extra = allocate(probes, [2] * 8, probe_size=2, group_size=4, config=AllocationConfig())
        assert [len(d["outcomes"]) - 2 for d in decisions] == extra, "both workers followed one plan"
        assert (data["agpo/group_size/min"], data["agpo/group_size/max"]) == (2 + min(extra), 2 + max(extra))
        assert math.isfinite(data["actor/pg_loss"])
    assert len({len(d["outcomes"]) for d in run.decisions()}) > 1, "some prompts got more than others"
