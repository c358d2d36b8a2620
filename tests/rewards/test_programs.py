# SPDX-License-Identifier: Apache-2.0
"""Kind ``code``: which program of a response counts, when two outputs are equal, which golds are refused."""

from __future__ import annotations

import json
import textwrap

import pytest

from recipe.agpo.rewards import code, sandbox
from recipe.agpo.rewards.code import check_gold, same_output
from recipe.agpo.rewards.programs import find_program
from recipe.agpo.rewards.verdict import LIMIT, Judgement, Work

SOLUTION = "def solve(n):\n    return n + 1\n\nprint(solve(int(input())))"
OTHER = "import sys\nprint(len(sys.stdin.read()))"
CONSTANT = "print(sum(range(10)))"


def fenced(source: str, label: str = "python", fence: str = "```", indent: str = "") -> str:
    return textwrap.indent(f"{fence}{label}\n{source}\n{fence}", indent)


@pytest.mark.parametrize(
    ("ours", "expected", "equal"),
    [
        # An integer is compared as text.
        ("1000000007", "1000000007", True),
        ("1000000006", "1000000007", False),
        ("-1000000006", "-1000000007", False),
        ("123456789012345678901", "123456789012345678900", False),
        ("007", "7", False),
        ("+7", "7", False),
        ("7.0", "7", False),
        ("7.", "7", False),
        ("1e3", "1000", False),
        ("1_000", "1000", False),
        ("1,000", "1000", False),
        ("\u0667", "7", False),  # a digit, but not an ASCII one
        ("-0", "0", False),
        ("nan", "1000", False),
        ("inf", "1000", False),
        ("1 2  3\n", "1\n2 3", True),
        ("1 2", "1 2 3", False),
        # A decimal number has a tolerance.
        ("0.3333333333", "0.33333333333", True),
        ("0.333", "0.33333333333", False),
        ("3", "3.0", True),
        ("3.0000000001", "3.0", True),
        ("1000", "1e3", True),
        ("1001", "1e3", False),
        (".5", "0.50", True),
        ("-0.0", "0.0", True),
        ("1_0.5", "10.5", False),
        ("\u0661.5", "1.5", False),
        ("0x1p-1", "0.5", False),
        ("nan", "0.5", False),
        ("inf", "1e400", False),
        ("1e400", "1e500", False),
        ("1" + "0" * 400, "1e500", False),
        # Words are words.
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("Infinity", "inf", False),
        ("-nan", "nan", False),
        ("Yes", "YES", False),
        ("1.2.30", "1.2.3", False),
    ],
)
def test_when_outputs_are_equal(ours: str, expected: str, equal: bool) -> None:
    assert same_output(ours, expected) is equal


@pytest.mark.parametrize(
    "label",
    [
        "python",
        "Python",
        "py",
        "py3",
        "python3",
        "python3.11",
        "python 3",
        "py311",
        "{.python}",
        "{python}",
        "ipython",
        "{.python .numberLines}",
        "{#a .python}",
        'python title="a"',
        "python,linenos",
        "lang=python",
        "python:main.py",
        "main.py",
        "pypy3",
        " python ",
        "",
    ],
)
def test_labels_that_mean_python(label: str) -> None:
    assert find_program(f"So:\n{fenced(SOLUTION, label)}\n") == (SOLUTION, True)


@pytest.mark.parametrize("label", ["bash", "text", "cpp", "c++", "python2", "pycon", "{.output}", "json", "rust"])
def test_labels_that_mean_something_else(label: str) -> None:
    assert find_program(f"So:\n{fenced(SOLUTION, label)}\n") == ("", False)


@pytest.mark.parametrize(
    "response",
    [
        fenced(SOLUTION, fence="~~~"),
        fenced(SOLUTION, fence="````"),
        fenced(SOLUTION, fence="~~~~~~"),
        fenced(SOLUTION).replace("\n", "\r\n"),
        "1. Read it.\n2. Print it:\n\n" + fenced(SOLUTION, indent="   "),
        "- Read it:\n\n" + fenced(SOLUTION, indent="\t"),
        "* a\n    * b\n" + fenced(SOLUTION, indent=" " * 8),
        "- ```python\n" + textwrap.indent(SOLUTION, "  ") + "\n  ```",
        "1) ```python\n" + textwrap.indent(SOLUTION, "   ") + "\n   ```",
        textwrap.indent(fenced(SOLUTION), "> ", lambda _: True),
        "<answer>```python\n" + SOLUTION + "\n```</answer>",
        "```python\n" + textwrap.indent(SOLUTION, "    ") + "\n```",
        "```python\n" + SOLUTION + "\n``` That is all.",
        fenced(SOLUTION) + "<|im_end|>",
        "<think>\n" + fenced(OTHER) + "\n</think>\n" + fenced(SOLUTION),
        "```python\nprint('never closed\n\nOnce more:\n" + fenced(SOLUTION),
    ],
)
def test_fences_of_every_kind(response: str) -> None:
    found, in_fence = find_program(response)
    assert (found.replace("\r", ""), in_fence) == (SOLUTION, True)


def test_a_fence_within_a_program_does_not_end_it() -> None:
    source = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\nprint(input())'
    assert find_program(fenced(source)) == (source, True)
    source = 's = """\n~~~\n```\n"""\nprint(input())'
    assert find_program(fenced(source, fence="````")) == (source, True)


