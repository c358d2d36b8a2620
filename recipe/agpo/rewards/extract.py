# SPDX-License-Identifier: Apache-2.0
r"""The final answer of a response.

A response may state an answer in several ways: ``\boxed{72}``, ``#### 72``, ``The answer is 72.``, ``<answer>72
</answer>``, a heading ``**Final Answer**`` with the answer below it, ``答案是72``, ``故选：B``. The rules:

- The statement that stands last counts. A right answer followed by a wrong one is the wrong one.
- A remark about the answer ("the answer is correct", ``#### Check``, 答案是正确的) is no statement. Nor is a rounded
  value behind an exact box, nor a "result" behind a box, unless the response says that it corrects itself.
- A box inside a statement ("the answer is \boxed{72}") is its content, and so is a statement inside a box.
- Boxes joined by commas, "and" or "or" are one answer with several parts; otherwise the last box counts.
- "not 72" states nothing, "not 72 but 73" and "73, not 72" state 73, "72 but maybe 73" is no single answer.
- Without a statement, the last formula or the last number of the last lines counts, a formula as a whole.
- What stands before ``</think>`` does not count if anything follows it. Thinking that was never ended holds no answer:
  the response was cut off before it answered, and a box in it is a guess that the model might have taken back.
- An unclosed box (a response cut off at its limit) is no answer, and "I don't know" is none either.

Only the last ``MAX_CHARACTERS`` characters are read, in linear time, so no response can make this slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from recipe.agpo.rewards import wording
from recipe.agpo.rewards.boxes import boxes, groups, joined
from recipe.agpo.rewards.canonical import EXCLAMATION, NUMBER, canonical, normalised
from recipe.agpo.rewards.formulas import FORMULA, Formula, formulas, value
from recipe.agpo.rewards.visible import visible

MAX_CHARACTERS = 20_000
MAX_ANSWER = 2_000
_FIRM = ("box", "tag", "heading")
_MOST = 24  # statements of a response that are read, from the last one
_TAIL_LINES = 3  # without a statement, the last lines in which a formula or a number is looked for

_INSIDE = re.compile(r"[a-zA-Z0-9_.^\\{*]\S")  # what stands before a digit that does not begin a number
_SHORT_UNIT = re.compile(r"(?<=\d)([mghsLlJNWVKCF])$")  # 1250m: in prose a unit, not a variable
_BOLD = re.compile(r"(?<!\S)(\*\*|__)([^*_\n]+)\1(?!\w)")
_CLOSING_BOLD = re.compile(r"(?<=[\w$)}%])\*\*(?=[\s.,;:!]|$)")
_END_SPACE = re.compile(r"(?:(?<!\\)\\(?:[,;:! ]|$|q?quad(?![a-zA-Z]))\s*)+$")
_NUMERIC = re.compile(r"\d|\\(?!text|mbox|mathrm|mathbf|quad|qquad)[a-zA-Z]")
_LETTER = re.compile(r"[a-zA-Z\u4e00-\u9fff≠]")
_MATHEMATICAL = re.compile(
    r"\d"
    r"|\\[a-zA-Z]|[=<>^+∞π√≤≥]|^-?[a-zA-Z]$|(?<![a-zA-Z])[a-zA-Z]\s*[-*/]\s*[a-zA-Z(](?![a-zA-Z])"
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_SECTION_WORD = re.compile(r"[\s*_]*(?:\d{1,2}[.)]\s+)?(?:[a-z]{3}|[\u4e00-\u9fff]{2})", re.IGNORECASE)
_STOP = re.compile(FORMULA.pattern + r"|[{}()\[\]\n.!?。！？<]", re.DOTALL)
_RELATION = re.compile(r"[=<>≤≥≠∈]|\\(?:leq?|geq?|neq?|in|lt|gt|le|ge)(?![a-zA-Z])")
_NAME = re.compile(
    r"[a-zA-Z](?:_\{?\w+\}?)?|\\(?!pi|infty|emptyset|varnothing)[a-zA-Z]+|[A-Z]{2,4}|[a-zA-Z]\([a-z]\)"
    r"|\\(?:triangle|angle|odot)\s*[A-Z]{1,4}|\\overline\{[A-Z]+\}"
)
_PI = re.compile(r"(?<=\d)\s*\*?\s*pi(?![a-zA-Z])", re.IGNORECASE)  # 12 pi
_SAME_NAME = re.compile(r"\s*([a-zA-Z](?:_\{?\w+\}?)?)\s*=(?!.*=)\s*")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
# Behind a number: "3x", "3^2", "3\pi", "3 pi", "3 * 4" are not 3.
_GOES_ON = re.compile(r"[a-zA-Z\\*^_{!]|\s*(?:\\[a-zA-Z]|[*^/+]\s*[\w\\(]|(?:pi|sqrt|[a-zA-Z])\b(?!\s+[a-z]))")
# Before a number: an operator, or a command or power that it belongs to.
_GOES_BEFORE = re.compile(r"\\[a-zA-Z]+\s*\{?[^{}]{0,40}$|[\^_]\s*\{?[^{}\s]{0,40}$|[\d)a-zA-Z}]\s*[+*/-]\s*$")


_BOUNDED = re.compile(r"(?:[<≤≥≠]=?|(?<![-=])>=?|!=)\s*$")  # "x > 72" is not 72
_LISTED = re.compile(r"\s*(?:[,、]\s*(?:(?:and|or)(?![a-z]))?|(?:and|or)(?![a-z])|[和或])\s*")
_LIST_BEGINS = re.compile(r"(?:(?<![a-zA-Z])(?:are|were|is|be)|[:=：是为有])\s*$")  # "The primes are 2, 3 and 5"
_SHORT_NAME = re.compile(r"[(（]?[A-Z][\w'-]*[)）]?(?: [A-Z][\w'-]*){0,3}")
_ZH_NUMBER = re.compile(
    r"[一二两三四五六七八九十百千]{1,12}分之[一二两三四五六七八九十百千]{1,12}"
    r"|负?[十一二两三四五六七八九][零〇一二两三四五六七八九十百千万]{0,12}[十百千万][零〇一二两三四五六七八九十百千万]{0,12}"
    r"|十[一二三四五六七八九]"
)


@dataclass(frozen=True)
class Extracted:
    """A final answer as it stands in the response.

    Attributes:
        text: the answer, without markup around it.
        asked_form: whether the response states it as its answer; false if it was only guessed from the last lines.
        denied: whether the response denies it or leaves it open ("not 72", "72 but maybe 73"): it states no single
            mathematical answer.
    """

    text: str
    asked_form: bool
    denied: bool = False


@dataclass(frozen=True)
class _Statement:
    """Something that may be the answer: where it starts and ends, its raw text, and in which way it is stated."""

    start: int
    end: int
    text: str
    way: str  # box, tag, marker, heading, strong, weak


def readable(response: str) -> str:
    """The part of a response in which an answer is looked for: the end of it, behind any thinking."""
    if "<" in response:
        last = None
        for last in wording.THINKING.finditer(response):  # noqa: B007
            pass
        if last is not None and not last.group(1):
            return ""
        if last is not None and response[last.end() :].strip():
            response = response[last.end() :]
    return visible(response[-MAX_CHARACTERS:])


def final_answer(response: str, remarks: bool = True) -> Extracted | None:
    """The answer that a response states last; None if it states none.

    Args:
        remarks: whether "the answer is correct" states the word "correct" if the response states nothing else.
    """
    text = readable(response)
    held: tuple[_Statement, str] | None = None  # an earlier statement may be stronger than this one
    remark, denial = "", ""
    denied: set[str] = set()
    last = True
    for statement in _statements(text):
        answer = tidy(statement.text)
        digits = answer.isdecimal()  # most answers: no words to look at
        if not digits and not any(character.isalnum() or character in "\\∅∞" for character in answer):
            continue
        if len(answer) > MAX_ANSWER or (not digits and wording.NOTHING.fullmatch(answer)):
            return None  # it takes back whatever stood before
        if (
            not digits
            and statement.way not in _FIRM
            and (wording.ABOUT.fullmatch(answer) or wording.ABOUT_ZH.fullmatch(answer))
        ):
            remark = remark or answer
            continue
        if last and statement.way != "weak" and (corrected := _corrected(text, statement.end, answer)):
            return Extracted(corrected, True)
        last = False
        if wording.ASKED.match(text, statement.end):
            denial = denial or answer
            continue
        answer, open_ended = (answer, False) if digits else settled(answer)
        if statement.way in ("strong", "weak"):
            before = text[max(0, statement.start - 60) : statement.start]
            if ("that" in before or not before.isascii()) and wording.REFUSED.search(before):
                open_ended = True
        if open_ended or (statement.way == "box" and _denied_around(text, statement.start, statement.end)):
            denial = denial or answer
            denied.add(canonical(wording.DENIED.sub("", answer)).key)
            continue
        if denied and canonical(answer).key in denied:
            continue
        if held is not None:
            return Extracted(held[1] if _holds(*held, statement, answer) else answer, True)
        if _weak(statement, answer) and not wording.CORRECTION.search(
            text, max(0, statement.start - 60), statement.start
        ):
            held = (statement, answer)
            continue
        other = _alternative(text, statement)
        return Extracted(f"{other}, {answer}", True, True) if other else Extracted(answer, True)
    if held is not None:
        return Extracted(held[1], True)
    if denial:
        return Extracted(denial, True, True)
    return Extracted(remark, True) if remark and remarks else None


def mathematical_answer(response: str) -> Extracted | None:
    """The answer of a response to a mathematical question: what it states, else what its last lines end with."""
    found = final_answer(response, remarks=False)
    if found is None:
        return last_value(response)
    return found if found.denied else Extracted(_PI.sub(r"\\pi", _narrowed(found.text)), True)


def last_value(response: str) -> Extracted | None:
    """The last formula, as a whole, or the last number of the last lines; for responses that state no answer at all."""
    text = readable(response)
    if boxes(text)[1] or wording.GIVES_UP.search(text[-200:]):
        return None
    tail = text[-2 * MAX_ANSWER :]
    # A formula over several lines is one line.
    pieces, position = [], 0
    for formula in formulas(tail):
        pieces += [tail[position : formula.start], tail[formula.start : formula.end].replace("\n", " ")]
        position = formula.end
    tail = "".join([*pieces, tail[position:]])
    for line in reversed([line for line in tail.splitlines() if line.strip()][-_TAIL_LINES:]):
        found = _value_of_line(line)
        if found is not None:
            return found
    return None


def last_line(response: str) -> str:
    """The last line with something on it; ``""`` if there is none."""
    lines = [line.strip() for line in readable(response).splitlines() if line.strip()]
    return lines[-1][:MAX_ANSWER] if lines else ""


def tidy(answer: str) -> str:
    """An answer without the markup and punctuation around it."""
    text = answer.strip()
    if text.isdecimal():
        return text
    text = _BOLD.sub(r"\2", text)
    for _ in range(3):
        before = text
        text = _END_SPACE.sub("", text.strip(" \t\r\n*_`:：#"))
        if text.count("**") == 1:  # its partner was part of the statement: "**Answer: 72** apples"
            text = _CLOSING_BOLD.sub("", text)
        text = wording.FILLER.sub("", text)
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ('"', '"'), ("“", "”")):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                inside = text[len(opening) : len(text) - len(closing)]
                text = inside if opening not in inside else text
        text = EXCLAMATION.sub("", text.rstrip(" \t,，;；。．！"))
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            break
    return text


def settled(answer: str) -> tuple[str, bool]:
    """An answer without what it excludes, and whether it leaves the answer open.

    "not 72 but 73" and "73, not 72" are 73; "not 72" and "72 but maybe 73" are open.
    """
    if not _LETTER.search(answer):
        return answer, False
    plain = _TEXT.sub(r"\1", answer) if "{" in answer else answer  # \text{not } 72
    but = wording.NOT_BUT.match(plain)
    if but:
        answer = plain = tidy(but.group("yes"))
    denied = wording.DENIED.match(plain)
    if denied:
        # "not defined" is an answer in words.
        return answer, _mathematical(tidy(plain[denied.end() :]))
    but_not = wording.BUT_NOT.search(plain)
    if but_not and _mathematical(tidy(plain[but_not.end() :])):
        before = tidy(plain[: but_not.start()])
        if re.search(r"(?:^|\s)(?:is|are|was|does|do|can|could|will|would|should)$", before):
            return answer, True
        if _mathematical(before):
            answer = plain = before
    if _NUMERIC.search(plain) is None:
        return answer, False
    # Another value behind "maybe" or "but".
    last = max((m.end() for doubt in (wording.UNSURE, wording.BUT) for m in doubt.finditer(plain)), default=0)
    first = min((m.start() for doubt in (wording.UNSURE, wording.BUT) for m in doubt.finditer(plain, 1)), default=0)
    if _NUMERIC.search(plain, 0, first) and _NUMERIC.search(plain, last):
        return answer, True
    return answer, wording.DENIED_AFTER.search(plain) is not None


def _mathematical(answer: str) -> bool:
    return _MATHEMATICAL.search(answer) is not None or canonical(answer).number is not None


def _statements(text: str) -> Iterator[_Statement]:
    """What may be the answer, from the last to the first; of many only the last ones."""
    found = groups(text, boxes(text)[0], 5)
    fixed = [_Statement(box.start, box.end, _inside_box(box.content), "box") for box in found]
    close = text.rfind("</answer>")
    tag = text.rfind("<answer>", 0, max(0, close))
    if tag >= 0:
        fixed.append(_Statement(tag, close, text[tag + len("<answer>") : close], "tag"))
        fixed.sort(key=lambda statement: statement.start)
    stated = wording.statements(text)
    for _ in range(_MOST):
        following = next((one for one in stated if not any(box.start < one[0] < box.end for box in found)), None)
        while fixed and (following is None or fixed[-1].start > following[0]):
            yield fixed.pop()
        if following is None:
            return
        start, behind, way = following
        end, sentence = _sentence(text, behind)
        line, _, below = text[behind : behind + 2 * MAX_ANSWER].partition("\n")
        if way == "marker" and _is_section(line, below):
            continue
        if way == "heading" and len(sentence) > 40 and not FORMULA.match(sentence) and _WORD.match(sentence):
            continue  # prose below the heading: no statement of its own
        if "box" in sentence and (inner := groups(sentence, boxes(sentence)[0], 1)):
            box = inner[-1]
            sentence = sentence if _denied_around(sentence, box.start, box.end) else _inside_box(box.content)
        yield _Statement(start, end, sentence, way)


def _is_section(line: str, below: str) -> bool:
    """Whether ``####`` opens a section ("#### Check") and not an answer."""
    if not _SECTION_WORD.match(line):
        return False
    return bool(below.strip()) or wording.SECTION.fullmatch(tidy(line)) is not None


