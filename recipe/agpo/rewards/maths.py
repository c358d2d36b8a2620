# SPDX-License-Identifier: Apache-2.0
"""Kind ``math``: a mathematical answer, English or Chinese, against a reference answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards import symbolic
from recipe.agpo.rewards.canonical import Canonical, canonical, normalised, same
from recipe.agpo.rewards.extract import Extracted, final_answer, last_number
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

EQUAL = "recipe.agpo.rewards.symbolic:equal"
EQUAL_PARTS = "recipe.agpo.rewards.symbolic:equal_parts"
_WORD = re.compile(r"[A-Za-z]{3,}")
_MATHS = re.compile(r"[\\^_=<>+*/|]|\d")
_LONE_NUMBER = re.compile(r"[-+−]?[$¥€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s*(?:%|％)?")
_GLOSS = re.compile(r"(.+?)\s*\([A-Za-z\s-]+\)")  # 25 (twenty-five)
_SEPARATOR = re.compile(r"\s*[;；]\s*")
_LIST_SEPARATOR = re.compile(r"\s*(?:[;；,，、]|\band\b|和|或|\bor\b)\s*")


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the response's final answer equals ``gold``; see :func:`compare` for what equal means."""
    if not gold.strip():
        return Judgement(0.0, False, "", BAD_GOLD, "the reference answer is empty")
    found = final_answer(response) or last_number(response)
    if found is None:
        return Judgement(0.0, False, "", NO_ANSWER)
    return compare(found, gold)


def compare(found: Extracted, gold: str) -> Judgement | Work:
    """Judge an extracted answer.

    Numbers are equal if they are the same rational number; a percent sign may be left out or added. Answers of
    several parts (``3; 5``) are equal part by part. Words are compared as words. Everything else goes to
    math-verify in a worker.
    """
    reference = canonical(gold)
    candidates = readings(found.text, keep_equation="=" in gold)
    for candidate in candidates:
        if same(candidate, reference) or _same_text(candidate.key, reference.key):
            return Judgement(1.0, found.asked_form, reference.key)
    parts = _SEPARATOR.split(gold.strip())
    answer = candidates[-1]
    right, wrong = Judgement(1.0, found.asked_form, reference.key), Judgement(0.0, found.asked_form, answer.key)
    if len(parts) > 1:
        ours = [part for part in _LIST_SEPARATOR.split(_unwrapped(found.text)) if part]
        if len(ours) != len(parts):
            return wrong
        if all(
            any(same(reading, canonical(part)) for reading in readings(one, keep_equation=False))
            for one, part in zip(ours, parts, strict=True)
        ):
            return right
        arguments = [[normalised(one) for one in ours], [normalised(part) for part in parts]]
        control = [arguments[1], arguments[1]]
        return Work(EQUAL_PARTS, arguments, lambda equal: right if equal else wrong, control=control, wrong=wrong)
    if (answer.number is not None and reference.number is not None) or _wordy(answer) or _wordy(reference):
        return wrong
    texts = [normalised(text).replace("$", " ") for text in (found.text, gold)]
    return Work(EQUAL, texts, lambda equal: right if equal else wrong, control=[texts[1], texts[1]], wrong=wrong)


def readings(text: str, keep_equation: bool) -> list[Canonical]:
    """What an answer's text may mean, the likeliest last: as it stands, the end of its equation, its one number."""
    found = [canonical(text)]
    if found[0].number is not None:
        return found
    glossed = _GLOSS.fullmatch(text)
    if glossed and canonical(glossed.group(1)).number is not None:
        return [*found, canonical(glossed.group(1))]
    if not keep_equation and "=" in text:
        end = canonical(text.rpartition("=")[2])
        if end.number is not None or end.key != "x:":
            found.append(end)
    last = normalised(text)
    numbers = _LONE_NUMBER.findall(last)
    if found[-1].number is None and len(numbers) == 1 and not re.search(r"[\\^_={}()\[\]|<>]", last):
        around = last.replace(numbers[0], " ", 1)
        # "there are 72 left", "还剩9页": words around one number; "5x" is not.
        if re.search(r"[a-zA-Z]{2,}|[\u4e00-\u9fff]", around) and not re.search(r"[+*/]|\d[a-zA-Z]\b", last):
            with_unit = canonical(last[last.index(numbers[0]) :])
            found.append(with_unit if with_unit.number is not None else canonical(numbers[0]))
    return found


def check_gold(gold: str, args: Mapping[str, Any] | None = None) -> str | None:
    """None if answers can be judged against ``gold``, else why not. Parses it, so it is for data preparation."""
    if not gold.strip():
        return "the reference answer is empty"
    reference = canonical(gold)
    if reference.number is not None or _wordy(reference):
        return None
    if symbolic.explosive(normalised(gold)):
        return f"the reference answer {gold[:80]!r} is too large to be compared symbolically"
    for part in _SEPARATOR.split(gold.strip()):
        if canonical(part).number is None and not symbolic.parse(normalised(part)):
            return f"the reference answer {gold[:80]!r} is neither a number, nor words, nor an expression that parses"
    return None


def _wordy(answer: Canonical) -> bool:
    """Words, not mathematics: math-verify would read "east" as a product of four symbols."""
    text = answer.key[2:]
    return answer.number is None and not _MATHS.search(text) and _WORD.search(text) is not None


def _same_text(key: str, other: str) -> bool:
    return key[:2] == other[:2] == "x:" and key.casefold() == other.casefold() and _WORD.search(key) is not None


def _unwrapped(text: str) -> str:
    """``(3, 5)`` as ``3, 5``."""
    text = normalised(text)
    return text[1:-1] if text[:1] in "([" and text[-1:] in ")]" else text
