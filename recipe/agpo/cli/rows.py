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
        check: name of the check.
        status: ``ok``; ``warn``: training can start, but something differs from the tested state; ``FAIL``: training
            cannot start.
        found: the result.
        fix: how to fix it, empty if there is nothing to fix.
    """

    check: str
    status: str
    found: str
    fix: str = ""


def table(rows: list[Row]) -> str:
    """The rows as aligned text; the fix is below its row."""
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.status:<4}  {row.check:<{width}}  {row.found}")
        if row.fix:
            lines.append(f"{'':<4}  {'':<{width}}  -> {row.fix}")
    return "\n".join(lines)
