# SPDX-License-Identifier: Apache-2.0
"""Kind ``math``: a mathematical answer, English or Chinese, against a reference answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards import symbolic
from recipe.agpo.rewards.canonical import HEDGE, Canonical, canonical, normalised, same, wordy
from recipe.agpo.rewards.extract import Extracted, mathematical_answer, tidy
from recipe.agpo.rewards.notation import is_label
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

EQUAL = "recipe.agpo.rewards.symbolic:equal"
_WORD = re.compile(r"[A-Za-z]{3,}")
_LONE_NUMBER = re.compile(r"[-+−]?[$¥€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s*(?:%|％)?!*")
_GLOSS = re.compile(r"(.+?)\s*\([A-Za-z\s-]+\)")  # 25 (twenty-five)
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
    glossed = _GLOSS.fullmatch(text)
    if glossed and canonical(glossed.group(1)).number is not None:
        return [*found, canonical(glossed.group(1))]
    label, equals, end = text.rpartition("=")
    if not keep_equation and equals and all(is_label(part) for part in [normalised(label)]):
        named = canonical(end)
        if named.number is not None or named.key != "x:":
            found.append(named)
    last = normalised(text)
    verbs = list(_IS.finditer(last)) if found[-1].number is None else []
    if verbs and (value := canonical(last[verbs[-1].end() :])).number is not None:
        return [*found, value]
    numbers = _LONE_NUMBER.findall(last)
    if found[-1].number is None and len(numbers) == 1 and not re.search(r"[\\^_={}()\[\]|<>!~≈]", last):
        around = last.replace(numbers[0], " ", 1)
        # "there are 72 left", "还剩9页": words around one number; "5x" and "not 72" are not.
        plain = not re.search(r"[+*/]|\d[a-zA-Z]\b", last) and not HEDGE.search(last)
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
    return key[:2] == other[:2] == "x:" and key.casefold() == other.casefold() and _WORD.search(key) is not None
