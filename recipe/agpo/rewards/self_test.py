# SPDX-License-Identifier: Apache-2.0
"""Does every verifier work on this machine? Run before training; ``python -m recipe.agpo.rewards.self_test``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from recipe.agpo.rewards import sandbox
from recipe.agpo.rewards.pool import WorkerPool
from recipe.agpo.rewards.verdict import OK, TIMEOUT
from recipe.agpo.rewards.verifier import KINDS, Item, Verifier

_TESTS = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})
_OPTIONS = {"options": ["6", "8"]}
_GYM = json.dumps(
    {"dataset": "chain_sum", "config": {"size": 1}, "entry": {"question": "", "answer": "5", "metadata": {}}}
)
_PROGRAM = "```python\na, b = map(int, input().split())\nprint(a {} b)\n```"
CONFINED = {"code", "gym"}  # kinds that run what a response says, or compute with it
# kind, gold, right response, wrong response, arguments
_CASES: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("math", "72", "... = 72\n#### 72", "#### 71", {}),
    ("math", "2\\sqrt{2}", "\\boxed{\\sqrt{8}}", "\\boxed{\\sqrt{6}}", {}),
    ("choice", "B", "故选：B", "The answer is (A).", _OPTIONS),
    ("numeric", "1.6e3", "The answer is $1.6 \\times 10^3$ m.", "The answer is 1600 km.", {"unit": "m"}),
    ("text", "Paris", "The answer is paris.", "The answer is Rome.", {}),
    ("code", _TESTS, _PROGRAM.format("+"), _PROGRAM.format("-"), {}),
    ("gym", _GYM, "<answer>5</answer>", "<answer>6</answer>", {}),
)


def self_test(kinds: Iterable[str] | None = None, runner: str | None = None) -> list[str]:
    """Problems in words, empty if all is well: a right and a wrong answer of each kind, and a job that hangs."""
    wanted = set(KINDS if kinds is None else kinds)
    problems = []
    with WorkerPool(workers=2, time_limit_s=20.0) as pool:
        hanging = pool.submit("recipe.agpo.rewards.self_test:hang", [], 0.3)
        verifier = Verifier(pool, runner=runner)
        cases = [case for case in _CASES if case[0] in wanted]
        items = [Item(response, gold, kind, args) for kind, gold, *responses, args in cases for response in responses]
        found = verifier.verify_many(items)
        for i, item in enumerate(items):
            expected = float(i % 2 == 0)
            if found[i].status != OK or found[i].outcome != expected:
                problems.append(
                    f"verifier {item.kind}: {item.response[-40:]!r} against {item.gold[:40]!r} gave outcome "
                    f"{found[i].outcome} (status {found[i].status}), expected {expected}"
                )
        if hanging.result().status != TIMEOUT:
            problems.append(f"a job that hangs ended as {hanging.result().status}, not as {TIMEOUT}")
    return problems


def confinement(kinds: Iterable[str], runner: str | None = None) -> str | None:
    """One line on what confines the code in responses on this machine; None if none of the kinds runs any here."""
    return None if runner or not CONFINED & set(kinds) else f"sandbox: {sandbox.describe(sandbox.layers())}"


def hang() -> None:
    """Never returns."""
    while True:
        pass


def main(arguments: Sequence[str] = ()) -> int:
    kinds = arguments or KINDS
    if line := confinement(kinds):
        print(line)
    problems = self_test(kinds)
    print("\n".join(problems) or "every verifier works")
    return bool(problems)


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
