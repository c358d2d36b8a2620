# SPDX-License-Identifier: Apache-2.0
"""The lines of a report of ``agpo doctor``, and tables on a terminal.

On a terminal rich draws a table. A pipe gets plain text, one line per row and never wrapped, and so does a terminal
where rich is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
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


def show(rows: list[Row]) -> None:
    """Print the rows."""
    colours = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    lines = []
    for row in rows:
        lines.append((row.status, row.check, row.found))
        if row.fix:
            lines.append(("", "", f"-> {row.fix}"))
    if not draw(lines, styles=(colours, "bold", "")):
        print(table(rows))


def draw(
    lines: Iterable[Sequence[str]], *, head: Sequence[str] = (), styles: Sequence[str | dict[str, str]] = ()
) -> bool:
    """Print a table with rich if the output is a terminal and rich is installed; otherwise return False.

    Args:
        lines: cells as text; markup in them is shown as it is.
        head: names of the columns; none: a grid without lines.
        styles: of each column, or of each value in it.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    drawn = Table(*head, header_style="bold") if head else Table.grid(padding=(0, 2))
    for cells in lines:
        chosen = [*styles, *[""] * len(cells)][: len(cells)]
        drawn.add_row(
            *(
                Text(cell, style.get(cell, "") if isinstance(style, dict) else style, overflow="fold")
                for cell, style in zip(cells, chosen, strict=True)
            )
        )
    Console().print(drawn)
    return True
