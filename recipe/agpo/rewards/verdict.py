# SPDX-License-Identifier: Apache-2.0
"""What a verifier says about one response: always the same keys, whatever happened.

Whether a response is right (`outcome`) is kept apart from what trains (`score`) and from form (`format`). A
response that makes its own judging impossible (it uses up the time or the memory, or breaks the grader) is wrong, or
a policy would learn to hide wrong answers. Where the response is not the cause, its outcome is NaN and its status says
why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

# There is an outcome.
OK = "ok"
NO_ANSWER = "no_answer"  # no final answer in the response: wrong, and a vote class of its own
LIMIT = "limit"  # the submitted program hit its time, memory or output limit: wrong
TIMEOUT = "timeout"  # judging the response took more processor time than its limit: wrong
CRASHED = "crashed"  # judging the response raised, ran out of memory or ended the worker: wrong
# There is none, and the response is not the cause.
LOST = "lost"  # the worker was killed from outside, could not start or was not given the processor
RAISED = "raised"  # the grader is broken: it raises whatever the response is
BAD_GOLD = "bad_gold"  # the reference answer cannot be judged against

JUDGED = (OK, NO_ANSWER, LIMIT, TIMEOUT, CRASHED)
UNJUDGED = (LOST, RAISED, BAD_GOLD)
STATUSES = JUDGED + UNJUDGED
# What a reward function of somebody else returned cannot be used.
NOT_A_NUMBER, NON_FINITE = "not_a_number", "non_finite"
RESPONSE_STATUSES = (*STATUSES, NOT_A_NUMBER, NON_FINITE)


@dataclass(frozen=True)
class Judgement:
    """What a grader found.

    Attributes:
        outcome: 1.0 right, 0.0 wrong; between only where the task itself gives partial credit.
        found_format: whether the answer stood in the form that the prompt asked for.
        vote_key: canonical answer with its kind as prefix (``n:3/4``, ``x:\\sqrt{2}``, ``c:B``, ``t:paris``,
            ``p:<hash>``); ``""`` without an answer. Right answers carry the key of the reference answer.
        status: one of ``STATUSES``.
        detail: one line for a person.
    """

    outcome: float
    found_format: bool
    vote_key: str
    status: str = OK
    detail: str = ""


@dataclass(frozen=True)
class Work:
    """Judging that may hang or crash, to be done in a killable worker.

    Attributes:
        function: ``module:name`` of a function importable in the worker.
        arguments: its positional arguments, JSON-able.
        finish: from the function's return value to the judgement; cheap, runs in the caller.
        time_limit_s: processor time from the start of the work; None for the pool's own limit.
        control: arguments with which the same function judges the reference answer alone. If the work fails, these
            say whose fault it is: where they fail too, the reference is bad; where they do not, the response is
            wrong. None: a response that uses up time or memory is wrong, and an exception is the grader's fault.
        wrong: the judgement of a response whose work failed by its own fault; its status is set then.
        confined: the function evaluates text that a model wrote: run it in a confined process of its own.
    """

    function: str
    arguments: list[Any]
    finish: Callable[[Any], Judgement] = field(compare=False)
    time_limit_s: float | None = None
    control: list[Any] | None = None
    wrong: Judgement = Judgement(0.0, False, "")
    confined: bool = False


@dataclass(frozen=True)
class Verdict:
    """The fixed set of keys that every reward call returns.

    Attributes:
        score: what trains: outcome plus shaping; 0.0 if not judged (a plain trainer cannot take NaN).
        outcome: right or wrong, without shaping; NaN if not judged, so that nobody takes it for a wrong answer.
        acc: outcome for averages over a validation set: 0.0 if not judged.
        format: 1.0 if the answer stood in the form that was asked for, else 0.0.
        vote_key: see :class:`Judgement`.
        status: one of ``STATUSES``.
        seconds: time of the judging itself, without waiting for a worker.
    """

    score: float
    outcome: float
    acc: float
    format: float
    vote_key: str
    status: str
    seconds: float

    @property
    def judged(self) -> bool:
        return self.status in JUDGED

    def to_dict(self) -> dict[str, float | str]:
        return asdict(self)


def verdict(judgement: Judgement, seconds: float, format_weight: float = 0.0) -> Verdict:
    """Add shaping and time to a judgement. ``score = outcome + format_weight * format``, 0.0 if not judged."""
    form = float(judgement.found_format)
    if judgement.status in UNJUDGED:
        return Verdict(0.0, math.nan, 0.0, form, "", judgement.status, seconds)
    outcome = judgement.outcome
    return Verdict(
        outcome + format_weight * form, outcome, outcome, form, judgement.vote_key, judgement.status, seconds
    )
