# SPDX-License-Identifier: Apache-2.0
"""Kind ``gym``: reasoning-gym's own scorers.

Some of them evaluate the answer as a program. What each may see, and where it runs, is in
:mod:`recipe.agpo.rewards.gym_rules`.
"""

from __future__ import annotations

import functools
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards.canonical import canonical
from recipe.agpo.rewards.extract import MAX_CHARACTERS, final_answer, last_line, readable, tidy
from recipe.agpo.rewards.gym_rules import RULES
from recipe.agpo.rewards.text import plain
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

_EMPTY = re.compile(r"(?:<answer>\s*</answer>|\\boxed\{\s*\})\W*$")
BEST = "recipe.agpo.rewards.gym:best"


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Scored by the task itself; an answer that its scorer must not see is wrong.

    gold: ``{"dataset": name, "config": {...}, "entry": {...}}`` as JSON. args: ``full_marks`` (default true): only full
    marks are an outcome of 1 and everything else is 0; reasoning-gym gives small marks for mere form. False: the marks
    are the outcome.
    """
    problem = check_gold(gold, args)
    if problem:
        return Judgement(0.0, False, "", BAD_GOLD, problem)
    task = json.loads(gold)
    entry, rule = task["entry"], RULES[_source(task)[0]]
    if entry.get("answer") == "" and _EMPTY.search(response[-MAX_CHARACTERS:]):
        return Judgement(1.0, True, "")
    answers, stated = _readings(response)
    if not answers:
        return Judgement(0.0, False, "", NO_ANSWER)
    wrong = Judgement(0.0, stated, vote_key(answers[0]))
    answers = [answer for answer in answers if rule.accepts(answer, entry)]
    if not answers:
        return wrong
    right_key = vote_key(str(entry.get("answer") or ""))

    def finish(marks: float) -> Judgement:
        full = marks >= 1.0
        outcome = float(full) if args.get("full_marks", True) else float(marks)
        return Judgement(outcome, stated, right_key if full and right_key else wrong.vote_key)

    control = [[entry.get("answer")], gold]
    return Work(BEST, [answers, gold], finish, control=control, wrong=wrong, confined=rule.evaluates)


def _readings(response: str) -> tuple[list[str], bool]:
    """The final answer without markup, and as it stands where that differs; and whether it was stated.

    Boards and lists lose their form without what elsewhere is markup (``_ Q _``) or decoration (``❌✅``).
    """
    found = final_answer(response)
    text = response[-MAX_CHARACTERS:].rpartition("</think>")[2]
    verbatim = []
    close = text.rfind("</answer>")
    if (tag := text.rfind("<answer>", 0, max(0, close))) >= 0:
        verbatim.append(text[tag + len("<answer>") : close])
    if (box := text.rfind("\\boxed{")) >= 0:
        depth = 0
        for position in range(box, len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0 and text[position] == "}":
                verbatim.append(text[box + len("\\boxed{") : position])
                break
    tidied = found.text if found else ""
    # The box or tag must be the one whose content is the final answer.
    exact = [
        raw.strip() if "\n" not in raw.strip() else raw.strip("\n").rstrip()
        for raw in verbatim
        if not found or tidy(readable(raw)) == tidied
    ]
    answers = list(dict.fromkeys(answer for answer in (tidied, *exact[:1]) if answer.strip()))
    if answers:
        return answers, True
    guessed = tidy(last_line(response))
    return ([guessed] if guessed else []), False


def vote_key(answer: str) -> str:
    """Numbers in one spelling, everything else as normalised text."""
    if not answer.strip():
        return ""
    read = canonical(answer)
    return read.key if read.number is not None else f"t:{plain(answer)}"


def best(answers: list[str | None], gold: str) -> float:
    """Marks of the best of several readings of one answer; runs in a worker of the pool."""
    return max(score(answer, gold) for answer in answers)


def score(answer: str | None, gold: str) -> float:
    """reasoning-gym's marks in [0, 1]; 0 for an answer that the rule of the data set does not accept.

    Raises:
        ValueError: the entry cannot be scored against.
    """
    problem = check_gold(gold, {})
    if problem:
        raise ValueError(problem)
    task = json.loads(gold)
    name, config = _source(task)
    if answer is not None and not RULES[name].accepts(answer, task["entry"]):
        return 0.0
    entry = _restored(name, task["entry"])
    scorer = _dataset(name, json.dumps(config, sort_keys=True)).score_answer
    if name == "game_of_life_halting":  # all answers that the rule accepts are right
        return float(answer is not None)
    try:
        marks = float(scorer(answer, entry))
    except MemoryError:
        raise
    except Exception:  # many scorers raise on what is not in the form of an answer
        scorer(entry.get("answer"), entry)  # raises too if the entry is at fault
        return 0.0
    return min(1.0, max(0.0, marks)) if math.isfinite(marks) else 0.0


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if answers can be scored against this entry, else why not."""
    try:
        task = json.loads(gold)
        entry = task["entry"]
        if not isinstance(entry, dict) or not isinstance(entry.get("metadata"), dict):
            return "the entry of the task has no metadata"
        if not isinstance(task["dataset"], str):
            return f"dataset {task['dataset']!r} is not a name"
        if not isinstance(task.get("config") or {}, dict):
            return f"config {task['config']!r} is not a mapping"
    except (ValueError, KeyError, TypeError, RecursionError):
        return 'the reference is not JSON of the form {"dataset": ..., "config": {...}, "entry": {...}}'
    name = _source(task)[0]
    if name not in RULES:
        return (
            f"reasoning-gym data set {name!r}: nobody has checked whether its scorer evaluates answers as programs, so "
            "it is not called; see recipe/agpo/rewards/gym_rules.py"
        )
    return _check_entry(name, entry)


def _check_entry(name: str, entry: Mapping[str, Any]) -> str | None:
    rule, own = RULES[name], entry.get("answer")
    try:
        problem = rule.reference(entry)
        if problem is None and rule.evaluates and own is not None and not rule.accepts(str(own), entry):
            problem = f"answer={own!r} is not in the form of an answer"
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"the entry lacks something: {type(error).__name__}: {error}"
    return problem and f"reasoning-gym data set {name!r}: {problem}"[:500]


def prepare() -> None:
    """Imports that are no answer's fault, and what sympy imports when it first simplifies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its dependencies, not of anything here
        import reasoning_gym  # noqa: F401
    import sympy

    x = sympy.Symbol("x")
    sympy.simplify(sympy.diff(x * sympy.sin(x) + sympy.exp(x) / x, x) - sympy.parse_expr("asin(x) + x**2 + 1"))


def _source(task: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Name and configuration of the data set that scores an entry; one of ``composite`` names its own."""
    name, config = task["dataset"], task.get("config") or {}
    if name != "composite":
        return name, config
    name = task["entry"]["metadata"].get("source_dataset")
    specs = [spec for spec in config.get("datasets") or [] if isinstance(spec, dict) and spec.get("name") == name]
    return name, (specs[0].get("config") or {} if specs else {})


def _restored(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with what JSON has lost: two scorers compare a grid of tuples."""
    if name not in ("arc_agi", "rearc"):
        return entry
    grid = tuple(tuple(row) for row in entry["metadata"]["output"])
    return entry | {"metadata": entry["metadata"] | {"output": grid}}


@functools.lru_cache(maxsize=64)
def _dataset(name: str, config: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **json.loads(config))
