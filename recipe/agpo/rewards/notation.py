# SPDX-License-Identifier: Apache-2.0
r"""The outer structure of a mathematical answer, read from its text without evaluating anything.

``x = 1, 2`` is a list with a label, ``[0, 1)`` an interval, ``1 \pm \sqrt{2}`` two values, ``2 < x \le 3`` a chain of
relations. What is left over is a :class:`Leaf`: one expression, which :mod:`recipe.agpo.rewards.symbolic` parses.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

MAX_LENGTH = 1_000
MAX_DEPTH = 16
MAX_DIGITS = 400
MAX_ITEMS = 100


@dataclass(frozen=True)
class Leaf:
    """One expression."""

    text: str


@dataclass(frozen=True)
class Items:
    r"""Several parts.

    Attributes:
        kind: ``list`` (1, 2), ``parts`` (1; 2), ``set`` (\{1, 2\}), the two brackets of a tuple or an interval, or the
            word (``and``, ``or``) that joins inequalities.
        items: the parts.
    """

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Relation:
    r"""A chain of relations: ``sides[0] signs[0] sides[1] signs[1] ...``; a sign is one of ``= ~ < <= > >= != in``."""

    signs: tuple[str, ...]
    sides: tuple[Node, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Union:
    r"""Sets joined by ``\cup``."""

    items: tuple[Node, ...]


Node = Leaf | Items | Relation | Union

_SIGNS = {
    "=": "=",
    ":=": "=",
    "==": "=",
    "\\approx": "~",
    "≈": "~",
    "\\sim": "~",
    "\\simeq": "~",
    "\\doteq": "~",
    "~=": "~",
    "<": "<",
    ">": ">",
    "\\lt": "<",
    "\\gt": ">",
    "<=": "<=",
    ">=": ">=",
    "\\le": "<=",
    "\\leq": "<=",
    "\\leqslant": "<=",
    "\\ge": ">=",
    "\\geq": ">=",
    "\\geqslant": ">=",
    "≤": "<=",
    "≥": ">=",
    "!=": "!=",
    "≠": "!=",
    "\\ne": "!=",
    "\\neq": "!=",
    "\\in": "in",
    "∈": "in",
}
_SIGN = re.compile(
    r"\\(?:approx|simeq|sim|doteq|lt|gt|leqslant|leq|le|geqslant|geq|ge|neq|ne|in)(?![a-zA-Z])"
    r"|~=|:=|==|<=|>=|!=|[=<>≈≤≥≠∈]"
)
_SEPARATOR = re.compile(
    r"\s*(?:[,、]\s*)?(?:(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|(?<=[\d)}])or(?=[A-Z(])|[和或及与且])\s*|\s*[,、]\s*"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?")
_NOBODY_WRITES = re.compile(rf"\d{{{MAX_DIGITS + 1},}}|(?:[-+]\s*){{5,}}|(?:\^\s*\w+\s*){{4,}}")
_CUP = re.compile(r"\\cup(?![a-zA-Z])|∪")
_SYSTEM = re.compile(r"\s*\\begin\{(?:cases|aligned)\}([^&]*)\\end\{(?:cases|aligned)\}\s*")
# k \pi (k \in Z)
_CONDITION = re.compile(r"(?<=[\w)}])\s*\(\s*([a-zA-Z]\s*(?:\\in(?![a-zA-Z])|∈)[^()]{1,40})\)\s*$")
_OPENING, _CLOSING = "([{⟨", ")]}⟩"
_BRACKETS = (
    ("\\{", "\\}", "set"),
    ("\\lbrace", "\\rbrace", "set"),
    ("\\langle", "\\rangle", "()"),
    ("⟨", "⟩", "()"),
    ("{", "}", "set"),
    ("(", ")", "()"),
    ("[", "]", "[]"),
    ("(", "]", "(]"),
    ("[", ")", "[)"),
)
GREEK = (
    "alpha|beta|gamma|Gamma|delta|Delta|epsilon|varepsilon|zeta|eta|theta|Theta|vartheta|iota|kappa|lambda|Lambda|mu|nu"
    "|xi|Xi|rho|varrho|sigma|Sigma|tau|upsilon|phi|Phi|varphi|chi|psi|Psi|omega|Omega|ell|hbar|pi|Pi"
)
_ACCENT = r"\\(?:vec|overrightarrow|overline|hat|bar|tilde|widehat|boldsymbol|mathcal|mathbb)\{[^{}]{1,12}\}"
_SCRIPTS = r"(?:'|\\prime|_\{[^{}]{1,20}\}|_[A-Za-z0-9]|\^\{?(?:'|\\prime|\*|-1)\}?)*"
_NAME = rf"(?:[A-Za-z]|\\(?:{GREEK})(?![a-zA-Z])|{_ACCENT}){_SCRIPTS}"
_POINTS = r"(?:\\(?:m?angle|triangle|odot|square)\s*|m\\angle\s*)?[A-Z](?:[A-Z']|_\{?\d\}?)*"
_CALL = rf"(?:{_NAME}|\\(?:Pr|det|max|min|deg|dim|gcd|lcm|sin|cos|tan|cot|sec|csc)(?:\^\{{?[-\d]+\}}?)?)"
_FUNCTION = rf"{_CALL}\s*[(\[][^()\[\]=<>]{{1,40}}[)\]]"
_TRIG = rf"\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\\angle\s*)?(?:{_NAME}|{_POINTS})"
_SIZE = r"(?:\||\\\||\\lvert\s*|\\lVert\s*)[A-Za-z\\_'{} ]{1,30}?(?:\||\\\||\\rvert|\\rVert)"
_ONE = rf"(?:{_FUNCTION}|{_SIZE}|{_TRIG}|{_POINTS}|{_NAME})"
_DERIVATIVE = r"\\frac\s*\{\s*d\^?\{?\d?\}?\s*[a-zA-Z]?\s*\}\s*\{\s*d\s*[a-zA-Z]\^?\{?\d?\}?\s*\}"
_LABEL = re.compile(
    rf"(?:(?:\\)?angle\s*)?(?:{_ONE}(?:\s*:\s*{_ONE})*|\\frac\s*\{{\s*{_ONE}\s*\}}\s*\{{\s*{_ONE}\s*\}}|{_DERIVATIVE}"
    rf"|(?:{_POINTS}|{_FUNCTION}|{_SIZE})\s*/\s*(?:{_POINTS}|{_FUNCTION}|{_SIZE})"
    rf"|[(\[]\s*{_ONE}(?:\s*,\s*{_ONE})+\s*[)\]])"
)
# "The total area", "Area of ABC", 面积: words in front of an equals sign, without any calculation.
_WORDY_LABEL = re.compile(r"(?=.*(?:[A-Za-z]{3}|[\u4e00-\u9fff]))[A-Za-z\u4e00-\u9fff][A-Za-z\u4e00-\u9fff .'()$_-]*")
_CALLED = re.compile(rf"({_CALL})\s*[(\[].*")


def is_label(text: str) -> bool:
    r"""Whether the left side of an equation only names what stands at the right: ``x``, ``f(2)``, ``\angle ABC``."""
    text = text.strip()
    if len(text) > 80:
        return False
    return _LABEL.fullmatch(text) is not None or _WORDY_LABEL.fullmatch(text) is not None


def label_key(text: str) -> str:
    """What two labels must have in common: their spelling, of a function its name alone when its argument is a name."""
    compact = re.sub(r"[\s{}\\]|text|mathrm|mathbf", "", text).lower()
    called = re.fullmatch(r"([a-z]+)[(\[][a-z][)\]]", compact)
    return called.group(1) if called else compact


def labelled(node: Node) -> tuple[str, Node] | None:
    """(label, value) of ``x = 5``, ``x = 2 + 3 = 5`` and ``x in A``; None if it is no such statement."""
    if not isinstance(node, Relation) or not is_label(node.texts[0]):
        return None
    if not all(sign in "=~" for sign in node.signs) and node.signs != ("in",):
        return None
    rest = node.sides[1:]
    if len(rest) == 1:
        return node.texts[0], rest[0]
    if all(sign == "=" for sign in node.signs[1:]):
        return node.texts[0], rest[-1]
    return node.texts[0], Relation(node.signs[1:], rest, node.texts[1:])


def readings(text: str) -> list[Node]:
    """What a normalised answer may mean. More than one only for ``100,200``: a number, or two of them."""
    system = _SYSTEM.fullmatch(text)
    rows = [row.strip(" ,") for row in system.group(1).split("\\\\") if row.strip(" ,")] if system else []
    if len(rows) > 1 and all(row.count("=") == 1 for row in rows):
        text = ", ".join(rows)  # a system of equations
    text = _CONDITION.sub(r", \1", text)
    found = [_read(text, thousands=True, depth=0)]
    if _THOUSANDS.search(text):
        other = _read(text, thousands=False, depth=0)
        if other != found[0]:
            found.append(other)
    return found


def too_large(text: str) -> bool:
    """Whether a text is longer, more deeply nested, or has longer numbers than anybody writes as an answer."""
    if len(text) > MAX_LENGTH or text.count("|") > 20 or _NOBODY_WRITES.search(text):
        return True
    depth = 0
    for character in text:
        if character in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in _CLOSING:
            depth -= 1
    return False


def _read(text: str, thousands: bool, depth: int) -> Node:
    text = text.strip().strip("$").strip(" ,;")
    if depth > 6:
        return Leaf(text)
    parts = [part for part in _split(text, re.compile(";"), thousands)]
    if len(parts) > 1:
        return Items("parts", tuple(_read(part, thousands, depth + 1) for part in parts))
    parts = _split(text, _SEPARATOR, thousands)
    if len(parts) > 1:
        items = tuple(_read(part, thousands, depth + 1) for part in parts)
        return Items(_joined_by(text, items), _unlabelled(items))
    signs = _top_level(text, _SIGN)
    if signs:
        edges = [0, *itertools.chain.from_iterable((m.start(), m.end()) for m in signs), len(text)]
        texts = tuple(text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True))
        if all(texts):
            sides = tuple(_read(side, thousands, depth + 1) for side in texts)
            if all(isinstance(side, Items) for side in sides[1:]) and len(sides) > 2:
                return Leaf(text)
            return Relation(tuple(_SIGNS[m.group(0)] for m in signs), sides, texts)
    if "\\pm" in text or "±" in text:
        values = _plus_minus(text)
        if len(values) > 1:
            return Items("list", tuple(_read(value, thousands, depth + 1) for value in values))
    unions = _split(text, _CUP, thousands)
    if len(unions) > 1:
        return Union(tuple(_read(part, thousands, depth + 1) for part in unions))
    return _bracketed(text, thousands, depth) or Leaf(text)


def _joined_by(text: str, items: tuple[Node, ...]) -> str:
    """``and`` or ``or`` between inequalities in one variable, where it makes a difference; else ``list``."""
    if not all(isinstance(item, Relation) and not set(item.signs) <= {"=", "~", "in"} for item in items):
        return "list"
    found = {m.group().strip(" ,、") for m in _top_level(text, _SEPARATOR)}
    if found <= {"and", "且"}:
        return "and"
    return "or" if found <= {"or", "或"} else "list"


def _bracketed(text: str, thousands: bool, depth: int) -> Node | None:
    for opening, closing, kind in _BRACKETS:
        if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
            continue
        inside = text[len(opening) : len(text) - len(closing)]
        if not _balanced(inside):
            continue
        if not inside.strip():
            return Items("set", ()) if kind == "set" and opening != "{" else None
        node = _read(inside, thousands, depth + 1)
        if isinstance(node, Items) and node.kind in ("list", "parts"):
            if kind == "set" or not any(isinstance(item, Relation) for item in node.items):
                return Items(kind, node.items)
            return node
        if kind == "set" and opening != "{":
            return Items("set", (node,))
        if opening in "({[":
            return node if not isinstance(node, Leaf) else None
    return None


def _unlabelled(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """``x = 1, 2, 3`` as ``1, 2, 3``: the label stands for all."""
    first = labelled(items[0])
    if first is not None and not any(isinstance(item, Relation) for item in items[1:]):
        return (first[1], *items[1:])
    return items


def _plus_minus(text: str) -> list[str]:
    count = len(re.findall(r"\\pm(?![a-zA-Z])|±", text))
    if not 1 <= count <= 2:
        return [text]
    opposite = re.search(r"\\mp(?![a-zA-Z])|∓", text) is not None
    found = []
    for signs in itertools.product("+-", repeat=1 if opposite else count):
        chosen = iter(signs if not opposite else signs * count)
        one = re.sub(r"\\pm(?![a-zA-Z])|±", lambda _, c=chosen: next(c), text)  # type: ignore[misc]
        found.append(re.sub(r"\\mp(?![a-zA-Z])|∓", "-" if signs[0] == "+" else "+", one).removeprefix("+"))
    return found


def _split(text: str, pattern: re.Pattern[str], thousands: bool) -> list[str]:
    cuts = _top_level(text, pattern)
    if thousands:
        numbers = [m.span() for m in _THOUSANDS.finditer(text)]
        cuts = [cut for cut in cuts if not any(a <= cut.start() and cut.end() <= b for a, b in numbers)]
    if not cuts or len(cuts) > MAX_ITEMS:
        return [text]
    edges = [0, *itertools.chain.from_iterable((m.start(), m.end()) for m in cuts), len(text)]
    parts = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [part for part in parts if part]


def _top_level(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches of a pattern that stand in no bracket."""
    found = list(pattern.finditer(text))
    if not found:
        return []
    if re.search(r"\\begin\s*\{", text):
        return []
    depth, depths = 0, []
    for character in text:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        depths.append(depth)
    return [m for m in found if m.end() > m.start() and depths[m.start()] == 0]


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth < 0:
                return False
    return depth == 0
