# SPDX-License-Identifier: Apache-2.0
"""One call for every kind of answer, with the same keys whatever happens.

For verl: ``reward.custom_reward_function.path=pkg://recipe.agpo.rewards name=compute_score``. The kind of a row is in
its ``extra_info["verifier"]`` (``agpo data prepare`` writes it), else the keyword ``kind``, else it follows from the
row's ``data_source``.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from recipe.agpo.rewards import symbolic
from recipe.agpo.rewards.pool import Done, PoolClosed, WorkerPool
from recipe.agpo.rewards.verdict import (
    BAD_GOLD,
    CRASHED,
    LOST,
    OK,
    RAISED,
    TIMEOUT,
    Judgement,
    Verdict,
    Work,
    verdict,
)

KINDS = ("math", "choice", "numeric", "text", "code", "gym")
_MODULES = {kind: f"recipe.agpo.rewards.{'maths' if kind == 'math' else kind}" for kind in KINDS}
# Beginnings of data_source names, for data sets that other tools have prepared.
_SOURCES = {
    "openai/gsm8k": "math",
    "gsm8k": "math",
    "lighteval/math": "math",
    "hendrycks": "math",
    "math": "math",
    "aime": "math",
    "amc": "math",
    "cmath": "math",
    "gaokao_math_cloze": "math",
    "gaokao_math_qa": "choice",
    "mmlu": "choice",
    "sat_math": "choice",
    "minerva": "numeric",
    "ocw": "numeric",
    "code_contests": "code",
    "reasoning_gym": "gym",
}
_MERGEABLE = ("x:", "n:")
_CONTROLS = 10_000  # remembered: which reference answers can be judged
_CLASSES = "recipe.agpo.rewards.symbolic:classes"
_PAIR = "recipe.agpo.rewards.symbolic:equal_both_ways"


class UnknownKind(ValueError):
    """No verifier for this row; the message says what to set."""


@dataclass(frozen=True)
class Item:
    """One response to judge."""

    response: str
    gold: str
    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_row(cls, response: str, gold: str, kind: str, extra_info: Mapping[str, Any]) -> Item:
        """With the arguments that a data row gives its verifier, as JSON text or as a mapping."""
        args = extra_info.get("verifier_args") or {}
        return cls(response, gold, kind, json.loads(args) if isinstance(args, str) else dict(args))


class Verifier:
    """Judges responses; what may hang runs in a pool of killable processes.

    Args:
        pool: None makes one with the next three arguments, on first need.
        workers, time_limit_s, memory_limit_mb: see :class:`WorkerPool`.
        format_weight: ``score = outcome + format_weight * format``.
        runner: ``module:function`` that runs programs in place of the local sandbox.
    """

    def __init__(
        self,
        pool: WorkerPool | None = None,
        *,
        workers: int = 2,
        time_limit_s: float = 5.0,
        memory_limit_mb: int = 1024,
        format_weight: float = 0.0,
        runner: str | None = None,
    ) -> None:
        self._pool = pool
        self._settings = (workers, time_limit_s, memory_limit_mb)
        self._lock = threading.Lock()
        self._controls: dict[str, Judgement | None] = {}
        self.format_weight, self.runner = format_weight, runner

    @property
    def pool(self) -> WorkerPool:
        with self._lock:
            if self._pool is None:
                self._pool = WorkerPool(*self._settings)
            return self._pool

    def verify(self, response: str, gold: str, kind: str, args: Mapping[str, Any] | None = None) -> Verdict:
        """Judge one response; blocks."""
        return self.submit(Item(response, gold, kind, args or {})).result()

    def verify_many(self, items: Iterable[Item]) -> list[Verdict]:
        """Judge many; verdicts in the order of the items."""
        return [future.result() for future in [self.submit(item) for item in items]]

    def submit(self, item: Item) -> Future[Verdict]:
        """Start to judge; the future never raises for what a response contains.

        Raises:
            UnknownKind: there is no such kind.
        """
        module = _grader(item.kind)
        args = dict(item.args)
        if self.runner is not None and item.kind == "code":
            args.setdefault("runner", self.runner)
        started = time.perf_counter()
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()  # a caller that stops waiting must not keep the result from being set
        try:
            judged = module.judge(item.response, item.gold, args)
            seconds = time.perf_counter() - started
            if isinstance(judged, Work):
                self._start(judged, future)
                return future
        except PoolClosed as error:
            judged, seconds = Judgement(0.0, False, "", LOST, str(error)), 0.0
        except Exception as error:  # a grader's fault is a status, not the end of a run
            judged = _blamed(module, item.gold, args, f"{type(error).__name__}: {error}")
            seconds = time.perf_counter() - started
        future.set_result(verdict(judged, seconds, self.format_weight))
        return future

    def merge_vote_keys(self, keys: Sequence[str]) -> list[str]:
        """The keys of one group, with symbolically equal answers under one of their keys; blocks."""
        merging = self._merge(keys)
        return list(keys) if merging is None else merging.result()

    async def merge_vote_keys_async(self, keys: Sequence[str]) -> list[str]:
        """As :meth:`merge_vote_keys`, without holding the event loop."""
        merging = self._merge(keys)
        return list(keys) if merging is None else await asyncio.wrap_future(merging)

    def close(self) -> None:
        """Kill the workers."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()

    def _start(self, work: Work, future: Future[Verdict]) -> None:
        """Run the work in the pool and judge by its result."""

        def finish(done: Future[Done]) -> None:
            result = done.result()
            if result.status == OK:
                try:
                    judgement = work.finish(result.value)
                except Exception as error:
                    judgement = Judgement(0.0, False, "", RAISED, f"{type(error).__name__}: {error}")
                future.set_result(verdict(judgement, result.seconds, self.format_weight))
            else:
                self._explain(work, result, future)

        if work.control is not None and (known := self._controls.get(_control_key(work))) is not None:
            future.set_result(verdict(known, 0.0, self.format_weight))
            return
        job = self.pool.submit(work.function, work.arguments, work.time_limit_s, confined=work.confined)
        job.add_done_callback(finish)

    def _explain(self, work: Work, failed: Done, future: Future[Verdict]) -> None:
        """The verdict on work that failed: is it the response, or the reference answer, or neither?"""
        wrong = replace(work.wrong, outcome=0.0, status=failed.status, detail=failed.detail)

        def give(judgement: Judgement) -> None:
            future.set_result(verdict(judgement, failed.seconds, self.format_weight))

        def by_control(control: Judgement | None) -> None:
            if control is not None:
                give(control)
            else:  # only this response makes the grader raise
                give(replace(wrong, status=CRASHED) if failed.status == RAISED else wrong)

        def controlled(done: Future[Done]) -> None:
            by_control(self._remember(work, done.result()))

        if failed.status == LOST or (work.control is None and failed.status == RAISED):
            give(Judgement(0.0, False, "", failed.status, failed.detail))
        elif work.control is None:
            give(wrong)
        elif (key := _control_key(work)) in self._controls:
            by_control(self._controls[key])
        else:
            try:
                job = self.pool.submit(work.function, work.control, work.time_limit_s, confined=work.confined)
            except PoolClosed as error:
                give(Judgement(0.0, False, "", LOST, str(error)))
                return
            job.add_done_callback(controlled)

    def _remember(self, work: Work, done: Done) -> Judgement | None:
        """What judging the reference answer alone says: None, or the judgement of every response to it."""
        if done.status in (TIMEOUT, CRASHED):
            found = Judgement(0.0, False, "", BAD_GOLD, f"the reference answer alone: {done.status}, {done.detail}")
        elif done.status != OK:
            return Judgement(0.0, False, "", done.status, done.detail)
        else:
            found = None
        with self._lock:
            if len(self._controls) >= _CONTROLS:
                self._controls.clear()
            self._controls[_control_key(work)] = found
        return found

    def _merge(self, keys: Sequence[str]) -> Future[list[str]] | None:
        """Compare a group's mathematical keys; None if no two of them could be the same answer.

        Only keys that were shown equal to every other key of their class share one. One job compares all pairs, each
        with a limit of its own; should a pair kill the worker all the same, every pair becomes a job of its own.
        """
        distinct = sorted({key for key in keys if key.startswith(_MERGEABLE)}, key=lambda key: (key[0], len(key), key))
        if len(distinct) < 2 or not any(key.startswith("x:") for key in distinct):
            return None
        answers = [key[2:] for key in distinct]
        merged: Future[list[str]] = Future()
        merged.set_running_or_notify_cancel()

        def finish(heads: Sequence[int]) -> None:
            head = {key: distinct[first] for key, first in zip(distinct, heads, strict=True)}
            merged.set_result([head.get(key, key) for key in keys])

        def together(done: Future[Done]) -> None:
            result = done.result()
            if result.status == OK:
                finish(result.value)
                return
            try:
                self._merge_pairs(answers, finish)
            except PoolClosed:
                finish(range(len(answers)))

        limit = symbolic.PAIR_LIMIT_S * len(answers) + self.pool.time_limit_s
        self.pool.submit(_CLASSES, [answers], limit).add_done_callback(together)
        return merged

    def _merge_pairs(self, answers: Sequence[str], finish: Callable[[Sequence[int]], None]) -> None:
        pairs = [(i, j) for i in range(len(answers)) for j in range(i)]
        equal: dict[tuple[int, int], bool] = {}
        lock = threading.Lock()

        def one(pair: tuple[int, int], done: Future[Done]) -> None:
            result = done.result()
            with lock:
                equal[pair] = result.status == OK and result.value is True
                complete = len(equal) == len(pairs)
            if complete:
                finish(symbolic.grouped(len(answers), lambda i, j: equal[max(i, j), min(i, j)]))

        for i, j in pairs:
            job = self.pool.submit(_PAIR, [answers[i], answers[j]], 2 * symbolic.PAIR_LIMIT_S)
            job.add_done_callback(functools.partial(one, (i, j)))


