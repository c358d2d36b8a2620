# SPDX-License-Identifier: Apache-2.0
"""Kind ``gym``: reasoning-gym's own scorers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards.canonical import canonical
from recipe.agpo.rewards.extract import final_answer, last_line, tidy
from recipe.agpo.rewards.text import plain
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

SCORE = "recipe.agpo.rewards.gym:score"


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Scored by the task itself.

    gold: ``{"dataset": name, "config": {...}, "entry": {...}}`` as JSON. args: ``full_marks`` (default true): only full
    marks are an outcome of 1 and everything else is 0; reasoning-gym gives small marks for mere form. False: the marks
    are the outcome.
    """
    problem = check_gold(gold, args)
    if problem:
        return Judgement(0.0, False, "", BAD_GOLD, problem)
    found = final_answer(response)
    answer = found.text if found else tidy(last_line(response))
    if not answer:
        return Judgement(0.0, False, "", NO_ANSWER)
    entry = json.loads(gold)
    right_key = vote_key(str(entry["entry"].get("answer") or ""))

    def finish(marks: float) -> Judgement:
        full = marks >= 1.0
        outcome = float(full) if args.get("full_marks", True) else float(marks)
        return Judgement(outcome, found is not None, right_key if full and right_key else vote_key(answer))

    return Work(SCORE, [answer, gold], finish)


def vote_key(answer: str) -> str:
    """Numbers in one spelling, everything else as normalised text."""
    if not answer.strip():
        return ""
    read = canonical(answer)
    return read.key if read.number is not None else f"t:{plain(answer)}"


def score(answer: str, gold: str) -> float:
    """reasoning-gym's marks in [0, 1]; runs in a worker of the pool, since some scorers compute for long."""
    task = json.loads(gold)
    dataset = _dataset(task["dataset"], json.dumps(task.get("config") or {}, sort_keys=True))
    return float(dataset.score_answer(answer, task["entry"]))


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if answers can be scored against this entry, else why not."""
    try:
        task = json.loads(gold)
        if not isinstance(task["entry"], dict) or "metadata" not in task["entry"]:
            return "the entry of the task has no metadata"
        if not isinstance(task["dataset"], str):
            return f"dataset {task['dataset']!r} is not a name"
    except (ValueError, KeyError, TypeError):
        return 'the reference is not JSON of the form {"dataset": ..., "config": {...}, "entry": {...}}'
    return None


def prepare() -> None:
    """Imports that are no answer's fault."""
    import reasoning_gym  # noqa: F401


@functools.lru_cache(maxsize=64)
def _dataset(name: str, config: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **json.loads(config))
