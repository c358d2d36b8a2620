# SPDX-License-Identifier: Apache-2.0
r"""Formulas in prose: ``$...$``, ``$$...$$``, ``\(...\)``, ``\[...\]``, ``\begin{align}``."""

from __future__ import annotations

import re
from typing import NamedTuple

# A dollar sign opens a formula if no space follows it, and closes one if no space precedes and no digit follows it;
# "$18 and $20" is money. Every alternative stops where another formula would begin, so that matching is linear.
FORMULA = re.compile(
    r"\$\$(?P<display>(?:[^$\\]|\\.){1,4000}?)\$\$"
    r"|(?<!\\)\$(?P<inline>(?![\s$])(?:[^$\\\n]|\\[^\n]){0,4000}(?<!\s))\$(?!\d)"
    r"|\\\[(?P<bracket>(?:[^\\]|\\[^\[\]]){1,1000})\\\]"
    r"|\\\((?P<paren>(?:[^\\]|\\[^()]){1,1000})\\\)"
    r"|\\begin\{(?P<name>align|aligned|gather|gathered|equation|multline|eqnarray|alignat|math"
    r"|displaymath)(?P<star>\*?)\}"
    r"(?P<block>(?:[^\\]|\\(?!begin\{(?:align|gather|equation)).){1,4000}?)\\end\{(?P=name)(?P=star)\}",
    re.DOTALL,
)
_ENVIRONMENT = re.compile(
    r"\\begin\{(?:align(?:ed|at)?|gather(?:ed)?|equation|multline|eqnarray|split|cases)\*?\}"
    r"|\\end\{\w+\*?\}"
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")
_MATRIX = re.compile(r"\\begin\{(?:[pbvBV]?matrix|smallmatrix|array|cases)\*?\}")
_ARROW = re.compile(r"\\(?:implies|Rightarrow|Longrightarrow|therefore|Leftrightarrow|iff)(?![a-zA-Z])|[⇒∴⟹]")
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-z]{3,}\s+[a-z]{2,}", re.IGNORECASE)
_IN_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|operatorname)\s*\{[^{}]*\}")


class Formula(NamedTuple):
    """A formula in a text."""

    start: int
    end: int
    inside: str


def formulas(text: str) -> list[Formula]:
    """The formulas of a text in order; dollar signs that mean money open none."""
    found: list[Formula] = []
    if "$" not in text and "\\" not in text:
        return found
    position = 0
    while match := FORMULA.search(text, position):
        inside = next(part for name in _GROUPS if (part := match.group(name)) is not None)
        if match.group("inline") is not None and _PROSE.search(_IN_TEXT.sub("", inside)):
            position = match.start() + 1
            continue
        if inside.strip():
            found.append(Formula(match.start(), match.end(), inside))
        position = match.end()
    return found


_GROUPS = ("display", "inline", "bracket", "paren", "block")


def value(inside: str) -> str:
    r"""What a formula says in the end: the last row of a derivation, what follows the last arrow."""
    text = inside.strip()
    if "\\\\" in text and not _MATRIX.search(text):
        rows = [row for row in _ROW_END.split(_ENVIRONMENT.sub("", text)) if row.strip(" &\n")]
        text = rows[-1] if rows else ""
    if not _MATRIX.search(text):
        text = _ENVIRONMENT.sub("", text).replace("&", "").strip().removeprefix("=")
    text = _ARROW.split(text)[-1]
    text = re.sub(r"\\(?:tag|label)\{[^{}]*\}|\\nonumber|\\notag|\\blacksquare|\\square|\\qed", "", text)
    return text.lstrip(" \t\r\n,;:。，；").rstrip(" \t\r\n.,;:。，；").removesuffix("\\").strip()
