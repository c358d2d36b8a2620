# SPDX-License-Identifier: Apache-2.0
"""verl's asynchronous trainers: prompts are generated ahead, and a kill loses neither state nor ledger."""

from __future__ import annotations

import os
import signal

import pytest

from agpo_core import load_state
from recipe.agpo.training.checkpoint import read_ledger

pytestmark = pytest.mark.nightly

STEPS = 6
COMMON = (
    "data.shuffle=false",
    "actor_rollout_ref.rollout.calculate_log_probs=True",
    "actor_rollout_ref.actor.optim.lr=1e-4",
    "data.max_response_length=32",
    "trainer.save_freq=2",
    f"trainer.total_training_steps={STEPS}",
)
MODES = {
    "colocate_async": ("trainer.v1.colocate_async.num_warmup_batches=1",),
    # The rollout server has a process of its own; two mini-batches train on each of its versions.
    "separate_async": (
        "trainer.v1.separate_async.num_warmup_batches=1",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_stale_prompts_train_and_a_killed_run_goes_on(launch, mode):
    overrides = (*COMMON, f"trainer.v1.trainer_mode={mode}", *MODES[mode])
    killed = launch(overrides, outcomes="mixed")
    killed.wait_for(lambda: 4 in killed.steps())
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.stop()

    resumed = launch(overrides, outcomes="mixed")
    assert resumed.wait() == 0, resumed.tail()
    first, later = killed.steps(), resumed.steps()
    assert min(later) in (3, 5) and max(later) == STEPS
    steps = {step: data for step, data in first.items() if step < min(later)} | later

    staleness = [data["training/off_policy/trajectory_staleness/max"] for data in steps.values()]
    assert max(staleness) >= 1, "some responses are older than the policy that trains on them"
    assert any(data["agpo/tau/min"] < data["agpo/tau/max"] for data in steps.values())
    for step, data in steps.items():
        # A response's own temperature makes up for most; one policy update lies between some of them.
        assert data["training/rollout_probs_diff_mean"] < 5e-3, step
        assert data["agpo/state/updates"] == step - 1, "once per step, also over the restart"
    generated = [steps[step]["agpo/tokens/generated_cumulative"] for step in sorted(steps)]
    assert generated == sorted(generated) and generated[0] > 0

    folder = resumed.folder / "checkpoints" / f"global_step_{STEPS}"
    state, _, _ = load_state(folder / "agpo_state.json")
    assert state.step == STEPS
    assert read_ledger(folder).generated >= generated[-1], "what was generated ahead is counted too"
    decided = resumed.decisions()
    assert [len([d for d in decided if d["step"] == step]) for step in range(1, STEPS + 1)] == [8] * STEPS
    assert len({d["prompt"] for d in decided}) == 8 * STEPS, "no prompt trains twice"