def _inside_box(content: str) -> str:
    r"""The content of a box; of a statement in it (``\boxed{\text{Answer: } 42}``) what is stated."""
    if not any(key in content for key in ("nswer", "esult", "olution", "答", "结果")):
        return content
    plain = _TEXT.sub(r"\1", content)
    stated = next(wording.statements(plain), None)
    return plain[stated[1] :] if stated and plain[stated[1] :].strip(" $.") else content


def _weak(statement: _Statement, answer: str) -> bool:
    """Whether an earlier statement may be stronger: behind words, a rounded value or a mere "result"."""
    if statement.way in _FIRM:
        return False
    if statement.way == "weak" or wording.ROUNDED.match(statement.text):
        return True
    return not _mathematical(answer) and not wording.OPPOSITE.fullmatch(answer)


def _holds(held: _Statement, later: str, earlier: _Statement, answer: str) -> bool:
    """Whether a weak statement (see :func:`_weak`) holds against the one before it."""
    boxed = earlier.way in ("box", "tag", "marker")
    if held.way == "weak":
        return not boxed  # a "result" behind a box belongs to a check
    if wording.ROUNDED.match(held.text) and _NUMERIC.search(later):
        return not (boxed and canonical(answer).number is None and _mathematical(answer))
    if _mathematical(answer):
        return False
    # Words behind words: the later ones, but for a clause in small letters behind a box.
    return not (boxed and wording.CLAUSE.fullmatch(later))


