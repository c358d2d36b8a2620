# SPDX-License-Identifier: Apache-2.0
"""Every kind of verifier inside the training path: data rows, verl's reward loop, statuses, votes, decisions."""

from __future__ import annotations

import pytest

from recipe.agpo.rewards.verdict import UNJUDGED
from tests.realstack import kinds, stack

pytestmark = pytest.mark.xdist_group("kinds")  # one run for all of them


@pytest.fixture(scope="module")
def run(tmp_path_factory, inputs):
    folder = tmp_path_factory.mktemp("kinds")
    data = kinds.write_rows(folder / "kinds.parquet")
    run = stack.start(
        folder,
        (inputs[0], data, data),
        [
            *stack.REPLAY,
            "actor_rollout_ref.rollout.agent.default_agent_loop=kinds",
            "algorithm.agpo.probe.size=3",
            "+reward.custom_reward_function.reward_kwargs={time_limit_s:3.0}",
            "data.max_response_length=128",
            "actor_rollout_ref.rollout.max_model_len=160",
            "data.shuffle=false",
            "trainer.total_training_steps=1",
        ],
        reward="pkg://recipe.agpo.rewards",
    )
    code = run.wait()
    assert code == 0, run.tail()
    return run


def by_prompt(run):
    """Decisions in the order of the data file, by prompt."""
    return dict(zip(kinds.cases(), sorted(run.decisions(), key=lambda d: d["prompt"]), strict=True))


@pytest.mark.parametrize("name", list(kinds.cases()))
def test_verdicts(run, name):
    case, found = kinds.cases()[name], by_prompt(run)[name]
    assert found["statuses"] == list(case.statuses)
    valid = [i for i, status in enumerate(case.statuses) if status not in UNJUDGED]
    assert [found["outcomes"][i] for i in valid] == [case.outcomes[i] for i in valid]


def test_equal_wrong_answers_are_one_vote(run):
    keys = by_prompt(run)["math"]["vote_keys"]
    assert keys[0] == keys[1] and keys[2] == "n:1/2"


def test_statuses_are_counted(run):
    data = run.steps()[1]
    expected = [status for case in kinds.cases().values() for status in case.statuses]
    for status in set(expected):
        assert data[f"agpo/verifier/{status}"] == expected.count(status)