def kind_of(data_source: str, extra_info: Mapping[str, Any] | None = None, kind: str | None = None) -> str:
    """Which verifier judges a row.

    Raises:
        UnknownKind: nothing names one.
    """
    named = (extra_info or {}).get("verifier") or kind
    if named is None:
        source = data_source.lower()
        named = next((found for start, found in _SOURCES.items() if source.startswith(start)), None)
    if named not in KINDS:
        raise UnknownKind(
            f"data_source={data_source!r}, verifier={named!r}: no verifier of this kind. Give the rows "
            f"extra_info['verifier'] (one of {', '.join(KINDS)}; `agpo data prepare` does), or set "
            "+reward.custom_reward_function.reward_kwargs.kind=..."
        )
    return str(named)


async def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, float | str]:
    """verl's reward function. Asynchronous, so that a hanging answer holds none of verl's threads.

    settings (``+reward.custom_reward_function.reward_kwargs={...}``): kind, workers, time_limit_s, memory_limit_mb,
    format_weight, runner; others are ignored.

    Returns:
        the fields of :class:`recipe.agpo.rewards.verdict.Verdict`, always all of them.
    """
    verifier, item = _prepared(data_source, solution_str, ground_truth, extra_info, settings)
    found = await asyncio.wrap_future(verifier.submit(item))
    return found.to_dict()


