# SPDX-License-Identifier: Apache-2.0
"""The colours stay apart for everybody, and names beside lines do not overlap."""

from __future__ import annotations

import itertools

import numpy
import pytest

from recipe.agpo.palette import METHODS, SERIES, SERIES_DARK, apart, dash, places

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": numpy.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour: str, kind: str) -> numpy.ndarray:
    """CIELAB of ``#rrggbb`` as a person sees it."""
    rgb = numpy.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = numpy.clip(numpy.asarray(BLINDNESS[kind]) @ linear, 0.0, 1.0)
    x, y, z = (TO_XYZ @ seen) / [0.95047, 1.0, 1.08883]
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return numpy.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def least_difference(colours: tuple[str, ...], kind: str) -> float:
    seen = [lab(colour, kind) for colour in colours]
    return min(float(numpy.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("colours", [SERIES, SERIES_DARK], ids=["light", "dark"])
def test_lines_stay_apart_with_every_kind_of_colour_blindness(colours: tuple[str, ...], kind: str) -> None:
    assert least_difference(colours, kind) > 12.0


def test_red_and_green_would_not() -> None:
    assert (
        least_difference(("#d9480f", "#5c940d"), "none")
        > 40.0
        > 25.0
        > least_difference(("#d9480f", "#5c940d"), "deuteranopia")
    )


def test_a_method_keeps_its_colour() -> None:
    assert places(["grpo", "agpo"]) == [METHODS["grpo"], METHODS["agpo"]] == [1, 0]
    assert places(["agpo", "agpo", "grpo", "other"]) == [0, 2, 1, 3], "a second run gets a colour that nobody owns"
    many = places(["x"] * 20)
    assert many == list(range(20)) and [dash(n) for n in (0, 6, 12, 18)] == ["solid", "dashed", "dotted", "solid"]


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.5, 0.52, 0.9], [0.0, 0.46, 0.56, 0.9]),
        ([0.4, 0.48, 0.56], [0.38, 0.48, 0.58]),
    ],
)
def test_names_are_moved_apart_and_no_further(heights: list[float], expected: list[float]) -> None:
    assert apart(heights, 0.1) == pytest.approx(expected)
