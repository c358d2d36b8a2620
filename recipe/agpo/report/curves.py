# SPDX-License-Identifier: Apache-2.0
"""Reduce series for the page to at most ``MOST`` points, each with the range of the values that it replaces."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipe.agpo.report.read import Run, Series

MOST = 200
Point = tuple[float, float, float, float]  # x, mean, lowest, highest


@dataclass(frozen=True)
class Curve:
    """What is drawn: a line through the means and a band from lowest to highest.

    Attributes:
        label: name for a person.
        style: CSS class that gives it a colour.
        points: in order of x.
        line: False draws the band only.
        read: whether its value is written above the panel.
        mark: short name for that place; empty where there is only one curve.
    """

    label: str
    style: str
    points: Sequence[Point]
    line: bool = True
    read: bool = True
    mark: str = ""


def thin(points: Sequence[Point]) -> list[Point]:
    """At most ``MOST`` points: neighbours become one with their mean and their whole range."""
    size = -(-len(points) // MOST)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (
            sum(p[0] for p in group) / len(group),
            sum(p[1] for p in group) / len(group),
            min(p[2] for p in group),
            max(p[3] for p in group),
        )
        for group in groups
    ]


def plain(series: Series) -> list[Point]:
    """A series without a range of its own."""
    return [(x, y, y, y) for x, y in series]


def spread(run: Run, name: str) -> list[Point]:
    """``name``/mean with ``name``/min and ``name``/max as its range, over steps."""
    low, high = dict(run.series(f"{name}/min")), dict(run.series(f"{name}/max"))
    return [(x, y, min(low.get(x, y), y), max(high.get(x, y), y)) for x, y in run.series(f"{name}/mean")]


def over(series: Series, clock: Series) -> Series:
    """The series with x read off another one: the latest value of ``clock`` at or before each step, 0 before it."""
    at = [x for x, _ in clock]
    found = ((bisect_right(at, x), y) for x, y in series)
    return [(clock[i - 1][1] if i else 0.0, y) for i, y in found]


def stacked(steps: Sequence[float], layers: Mapping[str, Mapping[float, float]], *, share: bool) -> dict[str, Series]:
    """Layers over the same steps, absent values as 0; with ``share`` each step is divided by its sum.

    Steps are thinned by averaging, all layers alike. Steps whose sum is 0 are left out of shares.
    """
    totals = {x: sum(layer.get(x, 0.0) for layer in layers.values()) for x in steps}
    kept = [x for x in steps if totals[x] > 0.0 or not share]
    return {
        name: [
            (p[0], p[1]) for p in thin(plain([(x, layer.get(x, 0.0) / (totals[x] if share else 1.0)) for x in kept]))
        ]
        for name, layer in layers.items()
    }
