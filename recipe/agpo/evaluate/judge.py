# SPDX-License-Identifier: Apache-2.0
"""Verdicts: this project's verifiers, or a reward function in verl's form."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from recipe.agpo.evaluate.data import Problem
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.rewards.verdict import OK, RAISED, UNJUDGED, Verdict

# Data sources whose rows name no kind of verifier, and the reward function that knows them.
REWARDS = {"chain_sum": "pkg://recipe.agpo.quickstart.task:compute_score"}
RewardFunction = Callable[..., Any]


class Judge(Protocol):
    """A source of verdicts."""

    def identity(self) -> dict[str, str]:
        """The settings that verdicts depend on, besides response and row."""
        ...

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise EvaluationError if some problem cannot be judged at all."""
        ...

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Verdicts in the order of the items."""
        ...

    def merge(self, keys: Sequence[str]) -> list[str]:
        """Vote keys of one problem with equal answers under one key."""
        ...

    def close(self) -> None: ...


class RowJudge:
    """Judges a row by the kind of verifier that it names, or by the reward function of its data source.

    Args:
        reward: ``pkg://module:function``, ``module:function`` or ``file.py:function`` in verl's form
            ``(data_source, solution_str, ground_truth, extra_info)``; judges every row in place of the verifiers.
        make_verifier: called on first need; None for this project's verifier.
    """

    def __init__(self, reward: str | None = None, make_verifier: Callable[[], Any] | None = None) -> None:
        self._reward = reward
        self._make_verifier = make_verifier or _verifier
        self._made: Any = None

    def identity(self) -> dict[str, str]:
        return {"reward": self._reward or "by row", "math-verify": _version("math-verify")}

    def check(self, problems: Sequence[Problem]) -> None:
        failed = {}
        for problem in problems:
            try:
                rule = self._rule(problem)
                if isinstance(rule, str) and not isinstance(_item(problem, "", rule).args, Mapping):
                    raise TypeError("another kind of value")
            except EvaluationError as error:
                failed[problem.data_source] = str(error)
            except (ValueError, TypeError, RecursionError) as error:
                failed[problem.data_source] = (
                    f"row {problem.index}: extra_info['verifier_args'] is not a JSON object "
                    f"({type(error).__name__}: {error}): prepare the file again with `agpo data prepare`"
                )
        if failed:
            raise EvaluationError("\n".join(failed.values()))

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        rules = [self._rule(problem) for problem, _ in items]
        by_kind = [i for i, rule in enumerate(rules) if isinstance(rule, str)]
        found: dict[int, Verdict] = {}
        if by_kind:
            wanted = [_item(items[i][0], items[i][1], str(rules[i])) for i in by_kind]
            found |= dict(zip(by_kind, self._verifier.verify_many(wanted), strict=True))
        by_function = [i for i in range(len(items)) if i not in found]
        if by_function:
            calls = [(rules[i], *items[i]) for i in by_function]
            found |= dict(zip(by_function, asyncio.run(_call_all(calls)), strict=True))
        return [found[i] for i in range(len(items))]

    def merge(self, keys: Sequence[str]) -> list[str]:
        # Keys of reward functions have no prefix: only equal texts are known to be equal.
        if not any(key.startswith(("x:", "n:")) for key in keys):
            return list(keys)
        return list(self._verifier.merge_vote_keys(keys))

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    @property
    def _verifier(self) -> Any:
        if self._made is None:
            self._made = self._make_verifier()
        return self._made

    def _rule(self, problem: Problem) -> str | RewardFunction:
        """The kind of verifier, or a reward function."""
        if self._reward is not None:
            return load_function(self._reward)
        if not problem.extra_info.get("verifier") and problem.data_source in REWARDS:
            return load_function(REWARDS[problem.data_source])
        from recipe.agpo.rewards.verifier import UnknownKind, kind_of

        try:
            return kind_of(problem.data_source, problem.extra_info)
        except UnknownKind as error:
            raise EvaluationError(
                f"rows of data_source {problem.data_source!r} name no known kind of verifier: prepare the file with "
                "`agpo data prepare`, which writes extra_info['verifier'], or name a reward function with "
                "--reward pkg://module:function"
            ) from error


@cache
def load_function(spec: str) -> RewardFunction:
    """The function that ``pkg://module:function``, ``module:function`` or ``file.py:function`` names."""
    place, _, name = spec.removeprefix("pkg://").rpartition(":")
    if not place or not name:
        raise EvaluationError(f"--reward {spec}: expected pkg://module:function or file.py:function")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # a module of the user's: whatever it raises
        what = f"{type(error).__name__}: {error}"
        raise EvaluationError(f"--reward {spec}: {place} cannot be imported: {what}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise EvaluationError(f"--reward {spec}: {place} has no function {name}")
    return function  # type: ignore[no-any-return]


def from_reward(result: float | Mapping[str, Any], seconds: float) -> Verdict:
    """The verdict in what a reward function of verl's form returned: a number, or a mapping with ``score``.

    ``outcome`` is taken from ``outcome``, else ``acc``, else ``score``. A reward function without one of our
    statuses counts as having judged.
    """
    values = dict(result) if isinstance(result, Mapping) else {"score": float(result)}
    score = float(values["score"])
    outcome = float(values.get("outcome", values.get("acc", score)))
    status = str(values.get("status") or OK)
    judged = status not in UNJUDGED and not math.isnan(outcome)
    if not judged and status not in UNJUDGED:
        status = RAISED
    return Verdict(
        score=score,
        outcome=outcome if judged else math.nan,
        acc=outcome if judged else 0.0,
        format=float(values.get("format", math.nan)),
        vote_key=str(values.get("vote_key") or "") if judged else "",
        status=status,
        seconds=seconds,
    )


async def _call_all(calls: Sequence[tuple[Any, Problem, str]]) -> list[Verdict]:
    return list(await asyncio.gather(*(_call(*call) for call in calls)))


async def _call(function: RewardFunction, problem: Problem, text: str) -> Verdict:
    began = time.perf_counter()
    try:
        result = function(
            data_source=problem.data_source,
            solution_str=text,
            ground_truth=problem.gold,
            extra_info=dict(problem.extra_info),
        )
        return from_reward(await result if inspect.isawaitable(result) else result, time.perf_counter() - began)
    except Exception:  # an error on one response becomes a status, as with the verifiers
        return Verdict(0.0, math.nan, 0.0, 0.0, "", RAISED, time.perf_counter() - began)


def _item(problem: Problem, text: str, kind: str) -> Any:
    from recipe.agpo.rewards.verifier import Item

    return Item.of_row(text, problem.gold, kind, problem.extra_info)


def _verifier() -> Any:
    from recipe.agpo.rewards.verifier import Verifier

    return Verifier()


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"agpo_reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
