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
from recipe.agpo.rewards.extract import final_answer, last_line, readable, without_reason
from recipe.agpo.rewards.text import plain
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement

LETTERS = "ABCDEFGHIJ"
_ALONE = re.compile(r"[(\[（【]?\s*([A-Ja-j])\s*[)\]）】]?\s*(?:选项|项)?\s*[.:：、。,]?")
_SEVERAL = re.compile(r"[(\[（]?([A-J])(?:\s*(?:(?:[,，、&/]|and|or|和|或)\s*)?[(（]?([A-J])[)）]?){1,9}[)\]）]?")
_LEADING = re.compile(r"[(\[（【]?([A-J])\s*[)\]）】.:：、,，]\s*\S")
# One letter or several, in brackets or not; a small letter only in brackets.
_LETTER = r"(?:\*\*)?(?:[(（\[【]([A-Ja-j])[)）\]】]|([A-J](?:\s?(?:[、,，和&]\s?)?[A-J]){0,9})(?![A-Za-z’']))"
_NAMED = re.compile(
    r"(?:(?<![A-Za-z])(?i:options?|choices?|choose|picks?|select|goe?s? with)(?:\s+(?i:is|are|would be|must be|option"
    r"|answer|choice))*"
    r"|选项|选择|(?<!不)(?<!不能)选)\s*(?:是|为)?\s*[:：]?\s*" + _LETTER
)
_NAMED_SMALL = re.compile(r"(?i:\b(?:option|choice))\s+([a-j])(?=[.,;:]?\s*$)")
_VERDICT = re.compile(
    _LETTER
    + r"\s*(?:选项|项)?\s*(?:(?:is|was|must be|should be)\s+(?:the\s+|indeed\s+|therefore\s+)*(?:correct|right|best"
    r"|true|only|answer)(?![A-Za-z])"
    r"|(?:works|fits|holds|it is)(?![A-Za-z])|正确|对(?![于称应])|成立|符合|满足)"
)
_CONCLUDED = re.compile(
    r"(?:(?<![A-Za-z])(?i:it[’']?s|it is|that[’']?s|but(?: rather)?|leav(?:es?|ing)(?: only)?|(?:correct|right|best"
    r"|final)\s+"
    r"(?:option|choice|answer|letter)\s+(?:is|must be)|it (?:must|should|has to) be|so|thus|hence|therefore)"
    r"(?:\s+(?i:clearly|definitely|obviously|just|simply|the answer is|is|option))*|∴|所以|因此|故|综上|而是"
    r"|只剩)[\s,，:：]*" + _LETTER + r"(?=\s*(?:[.,;:!)。，；！*]|$|because\b|since\b|as\b))"
    r"|(?<![A-Za-z])(?i:only|just)\s+(?i:option\s+)?"
    + _LETTER
    + r"\s+(?:is|works|fits|satisfies|holds|remains|gives|matches|makes|can)(?![A-Za-z])"
    r"|(?:正确|错误|成立|合适|恰当|符合(?:题意|条件|要求)?|满足(?:题意|条件|要求)?)的?(?:一项|选项|说法|结论|答案"
    r"|命题|图[像象形])?(?:应该?|只有|就)?"
    r"(?:是|为|有)\s*[:：]?\s*(?:选项)?\s*" + _LETTER
)
_NAMED_AFTER = re.compile(r"(?<![A-Za-z])([A-J])\s*(?:选项|项)")
_BRACKETED = re.compile(r"[(（\[]([A-J])[)）\]]")
# Options that the text rules out: "not A", "A is too small", 不选A, A错误.
_ONE = r"(?:(?i:option|choice)\s+)?[(（\[]?[A-J][)）\]]?(?![A-Za-z’'])"
_EXCLUDED = re.compile(
    r"(?:[,，(（]\s*)?(?:(?<![A-Za-z])(?i:not|neither|nor|rather than|instead of|except(?: for)?|rules? out"
    r"|eliminates?|exclud(?:e|ing)|unlike)"
    r"|不选|不能选|不是|而非|排除|除了|除去)\s*(?:选项)?\s*"
    + _ONE
    + r"(?:\s*(?:,|，|、|and|or|nor|和|或)\s*"
    + _ONE
    + r")*\s*[)）]?"
    r"|(?<![A-Za-z])"
    + _ONE
    + r"\s*(?:选项|项)?\s*(?:(?i:(?:is|was|are|would be|looks?|seems?)\s+(?:also\s+|clearly\s+|obviously\s+|far\s+"
    r"|much\s+|way\s+)?"
    r"(?:not|wrong|incorrect|false|too|impossible|excluded|eliminated|ruled out)|isn[’']t|can(?:no|[’'])t|does(?: not"
    r"|n[’']t)|fails?)"
    r"(?![A-Za-z])[^,.;，。；]*|[^A-Z,，。；]{0,6}(?:错误|不正确|不对|不符合?|不成立|不满足|错(?![A-Za-z])"
    r"|排除)[^,，。；]{0,6})"
)
_UNSURE = re.compile(r"(?<![a-z])(?:or|maybe|perhaps|possibly|either|might|could)(?![a-z])|或|可能|也许", re.IGNORECASE)
_MENTION = re.compile(r"(?<![A-Za-z0-9\\'’])([A-J])(?![A-Za-z0-9’'])")
_TAIL_LINES = 3
# An option that is a number does not stand in a larger number, nor in an expression: 1 is not in 1/2.
_NOT_BEHIND = r"(?<![\w.\-+*/^<>{,:\\=])(?<![+*/^<>] )"
_NOT_BEFORE = r"(?!\w)(?![.,]\d| ?[*/^<>{!+])"


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
    if chosen is None and (found is None or found.denied or _EXCLUDED.match(found.text)):
        chosen = guessed(response, letters, options)
    if chosen is None:
        if found is None:
            return Judgement(0.0, False, "", NO_ANSWER)
        return Judgement(0.0, False, f"t:{plain(found.text)}")
    return Judgement(float(chosen == wanted), form, f"c:{chosen}")


