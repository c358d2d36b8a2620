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
from recipe.agpo.rewards.programs import find_program
from recipe.agpo.rewards.verdict import BAD_GOLD, LIMIT, NO_ANSWER, OK, Judgement, Work

RUN = "recipe.agpo.rewards.code:run_tests"
PYTHON = ("", "python", "python3", "py", "py3")  # languages that a gold may name
MARGIN_S = 5.0
VOTING_TESTS = 3  # programs that behave alike on the first tests vote alike
MAX_PROGRAM = 2**20  # characters
TOLERANCE = 1e-9
_DECIMAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the program passes every test.

    gold: ``{"tests": [{"input": str, "output": str}, ...]}`` as JSON. args: ``time_limit_s`` (default 2) and
    ``memory_limit_mb`` (default 256) per test, ``max_tests`` (default all), ``runner``: ``module:function`` in place
    of :func:`recipe.agpo.rewards.sandbox.run`. Which program of the response counts: see
    :func:`recipe.agpo.rewards.programs.find_program`; a response that is nothing but code is run too, but without
    credit for the form. What the program does to its own limits counts as wrong, with status ``limit``.
    """
    problem = check_gold(gold, args)
    if problem:
        return Judgement(0.0, False, "", BAD_GOLD, problem)
    program, fenced = find_program(response)
    if not program:
        return Judgement(0.0, False, "", NO_ANSWER)
    if len(program) > MAX_PROGRAM:
        return Judgement(0.0, fenced, "", LIMIT, f"the program has {len(program)} characters, at most {MAX_PROGRAM}")
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
        if number <= VOTING_TESTS:
            outputs.append(f"{ran.status}:{' '.join(ran.stdout.split())}" if ran.status == sandbox.OK else ran.status)
        if ran.status != sandbox.OK:
            limit = ran.status in sandbox.LIMITS
            failure = f"test {number}: {ran.status} {ran.detail[-200:]}"
        elif not same_output(ran.stdout, test["output"]):
            failure = f"test {number}: wrong output"
        if failure:
            break
    voted = "all" if not failure else "\n".join(outputs)
    key = hashlib.sha256(voted.encode("utf-8", "replace")).hexdigest()[:16]
    return {"passed": not failure, "limit": limit, "key": key, "detail": failure}


def same_output(ours: str, expected: str) -> bool:
    """Equal word by word.

    A word must be the expected one, character by character: ``007`` and ``7.0`` are not ``7``. Only where the expected
    word is a decimal number with a point or an exponent may ours be another finite decimal number that differs by at
    most ``TOLERANCE``, absolute or relative.
    """
    left, right = ours.split(), expected.split()
    if len(left) != len(right):
        return False
    return all(a == b or _close(a, b) for a, b in zip(left, right, strict=True))


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if programs can be judged with these tests, else why not."""
    try:
        tests = json.loads(gold)["tests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 'the reference is not JSON of the form {"tests": [{"input": ..., "output": ...}, ...]}'
    if not isinstance(tests, list) or not tests:
        return "there is no test"
    if not all(isinstance(t, dict) and {str} == {type(t.get("input")), type(t.get("output"))} for t in tests):
        return "a test lacks the text 'input' or 'output'"
    empty = next((number for number, test in enumerate(tests, 1) if not test["output"].strip()), None)
    if empty is not None:
        return f"test {empty} expects no output: a program that prints nothing would pass it"
    for name, least in (("max_tests", 1), ("memory_limit_mb", 1), ("time_limit_s", 0)):
        value = args.get(name)
        if value is not None and not _is_number(value, whole=name == "max_tests", least=least):
            return f"{name}={value!r}: must be a {'whole number of at least 1' if least else 'number above 0'}"
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


def _is_number(value: Any, *, whole: bool, least: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return bool(value >= least and value > 0 and value < math.inf)


def _close(ours: str, expected: str) -> bool:
    if not (_DECIMAL.fullmatch(expected) and _NUMBER.fullmatch(ours)):
        return False
    a, b = float(ours), float(expected)
    return math.isfinite(a) and math.isfinite(b) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
