# SPDX-License-Identifier: Apache-2.0
"""Symbolic equality by math-verify. It may hang or eat memory, so it runs only in a worker of the pool."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

MAX_LENGTH = 1_000
# 9**9**9, 9^9^9, 10^{10^{10}}, 123456!: sympy would try to write the number down. What slips through is killed.
_EXPLOSIVE = re.compile(
    r"(?:\^|\*\*)\s*\w+\s*(?:\^|\*\*)|\^\s*\{[^{}]*(?:\^|\*\*)|\d{4,}\s*!|(?:\^|\*\*)\s*\{?\s*\d{5,}|!\s*!"
)


def equal(answer: str, gold: str) -> bool:
    """Whether two answers are mathematically equal, by math-verify.

    Answers that nobody writes down in full (power towers, factorials of large numbers, more than ``MAX_LENGTH``
    characters) are equal to nothing but their own spelling, which the canonical form has already compared.
    """
    if explosive(answer) or explosive(gold):
        return False
    math_verify = _math_verify()
    left, right = parse(gold), parse(answer)
    return bool(left and right and math_verify.verify(left, right, timeout_seconds=None))


def equal_parts(answers: list[str], golds: list[str]) -> bool:
    """Whether answers of several parts are equal part by part."""
    return len(answers) == len(golds) and all(map(equal, answers, golds))


def classes(answers: list[str]) -> list[int]:
    """For each answer the index of the first one that it equals."""
    found: list[int] = []
    for i, answer in enumerate(answers):
        heads = [j for j in range(i) if found[j] == j]
        found.append(next((j for j in heads if answer == answers[j] or equal(answer, answers[j])), i))
    return found


def value(answer: str) -> float | None:
    """The real number that an expression stands for, None if it stands for none."""
    if explosive(answer):
        return None
    for read in parse(answer):
        if hasattr(read, "evalf"):
            try:
                number = float(read.evalf())
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
    return None


def explosive(answer: str) -> bool:
    return len(answer) > MAX_LENGTH or _EXPLOSIVE.search(answer) is not None


def parse(answer: str) -> list[Any]:
    """math-verify's reading of one answer (not of a whole response); empty if it has none."""
    math_verify = _math_verify()
    found: list[Any] = math_verify.parse(
        f"${answer}$",
        extraction_config=(math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()),
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found


def _math_verify() -> Any:
    # It warns that nobody limits its time: the pool does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    import math_verify

    return math_verify


def prepare() -> None:
    """Imports and the parser's tables: seconds that are no answer's fault."""
    parse("1")
