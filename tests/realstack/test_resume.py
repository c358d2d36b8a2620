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
        for key in ("actor/pg_loss", "agpo/step_kl", "agpo/tokens/generated_cumulative", "agpo/state/updates",
                    "agpo/step_size/scale"):  # fmt: skip
            assert data[key] == expected[key], (step, key)
