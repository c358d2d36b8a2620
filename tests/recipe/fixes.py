# SPDX-License-Identifier: Apache-2.0
"""The fixes in a message, as overrides, and whether they work when pasted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from recipe.agpo.preflight import find_problems

_OVERRIDE = re.compile(r"(?:\+\+|\+|~)?[a-z_]\w*(?:\.\w+)+=(?:\[[^\]]*\]|[^\s,;]+?)(?=[.,;]?(?:\s|$))")


def ways_out(message: str) -> list[list[str]]:
    """The overrides of each alternative behind ``Set``; one that is only words is left out."""
    _, _, advice = message.partition("Set ")
    return [found for part in advice.split(", or ") if (found := _OVERRIDE.findall(part))]


def refused(build: Callable[..., Any], overrides: Sequence[str], *words: str) -> list[str]:
    """Exactly one problem with these words in it, and every fix that it offers leaves none."""
    problems = find_problems(build(*overrides))
    assert len(problems) == 1, problems
    assert [word for word in words if word not in problems[0]] == [], problems[0]
    ways = ways_out(problems[0])
    assert ways, problems[0]
    for way in ways:
        assert find_problems(build(*overrides, *way)) == [], (problems[0], way)
    return ways[0]