def _corrected(text: str, start: int, stated: str) -> str:
    """The value by which the text behind a statement replaces it ("Wait, it is 71."), else ``""``."""
    found = ""
    for correction in wording.CORRECTED.finditer(text, start, start + MAX_ANSWER):
        end, sentence = _sentence(text, correction.end())
        if wording.ASKED.match(text, end):
            continue
        answer = tidy(sentence)
        name = not _NUMERIC.search(stated) and _SHORT_NAME.fullmatch(answer)
        if name or canonical(answer).number is not None or FORMULA.fullmatch(sentence.strip(" .")):
            found = answer
    return found


def _denied_around(text: str, start: int, end: int) -> bool:
    """Whether the words around a value deny it: "not 72", "72 is wrong"."""
    before = wording.DENIED_BEFORE.search(text, max(0, start - 40), start)
    return before is not None or wording.DENIED_AFTER.match(text, end, end + 60) is not None


def _alternative(text: str, statement: _Statement) -> str:
    """The answer that this one is an alternative to ("The answer is 3, or maybe the answer is 4"), else ``""``."""
    before = text[max(0, statement.start - 200) : statement.start]
    link = wording.OR_ELSE.search(before, max(0, len(before) - 40))
    stated = next(wording.statements(before[: link.start()]), None) if link else None
    if link is None or stated is None or stated[2] != "strong":
        return ""
    other = tidy(before[stated[1] : link.start()])
    return other if len(other) < 60 and "\n" not in other and _mathematical(other) else ""


