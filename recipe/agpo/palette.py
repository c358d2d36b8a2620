# SPDX-License-Identifier: Apache-2.0
"""The colours of every picture of the project: report, quickstart, evaluation, learning curves, comparison. No imports.

``SERIES`` are six colours for lines. They stay apart for people with any of the three kinds of colour blindness, and on
paper have a contrast of at least 3 (tests/recipe/test_palette.py). A method has the same colour in every picture;
text is never in these colours, and lines are also named where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BLUE, INK, ORANGE, GREEN, PINK, BROWN = range(6)
SERIES = ("#0072b2", "#22303c", "#d55e00", "#009e73", "#c466a8", "#6b3d00")
SERIES_DARK = ("#56a8e9", "#f0ede6", "#f0883e", "#2fd0a0", "#e59ad0", "#a06a28")  # on a dark page, in the same order
DASHES = ("solid", "dashed", "dotted")  # for lines beyond six
GREY, FAINT = "#8d9298", "#d8d4c8"  # lines that are not compared; grids
METHODS = {
    "agpo": BLUE,
    "grpo": INK,
    "baseline": INK,
    "reference": ORANGE,
    "agpo_d": GREEN,
    "agpo_l": PINK,
    "dapo_like": BROWN,
}


# Of the report alone: categories of stacked areas, which lie beside their names, and the page itself. Related things
# share a hue and differ in lightness: blue is less (cooled, tightened), orange is more, grey is none.
PAGE = {
    "paper": ("#f3f1eb", "#111417"),
    "panel": ("#fbfaf6", "#181c20"),
    "ink": ("#1b1d20", "#e7e4dc"),
    "muted": ("#5b5e63", "#9da3a9"),
    "rule": ("#d8d4c8", "#2e343a"),
    "grid": ("#e6e3d9", "#252a30"),
    "ok": ("#006e52", "#57c7a0"),
    "look": ("#8a5a00", "#e3b04b"),
    "bad": ("#b3261e", "#ff8379"),
}
STACKS = {
    # reasons of a decision, in the order of agpo_core.Reason
    "k": (
        ("#d5d2c8", "#3a3f45"),  # off
        ("#7a2e0e", "#8a3d1a"),  # no usable probe
        ("#b4b0a4", "#5b6168"),  # nothing to compare with
        ("#08304d", "#2a6496"),  # at the lower bound
        ("#a34700", "#c2571a"),  # at the upper bound
        ("#8d9298", "#868d94"),  # equal outcomes
        ("#e8833a", "#f0883e"),  # heated
        ("#5aa5d8", "#56a8e9"),  # cooled
        ("#f2b98a", "#f7c08f"),  # widened
        ("#a9d0ee", "#a5d2f5"),  # tightened
        ("#ece9df", "#23282d"),  # as usual
    ),
    # verifier statuses, in the order of rewards/verdict.py: green judged, orange the response's fault, blue not
    "v": (
        ("#bfe0d3", "#2f6654"),
        ("#f2b98a", "#f7c08f"),
        ("#e8833a", "#e8833a"),
        ("#d55e00", "#c2571a"),
        ("#7a2e0e", "#8a3d1a"),
        ("#a9d0ee", "#a5d2f5"),
        ("#5aa5d8", "#56a8e9"),
        ("#0072b2", "#2a7fbd"),
        ("#8d9298", "#868d94"),
        ("#5b5e63", "#5b6168"),
    ),
    # tokens by use; prompts solved
    "t": (("#5aa5d8", "#3f86c2"), ("#0072b2", "#a5d2f5"), ("#d55e00", "#f0883e"), ("#b4b0a4", "#5b6168")),
}


def series(index: int) -> str:
    """The colour of a line by its number; after six they start again."""
    return SERIES[index % len(SERIES)]


def places(methods: Sequence[str]) -> list[int]:
    """Numbers in ``SERIES`` for lines of these methods: each method's own where it is free, else the first free one.

    Lines beyond six get numbers from 6 on; ``number // 6`` tells how to dash them.
    """
    owned = {METHODS[method] for method in methods if method in METHODS}
    taken: list[int] = []
    for method in methods:
        free = [n for n in range(len(methods) + len(SERIES)) if n not in taken]
        own = METHODS.get(method)
        others = [n for n in free if n not in owned]
        taken.append(own if own in free else others[0])
    return taken


def dash(place: int) -> str:
    """matplotlib's line style of a number from :func:`places`."""
    return DASHES[place // len(SERIES) % len(DASHES)]


def plain(axis: Any) -> None:
    """The frame of every picture: two axes and a faint grid, on a matplotlib axis."""
    axis.grid(color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def label_ends(axis: Any, ends: Sequence[tuple[float, float, str, str]], height: float = 0.055) -> None:
    """Write the name of each line beside its end; names that would overlap are moved apart.

    Args:
        axis: of matplotlib; its limits must be final.
        ends: x, y, name and colour of each line's end.
        height: of a name, as a share of the axis.
    """
    transform = axis.transData + axis.transAxes.inverted()
    places = sorted((float(transform.transform((x, y))[1]), i) for i, (x, y, _, _) in enumerate(ends))
    heights = apart([y for y, _ in places], height)
    for (own, i), y in zip(places, heights, strict=True):
        x, _, name, colour = ends[i]
        at = float(transform.transform((x, ends[i][1]))[0])
        axis.plot([at + 0.01, at + 0.035], [own, y], transform=axis.transAxes, color=colour, lw=1, clip_on=False)
        axis.text(at + 0.045, y, name, transform=axis.transAxes, va="center", fontsize=8.5, color=SERIES[INK])


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights, moved as little as possible so that neighbours differ by at least ``least``."""
    groups: list[tuple[float, int]] = []  # centre and size of neighbours that touch
    for height in heights:
        centre, size = height, 1
        while groups and groups[-1][0] + (groups[-1][1] + size) * least / 2 > centre:
            before, count = groups.pop()
            centre, size = (before * count + centre * size) / (count + size), count + size
        groups.append((centre, size))
    return [centre + (i - (size - 1) / 2) * least for centre, size in groups for i in range(size)]