def compute_score_sync(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, float | str]:
    """As :func:`compute_score`, for frameworks whose reward functions are not asynchronous."""
    verifier, item = _prepared(data_source, solution_str, ground_truth, extra_info, settings)
    return verifier.submit(item).result().to_dict()


async def merge_vote_keys(keys: Sequence[str]) -> list[str]:
    """:meth:`Verifier.merge_vote_keys_async` of this process's own verifier with one worker."""
    return await shared_verifier(workers=1).merge_vote_keys_async(keys)


def shared_verifier(**settings: Any) -> Verifier:
    """One verifier a process and setting, made on first use and again after a fork."""
    key = (os.getpid(), tuple(sorted(settings.items())))
    with _SHARED_LOCK:
        if key not in _SHARED:
            _SHARED[key] = Verifier(**settings)
        return _SHARED[key]


_SHARED: dict[Any, Verifier] = {}
_SHARED_LOCK = threading.Lock()
_SETTINGS = ("workers", "time_limit_s", "memory_limit_mb", "format_weight", "runner")


def _prepared(
    data_source: str, response: str, gold: Any, extra_info: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> tuple[Verifier, Item]:
    info = extra_info or {}
    kind = kind_of(str(data_source), info, settings.get("kind"))
    verifier = shared_verifier(**{name: settings[name] for name in _SETTINGS if name in settings})
    return verifier, Item.of_row(str(response), str(gold), kind, info)


def _control_key(work: Work) -> str:
    return json.dumps([work.function, work.control])


def _blamed(module: Any, gold: str, args: Mapping[str, Any], detail: str) -> Judgement:
    """The judgement where a grader raises: wrong if it does so on this response, none if it does so on any."""
    try:
        module.judge(f"\\boxed{{{gold}}}", gold, args)
    except Exception as error:
        return Judgement(0.0, False, "", RAISED, f"{type(error).__name__}: {error}")
    return Judgement(0.0, False, "", CRASHED, detail)


def _grader(kind: str) -> Any:
    if kind not in _MODULES:
        raise UnknownKind(f"kind {kind!r}: known are {', '.join(KINDS)}")
    return importlib.import_module(_MODULES[kind])
