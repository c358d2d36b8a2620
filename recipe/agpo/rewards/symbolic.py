# SPDX-License-Identifier: Apache-2.0
r"""Equality of mathematical answers. It may hang or eat memory, so it runs only in a worker of the pool.

The outer structure (lists, tuples, intervals, relations) is read by :mod:`recipe.agpo.rewards.notation`; single
expressions are parsed by latex2sympy, math-verify's parser, after a check of their tokens, and compared here:

- Rational numbers and rational functions are compared exactly, everything else with ``DIGITS`` significant digits,
  expressions with variables at several points.
- A decimal that is long enough (:func:`recipe.agpo.rewards.canonical.rounding`) may be a rounding of the other side.
- Whatever nobody could write down in full (``too_large``, :func:`explosive`) equals nothing but its own spelling.
"""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from recipe.agpo.rewards import notation
from recipe.agpo.rewards.canonical import canonical, same, within_rounding, wordy
from recipe.agpo.rewards.notation import Items, Leaf, Node, Relation, Union, labelled

DIGITS = 400
MAX_BITS = 60_000  # of a number that is written out
MAX_FACTORIAL = 5_000
MAX_TERMS = 10_000  # of a sum or a product
MAX_POWER = 64  # of a sum with variables in it
MAX_NODES = 400
# Computing time, not time by the clock: a busy machine changes no verdict.
LIMIT_S = 1.0
FALLBACK_LIMIT_S = 0.5
PAIR_LIMIT_S = 1.0
_Comparison = tuple[str, Any, Any]

_COMMANDS = frozenset(
    (
        notation.GREEK + "|frac|dfrac|tfrac|cfrac|sqrt|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh"
        "|log|ln|lg|exp|cdot|times|div|pm|mp|infty|circ|degree|binom|dbinom|tbinom|sum|prod|int|lim|to|rightarrow|begin"
        "|end|left|right|lfloor|rfloor|lceil|rceil|lvert|rvert|mid|vec|overrightarrow|overline|hat|bar|tilde|mathbf"
        "|mathrm|mathbb|mathcal|boldsymbol|widehat|operatorname|emptyset|cup|cap|setminus|in|notin|max|min|gcd|lcm|mod"
        "|bmod|pmod|det|prime|langle|rangle|lbrace|rbrace|dot|ldots|cdots|dots|text|mbox|partial|nabla|deg|dim|Re|Im"
        "|backslash|colon|subset|subseteq|hbar|ell|odot|ddot|not|le|leq|ge|geq|ne|neq|lt|gt|approx"
    ).split("|")
)
_TOKEN = re.compile(
    r"\\(?P<command>[a-zA-Z]+)|\\[{}|,;:! \\]|[a-zA-Z]+'*|\d+(?:\.\d*)?|\.\d+|[-+*/^_=<>()\[\]{}|!,.:;&~%?'\s]"
)
# Two underscores, an attribute, a call with a name in quotes: no mathematics.
_CODE = re.compile(
    r"__|[a-zA-Z)\]]\s*\.\s*[a-zA-Z_]|['\"]\s*[a-zA-Z]+\s*['\"]|(?<![\\a-zA-Z])(?:import|lambda|eval|exec|open)\b"
)
_EAGER = re.compile(r"\\(?:Gamma|[dt]?binom)\s*[({]?[^)]{0,40}?(?:\d{5,}|\^|!|\\exp|\\Gamma.*\\Gamma)")
_BIG_POWER = re.compile(r"\^\s*\{?\s*[-+]?\s*\d{5,}")
_UNIT = re.compile(
    r"\s*\\(?:text(?:bf|rm|it|normal|sf)?|mbox|mathrm)\s*\{\s*(?!e\s*\})[^{}]*\}\s*(?:\^\s*\{?\s*-?\d\s*\}?)?\s*\.?$"
)
_SMALL_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)")
_TRIG = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_FUNCTIONS = re.compile(
    r"(?<![\\a-zA-Z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|theta|alpha|beta|gamma|lambda"
    r"|infty|cdot)(?![a-zA-Z])"
)
_STAR_POWER = re.compile(r"(?:\*\*|\^)\s*(-?\d{2,}|-\d)")
_LETTER = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
_DECIMAL_POWER = re.compile(r"\^\s*\{\s*(-?\d{0,4})\.(\d{1,6})\s*\}")
_BASED = re.compile(r"\(?\s*([0-9A-Za-z]+)\s*\)?\s*_\s*(?:(\d)|\{\s*(?:\\text\s*\{)?\s*(\w+)\s*\}?\s*\})")
_BASES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|∅")
_CLOCK = re.compile(r"\d{1,2}(?::\d{2}){1,2}")
_INTEGERS = frozenset("nkmNKM")


class OutOfTime(BaseException):
    """A comparison took longer than its own limit. No library that catches Exception can swallow it."""


def equal(answer: str, gold: str) -> bool:
    """Whether an answer is mathematically equal to a reference; both normalised (``canonical.normalised``)."""
    if notation.too_large(answer) or notation.too_large(gold):
        return False
    try:
        with _cpu_limit(LIMIT_S):
            golds = notation.readings(gold)
            return any(_nodes_equal(a, g) for a in notation.readings(answer) for g in golds)
    except (OutOfTime, Exception):  # the answer's own doing: its text decides what there is to compute
        return False


