# SPDX-License-Identifier: Apache-2.0
"""What a reward function returned -> an outcome that may be trusted, or a status; never silently 0."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy
import pytest
import torch

from recipe.agpo.rewards.verdict import JUDGED, LOST, NON_FINITE, NOT_A_NUMBER, OK, UNJUDGED
from recipe.agpo.rollout.outcomes import Scored, failed, judge


def verdict(reward: Any, info: dict[str, Any] | None = None, response: str = "#### 5", **keys: Any) -> Scored:
    return judge(reward, info or {}, response, **{"outcome_key": None, "vote_key": None, **keys})


@pytest.mark.parametrize("reward", [1, 1.0, True, numpy.float32(1), numpy.array(1.0), torch.tensor(1.0), Decimal(1)])
def test_every_kind_of_number_counts(reward: Any) -> None:
    scored = verdict(reward)
    assert (scored.status, scored.valid, scored.reward, scored.outcome) == (OK, True, 1.0, 1.0)
    assert type(scored.reward) is float


@pytest.mark.parametrize(
    "reward",
    [None, "1.0", b"1", "correct", [1.0, 0.0], {}, object(), numpy.ones(2), torch.ones(2), 1j, 10**400],
)
def test_what_is_not_a_number(reward: Any) -> None:
    scored = verdict(reward)
    assert (scored.status, scored.valid, scored.reward) == (NOT_A_NUMBER, False, 0.0)
    assert math.isnan(scored.outcome)
    assert type(reward).__name__ in scored.detail


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, numpy.float64("nan"), torch.tensor(math.inf)])
def test_what_is_not_finite(reward: Any) -> None:
    scored = verdict(reward)
    assert (scored.status, scored.reward, scored.vote_key) == (NON_FINITE, 0.0, "")
    assert math.isnan(scored.outcome)


def test_the_outcome_is_kept_apart_from_the_shaped_reward() -> None:
    scored = verdict(0.85, {"acc": 1.0, "length_bonus": -0.15})
    assert (scored.reward, scored.outcome) == (0.85, 1.0)


def test_where_the_outcome_comes_from() -> None:
    assert verdict(0.5).outcome == 0.5
    assert verdict(0.5, {"acc": True}).outcome == 1.0
    assert verdict(0.5, {"acc": 0.0, "outcome": 1.0}).outcome == 1.0
    assert verdict(0.5, {"acc": 0.0, "right": 1.0}, outcome_key="right").outcome == 1.0
    # A named key that a response lacks: fall back on the reward.
    assert verdict(0.5, {"acc": 1.0}, outcome_key="right").outcome == 0.5


@pytest.mark.parametrize(("value", "status"), [("yes", NOT_A_NUMBER), (math.nan, NON_FINITE)])
def test_a_bad_outcome_spoils_a_good_reward(value: Any, status: str) -> None:
    scored = verdict(1.0, {"acc": value})
    assert (scored.status, scored.reward) == (status, 0.0)
    assert "acc" in scored.detail


def test_where_the_vote_key_comes_from() -> None:
    assert verdict(1.0).vote_key == "n:5"
    assert verdict(1.0, {"pred": "7"}).vote_key == "7"
    assert verdict(1.0, {"pred": "7", "vote_key": 8}).vote_key == "8"
    assert verdict(1.0, {"pred": "7", "answer": "9"}, vote_key="answer").vote_key == "9"
    assert verdict(1.0, {"pred": None}).vote_key == "n:5"
    # Unparseable, says the verifier: that is a class of its own, not a reason to guess.
    assert verdict(1.0, {"vote_key": ""}).vote_key == ""


def test_failed_carries_no_reward() -> None:
    scored = failed(LOST, "no reward after 60 s")
    assert (scored.valid, scored.reward, scored.vote_key, scored.detail) == (False, 0.0, "", "no reward after 60 s")


@pytest.mark.parametrize("status", UNJUDGED)
def test_a_verifier_that_could_not_judge_gives_no_wrong_answer(status: str) -> None:
    scored = verdict(0.0, {"acc": 0.0, "outcome": math.nan, "vote_key": "", "status": status})
    assert (scored.status, scored.valid) == (status, False)
    assert math.isnan(scored.outcome)


@pytest.mark.parametrize("status", JUDGED)
def test_what_the_verifier_says_of_a_judged_response_is_kept(status: str) -> None:
    scored = verdict(0.0, {"outcome": 0.0, "vote_key": "", "status": status})
    assert (scored.status, scored.valid, scored.outcome) == (status, True, 0.0)


def test_a_reward_functions_own_word_for_a_status_does_not_spoil_its_verdict() -> None:
    assert verdict(1.0, {"status": "lovely"}).status == OK


def test_failed_takes_no_status_that_says_there_is_an_outcome() -> None:
    with pytest.raises(ValueError, match="'timeout'.*'lost'"):
        failed("timeout", "no reward after 60 s")
