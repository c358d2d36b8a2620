# SPDX-License-Identifier: Apache-2.0
"""The token budget with verl's own GRPO: no controller of ours, one ledger, one end."""

from __future__ import annotations

from recipe.agpo.checkpoint import read_ledger
from tests.realstack import stack

BUDGET = 2000


def test_grpo_ends_at_the_token_budget(launch):
    run = launch(
        [
            *stack.REPLAY,
            "algorithm.adv_estimator=grpo",
            f"algorithm.agpo.token_budget={BUDGET}",
            "trainer.total_training_steps=40",
            "trainer.save_freq=39",
            "trainer.test_freq=39",
            "data.max_response_length=32",
        ]
    )
    assert run.wait() == 0, run.tail()
    steps = run.steps()
    last = max(steps)
    spent = [steps[i]["agpo/tokens/generated_cumulative"] for i in sorted(steps)]
    assert last < 39 and spent[-1] >= BUDGET > spent[-2]
    assert "val-core/chain_sum/acc/mean@1" in steps[last], "validated at the end"
    assert read_ledger(run.folder / "checkpoints" / f"global_step_{last}").generated == spent[-1]
    # verl's own measure of the same thing: every response of a step is in its batch.
    assert steps[1]["agpo/tokens/generated"] == round(steps[1]["response_length/mean"] * 8 * 4)
    assert steps[last]["agpo/tokens/validation_cumulative"] == 0, "logged with the next step"
    assert "token budget reached in step" in run.log
