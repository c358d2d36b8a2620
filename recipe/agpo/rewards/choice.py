# SPDX-License-Identifier: Apache-2.0
"""Kind ``choice``: the letter of an option, or the option itself, English or Chinese.

A number is never read as a letter, and the English article "A" is none: outside a stated answer a letter counts
only in brackets or after 选. A small letter counts only if it is all that the stated answer consists of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recipe.agpo.rewards.canonical import canonical, normalised, same
from recipe.agpo.rewards.extract import final_answer, last_line, readable
from recipe.agpo.rewards.text import plain
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement

LETTERS = "ABCDEFGHIJ"
_ALONE = re.compile(r"[(\[（【]?\s*([A-Ja-j])\s*[)\]）】]?\s*[.:：、。,]?")
_SEVERAL = re.compile(r"[(\[（]?([A-J])(?:\s*(?:[,，、&/]|and|or|和|或)?\s*[(（]?([A-J])[)）]?){1,9}[)\]）]?")
_LEADING = re.compile(r"[(\[（【]?([A-J])\s*[)\]）】.:：、,，]\s*\S")
_NAMED = re.compile(
    r"(?:(?i:option|choice|choose|pick|select)(?:\s+(?i:is|would be|option|answer))*|选项|选择|选)\s*(?:是|为)?"
    r"\s*[:：]?\s*(?:\*\*)?[(（\[]?([A-J])(?![A-Za-z])"
)
_NAMED_AFTER = re.compile(r"(?<![A-Za-z])([A-J])\s*(?:选项|项|is correct|is right|正确)")
_BRACKETED = re.compile(r"[(（\[]([A-J])[)）\]]")


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement:
    """Right if the chosen option is ``gold``.

    args: ``options``: texts of the options in order; ``letters``: their letters (default A, B, ...). ``gold``: a
    letter, or several for a question with several right options.
    """
    options: Sequence[str] = args.get("options") or ()
    letters = str(args.get("letters") or LETTERS)[: len(options) or None]
    wanted = "".join(sorted(set(gold.strip().upper())))
    if not wanted or any(letter not in letters for letter in wanted):
        return Judgement(0.0, False, "", BAD_GOLD, f"reference answer {gold!r} is no option of {letters}")
    found = final_answer(response)
    chosen = stated(found.text, letters, options) if found else None
    form = chosen is not None
    if chosen is None:
        chosen = guessed(response, letters, options) if found is None else None
    if chosen is None:
        if found is None:
            return Judgement(0.0, False, "", NO_ANSWER)
        return Judgement(0.0, False, f"t:{plain(found.text)}")
    return Judgement(float(chosen == wanted), form, f"c:{chosen}")


def stated(answer: str, letters: str, options: Sequence[str]) -> str | None:
    """The letters that a stated answer names, sorted; None if it names no option."""
    text = normalised(answer).strip()
    alone = _ALONE.fullmatch(text)
    if alone and alone.group(1).upper() in letters and (alone.group(1).isupper() or not _is_option(text, options)):
        return alone.group(1).upper()
    if _SEVERAL.fullmatch(text):
        several = set(re.findall(r"[A-J]", text))
        if several <= set(letters):
            return "".join(sorted(several))
    matched = [letter for letter, option in zip(letters, options, strict=False) if equal_option(text, option)]
    if len(matched) == 1:
        return matched[0]
    for pattern in (_LEADING, _NAMED, _NAMED_AFTER):
        match = pattern.match(text) if pattern is _LEADING else pattern.search(text)
        if match and match.group(1).upper() in letters:
            return match.group(1).upper()
    bracketed = {letter for letter in _BRACKETED.findall(text) if letter in letters}
    if len(bracketed) == 1:
        return bracketed.pop()
    return _contained(text, letters, options)


def guessed(response: str, letters: str, options: Sequence[str]) -> str | None:
    """For a response without a stated answer: what its last line names."""
    line = last_line(response)
    alone = _ALONE.fullmatch(normalised(line))
    if alone and alone.group(1) in letters:
        return alone.group(1)
    for pattern in (_NAMED, _BRACKETED, _NAMED_AFTER):
        found = [letter.upper() for letter in pattern.findall(line) if letter.upper() in letters]
        if found:
            return found[-1]
    # A letter that leads the line, with its option behind it.
    leading = _LEADING.match(line)
    if leading and leading.group(1) in letters and _contained(line[leading.end() - 1 :], letters, options) is not None:
        return leading.group(1)
    return _contained(re.split(r"[.。]\s", readable(line))[-1], letters, options)


def equal_option(answer: str, option: str) -> bool:
    """Whether an answer is the text of an option, or the same number."""
    if plain(answer) == plain(option):
        return True
    ours, theirs = canonical(answer), canonical(option)
    # A percent sign may be the very difference between two options.
    return ours.key == theirs.key or (ours.number is not None and not theirs.unit and same(ours, theirs))


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if answers can be judged against ``gold``, else why not."""
    options: Sequence[str] = args.get("options") or ()
    letters = str(args.get("letters") or LETTERS)[: len(options) or None]
    if len(options) < 2:
        return f"{len(options)} option(s): a choice needs at least 2"
    if not gold.strip() or any(letter not in letters for letter in gold.strip().upper()):
        return f"the reference answer {gold!r} is no option of {letters}"
    if any(not str(option).strip() for option in options):
        return "an option is empty"
    return None


def _is_option(text: str, options: Sequence[str]) -> bool:
    """A small letter may be the text of an option ("the variable b")."""
    return any(plain(option) == plain(text) for option in options)


def _contained(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the only option whose text stands in ``text`` as whole words."""
    haystack = f" {plain(text)} "
    found = []
    for letter, option in zip(letters, options, strict=False):
        needle = plain(option)
        if needle and re.search(rf"(?<![\w.\-]){re.escape(needle)}(?![\w])(?!\.\d)", haystack):
            found.append((letter, needle))
    # "12 cm" stands in "12 cm wide": the longer one is meant.
    longest = [letter for letter, needle in found if not any(needle != o and needle in o for _, o in found)]
    return longest[0] if len(longest) == 1 else None