def _sentence(text: str, start: int) -> tuple[int, str]:
    """From ``start`` to the end of the sentence; a display formula on the next lines belongs to it."""
    skipped = start
    while skipped < len(text) and text[skipped].isspace():
        skipped += 1
    depth, limit = 0, min(len(text), skipped + 2 * MAX_ANSWER)
    position = limit
    for stop in _STOP.finditer(text, skipped, limit):
        character = stop.group()
        if len(character) > 1:
            continue  # a formula
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth = max(0, depth - 1)
        elif (
            (character == "\n" and depth <= 1)
            or (depth == 0 and wording.SENTENCE_END.match(text, stop.start()))
            or (character == "<" and text.startswith("</answer>", stop.start()))
        ):
            # In prose "The answer is 5!" is 5 with an exclamation mark; "$5!$" and "5! = 120" are factorials.
            position = stop.start()
            while text[position - 1] == "!":
                position -= 1
            break
    return position, without_reason(text[skipped:position])


def without_reason(sentence: str) -> str:
    """ "5, because ..." is 5, but what follows is kept where it may be another answer."""
    spans: list[Formula] | None = None
    for reason in wording.REASON.finditer(sentence):
        if not sentence[: reason.start()].strip():
            continue
        spans = formulas(sentence) if spans is None else spans
        if any(formula.start < reason.start() < formula.end for formula in spans):
            continue
        if wording.UNSURE.search(sentence, reason.start()):
            return sentence
        if wording.BUT.search(reason.group()) and _NUMERIC.search(sentence, reason.start()):
            return sentence
        return sentence[: reason.start()]
    return sentence


