# SPDX-License-Identifier: Apache-2.0
"""Replayed responses: the trainer on one rank, on two, and over a restart decides and trains alike.

Three starts without a rollout server. The first loses a worker, the second goes on from its checkpoint until the disk
is full, the third has two ranks.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tests.realstack import stack

pytestmark = pytest.mark.xdist_group("replay")  # one process runs all of them, on one run

SAVED = 3
LAST = 5
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
)
ENDLESS = (*ADAPTIVE, "trainer.total_training_steps=400", f"trainer.save_freq={SAVED}")

COMPARED = (
    "actor/pg_loss",
    "actor/grad_norm",
    "agpo/signal/policy_entropy",
    "agpo/loss/weight_mean",
    "agpo/masked_share",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, inputs):
    """Steps 1 to 5 without a break, then a worker is lost. What they were is kept: the run goes on in its folder."""
    run = stack.start(tmp_path_factory.mktemp("whole"), inputs, ENDLESS)
    try:
        run.wait_for(lambda: LAST in run.steps())
        run.kill("WorkerDict")
        code = run.wait()
    finally:
        run.stop()
    steps = {step: data for step, data in run.steps().items() if step <= LAST}
    decisions = [decision for decision in run.decisions() if decision["step"] <= LAST]
    return SimpleNamespace(run=run, code=code, steps=steps, decisions=decisions)


def test_the_adaptive_loss_paper_trains_and_says_what_it_did(whole):
    assert sorted(whole.steps) == list(range(1, LAST + 1)), whole.run.tail()
    for data in whole.steps.values():
        assert math.isfinite(data["actor/pg_loss"]) and data["actor/grad_norm"] > 0
        assert data["agpo/length/part"] > 0 and 0 <= data["agpo/masked_share"] < 1
        assert data["agpo/loss/weight_mean"] != 1.0
    for decision in whole.decisions:
        parts = zip(decision.get("length", []), decision["outcomes"], strict=False)
        right = [part for part, outcome in parts if outcome]
        assert sum(right) == pytest.approx(0.0, abs=1e-5), "centred among the right ones"


def test_a_lost_worker_ends_the_run_with_its_cause(whole):
    assert whole.code != 0
    assert "a process of the run died" in whole.run.log, whole.run.tail()
    assert whole.run.survivors() == []
    step, tokens = whole.run.checkpoint()
    assert step >= SAVED and f"continues from global_step_{step}" in whole.run.log
    if step == SAVED:
        assert tokens == whole.steps[SAVED]["agpo/tokens/generated_cumulative"]


def test_groups_split_over_ranks_and_micro_batches_decide_and_train_alike(whole, launch):
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
    ours, theirs = split.decisions(), [d for d in whole.decisions if d["step"] <= 2]
    assert len(ours) == 2 * 8
    assert [d["tau"] for d in ours] == [d["tau"] for d in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        # The forward pass rounds differently when rows are batched differently: equal to some digits, not bit for bit.
        assert mine["eps_low"] == pytest.approx(other["eps_low"], abs=2e-5)
    for step in (1, 2):
        for key in COMPARED:
            one, two = whole.steps[step][key], split.steps()[step][key]
            assert two == pytest.approx(one, rel=2e-3, abs=1e-5), (step, key)


def test_a_restarted_run_decides_the_same_until_the_disk_is_full(whole, inputs):
    """From the first checkpoint, as if the run had been killed after it: what came later is made again."""
    folder = whole.run.folder
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(SAVED))
    full_at = 2 * SAVED
    whole.run.fill_the_disk(full_at)
    resumed = stack.start(folder, inputs, ENDLESS)
    try:
        assert resumed.wait() != 0
    finally:
        resumed.stop()
    assert f"global_step_{full_at} could not be written" in resumed.log, resumed.tail()
    assert f"continues from global_step_{SAVED}" in resumed.log
    assert resumed.checkpoint()[0] == SAVED

    steps = resumed.steps()
    assert min(steps) == SAVED + 1, "went on from the checkpoint"
    assert [d for d in resumed.decisions() if d["step"] <= LAST] == whole.decisions
    for step in range(SAVED + 1, LAST + 1):
        for key in (
            *COMPARED,
            "agpo/step_kl",
            "agpo/tokens/generated_cumulative",
            "agpo/state/updates",
            "agpo/step_size/scale",
        ):
            assert steps[step][key] == whole.steps[step][key], (step, key)
