# SPDX-License-Identifier: Apache-2.0
"""A vote key for reward functions that give none: the final answer of a response in a canonical cheap form.

Reward functions may return ``vote_key`` (or ``pred``) beside ``score``; that is always preferred. This fallback
reads the last ``\\boxed{...}``, ``#### ...`` or "answer is ..." of the response, else its last non-empty line.
"""

from __future__ import annotations

import re
from fractions import Fraction

_MARKERS = (
    re.compile(r"####\s*(.+)"),
    re.compile(r"(?:final\s+)?answer\s*(?:is|:|=)\s*(.+)", re.IGNORECASE),
    re.compile(r"答案\s*(?:是|为|:|：)\s*(.+)"),
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:/\d+)?%?")
MAX_CHARACTERS = 4096


def fallback_vote_key(response: str) -> str:
    """The canonical final answer of ``response``; ``""`` if it has none.

    Numbers that are equal get the same key (``0.50``, ``1/2``, ``\\frac{1}{2}``, ``50%``). Only the last
    ``MAX_CHARACTERS`` characters are read, so that the cost does not grow with the response.
    """
    text = response[-MAX_CHARACTERS:]
    answer = _boxed(text)
    if answer is None:
        found = [(m.end(), m.group(1)) for pattern in _MARKERS for m in pattern.finditer(text)]
        answer = max(found)[1] if found else None
    if answer is None:
        lines = [line for line in text.splitlines() if line.strip()]
        answer = lines[-1] if lines else ""
    return canonical(answer)


def canonical(answer: str) -> str:
    """One spelling for answers that are plainly the same; no symbolic mathematics."""
    text = _FRACTION.sub(r"(\1)/(\2)", answer.strip())
    # A leading point belongs to the number (.5), one at the end closes the sentence.
    text = text.lstrip("$ ,;").rstrip("$ .。,;").replace("\\,", "").replace("\\!", "")
    text = text.replace("\\%", "%").replace("$", "")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\((-?\d+)\)/\((-?\d+)\)", r"\1/\2", text)
    text = re.sub(r"\s+", " ", text).strip()
    if _NUMBER.fullmatch(text):
        percent = text.endswith("%")
        try:
            value = Fraction(text.rstrip("%"))
        except (ValueError, ZeroDivisionError):
            return text.lower()
        return str(value / 100 if percent else value)
    return text.lower()


def _boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` with balanced braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None