def equal_both_ways(first: str, second: str) -> bool:
    """Whether two answers are equal whichever of them is the reference: what votes need."""
    return equal(first, second) and equal(second, first)


def classes(answers: list[str], pair_limit_s: float = PAIR_LIMIT_S) -> list[int]:
    """For each answer the index of the first of its class: it was shown to be equal to every member of it.

    A pair whose comparison takes longer than ``pair_limit_s`` of computing time is not equal.
    """

    def compare(i: int, j: int) -> bool:
        try:
            with _cpu_limit(pair_limit_s):
                return equal_both_ways(answers[i], answers[j])
        except OutOfTime:
            return False
        except Exception:  # a pair that cannot be compared was not shown equal
            return False

    return grouped(len(answers), compare)


def grouped(count: int, compare: Callable[[int, int], bool]) -> list[int]:
    """Classes in which every pair is equal: an answer joins the first class of which it equals all members."""
    members: list[list[int]] = []
    heads: list[int] = []
    for i in range(count):
        home = next((one for one in members if all(compare(i, j) for j in one)), None)
        if home is None:
            home = []
            members.append(home)
        home.append(i)
        heads.append(home[0])
    return heads


def value(answer: str) -> float | None:
    """The real number that an expression stands for, None if it stands for none."""
    parsed = _parsed(answer)
    if parsed is None or not _is_scalar(parsed) or parsed.free_symbols:
        return None
    number = _evaluate(parsed, {})
    if number is None:
        return None
    if not isinstance(number, Fraction) and number.imag != 0:
        return None
    try:
        found = float(number if isinstance(number, Fraction) else number.real)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def readable(answer: str) -> bool:
    """Whether an answer has a meaning here: every expression in it parses."""
    return not notation.too_large(answer) and any(_node_readable(node) for node in notation.readings(answer))


def explosive(answer: str) -> bool:
    """Whether an answer is so large or so deeply nested that it is not computed."""
    if _large(answer):
        return True
    found = (_unchecked(leaf) for node in notation.readings(answer) for leaf in _leaves(node))
    return any(one is not None and _bits(one) is None for one in found)


def prepare() -> None:
    """Imports and the parser's tables: seconds that are no answer's fault."""
    equal("\\sqrt{8}+x", "2\\sqrt{2}+x")


# --- structure ---------------------------------------------------------------------------------------------------


def _nodes_equal(a: Node, g: Node) -> bool:
    if a == g:
        return True
    if isinstance(a, Relation) or isinstance(g, Relation):
        return _relations_equal(a, g)
    if isinstance(a, Union) or isinstance(g, Union):
        return _sets_equal(a, g)
    if isinstance(a, Items) and isinstance(g, Items):
        return _items_equal(a, g)
    if isinstance(a, Items) or isinstance(g, Items):
        several, one = (a, g) if isinstance(a, Items) else (g, a)
        assert isinstance(several, Items)
        if several is a and several.kind == "list" and len(_distinct(several.items)) == 1:
            return _nodes_equal(several.items[0], one)  # "1/2 or 50%": one value in two spellings
        if several.kind == "set" and len(several.items) == 1:
            if isinstance(one, Leaf) and _EMPTY.fullmatch(one.text):
                return False
            return _nodes_equal(several.items[0], one) if several is a else _nodes_equal(one, several.items[0])
        return _sets_equal(a, g)
    assert isinstance(a, Leaf) and isinstance(g, Leaf)
    return _leaves_equal(a.text, g.text)


def _items_equal(a: Items, g: Items) -> bool:
    if not {a.kind, g.kind}.isdisjoint(("and", "or")):
        if {a.kind, g.kind} <= {"and", "list"} or {a.kind, g.kind} <= {"or", "list"}:
            if _in_any_order(a.items, g.items):
                return True
        return _sets_equal(a, g)
    brackets = [kind for kind in (a.kind, g.kind) if kind[0] in "(["]
    if len(brackets) == 2:
        # [1, 2, 3] is (1, 2, 3), but of two numbers the brackets say whether the ends belong to an interval.
        if a.kind != g.kind and (len(g.items) == 2 or {a.kind, g.kind} != {"()", "[]"}):
            return False
        return _in_order(a.items, g.items)
    if brackets:
        tuple_is_set = "set" in (a.kind, g.kind) or brackets[0] not in ("()", "[]")
        if tuple_is_set or (brackets[0] == "[]" and g.kind != "parts"):
            return False
        # (1, 2) for the list 1, 2, and 1, 2 for the tuple (1, 2): the brackets may be missing or too many.
        ordered = g.kind != "list" or _labels_differ(g.items)
        return _in_order(a.items, g.items) if ordered else _in_any_order(a.items, g.items)
    if a.kind == g.kind == "list" and all(isinstance(item, Items) for item in (*a.items, *g.items)):
        return _in_any_order(_distinct(a.items), _distinct(g.items))  # a solution listed twice is still one
    if g.kind == "parts" and a.kind != "set":
        if _in_order(a.items, g.items):
            return True
        return any(isinstance(i, Items) for i in g.items) and _in_any_order(a.items, g.items)
    if _labels_differ(g.items) and not any(labelled(item) for item in a.items):
        return _in_order(a.items, g.items)
    if _labels_differ(a.items) and not any(labelled(item) for item in g.items):
        return _in_order(a.items, g.items)
    if "set" in (a.kind, g.kind):
        return _in_any_order(_distinct(a.items), _distinct(g.items))
    return _in_any_order(a.items, g.items)


