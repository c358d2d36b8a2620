# SPDX-License-Identifier: Apache-2.0
"""Kind ``math``: a mathematical answer, English or Chinese, against a reference answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from recipe.agpo.rewards import symbolic
from recipe.agpo.rewards.canonical import HEDGE, Canonical, canonical, normalised, same, wordy
from recipe.agpo.rewards.extract import Extracted, mathematical_answer, tidy
from recipe.agpo.rewards.notation import is_label
from recipe.agpo.rewards.units import dimension
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work
from recipe.agpo.rewards.wording import CALCULATION

EQUAL = "recipe.agpo.rewards.symbolic:equal"
_WORDS_ONLY = re.compile(r"x:[^\\^_=<>+*/|]*[A-Za-z]{3}[^\\^_=<>+*/|]*")  # of formulas the case counts: r/R is not R/r
_LONE_NUMBER = re.compile(r"[-+−]?[$¥€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s*(?:%|％)?!*")
_GLOSS = re.compile(r"([^()]+?)\s*\(([A-Za-z\s-]+|[^()]*\d[^()]*)\)")  # 25 (twenty-five); 72 clips (48 + 24)
# A statement inside the answer itself: \boxed{\text{Answer: } 42}, \boxed{答案是42}.
_STATED = re.compile(
    r"\s*(?:\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox)\s*\{\s*)?(?:(?:the|my|our|so|thus|hence|therefore|final|correct)\s+)*"
    r"(?:(?:answer|result|solution)s?\s*(?:is|are|:|=)\s*:?|(?:最终|最后|正确|所以|因此)*的?(?:答案|结果)(?:应该|应)?(?:是|为|:|：|=)[:：]?|答[:：])"
    r"(?:\s*\})?\s*(?=\S)",
    re.IGNORECASE,
)
# "The largest number of points in the graph of f(x) is 19"
_IS = re.compile(r"(?<![a-zA-Z])(?:is|are|equals|be)(?:\s+equal to)?(?![a-zA-Z])|(?<!不)[是为]")
_UNITS = (
    r"(?:(?:square|cubic|sq\.?)\s+)?(?:units?|cm|mm|km|kg|inch(?:es)?|feet|foot|ft|(?:centi|milli|kilo)?(?:meters?|metres?)"
    r"|yards?|miles?|degrees?|radians?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|dollars?|cents?|euros?|pounds?"
    r"|yuan|litres?|liters?|grams?|平方米|平方厘米|厘米|米|千米|元|度)"
)
# Units in text, and the usual ones in plain letters behind a space, where an expression or a part of a list ends.
_UNIT_BEHIND = re.compile(
    r"(?<=[\w)}\]!])\s*(?:\\[,;: ]|~)*(?:\\(?:text(?:bf|rm|it|normal)?|mbox|mathrm|rm)\s*\{\s*"
    r"(?!(?:and|or|if|for|e|i|d|mod|或|和)\s*\})"
    rf"[~\s]*[A-Za-z\u4e00-\u9fff][^{{}}\d=<>+*]*\}}|\s+{_UNITS}(?![a-zA-Z]))\s*(?:\^\s*\{{?\s*[-−]?\d\s*\}}?)?\s*"
    r"(?=$|[,，;；、)\]}]|\\(?:text|quad|\})|and\b|or\b)"
)


_UNIT_AT_END = re.compile(
    r"(?<=[\w)}\]])(?:\\[,;: ]|[~\s])*"
    r"((?:\\(?:text(?:rm|it|normal)?|mbox|mathrm)\s*\{[^{}]{1,40}\}|(?<=\s)[a-z]{2,20})(?:\s*\^\s*\{?\s*[23]\s*\}?)?)[\s.$]*$"
)
# Dimensions of which an answer in another unit is another answer.
_COMPARED = {"length", "area", "volume", "time", "mass", "money", "yuan", "speed", "angle"}


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the response's final answer equals ``gold``; see :func:`compare` for what equal means."""
    if not gold.strip():
        return Judgement(0.0, False, "", BAD_GOLD, "the reference answer is empty")
    found = mathematical_answer(response)
    if found is None:
        return Judgement(0.0, False, "", NO_ANSWER)
    return compare(found, gold)


def compare(found: Extracted, gold: str) -> Judgement | Work:
    """Judge an extracted answer; the reference is tidied exactly as it is.

    Numbers are equal if they are the same rational number; a percent sign may be left out or added, and a long decimal
    may be a rounding (:func:`recipe.agpo.rewards.canonical.rounding`). Words are compared as words. Everything else is
    compared by :mod:`recipe.agpo.rewards.symbolic` in a worker.
    """
    text, gold = cleaned(found.text), cleaned(gold)
    reference = canonical(gold)
    if found.denied:
        answer = canonical(text)
        equal = _same_text(answer.key, reference.key)
        return Judgement(float(equal), found.asked_form, reference.key if equal else answer.key)
    candidates = [] if _other_variable(text, gold) else readings(text, keep_equation="=" in gold)
    factor = _unit_factor(text, gold)
    if factor != 1.0:
        equal = any(_converted(one.number, factor, reference.number) for one in candidates)
        return Judgement(float(equal), found.asked_form, reference.key if equal else f"x:{normalised(text)}")
    for candidate in candidates:
        if same(candidate, reference) or _same_text(candidate.key, reference.key) or _decimal_comma(text, gold):
            return Judgement(1.0, found.asked_form, reference.key)
    answer = candidates[-1] if candidates else canonical(text)
    right, wrong = Judgement(1.0, found.asked_form, reference.key), Judgement(0.0, found.asked_form, answer.key)
    numbers = answer.number is not None and reference.number is not None
    if not candidates or numbers or wordy(answer) or wordy(reference):
        return wrong
    texts = [formula(text), formula(gold)]
    return Work(EQUAL, texts, lambda equal: right if equal else wrong, control=[texts[1], texts[1]], wrong=wrong)


