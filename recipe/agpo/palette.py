# SPDX-License-Identifier: Apache-2.0
"""The colours of every picture of the project: report, quickstart, evaluation, learning curves, comparison. No imports.

``SERIES`` are six colours for lines. They stay apart for people with any of the three kinds of colour blindness, and on
paper have a contrast of at least 3 (tests/recipe/test_palette.py). A method has the same colour in every picture;
text is never in these colours, and lines are also named where they end.
"""

from __future__ import annotations

from collections.abc import Sequence

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