def _labels_differ(items: Sequence[Node]) -> bool:
    keys = {notation.label_key(found[0]) for item in items if (found := labelled(item))}
    return len(keys) > 1


def _distinct(items: Sequence[Node]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if not any(_nodes_equal(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


def _in_order(a: Sequence[Node], g: Sequence[Node]) -> bool:
    return len(a) == len(g) and all(map(_nodes_equal, a, g))


def _in_any_order(a: Sequence[Node], g: Sequence[Node]) -> bool:
    if len(a) != len(g):
        return False
    left = list(a)
    for one in g:
        position = next((i for i, other in enumerate(left) if _nodes_equal(other, one)), None)
        if position is None:
            return False
        left.pop(position)
    return True


def _relations_equal(a: Node, g: Node) -> bool:
    ours, theirs = labelled(a), labelled(g)
    if ours and theirs:
        if notation.label_key(ours[0]) == notation.label_key(theirs[0]):
            return _nodes_equal(ours[1], theirs[1])
    elif theirs and not isinstance(a, Relation):
        return _nodes_equal(a, theirs[1])
    elif ours and not isinstance(g, Relation):
        return _nodes_equal(ours[1], g)
    if isinstance(a, Relation) and isinstance(g, Relation):
        return _same_relation(a, g)
    relation, other = (a, g) if isinstance(a, Relation) else (g, a)
    assert isinstance(relation, Relation)
    if all(sign in "=~" for sign in relation.signs):
        return relation is a and _chain_equals(relation, g)
    return _sets_equal(a, g)


def _chain_equals(chain: Relation, gold: Node) -> bool:
    """``2 * 36 = 72`` is 72: every side has the value. ``x + y = 5`` is not 5. A rounding at the end must be one."""
    exact = [side for side, sign in zip(chain.sides, ("=", *chain.signs), strict=True) if sign == "="]
    rounded = [side for side, sign in zip(chain.sides, ("=", *chain.signs), strict=True) if sign == "~"]
    if not all(_nodes_equal(side, exact[-1]) for side in exact[:-1]):
        return False
    if not all(_is_rounding(side, exact[-1]) for side in rounded):
        return False
    return any(_nodes_equal(side, gold) for side in (exact[-1], *rounded))


def _is_rounding(rounded: Node, exact: Node) -> bool:
    """Whether a decimal is the other side rounded to the decimal's last digit."""
    if not isinstance(rounded, Leaf) or not isinstance(exact, Leaf):
        return False
    shown = re.fullmatch(r"-?\d+(?:\.(\d*))?|-?\.(\d+)", rounded.text.strip())
    number = _real(exact.text)
    if shown is None or number is None:
        return False
    places = len(shown.group(1) or shown.group(2) or "")
    if places == 0 and isinstance(number, Fraction) and number.denominator == 1:
        return False  # 72 is not about 73
    return within_rounding(Fraction(rounded.text.strip().rstrip(".")), number, places)


def _same_relation(a: Relation, g: Relation) -> bool:
    if "in" in a.signs or "in" in g.signs:
        return _sets_equal(a, g)
    if all(s in "=~" for s in a.signs) != all(s in "=~" for s in g.signs):
        return False
    ours, theirs = _differences(a), _differences(g)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False
    left = list(ours)
    for one in theirs:
        position = next((i for i, other in enumerate(left) if _same_comparison(other, one)), None)
        if position is None:
            return len(ours) == len(theirs) == 1 and (_solved_by(ours[0], theirs[0]) or _solved_by(theirs[0], ours[0]))
        left.pop(position)
    return True


def _solved_by(equation: _Comparison, solution: _Comparison) -> bool:
    """Whether ``solution`` is ``y = ...`` and ``equation`` is linear in y with this solution: xy = 1 and y = 1/x."""
    unknown, found = solution[1:]
    if solution[0] != "=" or equation[0] != "=" or not getattr(unknown, "is_Symbol", False):
        return False
    if not all(_is_scalar(side) for side in (found, *equation[1:])) or unknown in found.free_symbols:
        return False
    difference = equation[1] - equation[2]
    if unknown not in difference.free_symbols:
        return False
    shown = 0
    for point in _points(difference, found):
        y = _evaluate(found, point)
        values = [_evaluate(difference, point | {unknown: at}) for at in (Fraction(0), Fraction(1), Fraction(3), y)]
        if y is None or any(value is None or _complex(value) for value in values):
            continue
        zero, one, three, solved = (_number(value) for value in values)
        tiny = _mp().mpf(10) ** (60 - DIGITS) * (1 + abs(zero) + abs(one) + abs(three))
        if abs(three - 3 * one + 2 * zero) > tiny or abs(one - zero) <= tiny or abs(solved) > tiny:
            return False
        shown += 1
    return shown >= 3


def _differences(relation: Relation) -> list[_Comparison] | None:
    """The comparisons of a chain, each turned so that its sign is ``=``, ``!=``, ``<`` or ``<=``."""
    found = []
    sides = [_parsed(text) for text in relation.texts]
    for i, sign in enumerate(relation.signs):
        left, right = sides[i], sides[i + 1]
        if left is None or right is None:
            return None
        if sign in (">", ">="):
            left, right, sign = right, left, "<" + sign[1:]
        found.append(("=" if sign == "~" else sign, left, right))
    return found


def _same_comparison(a: _Comparison, g: _Comparison) -> bool:
    if a[0] != g[0]:
        return False
    turnable = a[0] in ("=", "!=")
    if _expressions_equal(a[1], g[1]) and _expressions_equal(a[2], g[2]):
        return True
    if turnable and _expressions_equal(a[1], g[2]) and _expressions_equal(a[2], g[1]):
        return True
    if not all(_is_scalar(side) for side in (*a[1:], *g[1:])):
        return False
    ours, theirs = a[1] - a[2], g[1] - g[2]
    symbols = ours.free_symbols | theirs.free_symbols
    if not ours.free_symbols or not theirs.free_symbols or ours.free_symbols != theirs.free_symbols:
        return False  # 2^{10} = 1000 and 2^{10} = 1024 are false or true whatever they say: only their sides count
    factor = _constant_ratio(ours, theirs, symbols)
    return factor is not None and (turnable or factor > 0)


def _constant_ratio(a: Any, b: Any, symbols: Any) -> Any:
    """c if a = c * b at every point, else None."""
    ratios = []
    for point in _points(a, b):
        first, second = _evaluate(a, point), _evaluate(b, point)
        if first is None or second is None or _complex(first) or _complex(second):
            continue
        if first == 0 or second == 0:
            return None
        ratios.append(first / second)
    if len(ratios) < 3 or not all(_close(ratio, ratios[0]) for ratio in ratios):
        return None
    return ratios[0] if isinstance(ratios[0], Fraction) else ratios[0].real


# --- sets --------------------------------------------------------------------------------------------------------


def _sets_equal(a: Node, g: Node) -> bool:
    ours, theirs = _as_set(a), _as_set(g)
    if ours is None or theirs is None:
        return False
    if ours == theirs:
        return True
    return bool(ours.symmetric_difference(theirs).is_empty)


def _as_set(node: Node) -> Any:
    """The sympy set that a node stands for, None if it stands for none."""
    import sympy

    if isinstance(node, Union):
        parts = [_as_set(item) for item in node.items]
        return None if any(part is None for part in parts) else sympy.Union(*parts)
    if isinstance(node, Items) and node.kind in ("and", "or"):
        parts = [_as_set(item) for item in node.items]
        if any(part is None for part in parts):
            return None
        return sympy.Intersection(*parts) if node.kind == "and" else sympy.Union(*parts)
    if isinstance(node, Items):
        values = [_bound(item) for item in node.items]
        if any(v is None for v in values):
            return None
        if node.kind in ("set", "list"):
            return sympy.FiniteSet(*values)
        if len(values) == 2 and node.kind[0] in "([" and all(v.is_extended_real for v in values):
            return sympy.Interval(*values, node.kind[0] == "(", node.kind[1] == ")")
        return None
    if isinstance(node, Relation):
        found = labelled(node)
        if found is not None:
            return _as_set(found[1])
        comparisons = _differences(node) if "in" not in node.signs else None
        if not comparisons:
            return None
        names = {"=": sympy.Eq, "!=": sympy.Ne, "<": sympy.Lt, "<=": sympy.Le}
        relations = [names[sign](_plain(left), _plain(right)) for sign, left, right in comparisons]
        unknown = set().union(*(relation.free_symbols for relation in relations))
        return sympy.And(*relations).as_set() if len(unknown) == 1 else None
    parsed = _parsed(node.text)
    if isinstance(parsed, sympy.Set):
        return parsed.doit()
    return None


def _bound(node: Node) -> Any:
    if not isinstance(node, Leaf):
        return None
    parsed = _parsed(node.text)
    return _plain(parsed).doit() if parsed is not None and _is_scalar(parsed) and not parsed.free_symbols else None


def _plain(expression: Any) -> Any:
    """f(x) as a symbol, so that 0 < f(x) < 1 is a statement about one unknown."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    calls = expression.atoms(AppliedUndef)
    return expression.xreplace({call: Symbol(f"call_{call}", real=True) for call in calls}) if calls else expression


# --- single expressions ------------------------------------------------------------------------------------------


def _leaves(node: Node) -> Iterator[str]:
    if isinstance(node, Leaf):
        yield node.text
    elif isinstance(node, Relation):
        yield from node.texts
    else:
        for item in node.items:
            yield from _leaves(item)


def _node_readable(node: Node) -> bool:
    if isinstance(node, Relation):
        return all(
            _node_readable(side) or (i == 0 and notation.is_label(text))
            for i, (side, text) in enumerate(zip(node.sides, node.texts, strict=True))
        )
    if isinstance(node, Leaf):
        read = canonical(node.text)
        known = read.number is not None or wordy(read) or _BASED.fullmatch(node.text) or _CLOCK.fullmatch(node.text)
        return bool(known) or _parsed(node.text) is not None
    return all(_node_readable(item) for item in node.items)


def _leaves_equal(answer: str, gold: str) -> bool:
    a, g = canonical(answer), canonical(gold)
    if same(a, g):
        return True
    if a.number is not None and g.number is not None:
        return False
    if wordy(a) or wordy(g):
        return a.key.casefold() == g.key.casefold()
    based = _based_equal(answer, gold)
    if based is not None:
        return based
    if _CLOCK.fullmatch(answer.strip()) and _CLOCK.fullmatch(gold.strip()) and ":0" in answer + gold:
        return False  # 12:00 and 1:00 are times, not ratios
    if ":" in answer + gold and max(answer.count(":"), gold.count(":")) > 1:
        return _ratios_equal(answer.split(":"), gold.split(":"))
    ours, theirs = _parsed(answer), _parsed(gold)
    if ours is None or theirs is None:
        return False
    if _expressions_equal(ours, theirs):
        return True
    for rounded, other in ((a, theirs), (g, ours)):
        if rounded.places is not None and rounded.number is not None and _is_scalar(other) and not other.free_symbols:
            number = _evaluate(other, {})
            if number is not None and not _complex(number):
                return within_rounding(rounded.number, number, rounded.places)
    return False


def _ratios_equal(answer: list[str], gold: list[str]) -> bool:
    """1:2:3 and 2:4:6."""
    if len(answer) != len(gold):
        return False
    ours, theirs = ([_parsed(part) for part in parts] for parts in (answer, gold))
    if not all(part is not None and _is_scalar(part) for part in (*ours, *theirs)):
        return False
    if ours[0].is_zero or theirs[0].is_zero:
        return False
    pairs = zip(ours[1:], theirs[1:], strict=True)
    return all(_expressions_equal(ours[0] * b, theirs[0] * a) for a, b in pairs)


def _based_equal(answer: str, gold: str) -> bool | None:
    """Numbers with a base: equal digits in the same base. Either side may leave the base out. None if there is none."""
    read = [_BASED.fullmatch(text.strip()) for text in (answer, gold)]
    based = [(m.group(1).lower(), _base(m.group(2) or m.group(3))) if m else None for m in read]
    based = [one if one and one[1] and one[0][0].isdigit() else None for one in based]
    if based == [None, None]:
        return None
    if based[0] and based[1]:
        return based[0] == based[1]
    known, bare = (based[0], gold) if based[0] else (based[1], answer)
    assert known is not None
    return known[0] == bare.strip().lower()


def _base(text: str) -> int | None:
    base = _BASES.get(text.lower()) or (int(text) if text.isdigit() and len(text) < 3 else None)
    return base if base and 2 <= base <= 36 else None


def _real(text: str) -> Any:
    """The real number that one expression stands for, exact where it can be; None if it stands for none."""
    read = canonical(text)
    if read.number is not None:
        return read.number
    parsed = _parsed(text)
    if parsed is None or not _is_scalar(parsed) or parsed.free_symbols:
        return None
    number = _evaluate(parsed, {})
    return None if number is None or _complex(number) else number


def _parsed(text: str) -> Any:
    """The sympy object of one expression; None if it does not parse, or is explosive, or holds anything odd."""
    found = _unchecked(text)
    return found if found is not None and _bits(found) is not None else None


@lru_cache(maxsize=256)
def _unchecked(text: str) -> Any:
    if _large(text) or _CODE.search(text):
        return None
    prepared = _prepared(text)
    position = 0
    while position < len(prepared):
        token = _TOKEN.match(prepared, position)
        if token is None or ((name := token.group("command")) and name not in _COMMANDS):
            return None
        position = token.end()
    from latex2sympy2_extended.latex2sympy2 import latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    rules = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="none")
    try:
        with _cpu_limit(FALLBACK_LIMIT_S):
            return latex2sympy(normalize_latex(prepared, rules), is_real=True, normalization_config=None)
    except OutOfTime:
        return None
    except Exception:  # the parser raises Exception itself
        return None


def _large(text: str) -> bool:
    return notation.too_large(text) or _EAGER.search(text) is not None or _BIG_POWER.search(text) is not None


def _prepared(text: str) -> str:
    text = _UNIT.sub("", text.strip()) or text
    text = re.sub(r"\\not\s*=", r"\\neq", text)
    text = _FUNCTIONS.sub(r"\\\1 ", _roots(text))
    text = re.sub(r"\\(?:varnothing|O)(?![a-zA-Z])|∅", r"\\emptyset ", text)
    text = text.replace("∞", "\\infty ").replace("·", "\\cdot ").replace("÷", "\\div ").replace("∪", "\\cup ")
    text = re.sub(r"\^\s*\{?\s*\\?(?:th|st|nd|rd)\s*\}?$", "", text)
    # The parser takes E for Euler's number, also with an index, and knows no index that is an operator.
    text = re.sub(r"(?<![a-zA-Z\\])E(?=\s*_)", r"\\mathcal{E}", text)
    text = re.sub(r"_\s*\{?\s*\\odot\s*\}?", "_{odot}", text)
    text = _both_cases(text)
    text = re.sub(r"\\log\s*_\s*\{?\s*e\s*\}?(?![a-zA-Z])", r"\\ln ", text)
    text = _DECIMAL_POWER.sub(lambda m: f"^{{\\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}}}}", text)
    text = _STAR_POWER.sub(r"^{\1}", text).replace("**", "^")
    if _TRIG.search(text):
        text = _SMALL_ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    return text.strip().rstrip(".")


def _both_cases(text: str) -> str:
    """``V + v`` with a name of its own for V: the parser lowers every letter, and would read 2v."""
    letters = set(_LETTER.findall(text))
    capitals = {letter for letter in letters if letter.isupper() and letter.lower() in letters}
    return _LETTER.sub(lambda m: rf"\mathcal{{{m[0]}}}" if m[0] in capitals else m[0], text) if capitals else text


def _roots(text: str) -> str:
    """sqrt(2) and \\sqrt(2) as \\sqrt{2}, with the bracket that closes the first."""
    while found := re.search(r"\\?sqrt\s*\(", text):
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        inside = text[found.end() : end - 1] if not depth else text[found.end() :]
        text = text[: found.start()] + "\\sqrt{" + inside + "}" + text[end:]
    return text


def _is_scalar(expression: Any) -> bool:
    from sympy import Expr

    return isinstance(expression, Expr) and not getattr(expression, "is_Matrix", False)


def _expressions_equal(a: Any, g: Any) -> bool:
    import sympy

    if getattr(a, "is_Matrix", False) or getattr(g, "is_Matrix", False):
        return _matrices_equal(a, g)
    if isinstance(a, sympy.Set) or isinstance(g, sympy.Set):
        return isinstance(a, sympy.Set) and isinstance(g, sympy.Set) and bool(a.doit() == g.doit())
    if not _is_scalar(a) or not _is_scalar(g):
        return bool(a == g)
    if a == g:
        return True
    if a.is_infinite or g.is_infinite:
        return bool(a.doit() == g.doit())
    found = _agree(a, g)
    if found is not None:
        return found
    ours, theirs = _carried_out(a), _carried_out(g)
    if ours is None or theirs is None:
        return False
    if (ours, theirs) != (a, g) and _agree(ours, theirs):
        return True
    try:
        with _cpu_limit(FALLBACK_LIMIT_S):
            return bool(ours == theirs or sympy.simplify(ours - theirs) == 0)
    except OutOfTime:
        return False


@lru_cache(maxsize=256)
def _carried_out(expression: Any) -> Any:
    """An expression with its integrals, limits and derivatives carried out; None if that takes too long."""
    try:
        with _cpu_limit(FALLBACK_LIMIT_S):
            found = expression.doit()
            return found if _bits(found) is not None else None
    except OutOfTime:
        return None


def _matrices_equal(a: Any, g: Any) -> bool:
    ours, theirs = _entries(a), _entries(g)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return False
    return all(_expressions_equal(x, y) for x, y in zip(ours.flat(), theirs.flat(), strict=True))


def _entries(expression: Any) -> Any:
    """A matrix with its products and sums carried out, None if it cannot be written out."""
    if not getattr(expression, "is_Matrix", False):
        return None
    try:
        found = expression.doit()
        found = found.as_explicit() if hasattr(found, "as_explicit") else found
        return found.as_mutable() if hasattr(found, "flat") else None
    except Exception:  # sympy raises several kinds for shapes that do not fit
        return None


def _agree(a: Any, g: Any) -> bool | None:
    """Whether two expressions agree at several points; None if that cannot be said."""
    from sympy import E, I, Symbol

    a, g = _plain(a), _plain(g)
    symbols = {s for s in a.free_symbols | g.free_symbols if isinstance(s, Symbol)}
    euler = {s: E for s in symbols if s.name == "e"}
    if euler:
        a, g = a.xreplace(euler), g.xreplace(euler)
    found = _agree_at(a, g, _points(a, g))
    if found is not False:
        return found
    imaginary = {s: I for s in symbols if s.name == "i"}
    if imaginary:
        a, g = a.xreplace(imaginary), g.xreplace(imaginary)
        if _agree_at(a, g, _points(a, g)):
            return True
    names = {s.name for s in symbols}
    if names and names <= _INTEGERS:
        order = _ordered(symbols)
        return bool(_agree_at(a, g, [{s: Fraction(3 + i + 2 * j) for j, s in enumerate(order)} for i in range(8)]))
    return False


def _agree_at(a: Any, g: Any, points: list[dict[Any, Fraction]]) -> bool | None:
    agreed, complex_too = 0, 0
    for point in points:
        first, second = _evaluate(a, point), _evaluate(g, point)
        if first is None or second is None:
            continue
        if point and (_complex(first) or _complex(second)):
            # Outside the domain of a root or a logarithm: says nothing, unless it is so everywhere.
            complex_too += _close(first, second)
            continue
        if not _close(first, second):
            return False
        agreed += 1
    if agreed >= min(3, len(points)):
        return True
    if not agreed and complex_too >= 3:
        return complex_too == len(points)
    return None if agreed + complex_too < 3 else False


def _ordered(symbols: Any) -> list[Any]:
    return sorted(symbols, key=lambda s: str(s))


def _points(*expressions: Any) -> list[dict[Any, Fraction]]:
    """Where expressions with variables are compared: fixed, so that a verdict is always the same."""
    symbols = _ordered(set().union(*(e.free_symbols for e in expressions)))
    if not symbols:
        return [{}]
    rows = ((7, 5), (13, 3), (-11, 7), (3, 11), (-17, 4), (29, 6), (-5, 13), (101, 9))
    return [{s: Fraction(n * (j + 1) + j * 3, d + 2 * j) for j, s in enumerate(symbols)} for n, d in rows]


# --- numbers -----------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """An expression for which no number is computed."""


def _complex(number: Any) -> bool:
    return not isinstance(number, Fraction) and abs(number.imag) > abs(number.real) * _mp().mpf(10) ** (20 - DIGITS)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    mp = _mp()
    first, second = _number(a), _number(b)
    size = max(abs(first), abs(second), mp.mpf(10) ** -DIGITS)
    return bool(abs(first - second) <= size * mp.mpf(10) ** (30 - DIGITS))


@lru_cache(maxsize=1)
def _mp() -> Any:
    from mpmath import MPContext

    context = MPContext()
    context.dps = DIGITS
    return context


def _number(value: Any) -> Any:
    return _mp().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _evaluate(expression: Any, point: dict[Any, Fraction]) -> Any:
    """A Fraction where the value is one, else a complex number of ``DIGITS`` digits; None if there is none."""
    try:
        found = _walk(expression, point)
        if isinstance(found, Fraction):
            return found
        return found if _mp().isfinite(found) else None
    except (_Unknown, ZeroDivisionError, OverflowError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    except Exception as error:
        if type(error).__name__ in ("NoConvergence", "ComplexResult"):
            return None
        raise


def _walk(e: Any, point: dict[Any, Fraction]) -> Any:
    import sympy

    mp = _mp()
    if e.is_Symbol:
        if e not in point:
            raise _Unknown
        return point[e]
    if e.is_Rational:
        return Fraction(int(e.p), int(e.q))
    if e.is_Float:
        return Fraction(str(e))  # the decimal as it was written
    if e is sympy.pi:
        return mp.mpc(mp.pi)
    if e is sympy.E:
        return mp.mpc(mp.e)
    if e is sympy.I:
        return mp.mpc(0, 1)
    name = type(e).__name__
    if name in ("Sum", "Product"):
        return _series(e, point)
    if name == "exp":
        return _power(mp.mpc(mp.e), _walk(e.args[0], point))
    if name in ("Integral", "Limit", "Derivative"):
        raise _Unknown
    arguments = [_walk(argument, point) for argument in e.args]
    if e.is_Add or e.is_Mul:
        total = arguments[0]
        for one in arguments[1:]:
            if not (isinstance(total, Fraction) and isinstance(one, Fraction)):
                total, one = _number(total), _number(one)
            total = total + one if e.is_Add else total * one
            if isinstance(total, Fraction):
                _small(total)
        return total
    if e.is_Pow:
        return _power(*arguments)
    if name == "UnevaluatedExpr":
        return arguments[0]
    if name == "Abs":
        return abs(arguments[0])
    if name in ("factorial", "binomial", "gamma"):
        return _whole(name, arguments)
    if name in ("floor", "ceiling"):
        (one,) = arguments
        if not isinstance(one, Fraction):
            if _complex(one):
                raise _Unknown
            return Fraction(int(getattr(mp, "floor" if name == "floor" else "ceil")(one.real)))
        return Fraction(math.floor(one) if name == "floor" else math.ceil(one))
    if name in ("Max", "Min", "Mod"):
        numbers = [one if isinstance(one, Fraction) else one.real for one in arguments]
        if name == "Mod":
            return numbers[0] % numbers[1]
        return max(numbers) if name == "Max" else min(numbers)
    if name == "log":
        return _logarithm(*arguments)
    function = getattr(mp, _NAMES.get(name, ""), None)
    if function is None or len(arguments) != 1:
        raise _Unknown
    return mp.mpc(function(_number(arguments[0])))


_NAMES = {
    name: name
    for name in ("sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh asinh acosh atanh".split())
} | {"conjugate": "conj"}


def _small(number: Fraction) -> None:
    if number.numerator.bit_length() > 4 * MAX_BITS or number.denominator.bit_length() > 4 * MAX_BITS:
        raise _Unknown


def _power(base: Any, exponent: Any) -> Any:
    mp = _mp()
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * size > 4 * MAX_BITS:
                raise _Unknown
            return base ** int(exponent)
        exact = _root(base, exponent)
        if exact is not None:
            return exact
        if base < 0 and exponent.denominator % 2:  # the real root
            found = (-_number(base)) ** _number(exponent)
            return mp.mpc(-found if exponent.numerator % 2 else found)
    base, exponent = mp.mpc(_number(base)), mp.mpc(_number(exponent))
    if base != 0 and abs(exponent * mp.log(base)) > MAX_BITS:
        raise _Unknown
    return base**exponent


def _root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """A root that is rational: sqrt(4/9)."""
    if base < 0 or exponent.denominator > 12 or abs(exponent.numerator) > 1000:
        return None
    parts = []
    for part in (base.numerator, base.denominator):
        guess = int(_mp().nint(_mp().root(part, exponent.denominator))) if part else 0
        if guess**exponent.denominator != part:
            return None
        parts.append(guess)
    return Fraction(parts[0], parts[1]) ** exponent.numerator


def _logarithm(argument: Any, base: Any = None) -> Any:
    mp = _mp()
    if argument == 0:
        raise _Unknown
    found = mp.log(mp.mpc(_number(argument)))
    return found if base is None else found / mp.log(mp.mpc(_number(base)))


def _whole(name: str, arguments: list[Any]) -> Any:
    mp = _mp()
    if any(abs(_number(one)) > MAX_FACTORIAL for one in arguments):
        raise _Unknown
    if all(isinstance(one, Fraction) and one.denominator == 1 and one >= 0 for one in arguments):
        numbers = [int(one) for one in arguments]
        if name == "factorial":
            return Fraction(math.factorial(numbers[0]))
        if name == "binomial":
            return Fraction(math.comb(*numbers))
        return Fraction(math.factorial(numbers[0] - 1))
    function = {"factorial": mp.factorial, "binomial": mp.binomial, "gamma": mp.gamma}[name]
    return mp.mpc(function(*[_number(one) for one in arguments]))


def _series(e: Any, point: dict[Any, Fraction]) -> Any:
    body, *limits = e.args
    if len(limits) != 1:
        raise _Unknown
    variable, low, high = limits[0]
    first, last = _walk(low, point), _walk(high, point)
    if not all(isinstance(one, Fraction) and one.denominator == 1 for one in (first, last)) or last - first > 300:
        raise _Unknown
    product = type(e).__name__ == "Product"
    total: Any = Fraction(int(product))
    for i in range(int(first), int(last) + 1):
        one = _walk(body, point | {variable: Fraction(i)})
        if not (isinstance(total, Fraction) and isinstance(one, Fraction)):
            total, one = _number(total), _number(one)
        total = total * one if product else total + one
    return total


def _bits(e: Any) -> float | None:
    """An upper bound of log2 of a number's size (0 for what has variables); None if it is explosive."""
    import sympy

    count = 0

    def size(e: Any) -> float:
        nonlocal count
        count += 1
        if count > MAX_NODES:
            raise _Unknown
        if getattr(e, "is_Matrix", False) and hasattr(e, "flat"):
            return max(map(size, e.flat()), default=0.0)
        if e.is_Number:
            if not e.is_finite:
                return 0.0
            return abs(math.log2(abs(e.p)) if e.p else 0.0) + math.log2(e.q) if e.is_Rational else 60.0
        if not e.args:
            return 2.0
        name = type(e).__name__
        if name in ("Sum", "Product"):
            for limit in e.limits:
                ends = [end for end in limit[1:] if end.is_number and end.is_finite is not False]
                if any(size(end) > math.log2(MAX_TERMS) for end in ends):
                    raise _Unknown
        sizes = [size(argument) for argument in e.args]
        if e.is_Pow or name == "exp":
            base, exponent = (e.args[0], e.args[1]) if e.is_Pow and name != "exp" else (sympy.E, e.args[0])
            bits, power = (sizes[0], sizes[1]) if name != "exp" else (1.5, sizes[-1])
            if not exponent.free_symbols:
                if power > 30:
                    raise _Unknown
                largest = _largest(exponent, power)
                if base.free_symbols and largest > MAX_POWER and not base.is_Symbol and not base.is_Mul:
                    raise _Unknown
                found = max(bits, 1.0) * largest
            else:
                found = max(bits, power)
            if found > MAX_BITS:
                raise _Unknown
            return found
        if name in ("factorial", "factorial2", "gamma", "binomial", "subfactorial"):
            largest = max(_largest(argument, bits) for argument, bits in zip(e.args, sizes, strict=True))
            if largest > MAX_FACTORIAL:
                raise _Unknown
            return largest * math.log2(largest + 2)
        if name in ("sinh", "cosh", "tanh", "coth"):
            if max(sizes) > 15:
                raise _Unknown
            return 2.0 ** max(sizes) * 1.5
        if e.is_Mul:
            found = sum(sizes)
        elif e.is_Add:
            found = max(sizes) + math.log2(len(sizes))
        else:
            found = max(sizes)
        if found > 2 * MAX_BITS:
            raise _Unknown
        return found

    try:
        return size(e)
    except (_Unknown, OverflowError, RecursionError):
        return None


def _largest(e: Any, bits: float) -> float:
    if e.is_Rational:
        return float(abs(e))
    return 1.0 if e.free_symbols else 2.0 ** min(bits, 40.0)


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after so much computing time, or when an outer limit ends.

    Only in the main thread, where a worker's functions run; elsewhere signals cannot be received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    outer = signal.getitimer(signal.ITIMER_PROF)[0]
    before = signal.signal(signal.SIGPROF, stop)
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, min(seconds, outer) if outer else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
        if outer:
            signal.setitimer(signal.ITIMER_PROF, max(1e-3, outer - (time.process_time() - started)))
