# SPDX-License-Identifier: Apache-2.0
"""Kind ``code``: a program judged by tests (stdin -> stdout), run in the sandbox."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.agpo.rewards import sandbox
from recipe.agpo.rewards.extract import readable
from recipe.agpo.rewards.verdict import BAD_GOLD, LIMIT, NO_ANSWER, OK, Judgement, Work

RUN = "recipe.agpo.rewards.code:run_tests"
PYTHON = ("", "python", "python3", "py", "py3")
MARGIN_S = 5.0
VOTING_TESTS = 3  # programs that behave alike on the first tests vote alike
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_STARTS_LIKE_CODE = re.compile(r"(?:import |from \w+ import |def |for |while |print\(|[a-zA-Z_][\w, ]*\s*=[^=])")


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the program passes every test.

    gold: ``{"tests": [{"input": str, "output": str}, ...]}`` as JSON. args: ``time_limit_s`` (default 2) and
    ``memory_limit_mb`` (default 256) per test, ``max_tests`` (default all), ``runner``: ``module:function`` in place
    of :func:`recipe.agpo.rewards.sandbox.run`. The last fenced Python program of the response counts; a response that
    is nothing but code is run too, but without credit for the form.
    """
    problem = check_gold(gold, args)
    if problem:
        return Judgement(0.0, False, "", BAD_GOLD, problem)
    program, fenced = find_program(response)
    if not program:
        return Judgement(0.0, False, "", NO_ANSWER)
    tests = json.loads(gold)["tests"][: args.get("max_tests")]
    seconds, memory = float(args.get("time_limit_s", 2.0)), int(args.get("memory_limit_mb", 256))

    def finish(result: dict[str, Any]) -> Judgement:
        status = LIMIT if result["limit"] else OK
        return Judgement(float(result["passed"]), fenced, f"p:{result['key']}", status, result["detail"])

    arguments = [program, tests, seconds, memory, args.get("runner")]
    return Work(RUN, arguments, finish, time_limit_s=len(tests) * (sandbox.Limits(seconds).wall + 1.0) + MARGIN_S)


def run_tests(
    program: str, tests: Sequence[Mapping[str, str]], seconds: float, memory_mb: int, runner: str | None = None
) -> dict[str, Any]:
    """Run the tests in order up to the first failure; runs inside a worker of the pool."""
    run = _runner(runner)
    outputs, failure, limit = [], "", False
    for number, test in enumerate(tests, 1):
        ran = run(program, test["input"], sandbox.Limits(seconds, memory_mb))
        outputs.append(f"{ran.status}:{' '.join(ran.stdout.split())}" if ran.status == sandbox.OK else ran.status)
        if ran.status != sandbox.OK:
            limit = ran.status in sandbox.LIMITS
            failure = f"test {number}: {ran.status} {ran.detail[-200:]}"
        elif not same_output(ran.stdout, test["output"]):
            failure = f"test {number}: wrong output"
        if failure:
            break
    voted = "all" if not failure else "\n".join(outputs[:VOTING_TESTS])
    key = hashlib.sha256(voted.encode("utf-8", "replace")).hexdigest()[:16]
    return {"passed": not failure, "limit": limit, "key": key, "detail": failure}


def same_output(ours: str, expected: str) -> bool:
    """Equal word by word; words that are numbers may differ by 1e-9, relative or absolute."""
    left, right = ours.split(), expected.split()
    if len(left) != len(right):
        return False
    return all(a == b or _close(a, b) for a, b in zip(left, right, strict=True))


def find_program(response: str) -> tuple[str, bool]:
    """(source, whether it stood in a fence) of the last Python program; ``""`` if there is none."""
    text = readable(response)
    fenced = [source for language, source in _FENCE.findall(text) if language.lower() in PYTHON and source.strip()]
    if fenced:
        return fenced[-1], True
    if "```" not in text and _STARTS_LIKE_CODE.match(text.strip()):
        try:
            compile(text, "response", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return "", False
        return text, False
    return "", False


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if programs can be judged with these tests, else why not."""
    try:
        tests = json.loads(gold)["tests"]
    except (ValueError, KeyError, TypeError):
        return 'the reference is not JSON of the form {"tests": [{"input": ..., "output": ...}, ...]}'
    if not isinstance(tests, list) or not tests:
        return "there is no test"
    if not all(isinstance(t, dict) and {str} == {type(t.get("input")), type(t.get("output"))} for t in tests):
        return "a test lacks the text 'input' or 'output'"
    language = str(args.get("language") or "python3").lower()
    if language not in PYTHON:
        return f"language {language!r}: only Python programs can be run here"
    return None


def _runner(name: str | None) -> sandbox.Runner:
    if name is None:
        return sandbox.run
    module, _, function = name.partition(":")
    chosen: sandbox.Runner = getattr(importlib.import_module(module), function)
    return chosen


def _close(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-9)
    except ValueError:
        return False
