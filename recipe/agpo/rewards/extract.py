# SPDX-License-Identifier: Apache-2.0
r"""The final answer of a response.

A response may state an answer in several ways: ``\boxed{72}``, ``#### 72``, ``The answer is 72.``, ``<answer>72
</answer>``, ``答案是72``, ``故选：B``. The rules:

- The statement that stands last counts. A right answer followed by a wrong one is the wrong one.
- A box inside a statement ("the answer is \boxed{72}") is its content.
- Boxes joined by commas or "and" are one answer with several parts; otherwise the last box counts.
- What stands before ``</think>`` does not count if anything follows it.
- An unclosed box (a response cut off at its limit) is no answer, and "I don't know" is none either.

Only the last ``MAX_CHARACTERS`` characters are read, in linear time, so no response can make this slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipe.agpo.rewards.canonical import EXCLAMATION, NUMBER, canonical, normalised

MAX_CHARACTERS = 20_000
MAX_ANSWER = 2_000

_STATEMENTS = (
    re.compile(r"####[ \t]*"),
    re.compile(
        r"\b(?:answer|result|solution)[ \t]*(?:\*\*)?[ \t]*(?:is|are|=|:|：)(?![a-z])[ \t]*:?[ \t]*", re.IGNORECASE
    ),
    re.compile(r"(?:答案|结果)[ \t]*(?:\*\*)?[ \t]*(?:应该|应|就|大?约)?(?:是|为|：|:|=)[ \t]*[：:]?[ \t]*"),
    re.compile(r"答[ \t]*[：:][ \t]*"),
    re.compile(r"(?:故|因此|所以|应该?|答案)[ \t]*选(?:择|项)?[ \t]*[：:]?[ \t]*"),
)
# A sentence ends at a line end, at 。！？, and at a full stop that is no decimal point.
_SENTENCE_END = re.compile(r"\n|[。！？]|[.!?](?=\s|$)(?<!\be\.g\.)")
# Null bytes, zero-width characters, special tokens that a decoder left, emoji.
_INVISIBLE = re.compile("[\x00\u200b-\u200f\u2060\ufeff]|<\\|[a-z_]{1,30}\\|>|[\U0001f300-\U0001faff\u2600-\u27bf]")
_BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{")
_BARE_BOX = re.compile(r"\\boxed\s*([\w.]+)")
_REASON = re.compile(
    r"[,，;][ \t]*(?:because|since|so|as|which|where|when|but|hence|thus|therefore|因为|所以|由于|即|其中)",
    re.IGNORECASE,
)
_JOINED = re.compile(r"[\s$,，、;；]*(?:and|or|和|或|及|与)?[\s$,，、;；]*")
_FILLER = re.compile(
    r"^(?:(?:(?:therefore|thus|hence|clearly|simply|just|exactly|equal to|approximately|about|roughly|given by)\b"
    r"|约|大约|等于)[ \t,:]*)+",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"(?:i (?:do not|don'?t|don’t) know|i am not sure|i'?m not sure|not sure|unknown|unclear|\?+|？+|"
    r"不知道|无法(?:确定|得出|回答)|不确定|不会|none|n/?a|\.\.\.|…+)\W*",
    re.IGNORECASE,
)
_IDK = re.compile(r"\b(?:i (?:do not|don'?t|don’t) know|i give up)\b|不知道|无法(?:确定|得出答案|回答)", re.IGNORECASE)
_INSIDE = re.compile(r"[\w.^\\{*]\S")  # what stands before a digit that does not begin a number
_SHORT_UNIT = re.compile(r"(?<=\d)([mghsLlJNWVKCF])$")  # 1250m: in prose a unit, not a variable
# "This result is obtained by taking the limit": beside a box, a sentence without any mathematics is a remark.
_REMARK = re.compile(r"[a-zA-Z'’,-]+(?:\s+[a-zA-Z'’,-]+){2,}")
_BOLD = re.compile(r"(?<!\S)(\*\*|__)([^*_\n]+)\1(?!\w)")


@dataclass(frozen=True)
class Extracted:
    """A final answer as it stands in the response.

    Attributes:
        text: the answer, without markup around it.
        asked_form: whether the response states it as its answer; false if it was only guessed from the last line.
    """

    text: str
    asked_form: bool


def readable(response: str) -> str:
    """The part of a response in which an answer is looked for."""
    text = _INVISIBLE.sub("", response[-MAX_CHARACTERS:])
    head, mark, tail = text.rpartition("</think>")
    return tail if mark and tail.strip() else text


def final_answer(response: str) -> Extracted | None:
    """The answer that a response states last; None if it states none."""
    text = readable(response)
    found: list[tuple[int, int, str]] = []  # where it starts, where it ends, the answer
    boxes = [box for box in _boxes(text)[0] if tidy(box[2])]
    if boxes:
        found.append(_joined_boxes(text, boxes))
    for pattern in _STATEMENTS:
        # Each statement reaches to the end of its sentence; of a kind only the last can be the last of all.
        last = None
        for last in pattern.finditer(text):  # noqa: B007
            pass
        if last is not None:
            found.append((last.start(), *_sentence(text, last.end())))
    close = text.rfind("</answer>")
    tag = text.rfind("<answer>", 0, max(0, close))
    if tag >= 0:
        found.append((tag, close, text[tag + len("<answer>") : close]))
    found = [(start, end, tidy(answer)) for start, end, answer in found]
    found = [item for item in found if item[2] and not (boxes and _REMARK.fullmatch(item[2]))]
    if not found:
        return None
    start, end, answer = max(found, key=lambda item: (item[0], item[1]))
    inner = [b for b in boxes if b[0] >= start and b[1] <= end]
    if inner and not text.startswith("<answer>", start) and text[start : start + 6] != "\\boxed":
        answer = tidy(_joined_boxes(text, inner)[2])
    if not answer or len(answer) > MAX_ANSWER or _NOTHING.fullmatch(answer):
        return None
    return Extracted(answer, True)


def last_number(response: str) -> Extracted | None:
    """The last number of the last line that has one; for responses that state no answer at all."""
    text = readable(response)
    if _boxes(text)[1] or _IDK.search(text[-200:]):
        return None
    for line in reversed([line for line in text.splitlines() if line.strip()][-3:]):
        line = normalised(_BOLD.sub(r"\2", line[-MAX_ANSWER:]))
        # A match may begin with spaces: what stands before them does not touch the number.
        line = " " + line
        numbers = [m for m in NUMBER.finditer(line) if not _INSIDE.match(line[max(0, m.start() - 1) : m.start() + 1])]
        if not numbers:
            continue
        last = numbers[-1]
        rest = _SENTENCE_END.split(line[last.start() :].lstrip(), maxsplit=1)[0]
        for reading in (rest, _SHORT_UNIT.sub(r" \1", rest)):
            if canonical(reading).number is not None:
                return Extracted(reading, False)  # with its unit
        following = line[last.end() : last.end() + 1]
        # "3x" and "3^2" are not 3.
        return None if following.isalnum() or following in ("*", "^") else Extracted(last.group(0).strip(), False)
    return None


def last_line(response: str) -> str:
    """The last line with something on it; ``""`` if there is none."""
    lines = [line.strip() for line in readable(response).splitlines() if line.strip()]
    return lines[-1][:MAX_ANSWER] if lines else ""


def tidy(answer: str) -> str:
    """An answer without the markup and punctuation around it."""
    text = _BOLD.sub(r"\2", answer.strip())
    for _ in range(3):
        before = text
        text = text.strip(" \t\r\n*_`:：")
        text = _FILLER.sub("", text)
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ('"', '"'), ("“", "”")):
            inside = text[len(opening) : len(text) - len(closing)]
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                text = inside if opening not in inside else text
        text = EXCLAMATION.sub("", text.rstrip(" \t,，;；。！"))
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            break
    return text


def _sentence(text: str, start: int) -> tuple[int, str]:
    """From ``start`` to the end of the sentence; a display formula on the next lines belongs to it."""
    skipped = start
    while skipped < len(text) and text[skipped].isspace():
        skipped += 1
    depth, position = 0, skipped
    limit = min(len(text), skipped + 2 * MAX_ANSWER)
    while position < limit:
        character = text[position]
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth = max(0, depth - 1)
        elif character == "\n" and position > skipped and depth <= 1:
            break
        elif depth == 0 and character in ".!?。！？\n" and _SENTENCE_END.match(text, position):
            break
        position += 1
    sentence = text[skipped:position]
    reason = _REASON.search(sentence)
    return position, sentence[: reason.start()] if reason else sentence


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    r"""Closed ``\boxed{...}`` as (start, end, content), outermost only, and whether one is left open."""
    found: list[tuple[int, int, str]] = []
    stack: list[int] = []  # where the content of a box begins, -1 for other braces
    position, length = 0, len(text)
    while position < length:
        character = text[position]
        if character == "\\":
            name = _BOX.match(text, position)
            if name:
                stack.append(name.end())
                position = name.end()
                continue
            bare = _BARE_BOX.match(text, position)
            if bare:
                found.append((position, bare.end(), bare.group(1)))
                position = bare.end()
                continue
            position += 2
            continue
        if character == "{":
            stack.append(-1)
        elif character == "}" and stack:
            start = stack.pop()
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((text.rindex("\\", 0, start), position + 1, text[start:position]))
        position += 1
    return found, any(start >= 0 for start in stack)


def _joined_boxes(text: str, boxes: list[tuple[int, int, str]]) -> tuple[int, int, str]:
    """The last box, with those before it that only a comma or "and" parts from it."""
    parts = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : parts[0][0]]
        if len(between) > 20 or "\n" in between or not _JOINED.fullmatch(between) or not between.strip("$ "):
            break
        parts.insert(0, box)
    return parts[0][0], parts[-1][1], ", ".join(content for _, _, content in parts)