def _narrowed(text: str) -> str:
    """The formula of a statement without the prose around it; numbers keep their units."""
    found = formulas(text)
    if not found:
        return text
    first, last = found[0], found[-1]
    if not all(joined(text[a.end : b.start]) for a, b in zip(found, found[1:], strict=False)):
        return text
    head, tail = text[: first.start], text[last.end :]
    if len(found) > 1:
        bare = not (_NUMERIC.search(head + tail) or wording.ARITHMETIC.search(head) or wording.ARITHMETIC.search(tail))
        return ", ".join(value(f.inside) for f in found) if bare else text
    inside = value(first.inside)
    if not inside or _NUMERIC.search(head + tail) or wording.UNSURE.search(tail):
        return text
    if canonical(inside).number is not None:
        return inside if not head.strip() and re.match(r"\s*[,;:(—–，；（]", tail) else text
    if wording.ARITHMETIC.search(wording.MEASURE_OF.sub("", head)):
        return text
    return text if wording.ARITHMETIC.match(tail.strip()) else inside


def _value_of_line(line: str) -> Extracted | None:
    """The last formula or number of a line."""
    found = formulas(line)
    chosen: list[Formula] = []
    for formula in reversed(found):
        condition = _RELATION.search(formula.inside) and wording.CONDITION.search(line[: formula.start])
        name = _NAME.fullmatch(value(formula.inside)) is not None
        if not condition and not name and value(formula.inside):
            chosen = [formula]
            break
    if not chosen and found and value(found[-1].inside):
        chosen = [found[-1]]
    if chosen:
        for before in reversed(found[: found.index(chosen[0])]):
            if not joined(line[before.end : chosen[0].start]):
                break
            chosen.insert(0, before)
    masked = line
    for formula in found:
        masked = masked[: formula.start] + "\x00" * (formula.end - formula.start) + masked[formula.end :]
    end = chosen[-1].end if chosen else 0
    if chosen and (wording.ASIDE.match(masked, end) or not re.search(r"\d", masked[end:])):
        number = None
    else:
        number = _last_number(masked[end:].replace("\x00", " ") if chosen else masked)
    if number is not None:
        return number
    if not chosen:
        return None
    values = [value(formula.inside) for formula in chosen]
    names = {named.group(1) if (named := _SAME_NAME.match(one)) else None for one in values}
    if len(values) > 1 and len(names) == 1 and None not in names:
        values = [_SAME_NAME.sub("", one, count=1) for one in values]  # x = 3 or x = 5
    answer = ", ".join(values)
    if _denied_around(line, chosen[0].start, end):
        return Extracted(answer, False, True)
    if len(answer) > MAX_ANSWER:
        return None
    unit = line[end:].split("\n")[0]
    if len(chosen) == 1 and canonical(answer).number is not None:
        with_unit = tidy(answer + " " + wording.SENTENCE_END.split(unit, maxsplit=1)[0])
        if canonical(with_unit).number is not None:
            answer = with_unit
    return Extracted(answer, False)


