# SPDX-License-Identifier: Apache-2.0
"""Validate the result of a reward function, and read its outcome.

The rule for bad input at run time: a response whose reward function raised, did not answer in time, or gave something
that is not a finite number stays in the batch without a reward. It is left out of statistics, loss and denominator, and
is counted under ``agpo/verifier/<status>``. It does not count as a reward of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe.agpo.rewards import verdict
from recipe.agpo.rewards.canonical import canonical
from recipe.agpo.rewards.extract import final_answer, last_line
from recipe.agpo.rewards.text import plain
from recipe.agpo.rewards.verdict import NON_FINITE, NOT_A_NUMBER, OK


@dataclass(frozen=True)
class Scored:
    """Verdict on one response.

    Attributes:
        reward: the shaped reward for training, 0.0 if not valid.
        outcome: the verifier's outcome that the controllers read, NaN if not valid.
        vote_key: canonical answer, ``""`` if unparseable.
        status: one of ``verdict.RESPONSE_STATUSES``; any other value of a reward function counts as ``ok``.
        detail: for the log: the exception or the value that was not a number.
    """

    reward: float
    outcome: float
    vote_key: str
    status: str = OK
    detail: str = ""

    @property
    def valid(self) -> bool:
        return self.status in verdict.JUDGED


def failed(status: str, detail: str) -> Scored:
    """A response without a reward. ``status`` is one of those without an outcome."""
    if status in verdict.JUDGED:
        raise ValueError(f"status {status!r} says that there is an outcome; without one it is {verdict.LOST!r}")
    return Scored(reward=0.0, outcome=math.nan, vote_key="", status=status, detail=detail)


def judge(
    reward: Any, info: Mapping[str, Any], response: str, *, outcome_key: str | None, vote_key: str | None
) -> Scored:
    """Check a returned reward and pick outcome and vote key out of its extra information.

    Args:
        reward: what the reward function returned as score.
        info: its other return values.
        response: decoded response, for the fallback vote key.
        outcome_key: key of ``info`` with the outcome; None: ``outcome``, then ``acc``, then the reward itself.
        vote_key: key of ``info`` with the answer; None: ``vote_key``, then ``pred``, then read from the response.
    """
    status = str(info.get("status", OK))
    if status in verdict.UNJUDGED:
        return failed(status, "the verifier could not judge it")
    number = _number(reward)
    if number is None:
        return failed(NOT_A_NUMBER, f"score {reward!r} of type {type(reward).__name__}")
    if not math.isfinite(number):
        return failed(NON_FINITE, f"score {number}")

    outcome: float | None = None
    for key in (outcome_key,) if outcome_key else ("outcome", "acc"):
        if key in info:
            outcome = _number(info[key])
            if outcome is None or not math.isfinite(outcome):
                return failed(NOT_A_NUMBER if outcome is None else NON_FINITE, f"{key} {info[key]!r}")
            break
    key_value: str | None = None
    for key in (vote_key,) if vote_key else ("vote_key", "pred"):
        if key in info and info[key] is not None:
            key_value = str(info[key])
            break
    return Scored(
        reward=number,
        outcome=number if outcome is None else outcome,
        vote_key=fallback_vote_key(response) if key_value is None else key_value,
        status=status if status in verdict.JUDGED else OK,
    )


def fallback_vote_key(response: str) -> str:
    """A vote key for reward functions that give none; they may return ``vote_key`` (or ``pred``) beside ``score``.

    Of the answer that the response states, else of its last line: a number in one spelling, anything else as
    normalised text. ``""`` if there is nothing.
    """
    found = final_answer(response)
    answer = found.text if found else last_line(response)
    read = canonical(answer) if answer else None
    if read is None:
        return ""
    return read.key if read.number is not None else f"t:{plain(answer)}"


def _number(value: Any) -> float | None:
    """``value`` as a float if it is a number (numpy and torch scalars too), else None. Text is not a number."""
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several elements
        return None
