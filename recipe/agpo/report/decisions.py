# SPDX-License-Identifier: Apache-2.0
"""Data from the decisions file: distributions over prompts, and the newest decisions."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.report.jsonl import FileNote, finite, read_lines, step_of

LATEST = 12  # prompts of the newest step that are kept whole


@dataclass
class StepDecisions:
    """One step: tau and eps of its prompts, and how many prompts were solved never, sometimes, always."""

    tau: array[float] = field(default_factory=lambda: array("d"))
    eps: array[float] = field(default_factory=lambda: array("d"))
    never: int = 0
    sometimes: int = 0
    always: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one prompt."""
        for values, key in ((self.tau, "tau"), (self.eps, "eps_low")):
            if (number := finite(row.get(key))) is not None:
                values.append(number)
        given = row.get("outcomes")
        outcomes = [n for n in map(finite, given if isinstance(given, list) else []) if n is not None]
        if not outcomes:
            return
        if max(outcomes) <= 0.0:
            self.never += 1
        elif min(outcomes) >= 1.0:
            self.always += 1
        else:
            self.sometimes += 1


@dataclass
class Decisions:
    """A decisions file: per step, and the first rows of the newest step."""

    steps: dict[int, StepDecisions] = field(default_factory=dict)
    latest: list[Mapping[str, Any]] = field(default_factory=list)
    rows: int = 0

    @classmethod
    def collect(cls, path: Path, note: FileNote) -> Decisions:
        """Read row by row, and keep only a few numbers per row, so that large files fit into memory."""
        out = cls()
        newest = -1
        for number, row in read_lines(path, note):
            step = step_of(row.get("step"))
            if step is None:
                note.bad.append(number)
                continue
            out.rows += 1
            out.steps.setdefault(step, StepDecisions()).add(row)
            if step > newest:
                newest, out.latest = step, []
            if step == newest and len(out.latest) < LATEST:
                out.latest.append(row)
        return out

    def quantiles(self, name: str, low: float, high: float) -> list[tuple[float, float, float]]:
        """(step, low quantile, high quantile) of ``tau`` or ``eps`` over the prompts of each step."""
        found = []
        for step, decisions in sorted(self.steps.items()):
            values = sorted(getattr(decisions, name))
            if values:
                found.append((float(step), _quantile(values, low), _quantile(values, high)))
        return found

    def values(self, name: str, since: int) -> list[float]:
        """All values of ``tau`` or ``eps`` from step ``since`` on."""
        return [value for step, item in sorted(self.steps.items()) if step >= since for value in getattr(item, name)]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
