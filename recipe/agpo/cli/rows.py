# SPDX-License-Identifier: Apache-2.0
"""The lines of a report of ``agpo doctor``."""

from __future__ import annotations

from dataclasses import dataclass

DISTRIBUTION = "agpo-verl"
OK, WARN, FAIL = "ok", "warn", "FAIL"
RAY_TIMEOUT_S = 120.0  # a worker imports verl: seconds on an idle machine, a minute on a busy one


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        check: what was looked at.
        status: ``ok``; ``warn``: training can start, something is not as tested; ``FAIL``: it cannot.
        found: what is there.
        fix: what to do about it, empty if nothing.
    """

    check: str
    status: str
    found: str
    fix: str = ""


def table(rows: list[Row]) -> str:
    """The rows as aligned text; the fix stands under its row."""
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.status:<4}  {row.check:<{width}}  {row.found}")
        if row.fix:
            lines.append(f"{'':<4}  {'':<{width}}  -> {row.fix}")
    return "\n".join(lines)
