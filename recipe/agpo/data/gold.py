# SPDX-License-Identifier: Apache-2.0
r"""Reference answers out of the forms in which benchmarks give them."""

from __future__ import annotations

import re
from typing import Any

from recipe.agpo.data.example import BadRow
from recipe.agpo.rewards.boxes import boxes, groups

_CIRCLED = re.compile(r"\\textcircled\s*\{\s*(\d{1,2})\s*\}")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# Where the text behind a box stops being about its unit.
_UNIT_END = re.compile(r"\$|=|\n|\\\\|\\simeq|\\approx|\\end|,|\.(?:\s|$)")
_ANGLE = re.compile(r"\s*\^\s*\{?\s*(\\circ|\\prime\s*\\prime)\s*\}?")
_UNIT_WRAPPER = re.compile(r"\\(?:mathrm|text|operatorname|rm)\b\s*|\\[,;:! ]|[~{}]|\\quad|\\left|\\right")


def last_box(text: str) -> tuple[str, str] | None:
    r"""Content of the last closed ``\boxed{...}`` and the text behind it; None without one.

    Read as the verifiers read a response: ``\boxed 5``, ``\fbox{5}`` and ``\framebox{5}`` count as well, a box that
    never closes does not, the one before it does, and boxes that commas, "and" or "or" connect are one list.
    """
    found, _ = boxes(text)
    if found and not found[-1].content.strip():
        return "", text[found[-1].end :]
    answers = groups(text, found, 1)
    return (answers[-1].content.strip(), text[answers[-1].end :]) if answers else None


def boxed(text: str) -> str:
    """Content of the last box, or of the last boxes that are one list.

    Raises:
        BadRow: there is none, or it is empty.
    """
    found = last_box(text)
    if found is None:
        raise BadRow("the solution has no closed \\boxed{...}")
    if not found[0]:
        raise BadRow("the last \\boxed{} is empty")
    return found[0]


def plain_answer(value: Any) -> str:
    """A number or a text as gold: ``27.0`` is ``27``, ``"025"`` is ``25``.

    Raises:
        BadRow: null, empty, or of another type.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"answer is {'null' if value is None else type(value).__name__}")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if not text:
        raise BadRow("answer is empty")
    return str(int(text)) if re.fullmatch(r"[-+]?\d+", text) else text


def blanks(answer: str) -> str:
    """Several blanks as ``a; b``, each without its dollar signs; circled numbers as characters."""
    parts = [part.strip() for part in re.split(r"[;；]", answer)]
    parts = [part[1:-1].strip() if part[:1] == part[-1:] == "$" and len(part) > 2 else part for part in parts]
    return circled("; ".join(part for part in parts if part))


def circled(text: str) -> str:
    r"""``\textcircled{3}`` as ``③``."""
    return _CIRCLED.sub(lambda m: chr(0x2460 + int(m[1]) - 1) if 1 <= int(m[1]) <= 20 else m[0], text)


def split_options(text: str) -> list[str]:
    """``A) 3 B) 5 C) 7`` (or ``A. 3 B. 5``) as ``["3", "5", "7"]``.

    Raises:
        BadRow: it does not begin with option A, or has fewer than two options.
    """
    first = re.match(r"\s*\(?A([).])\s*", text)
    if first is None:
        raise BadRow("the options do not begin with A) or A.")
    ending, found, start = re.escape(first.group(1)), [], first.end()
    for letter in "BCDEFGHIJ":
        following = re.compile(rf"\s\(?{letter}{ending}\s*").search(text, start)
        if following is None:
            break
        found.append(text[start : following.start()].strip())
        start = following.end()
    found.append(text[start:].strip())
    if len(found) < 2:
        raise BadRow("fewer than two options")
    return found


def is_plain_number(text: str) -> bool:
    """``1.6``, ``4.5e33``, ``-1``; nothing with letters, fractions or LaTeX."""
    return _PLAIN_NUMBER.fullmatch(text) is not None


def unit_behind(tail: str) -> str:
    r"""The unit that stands right behind a box, in plain spelling (``~\mathrm{km} / \mathrm{s}`` is ``km/s``).

    Only what can be read safely: one unit that the numeric grader knows, with nothing else up to the end of the formula
    or of the word. Otherwise ``""``: a unit that is not given is not compared.
    """
    from recipe.agpo.rewards.units import dimension

    angle = _ANGLE.match(tail)
    if angle:
        temperature = re.match(r"[^a-zA-Z]*(?:\\(?:mathrm|text|rm)\b)?[\s{~]*[CF]\b", tail[angle.end() :])
        return "" if temperature else "degree" if angle.group(1) == "\\circ" else "arcsec"
    in_formula = not tail.startswith("$")
    head = _UNIT_END.split(tail if in_formula else tail[1:], maxsplit=1)[0]
    name = _UNIT_WRAPPER.sub(" ", head).replace("\\AA", "Å").replace("\\mu", "µ").replace("\\Omega", "Ω")
    words = re.sub(r"µ\s+", "µ", re.sub(r"\s*/\s*", "/", name)).strip().rstrip(".").split()
    if not words or not re.fullmatch(r"[A-Za-zµÅΩ/]+", words[0]):
        return ""
    # In a formula more words are a product of units, a power or a substance; behind it they go on with the sentence.
    if len(words) > 1 and (in_formula or re.match(r"(?:per|squared|cubed)\b|[^a-zA-Z]", words[1])):
        return ""
    return words[0] if dimension(words[0]) else ""
