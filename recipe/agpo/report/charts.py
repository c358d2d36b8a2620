# SPDX-License-Identifier: Apache-2.0
"""Panels as inline SVG: lines with bands, stacked areas, histograms. Readable without a script.

Geometry is in units of the view box, which is about a pixel on a phone and on a desktop screen alike. Data for the
cursor (``page.js``) stand in ``data-curves`` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from recipe.agpo.report.curves import Curve, thin
from recipe.agpo.report.read import Series
from recipe.agpo.report.text import compact, escape, number, ticks

WIDTH, HEIGHT = 340, 164
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 22
BINS = 28


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
) -> str:
    """A panel of curves. ``missing`` is shown if there is none; ``bounds`` fixes the y axis."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return empty_panel(title, unit, missing)
    readable = [curve for curve in curves if curve.read]
    reads = "".join(_readout(c.style, c.mark, c.points[-1][1], i) for i, c in enumerate(readable))
    said = "; ".join(_said(curve) for curve in readable)
    curves = [replace(curve, points=thin(curve.points)) for curve in curves]
    low, high = bounds or _range(curves, guides, from_zero)
    marks = "".join(_guide(guide, low, high) for guide in guides if low <= guide.value <= high)
    drawn = "".join(_curve(curve, axis, low, high) for curve in curves)
    data = [{"x": _short(p[0] for p in c.points), "y": _short(p[1] for p in c.points)} for c in curves if c.read]
    return _figure(title, unit, reads, _frame(axis, low, high) + marks + drawn, axis, data, said)


def stack_panel(
    title: str, unit: str, layers: Mapping[str, Series], styles: Mapping[str, str], axis: Axis, *, missing: str = ""
) -> str:
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
    drawn, below = "", [0.0] * len(xs)
    for name, top in tops.items():
        band = [(x, (lo + up) / 2, lo, up) for x, lo, up in zip(xs, below, top, strict=True)]
        drawn += f'<path class="layer {styles[name]}" d="{_band(band, axis, 0.0, high)}"/>'
        below = top
    last = [(name, points[-1][1]) for name, points in layers.items()]
    reads = "".join(_readout(styles[name], name.replace("_", " "), value, i) for i, (name, value) in enumerate(last))
    data = [{"x": _short(xs), "y": _short(y for _, y in points)} for points in layers.values()]
    said = "last: " + ", ".join(f"{name} {number(value)}" for name, value in last)
    return _figure(title, unit, reads, drawn + _frame(axis, 0.0, high), axis, data, said, kind="stack")


def histogram_panel(
    title: str, unit: str, values: Sequence[float], style: str, *, low: float, high: float, missing: str = ""
) -> str:
    """How values spread over [low, high]; values outside count at the nearest end."""
    if not values:
        return empty_panel(title, unit, missing)
    span = (high - low) or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, max(0, int((value - low) / span * BINS)))] += 1
    axis, top = Axis("value", low, low + span), max(counts) / len(values)
    wide = (WIDTH - LEFT - RIGHT) / BINS
    bars = "".join(
        f'<rect class="bar {style}" x="{LEFT + i * wide + 0.5:.1f}" width="{wide - 1:.1f}" '
        f'y="{_y(n / len(values), 0.0, top):.1f}" height="{HEIGHT - BOTTOM - _y(n / len(values), 0.0, top):.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    reads = _readout(style, "median", middle, 0)
    said = f"{len(values)} values from {number(ordered[0])} to {number(ordered[-1])}, median {number(middle)}"
    return _figure(title, unit, reads, _frame(axis, 0.0, top) + bars, axis, [], said, kind="histogram")


def empty_panel(title: str, unit: str, missing: str) -> str:
    """A panel without data, which says what was not logged."""
    return (
        f'<figure class="panel empty"><figcaption><span class="title">{escape(title)}</span>'
        f'<span class="unit">{escape(unit)}</span></figcaption><p>Not in the log: {escape(missing)}.</p></figure>'
    )


def _figure(
    title: str,
    unit: str,
    reads: str,
    body: str,
    axis: Axis,
    data: list[dict[str, list[float]]],
    said: str,
    kind: str = "line",
) -> str:
    curves = escape(json.dumps(data, separators=(",", ":")))
    cursor = f'<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>' if data else ""
    return (
        f'<figure class="panel {kind}" data-axis="{axis.name}" data-low="{axis.low:g}" data-high="{axis.high:g}" '
        f'data-curves="{curves}"><figcaption><span class="title">{escape(title)}</span>'
        f'<span class="unit">{escape(unit)}</span><span class="at"></span>'
        f'<span class="reads">{reads}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}. {said}")}">'
        f"{body}{cursor}</svg></figure>"
    )


def _readout(style: str, label: str, value: float, index: int) -> str:
    """A value above the panel."""
    name = f'<span class="label">{escape(label)}</span> ' if label else ""
    return f'<span class="read {style}"><i></i>{name}<b data-read="{index}">{number(value)}</b></span>'


def _frame(axis: Axis, low: float, high: float) -> str:
    """Grid lines and the numbers at both axes."""
    out = []
    for value in ticks(low, high):
        y = _y(value, low, high)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.8:.1f}" text-anchor="end">{compact(value)}</text>')
    for value in ticks(axis.low, axis.high, 5):
        x = axis.place(value)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        out.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 3}"/>')
        place = min(x, WIDTH - 1) if anchor == "middle" else WIDTH - 1
        where = f'x="{place:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}"'
        out.append(f'<text class="tick" {where}>{compact(value)}</text>')
    return "".join(out)


def _said(curve: Curve) -> str:
    """A curve in words, for screen readers."""
    first, last = curve.points[0][1], curve.points[-1][1]
    low, high = min(p[2] for p in curve.points), max(p[3] for p in curve.points)
    return f"{curve.label}: from {number(first)} to {number(last)}, within {number(low)} and {number(high)}"


def _guide(guide: Guide, low: float, high: float) -> str:
    y = _y(guide.value, low, high)
    above = y - 4 if y > TOP + 14 else y + 12
    return (
        f'<line class="guide" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="guide" x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">{escape(guide.label)}</text>'
    )


def _curve(curve: Curve, axis: Axis, low: float, high: float) -> str:
    out = ""
    if any(p[2] < p[3] for p in curve.points):
        out += f'<path class="band {curve.style}" d="{_band(curve.points, axis, low, high)}"/>'
    if curve.line:
        places = [f"{axis.place(p[0]):.1f} {_y(p[1], low, high):.1f}" for p in curve.points]
        out += f'<path class="line {curve.style}" d="M{"L".join(places)}"/>'
        if len(places) <= 12:  # few points, such as validations, are marked one by one
            dots = (place.split() for place in places)
            out += "".join(f'<circle class="dot {curve.style}" cx="{x}" cy="{y}" r="2.6"/>' for x, y in dots)
    return out


def _band(points: Sequence[tuple[float, float, float, float]], axis: Axis, low: float, high: float) -> str:
    up = [f"{axis.place(p[0]):.1f} {_y(p[3], low, high):.1f}" for p in points]
    down = [f"{axis.place(p[0]):.1f} {_y(p[2], low, high):.1f}" for p in reversed(points)]
    return f"M{'L'.join(up + down)}Z"


def _range(curves: Sequence[Curve], guides: Sequence[Guide], from_zero: bool) -> tuple[float, float]:
    """The range of the y axis: all curves with a margin; guides far above the curves are left out."""
    low = min(p[2] for c in curves for p in c.points)
    high = max(p[3] for c in curves for p in c.points)
    span = (high - low) or abs(high) or 1.0
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
