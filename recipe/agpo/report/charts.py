# SPDX-License-Identifier: Apache-2.0
"""Panels as geometry: lines with bands, stacked areas, histograms. ``figure.html`` draws them as inline SVG.

Geometry is in units of the view box, which is about a pixel on a phone and on a desktop screen alike. ``data`` is what
the cursor reads (``page.js``), ``table`` what a person reads who cannot see the curves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recipe.agpo.report.curves import Curve, thin
from recipe.agpo.report.read import Series
from recipe.agpo.report.text import compact, number, ticks

WIDTH, HEIGHT = 340, 186
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 20, 34
BINS = 28
ROWS = 12  # of a table of values
NAMES = {"zero_dispersion": "all equal", "warmup": "no comparison yet", "neutral": "as usual"}


@dataclass(frozen=True)
class Axis:
    """The x axis that panels share: steps or tokens, from ``low`` to ``high``."""

    name: str
    low: float
    high: float

    def place(self, x: float) -> float:
        """The position of a value in the view box."""
        span = (self.high - self.low) or 1.0
        return LEFT + (x - self.low) / span * (WIDTH - LEFT - RIGHT)


@dataclass(frozen=True)
class Guide:
    """A horizontal line with a name: a target or a bound."""

    value: float
    label: str


@dataclass(frozen=True)
class Mark:
    """Text or a point in the view box."""

    x: float
    y: float
    text: str = ""
    anchor: str = "middle"
    style: str = ""


@dataclass(frozen=True)
class Read:
    """A value above the panel."""

    style: str
    label: str
    value: str
    index: int


@dataclass(frozen=True)
class Table:
    """The values of a panel as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """One panel. ``under`` is drawn before the grid, ``over`` after it: (CSS classes, SVG path)."""

    title: str
    unit: str
    kind: str = "line"
    missing: str = ""
    axis: Axis = Axis("", 0.0, 1.0)
    said: str = ""
    reads: Sequence[Read] = ()
    rows: Sequence[Mark] = ()
    columns: Sequence[Mark] = ()
    guides: Sequence[Mark] = ()
    under: Sequence[tuple[str, str]] = ()
    over: Sequence[tuple[str, str]] = ()
    dots: Sequence[Mark] = ()
    bars: Sequence[tuple[str, float, float, float, float]] = ()
    data: Sequence[Mapping[str, list[float]]] = ()
    table: Table = field(default_factory=lambda: Table((), ()))


