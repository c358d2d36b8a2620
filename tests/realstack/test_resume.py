# SPDX-License-Identifier: Apache-2.0
"""Kill a run at any moment; the same command takes the decisions that the uninterrupted run took."""

from __future__ import annotations

import os
import signal

import pytest

from tests.realstack import stack

STEPS = 5
OVERRIDES = (
    *stack.REPLAY,
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=2",
    "data.max_response_length=32",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, inputs):
    run = stack.start(tmp_path_factory.mktemp("uninterrupted"), inputs, OVERRIDES)
    assert run.wait() == 0, run.tail()
    return run


def test_killed_run_resumes_with_the_same_decisions(uninterrupted, launch):
    killed = launch(OVERRIDES)
    killed.wait_for(lambda: 3 in killed.steps())
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.stop()
    assert max(killed.steps()) < STEPS

    resumed = launch(OVERRIDES)
    assert resumed.wait() == 0, resumed.tail()
    assert min(resumed.steps()) == 3, "went on from the checkpoint of step 2"
    assert resumed.decisions() == uninterrupted.decisions()
    for step, data in resumed.steps().items():
        expected = uninterrupted.steps()[step]
        for key in ("actor/pg_loss", "agpo/step_kl", "agpo/tokens/generated_cumulative", "agpo/state/updates"):
            assert data[key] == expected[key], (step, key)


def test_two_ranks_take_the_same_decisions(uninterrupted, launch):
    run = launch([*OVERRIDES, "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2", "trainer.save_freq=-1"])
    assert run.wait() == 0, run.tail()
    expected = [d for d in uninterrupted.decisions() if d["step"] <= 2]
    ours = run.decisions()
    # The forward pass rounds differently when rows are batched differently: equal to six digits, not bit for bit.
    assert [d["tau"] for d in ours] == [d["tau"] for d in expected]
    for mine, other in zip(ours, expected, strict=True):
        assert mine["eps_low"] == pytest.approx(other["eps_low"], abs=2e-5)
    for step in (1, 2):
        for key in ("actor/pg_loss", "agpo/signal/policy_entropy"):
            assert run.steps()[step][key] == pytest.approx(uninterrupted.steps()[step][key], rel=1e-3, abs=1e-5)
