# SPDX-License-Identifier: Apache-2.0
r"""``\boxed{...}`` in responses and in written solutions; both sides read the same list."""

from __future__ import annotations

import re
from typing import NamedTuple

from recipe.agpo.rewards.canonical import canonical

_MARK = re.compile(r"\\(?:f?boxed|fbox|framebox)(?![a-zA-Z])\s*(\{?)|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"-?\d+(?:[.,]\d+)*|\w+")
# What may stand between two boxes of one answer: commas and joining words, with formula marks and spaces around, and
# the name of the next part ("y ="). Each alternative begins with another character, so matching is linear.
_JOINT = re.compile(
    r"(?:(?P<joint>[,，、;；&]|(?<![a-zA-Z])(?:and|or|as well as|maybe|perhaps|possibly|和|或者?|及|与|以及|也许"
    r"|可能)(?![a-zA-Z])"
    r"|\\(?:text|mbox|mathrm|textrm)\s*\{\s*[,;]?\s*(?:(?:and|or)(?:\s+(?:maybe|perhaps|possibly))?|和|或|以及?|[,;])"
    r"[\s~]*\})"
    r"|\\(?:q?quad|[()\[\],;:! ])|[\s$~*]|(?<![a-zA-Z\\])[a-zA-Z](?:_\{?\w\}?)?\s*=)+"
)
MAX_JOINT = 80


class Box(NamedTuple):
    """A closed box, or several that are one answer."""

    start: int
    end: int
    content: str


def boxes(text: str) -> tuple[list[Box], bool]:
    r"""Closed boxes, outermost only, and whether one is left open. ``\boxed 5`` is one too."""
    if "box" not in text:
        return [], False
    found: list[Box] = []
    stack: list[tuple[int, int]] = []  # where a box and its content begin; -1 for other braces
    resume = 0
    for mark in _MARK.finditer(text):
        if mark.start() < resume:
            continue
        shape = mark.group()
        if shape == "{":
            stack.append((-1, -1))
        elif shape == "}":
            if stack:
                start, content = stack.pop()
                if start >= 0:
                    while found and found[-1].start > start:
                        found.pop()
                    found.append(Box(start, mark.end(), text[content : mark.start()]))
        elif mark.group(1):
            stack.append((mark.start(), mark.end()))
        elif len(shape) > 2:
            bare = _BARE.match(text, mark.end())
            if bare:
                found.append(Box(mark.start(), bare.end(), bare.group()))
                resume = bare.end()
    return found, any(start >= 0 for start, _ in stack)


def groups(text: str, found: list[Box], limit: int) -> list[Box]:
    """The last ``limit`` answers, in order, each of one box or of several that commas or joining words connect."""
    answers: list[Box] = []
    parts: list[Box] = []
    for box in reversed(found):
        if not box.content.strip():
            continue
        if parts and not joined(text[box.end : parts[0].start]):
            answers.append(_together(parts))
            parts = []
            if len(answers) == limit:
                break
        parts.insert(0, box)
    if parts:
        answers.append(_together(parts))
    return answers[::-1]


def joined(between: str) -> bool:
    """Whether what stands between two parts makes them one answer: "3 and 5", "3, 5", "x = 3 or y = 5"."""
    if len(between) > MAX_JOINT or "\n\n" in between:
        return False
    match = _JOINT.fullmatch(between)
    return match is not None and match.group("joint") is not None


def _together(parts: list[Box]) -> Box:
    contents: list[str] = []
    keys: set[str] = set()
    for part in reversed(parts):
        # "15 39/40, or 639/40" is one value in two spellings.
        key = canonical(part.content).key
        if key not in keys:
            keys.add(key)
            contents.insert(0, part.content.strip())
    return Box(parts[0].start, parts[-1].end, ", ".join(contents))
