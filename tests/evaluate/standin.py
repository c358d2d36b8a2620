# SPDX-License-Identifier: Apache-2.0
"""A model that answers from a hash, a judge that looks at the text; as a script: an evaluation with them.

``python -m tests.evaluate.standin OUT PROBLEMS SLEEP_SECONDS``
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from recipe.agpo.evaluate import report, run
from recipe.agpo.evaluate.data import Benchmark, Problem, digest
from recipe.agpo.evaluate.generate import Generated, Response
from recipe.agpo.evaluate.protocols import Protocol, protocol, request_seed
from recipe.agpo.evaluate.store import Header
from recipe.agpo.rewards.verdict import LOST, OK, Verdict

SAMPLED = protocol("sampled", samples=4, max_tokens=100)


def problem(index: int, text: str = "", gold: str = "0") -> Problem:
    messages = ({"role": "user", "content": text or f"question {index}"},)
    return Problem(digest(messages), index, "made_up", messages, gold, {"verifier": "math"})


def benchmark(count: int, name: str = "made_up", gold: str = "0") -> Benchmark:
    return Benchmark(name, f"{name}.parquet", count, tuple(problem(i, gold=gold) for i in range(count)))


class Model:
    """Answers with a digit decided by the request's seed; ``asked`` records what it was asked."""

    def __init__(self, asked: Protocol = SAMPLED, seconds: float = 0.0, too_long: Sequence[int] = ()) -> None:
        self.protocol, self.seconds, self.too_long = asked, seconds, set(too_long)
        self.asked: list[int] = []

    def __call__(self, problems: Sequence[Problem]) -> list[Generated]:
        self.asked += [one.index for one in problems]
        found = []
        for one in problems:
            time.sleep(self.seconds)
            if one.index in self.too_long:
                found.append(Generated(5000, 0, ()))
                continue
            seeds = [request_seed(self.protocol.seed, one.id, k) for k in range(self.protocol.samples)]
            answers = tuple(
                Response(f"it is {seed % 3}", 10 + seed % 5, "length" if seed % 7 == 0 else "stop") for seed in seeds
            )
            found.append(Generated(12, self.protocol.max_tokens, answers))
        return found


class Judge:
    """Right if the text ends with the reference answer; texts in ``hang`` are not judged."""

    def __init__(self, hang: str = "never", rules: str = "last word") -> None:
        self.hang, self.rules, self.judged = hang, rules, 0

    def identity(self) -> dict[str, str]:
        return {"rules": self.rules}

    def check(self, problems: Sequence[Problem]) -> None:
        return None

    def __call__(self, items: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        self.judged += len(items)
        return [self._one(one, text) for one, text in items]

    def merge(self, keys: Sequence[str]) -> list[str]:
        return list(keys)

    def close(self) -> None:
        return None

    def _one(self, one: Problem, text: str) -> Verdict:
        if text.endswith(self.hang):
            return Verdict(0.0, math.nan, 0.0, 0.0, "", LOST, 5.0)
        right = float(text.split()[-1] == one.gold)
        return Verdict(right, right, right, 1.0, f"n:{text.split()[-1]}", OK, time.perf_counter() % 1)


def task(
    benchmarks: Sequence[Benchmark],
    asked: Protocol = SAMPLED,
    chunk: int = 2,
    limit: int | None = None,
    judge: Judge | None = None,
) -> run.Task:
    identity = (judge or Judge()).identity()
    head: Header = run.header(
        "model", {"weights": "w1"}, {"engine": "stand-in"}, "plain", benchmarks, asked, limit, identity
    )
    ks = tuple(k for k in (1, 2, 4) if k <= asked.samples)
    return run.Task(benchmarks, asked, head, ks, ks, chunk)


def evaluate(out: Path, the_task: run.Task, model: Model, judge: Judge, rejudge: bool = False) -> dict:
    result = run.evaluate(out, the_task, lambda _: model, judge, rejudge=rejudge, progress=False)
    report.write(out, result, picture=False)  # matplotlib takes a second
    return json.loads((out / "eval.json").read_text())


if __name__ == "__main__":
    evaluate(Path(sys.argv[1]), task([benchmark(int(sys.argv[2]))]), Model(seconds=float(sys.argv[3])), Judge())
