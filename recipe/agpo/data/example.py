# SPDX-License-Identifier: Apache-2.0
"""One problem, as every benchmark's reader gives it, and whether its reference answer can be judged against."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_GRADERS = {"math": "maths"}  # the others are named as their kind


class DataError(ValueError):
    """A command about data cannot be carried out; the message says why and what to do."""


class BadRow(ValueError):
    """A record that is no usable problem; the message goes into the list of skipped rows."""


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        question: what is asked, without instructions about the form of the answer.
        gold: the reference answer in the form that the kind's grader reads; always text.
        kind: ``math``, ``choice``, ``numeric``, ``text``, ``code`` or ``gym``.
        args: arguments of the grader (JSON-able); for ``choice`` the options, which the template prints too.
        raw_id: the record's own identifier, ``""`` if it has none.
    """

    question: str
    gold: str
    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    raw_id: str = ""


def gold_problem(example: Example) -> str | None:
    """Why no response can be judged against this gold; None if it can. Asks the kind's own grader."""
    grader = importlib.import_module(f"recipe.agpo.rewards.{_GRADERS.get(example.kind, example.kind)}")
    if example.kind == "math":
        found: str | None = grader.check_gold(example.gold)  # it caches by gold, so it takes no mapping
    else:
        found = grader.check_gold(example.gold, example.args)
    return found


def text_of(record: Mapping[str, Any], *keys: str) -> str:
    """The first of ``keys`` that the record has, as stripped text.

    Raises:
        BadRow: none is there, or it is null, empty or no text.
    """
    key = next((key for key in keys if record.get(key) is not None), None)
    if key is None:
        state = "is null" if any(key in record for key in keys) else "is missing"
        raise BadRow(f"{' / '.join(keys)} {state}")
    value = record[key]
    if not isinstance(value, str):
        raise BadRow(f"{key} is {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"{key} is empty")
    return value.strip()