def _last_number(line: str, excluding: bool = False) -> Extracted | None:
    """The last number of a line without formulas, with its unit; a number inside an expression is not cut out of it."""
    # A match may begin with spaces: what stands before them does not touch the number.
    line = " " + normalised(_BOLD.sub(r"\2", line[-MAX_ANSWER:]))
    numbers = [m for m in NUMBER.finditer(line) if not _INSIDE.match(line[max(0, m.start() - 1) : m.start() + 1])]
    if not numbers:
        words = list(_ZH_NUMBER.finditer(line))
        return Extracted(words[-1].group(), False) if words else _expression(line)
    last = numbers[-1]
    if _denied_around(line, last.start(), last.end()):
        exclusion = wording.BUT_NOT.match(line, numbers[-2].end()) if len(numbers) > 1 else None
        if exclusion and exclusion.end() >= last.start() and not excluding:  # "3, not 5"
            return _last_number(line[: numbers[-2].end()], excluding=True)
        return Extracted(last.group().strip(), False, True)
    if len(numbers) > 1 and wording.BETWEEN_ALTERNATIVES.fullmatch(line, numbers[-2].end(), last.start() + 1):
        return Extracted(line[numbers[-2].start() : last.end()].strip(), False, True)
    if _BOUNDED.search(line[: last.start()]):
        return _expression(line)
    first = len(numbers) - 1
    while first and _LISTED.fullmatch(line, numbers[first - 1].end(), numbers[first].start()):
        first -= 1
    alone = not line[: numbers[first].start()].strip() and not line[last.end() :].strip(" .")
    if first < len(numbers) - 1 and (alone or _LIST_BEGINS.search(line[: numbers[first].start()])):
        return Extracted(", ".join(number.group().strip() for number in numbers[first:]), False)
    rest = wording.SENTENCE_END.split(line[last.start() :].lstrip(), maxsplit=1)[0]
    for reading in (rest, _SHORT_UNIT.sub(r" \1", rest)):
        if canonical(reading).number is not None:
            return Extracted(reading, False)  # with its unit
    if _GOES_ON.match(line, last.end()) or _GOES_BEFORE.search(line[: last.start() + 1].rstrip("0123456789")):
        return _expression(line)
    return Extracted(last.group(0).strip(), False)


def _expression(line: str) -> Extracted | None:
    """An expression that stands in prose without dollar signs: what follows the last "is", "=" or colon."""
    sentences = [part for part in wording.SENTENCE_END.split(line) if part.strip()]
    sentence = sentences[-1] if sentences else ""
    start = wording.EXPRESSION_START.match(sentence)
    part = tidy(sentence[start.end() :] if start else sentence)
    if not re.search(r"[\d\\]", part) or len(_WORD.findall(_TEXT.sub("", part))) > 1:
        return None
    return Extracted(_PI.sub(r"\\pi", part), False)