def line_panel(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    axis: Axis,
    *,
    guides: Sequence[Guide] = (),
    from_zero: bool = False,
    missing: str = "",
    bounds: tuple[float, float] | None = None,
) -> Figure:
    """A panel of curves. ``missing`` is shown if there is none; ``bounds`` fixes the y axis."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return empty_panel(title, unit, missing)
    readable = [curve for curve in curves if curve.read]
    reads = [Read(c.style, c.mark, number(c.points[-1][1]), i) for i, c in enumerate(readable)]
    said = "; ".join(_said(curve) for curve in readable)
    table = _table(axis.name, [(curve.label, curve.points) for curve in readable])
    curves = [replace(curve, points=thin(curve.points)) for curve in curves]
    low, high = bounds or _range(curves, guides, from_zero)
    over: list[tuple[str, str]] = []
    dots: list[Mark] = []
    for curve in curves:
        if any(p[2] < p[3] for p in curve.points):
            over.append((f"band {curve.style}", _band(curve.points, axis, low, high)))
        if curve.line:
            places = [(axis.place(p[0]), _y(p[1], low, high)) for p in curve.points]
            over.append((f"line {curve.style}", "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)))
            if len(places) <= 12:  # few points, such as validations, are marked one by one
                dots += [Mark(round(x, 1), round(y, 1), style=curve.style) for x, y in places]
    return Figure(
        title,
        unit,
        axis=axis,
        said=said,
        reads=reads,
        rows=_rows(low, high),
        columns=_columns(axis),
        guides=[_guide(guide, low, high) for guide in guides if low <= guide.value <= high],
        over=over,
        dots=dots,
        data=[{"x": _short(p[0] for p in c.points), "y": _short(p[1] for p in c.points)} for c in curves if c.read],
        table=table,
    )


def stack_panel(
    title: str, unit: str, layers: Mapping[str, Series], styles: Mapping[str, str], axis: Axis, *, missing: str = ""
) -> Figure:
    """Layers on top of each other, the first at the bottom; layers that are 0 throughout are left out."""
    layers = {name: points for name, points in layers.items() if any(y for _, y in points)}
    if not layers:
        return empty_panel(title, unit, missing)
    xs = [x for x, _ in next(iter(layers.values()))]
    base = [0.0] * len(xs)
    tops: dict[str, list[float]] = {}
    for name, points in layers.items():
        tops[name] = base = [b + y for b, (_, y) in zip(base, points, strict=True)]
    high = max(base) or 1.0
    under: list[tuple[str, str]] = []
    below = [0.0] * len(xs)
    for name, top in tops.items():
        band = [(x, (lo + up) / 2, lo, up) for x, lo, up in zip(xs, below, top, strict=True)]
        under.append((f"layer {styles[name]}", _band(band, axis, 0.0, high)))
        below = top
    named = {name: NAMES.get(name, name.replace("_", " ")) for name in layers}
    last = [(name, points[-1][1]) for name, points in layers.items()]
    return Figure(
        title,
        unit,
        kind="stack",
        axis=axis,
        said="last: " + ", ".join(f"{named[name]} {number(value)}" for name, value in last),
        reads=[Read(styles[name], named[name], number(value), i) for i, (name, value) in enumerate(last)],
        rows=_rows(0.0, high),
        columns=_columns(axis),
        under=under,
        data=[{"x": _short(xs), "y": _short(y for _, y in points)} for points in layers.values()],
        table=_table(axis.name, [(named[name], points) for name, points in layers.items()]),
    )


def histogram_panel(
    title: str, unit: str, values: Sequence[float], style: str, *, low: float, high: float, missing: str = ""
) -> Figure:
    """How values spread over [low, high]; values outside count at the nearest end."""
    if not values:
        return empty_panel(title, unit, missing)
    span = (high - low) or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, max(0, int((value - low) / span * BINS)))] += 1
    axis, top = Axis("value", low, low + span), max(counts) / len(values)
    wide = (WIDTH - LEFT - RIGHT) / BINS
    bars = []
    for i, n in enumerate(counts):
        y = _y(n / len(values), 0.0, top)
        if n:
            bars.append((style, round(LEFT + i * wide + 0.5, 1), round(y, 1), round(wide - 1, 1), HEIGHT - BOTTOM - y))
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    shares = [(f"{number(low + i * span / BINS)}", number(n / len(values))) for i, n in enumerate(counts) if n]
    return Figure(
        title,
        unit,
        kind="histogram",
        axis=axis,
        said=f"{len(values)} values from {number(ordered[0])} to {number(ordered[-1])}, median {number(middle)}",
        reads=[Read(style, "median", number(middle), 0)],
        rows=_rows(0.0, top),
        columns=_columns(axis),
        bars=bars,
        table=Table(("from", "share"), shares),
    )


def empty_panel(title: str, unit: str, missing: str) -> Figure:
    """A panel without data, which says what was not logged."""
    return Figure(title, unit, kind="empty", missing=missing)


def _rows(low: float, high: float) -> list[Mark]:
    """Grid lines and their numbers."""
    values = ticks(low, high)
    names = [compact(value) for value in values]
    if len(set(names)) < len(names):  # a range so small that two digits do not tell its ends apart
        names = [number(value, 4) for value in values]
    return [Mark(LEFT - 6, round(_y(value, low, high), 1), name) for value, name in zip(values, names, strict=True)]


def _columns(axis: Axis) -> list[Mark]:
    """Marks of the x axis and their numbers; the last number ends at the edge."""
    marks = []
    for value in ticks(axis.low, axis.high, 5):
        x = axis.place(value)
        marks.append(Mark(round(x, 1), 0.0, compact(value), "end" if x > WIDTH - RIGHT - 12 else "middle"))
    return marks


def _table(axis: str, curves: Sequence[tuple[str, Sequence[tuple[float, ...]]]]) -> Table:
    """The values of all curves at a few places, each the latest one there; empty outside of a curve."""
    places = sorted({point[0] for _, points in curves for point in points})
    step = max(1, -(-(len(places) - 1) // (ROWS - 1)))
    chosen = sorted({*places[::step], places[-1]})
    rows = []
    for x in chosen:
        cells = [compact(x) if x >= 1e6 else number(x, 6)]
        for _, points in curves:
            at = bisect_right(points, x, key=lambda point: point[0])
            cells.append(number(points[at - 1][1]) if at and x <= points[-1][0] else "")
        rows.append(cells)
    return Table([axis, *(label for label, _ in curves)], rows)


def _said(curve: Curve) -> str:
    """A curve in words, for screen readers."""
    first, last = curve.points[0][1], curve.points[-1][1]
    low, high = min(p[2] for p in curve.points), max(p[3] for p in curve.points)
    return f"{curve.label}: from {number(first)} to {number(last)}, within {number(low)} and {number(high)}"


def _guide(guide: Guide, low: float, high: float) -> Mark:
    return Mark(WIDTH - RIGHT, round(_y(guide.value, low, high), 1), guide.label)


def _band(points: Sequence[tuple[float, float, float, float]], axis: Axis, low: float, high: float) -> str:
    up = [f"{axis.place(p[0]):.1f} {_y(p[3], low, high):.1f}" for p in points]
    down = [f"{axis.place(p[0]):.1f} {_y(p[2], low, high):.1f}" for p in reversed(points)]
    return f"M{'L'.join(up + down)}Z"


def _range(curves: Sequence[Curve], guides: Sequence[Guide], from_zero: bool) -> tuple[float, float]:
    """The range of the y axis: all curves with a margin; guides far above the curves are left out."""
    low = min(p[2] for c in curves for p in c.points)
    high = max(p[3] for c in curves for p in c.points)
    span = (high if from_zero and low >= 0.0 else high - low) or abs(high) or 1.0
    near = [guide.value for guide in guides if low - 2 * span <= guide.value <= high + 2 * span]
    low, high = min([low, *near]), max([high, *near])
    if low == high:
        low, high = (0.0, 1.0) if low == 0.0 else (low - 0.1 * abs(low), high + 0.1 * abs(high))
    air = 0.06 * (high - low)
    return (0.0 if low >= 0.0 and (from_zero or low < air) else low - air), high + air


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / ((high - low) or 1.0)
    return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def _short(values: Iterable[float]) -> list[float]:
    """Five significant digits keep the page small."""
    return [float(f"{value:.5g}") for value in values]