@pytest.mark.parametrize(
    "response",
    ["", "I would add them.", "``python\nx\n``", "```python\nprint(input())", "```\n\n```", "<think>" + fenced(OTHER)],
)
def test_no_program(response: str) -> None:
    assert find_program(response) == ("", False)


def test_code_without_a_fence_counts_without_the_form() -> None:
    assert find_program(SOLUTION) == (SOLUTION, False)
    assert find_program("import math is what I would write first.") == ("", False)


@pytest.mark.parametrize(
    "behind",
    [
        fenced("assert solve(1) == 2"),
        fenced("print(solve(1))  # 2"),
        fenced("print(1 + 1)"),
        fenced("for n in range(3):\n    print(n, solve(n))"),
        fenced("import io, sys\nsys.stdin = io.StringIO('1')\nprint(solve(int(input())))"),
        fenced("from solution import solve\nprint(solve(int(input())))"),
        fenced("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        assert 1 + 1 == 2"),
        fenced(">>> solve(1)\n2"),
        fenced("input = [1, 2]\nprint(sum(input))"),
        fenced("2", ""),
        fenced("1\n", "") + "\ngives\n" + fenced("2", "text"),
        fenced(OTHER, ""),
        fenced("echo 1 | python solution.py", "bash"),
    ],
)
def test_what_stands_behind_the_solution_does_not_replace_it(behind: str) -> None:
    assert find_program(f"{fenced(SOLUTION)}\nFor example:\n{behind}\n") == (SOLUTION, True)
    assert find_program(f"For example:\n{behind}\nThe program:\n{fenced(SOLUTION)}") == (SOLUTION, True)


def test_the_last_of_several_solutions_counts() -> None:
    assert find_program(fenced(SOLUTION) + "\nBetter:\n" + fenced(OTHER)) == (OTHER, True)
    assert find_program(fenced(CONSTANT) + "\nBetter:\n" + fenced("print(45)")) == ("print(45)", True)
    assert find_program(fenced(CONSTANT) + "\nCheck:\n" + fenced("assert sum(range(10)) == 45")) == (CONSTANT, True)
    assert find_program(fenced(SOLUTION, "") + "\nCheck:\n" + fenced("print(solve(2))")) == (SOLUTION, True)
    broken = "print(int(input())"
    assert find_program(fenced(SOLUTION) + "\nBetter:\n" + fenced(broken)) == (broken, True)


@pytest.mark.parametrize(
    "source",
    [
        "-" * 100_000 + "1",
        "(" * 100_000,
        "x" + ".a" * 60_000,
        "1" + "+1" * 60_000,
        "[" * 90 + "]" * 90,
        "x\x00y",
        "if 1:\n" * 100,
        "\ud800",
        "- " * 50_000,
        "f(" * 90 + ")" * 90,
        "not " * 30_000 + "1",
    ],
)
def test_a_program_that_is_hard_to_parse_is_still_found(source: str) -> None:
    assert find_program(fenced(source))[0] == source
    assert find_program(fenced(SOLUTION) + "\n" + fenced(source))[1]


GOLD = {"tests": [{"input": "1", "output": "2"}]}


@pytest.mark.parametrize(
    ("gold", "args", "words"),
    [
        ({"tests": [{"input": "1", "output": "2"}, {"input": "2", "output": " \n"}]}, {}, "test 2 expects no output"),
        ({"tests": []}, {}, "no test"),
        (GOLD, {"max_tests": 0}, "max_tests=0"),
        (GOLD, {"max_tests": True}, "max_tests=True"),
        (GOLD, {"time_limit_s": "2"}, "time_limit_s='2'"),
        (GOLD, {"time_limit_s": 0}, "time_limit_s=0"),
        (GOLD, {"time_limit_s": float("nan")}, "time_limit_s=nan"),
        (GOLD, {"memory_limit_mb": -1}, "memory_limit_mb=-1"),
        (GOLD, {"memory_limit_mb": float("inf")}, "memory_limit_mb=inf"),
    ],
)
def test_golds_that_cannot_be_judged_against(gold: object, args: dict[str, object], words: str) -> None:
    assert words in str(check_gold(json.dumps(gold), args))
    assert check_gold(json.dumps(GOLD), {"time_limit_s": 0.5, "memory_limit_mb": 64, "max_tests": 1}) is None
    assert check_gold("[" * 100_000, {}) is not None


@pytest.mark.parametrize("status", [sandbox.TIME, sandbox.MEMORY, sandbox.OUTPUT])
def test_a_limit_that_the_program_reaches_is_a_wrong_answer(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *_: sandbox.Ran(status, "", "", 0.0))
    work = code.judge(fenced(SOLUTION), json.dumps(GOLD), {})
    assert isinstance(work, Work)
    found = work.finish(code.run_tests(*work.arguments))
    assert (found.outcome, found.status) == (0.0, LIMIT)


def test_a_program_that_is_too_long_is_a_wrong_answer() -> None:
    found = code.judge(fenced("x = 1\n" * 200_000), json.dumps(GOLD), {})
    assert isinstance(found, Judgement) and (found.outcome, found.status) == (0.0, LIMIT)