def stated(answer: str, letters: str, options: Sequence[str]) -> str | None:
    """The letters that a stated answer names, sorted; None if it names no option."""
    text = normalised(answer).strip(" '\"‘’“”")
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
    text = _EXCLUDED.sub(" ", text).strip(" ,，;；。.")
    mentioned = {letter for letter in _MENTION.findall(text) if letter in letters}
    if len(mentioned) > 1 and _UNSURE.search(text):
        return "".join(sorted(mentioned))  # "A or maybe B" is neither
    alone = _ALONE.fullmatch(text)
    if alone and alone.group(1).isupper() and alone.group(1) in letters:
        return alone.group(1)
    leading = _LEADING.match(text)
    if leading and leading.group(1) in letters:
        return leading.group(1)
    named = _last_named(text, letters)
    if named is not None:
        return named
    bracketed = {letter for letter in _BRACKETED.findall(text) if letter in letters}
    if len(bracketed) == 1:
        return bracketed.pop()
    return _contained(text, letters, options)


def guessed(response: str, letters: str, options: Sequence[str]) -> str | None:
    """For a response without a stated answer: what its last lines conclude, or what its last line names."""
    lines = [line for line in readable(response).splitlines() if line.strip()][-_TAIL_LINES:]
    line = last_line(response)
    whole, line = line, _EXCLUDED.sub(" ", line)
    for text in (whole, without_reason(line).strip(" ,，;；。.")):
        alone = _ALONE.fullmatch(normalised(text))
        if alone and (alone.group(1) in letters or (text.strip()[:1] in "(（" and alone.group(1).upper() in letters)):
            return alone.group(1).upper()
    if _SEVERAL.fullmatch(line.strip(" *.。")) and not _UNSURE.search(line):
        several = set(re.findall(r"[A-J]", line))
        if several <= set(letters):
            return "".join(sorted(several))
    mentioned = {letter for letter in _MENTION.findall(line) if letter in letters}
    if len(mentioned) > 1 and re.search(r"\b(?:or|maybe|perhaps|either)\b|或|可能|也许", line):
        return None
    named = _last_named(line, letters)
    if named is not None:
        return named
    for pattern in (_BRACKETED, _NAMED_AFTER):
        found = [letter for letter in pattern.findall(line) if letter in letters]
        if found:
            return found[-1]
    # A letter that leads the line, with its option behind it.
    leading = _LEADING.match(line)
    if leading and leading.group(1) in letters and _contained(line[leading.end() - 1 :], letters, options) is not None:
        return leading.group(1)
    if line == whole and (contained := _contained(re.split(r"[.。]\s", line)[-1], letters, options)) is not None:
        return contained
    for earlier in reversed(lines[:-1]):
        named = _last_match((_VERDICT, _CONCLUDED), _EXCLUDED.sub(" ", earlier), letters)
        if named is not None:
            return named
    return None


def _last_named(text: str, letters: str) -> str | None:
    """The letters that a text concludes to be right, else those that it names as an option."""
    small = _NAMED_SMALL.search(text)
    return (
        _last_match((_VERDICT, _CONCLUDED), text, letters)
        or _last_match((_NAMED,), text, letters)
        or (small.group(1).upper() if small and small.group(1).upper() in letters else None)
    )


def _last_match(patterns: Sequence[re.Pattern[str]], text: str, letters: str) -> str | None:
    """The letters of the last match of any of the patterns."""
    best: tuple[int, str] | None = None
    for pattern in patterns:
        for match in pattern.finditer(text):
            named = "".join(sorted(set(re.findall(r"[A-J]", "".join(part or "" for part in match.groups()).upper()))))
            if named and set(named) <= set(letters) and (best is None or match.start() >= best[0]):
                best = (match.start(), named)
    return best[1] if best else None


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
        if needle and re.search(_NOT_BEHIND + re.escape(needle) + _NOT_BEFORE, haystack):
            found.append((letter, needle))
    # "12 cm" stands in "12 cm wide": the longer one is meant.
    longest = [letter for letter, needle in found if not any(needle != o and needle in o for _, o in found)]
    return longest[0] if len(longest) == 1 else None