def _decimal_comma(text: str, gold: str) -> bool:
    """1000,99 for 1000.99 and 0,125 for 0.125: the comma stands neither for thousands nor in a list."""
    text, gold = normalised(text), normalised(gold)
    if re.fullmatch(r"-?0,\d{3,}", gold):
        gold = gold.replace(",", ".")
    if re.fullmatch(r"-?\d{4,},\d+|-?0,\d{3,}", text):
        text = text.replace(",", ".")
    return all(re.fullmatch(r"-?\d+\.\d+", one) for one in (text, gold)) and same(canonical(text), canonical(gold))


def _unit_factor(text: str, gold: str) -> float | None:
    """The size of the answer's unit in that of the reference: 1 if either has none that is known, None if the units
    measure different things."""
    if text.isdecimal() or gold.isdecimal():
        return 1.0
    ours, theirs = (dimension(unit) if (unit := _unit_of(one)) else None for one in (text, gold))
    if ours is None or theirs is None or not {ours[0], theirs[0]} <= _COMPARED:
        return 1.0
    return None if ours[0] != theirs[0] else 1.0 if ours[1] == theirs[1] else ours[1] / theirs[1]


def _converted(number: Fraction | None, factor: float | None, wanted: Fraction | None) -> bool:
    """Whether a number in another unit is the wanted one; the sizes of units are floats."""
    if number is None or factor is None or wanted is None:
        return False
    return abs(number * Fraction(factor) - wanted) <= abs(wanted) / 10**12


def _unit_of(text: str) -> str:
    read = canonical(text)
    if read.number is not None:
        money = "$" in text and not read.unit and normalised(text).lstrip("-+ ").startswith("$")
        return "dollar" if money else read.unit
    behind = _UNIT_AT_END.search(text)
    return normalised(behind.group(1)) if behind else ""


def _other_variable(text: str, gold: str) -> bool:
    """x = 1 for y = 1."""
    names = [re.fullmatch(r"\$?\s*([a-zA-Z])\s*=[^,;，；=]*", one) for one in (text, gold)]
    return all(names) and len({found.group(1).lower() for found in names if found}) == 2


def cleaned(answer: str) -> str:
    """An answer, or a reference, without the markup around it and without a statement inside it."""
    text = tidy(answer)
    while stated := _STATED.match(text):
        text = tidy(text[stated.end() :])
    return text


def formula(text: str) -> str:
    """An answer for symbolic comparison: normalised, without units."""
    return normalised(_UNIT_BEHIND.sub("", text)).replace("$", " ").strip()


def readings(text: str, keep_equation: bool) -> list[Canonical]:
    """What an answer's text may mean, the likeliest last: as it stands, the end of its equation, its one number."""
    found = [canonical(text)]
    if found[0].number is not None:
        return found
    glossed = _GLOSS.fullmatch(normalised(text)) if text.rstrip(" $})").endswith(")") or ")" in text[-3:] else None
    if glossed and (number := canonical(glossed.group(1))).number is not None and not HEDGE.search(glossed.group(2)):
        if number.unit or not re.search(r"\d|^[a-zA-Z]$", glossed.group(2)):
            return [*found, number]
    label, equals, end = text.rpartition("=")
    if not keep_equation and equals and all(is_label(part) for part in [normalised(label)]):
        named = canonical(end)
        if named.number is not None or named.key != "x:":
            found.append(named)
    last = normalised(text)
    verbs = list(_IS.finditer(last)) if found[-1].number is None else []
    if verbs and (value := canonical(last[verbs[-1].end() :])).number is not None:
        # "The least number with at least 3 divisors is 4", but "it is at least 4" and 至少是4 are bounds.
        return found if HEDGE.search(last, max(0, verbs[-1].start() - 5)) else [*found, value]
    numbers = _LONE_NUMBER.findall(last)
    if found[-1].number is None and len(numbers) == 1 and not re.search(r"[\\^_={}()\[\]|<>!~≈]", last):
        around = last.replace(numbers[0], " ", 1)
        # "there are 72 left", "还剩9页": words around one number; "5x" and "not 72" are not.
        plain = not (re.search(r"[+*/]|\d[a-zA-Z]\b", last) or HEDGE.search(last) or CALCULATION.search(around))
        if plain and re.search(r"[a-zA-Z]{2,}|[\u4e00-\u9fff]", around):
            with_unit = canonical(last[last.index(numbers[0]) :])
            found.append(with_unit if with_unit.number is not None else canonical(numbers[0]))
    return found


def check_gold(gold: str, args: Mapping[str, Any] | None = None) -> str | None:
    """None if answers can be judged against ``gold``, else why not. Parses it, so it is for data preparation."""
    if not gold.strip():
        return "the reference answer is empty"
    text = cleaned(gold)
    reference = canonical(text)
    if reference.number is not None or wordy(reference):
        return None
    if symbolic.readable(formula(text)):
        return None
    if symbolic.explosive(formula(text)):
        return f"the reference answer {gold[:80]!r} is too large to be compared symbolically"
    return f"the reference answer {gold[:80]!r} is neither a number, nor words, nor an expression that parses"


def _same_text(key: str, other: str) -> bool:
    return other[:2] == "x:" and key.casefold() == other.casefold() and _WORDS_ONLY.fullmatch(key) is not None
