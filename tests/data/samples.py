# SPDX-License-Identifier: Apache-2.0
"""Made-up problems, one or more in each benchmark's public format, with the gold that must come out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.agpo.data import Options, prepare


@dataclass(frozen=True)
class Sample:
    """A record, what its row must hold, and a right and a wrong response."""

    name: str
    record: dict[str, Any]
    gold: str
    kind: str
    right: str
    wrong: str
    args: dict[str, Any] | None = None


SAMPLES = [
    Sample(
        "gsm8k",
        {
            "question": "Ann packs 40 boxes with 31 pens each. How many pens?",
            "answer": "40*31=<<40*31=1240>>\n#### 1,240",
        },
        "1240",
        "math",
        "So \\boxed{1240}",
        "\\boxed{1241}",
    ),
    Sample(
        "math",
        {
            "problem": "Compute $\\frac{1}{3}+\\frac{1}{3}$.",
            "level": "Level 1",
            "type": "Prealgebra",
            "solution": "First \\boxed{9}, no: $\\boxed{\\frac{2}{3}}$.",
        },
        "\\frac{2}{3}",
        "math",
        "\\boxed{2/3}",
        "\\boxed{9}",
    ),
    Sample(
        "mmlu_stem",
        {
            "question": "Which of these is a noble gas?",
            "choices": ["Iron", "Neon", "Zinc", "Lead"],
            "answer": 1,
            "type": "x",
        },
        "B",
        "choice",
        "\\boxed{B}",
        "\\boxed{A}",
        {"options": ["Iron", "Neon", "Zinc", "Lead"], "letters": "ABCD"},
    ),
    Sample(
        "cmath",
        {
            "grade": 1,
            "question": "小红有8个苹果，吃了3个，还剩几个？",
            "answer": "5",
            "reasoning_step": 1,
            "num_digits": 1,
        },
        "5",
        "math",
        "\\boxed{5}",
        "\\boxed{3}",
    ),
    Sample(
        "sat_math",
        {"id": "7", "question": "What is $2+2$?", "options": "A) $3$ B) $4$ C) $5$ D) $6$", "Answer": "B"},
        "B",
        "choice",
        "\\boxed{B}",
        "\\boxed{C}",
        {"options": ["$3$", "$4$", "$5$", "$6$"], "letters": "ABCD"},
    ),
    Sample(
        "gaokao_math_qa",
        {
            "passage": None,
            "question": "下列是偶数的有 ( )",
            "options": {"A": "2", "B": "3", "C": "4", "D": "5"},
            "label": "A C",
            "answer": None,
            "other": {"source": "x"},
        },
        "AC",
        "choice",
        "\\boxed{AC}",
        "\\boxed{A}",
        {"options": ["2", "3", "4", "5"], "letters": "ABCD"},
    ),
    Sample(
        "gaokao_math_qa",
        {"passage": None, "question": "1+1 等于 ( )", "options": ["(A)1", "(B)2", "(C)$3$", "(D)4"], "label": "B"},
        "B",
        "choice",
        "\\boxed{B}",
        "\\boxed{D}",
        {"options": ["1", "2", "$3$", "4"], "letters": "ABCD"},
    ),
    Sample(
        "gaokao_math_cloze",
        {
            "passage": None,
            "question": "若 $x-1=2$, 则 $x=$____, $2x=$____",
            "options": None,
            "label": None,
            "answer": "$3$;$6$",
            "other": None,
        },
        "3; 6",
        "math",
        "\\boxed{3; 6}",
        "\\boxed{3; 7}",
    ),
    Sample(
        "gaokao_math_cloze",
        {"passage": None, "question": "正确的命题是____", "answer": "$\\textcircled{1}\\textcircled{3}$"},
        "①③",
        "text",
        "\\boxed{①③}",
        "\\boxed{①②}",
        {"normalise": True},
    ),
    Sample(
        "ocw",
        {
            "problem": "How far (in cm)?",
            "solution": "\\[ d = \\boxed{1.6} \\mathrm{~cm}\n\\]",
            "type": "Course",
            "idx": 4,
        },
        "1.6",
        "numeric",
        "\\boxed{1.605 cm}",
        "\\boxed{1.7}",
        {"rel_tol": 0.01, "abs_tol": 0, "unit": "cm"},
    ),
    Sample(
        "ocw",
        {"problem": "Solve it.", "solution": "Thus $\\boxed{\\sqrt{2} t}$.", "type": "Course", "idx": 5},
        "\\sqrt{2} t",
        "math",
        "\\boxed{\\sqrt{2} t}",
        "\\boxed{7}",
    ),
    Sample(
        "aime24",
        {"id": 60, "problem": "Find $n$.", "solution": "So $n=\\boxed{025}$.", "answer": "025", "url": "x"},
        "25",
        "math",
        "\\boxed{25}",
        "\\boxed{26}",
    ),
    Sample(
        "amc23",
        {"id": 0, "problem": "How many miles?", "question": "How many miles?", "answer": 27.0, "url": "x"},
        "27",
        "math",
        "\\boxed{27}",
        "\\boxed{28}",
    ),
    Sample(
        "code_contests",
        {
            "name": "p1",
            "description": "Read a number and print its double.",
            "public_tests": {"input": ["2\n"], "output": ["4\n"]},
            "private_tests": {"input": ["3\n"], "output": ["6\n"]},
            "generated_tests": {"input": ["2\n", "5\n"], "output": ["4\n", "10\n"]},
            "time_limit": {"seconds": 1, "nanos": 500000000},
            "memory_limit_bytes": 256000000,
            "input_file": "",
        },
        json.dumps({"tests": [{"input": f"{i}\n", "output": f"{2 * i}\n"} for i in (2, 3, 5)]}),
        "code",
        "```python\nprint(2*int(input()))\n```",
        "```python\nprint(0)\n```",
        {"language": "python3", "time_limit_s": 1.5, "memory_limit_mb": 256},
    ),
]
IDS = [f"{sample.name}-{sample.kind}" for sample in SAMPLES]


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Records one a line; text goes in as it is, so a line may be broken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def gsm8k(number: int, text: str = "") -> dict[str, str]:
    """A problem that differs for each number."""
    question = text or f"Person {number} has {number} coins and finds {number + 1} more. How many are there now?"
    return {"question": question, "answer": f"#### {2 * number + 1}"}


def prepare_few(name: str, source: str, out: Path, *, options: Options | None = None, **other: Any) -> list[Any]:
    """``prepare`` for sets that are smaller than the benchmark, or have many rows that must be skipped."""
    return prepare(name, source, out, options=replace(options or Options(), custom=True), **other)
