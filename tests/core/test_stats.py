# SPDX-License-Identifier: Apache-2.0
"""Group statistics: closed forms, bounds, and the same bits in any order and any batch."""

from __future__ import annotations

import math
import random
import statistics as python_statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agpo_core import dispersion, max_dispersion, pad_groups, skewness
from tests.core.strategies import INF, NAN, padded, probes, same_bits

KINDS = ("std", "mad", "iqr")


def one(values: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    row = torch.tensor([values], dtype=torch.float64)
    return row, torch.ones_like(row, dtype=torch.bool)


@pytest.mark.parametrize("right", range(9))
def test_std_of_binary_outcomes(right: int) -> None:
    p = right / 8
    got = dispersion(*one([1.0] * right + [0.0] * (8 - right)))
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(math.sqrt(p * (1 - p) * 8 / 7), abs=1e-15)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 100.0], "mad", 1.4826),
        ([1.0, 2.0, 3.0, 4.0], "mad", 1.4826),  # median 2.5, deviations 0.5 0.5 1.5 1.5
        ([1.0, 2.0, 3.0, 4.0, 5.0], "iqr", 2 / 1.349),
        ([0.0, 1.0, 2.0, 3.0], "iqr", 1.5 / 1.349),
        ([0.0] * 4 + [1.0] * 4, "iqr", 1 / 1.349),
        ([0.0] * 7 + [1.0], "iqr", 0.0),
        ([0.0] * 5 + [1.0] * 3, "mad", 0.0),
    ],
)
def test_robust_dispersion(values: list[float], kind: str, expected: float) -> None:
    assert dispersion(*one(values), kind).item() == pytest.approx(expected, abs=1e-14)


def test_skewness_adjusted_is_the_standard_g1() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    p = 1 / 8  # Bernoulli: g1 = (1-2p)/sqrt(p(1-p))
    expected = math.sqrt(8 * 7) / 6 * (1 - 2 * p) / math.sqrt(p * (1 - p))
    assert skewness(*one(values)).item() == pytest.approx(expected, rel=1e-14)
    assert skewness(*one([-v for v in values])).item() == pytest.approx(-expected, rel=1e-14)


@pytest.mark.parametrize(("n", "ratio"), [(8, 0.8185), (4, 0.6495)])
def test_skewness_reference_is_a_fraction_of_the_standard_one(n: int, ratio: float) -> None:
    row = one([0.0] * (n - 1) + [1.0])
    assert (skewness(*row, "reference") / skewness(*row)).item() == pytest.approx(ratio, abs=1e-4)


def test_skewness_degenerate() -> None:
    assert skewness(*one([0.0, 1.0])).item() == 0.0
    assert skewness(*one([0.3] * 8)).item() == 0.0
    assert skewness(*one([0.0, 1e-7, 2e-7, 9e-7]), "reference").item() == 0.0
    assert skewness(*one([0.0] * 399 + [1.0]), "reference").item() == 10.0
    assert skewness(*one([1e-300, 0.0, 0.0])).item() == 0.0  # the variance underflows


@pytest.mark.parametrize("values", [[], [0.7], [0.1, 0.1, 0.1], [NAN, INF, 0.4], [0.1] * 7])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_dispersion(values: list[float], kind: str) -> None:
    assert dispersion(*one(values), kind).item() == 0.0
    assert skewness(*one(values)).item() == 0.0


def test_masked_and_non_finite_members_do_not_count() -> None:
    values = torch.tensor([[0.0, 1.0, NAN, 5.0, -INF, 1.0]])
    mask = torch.tensor([[True, True, True, False, True, True]])
    plain = torch.tensor([[0.0, 1.0, 1.0]])
    for kind in KINDS:
        assert same_bits(dispersion(values, mask, kind), dispersion(plain, plain >= 0, kind))
    assert same_bits(skewness(values, mask), skewness(plain, plain >= 0))


def test_no_prompt_and_no_member() -> None:
    for shape, prompts in (((0, 4), 0), ((3, 0), 3)):
        values = torch.zeros(shape)
        for kind in KINDS:
            assert dispersion(values, values.bool(), kind).shape == (prompts,)
        assert skewness(values, values.bool()).tolist() == [0.0] * prompts


@pytest.mark.parametrize("n", range(0, 12))
@pytest.mark.parametrize("kind", KINDS)
def test_max_dispersion_is_reached(n: int, kind: str) -> None:
    """Random search over corners and midpoints finds the bound and nothing above it."""
    grid = [
        [0.0] * low + [0.5] * middle + [1.0] * (n - low - middle)
        for low in range(n + 1)
        for middle in (0, 1, 2)
        if low + middle <= n
    ]
    best = max(dispersion(*one(values), kind).item() for values in grid)
    assert max_dispersion(torch.tensor([n]), kind).item() == pytest.approx(best, abs=1e-14)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_bounds_and_agreement_with_the_standard_library(values: list[float]) -> None:
    row = one(values)
    assert dispersion(*row).item() == pytest.approx(python_statistics.stdev(values), rel=1e-9, abs=1e-9)
    for kind in KINDS:
        assert 0 <= dispersion(*row, kind).item() <= max_dispersion(torch.tensor([len(values)]), kind).item() + 1e-12


@given(probes(), st.randoms(use_true_random=False), st.integers(0, 5))
def test_same_bits_in_any_order_and_any_batch(groups: list, shuffle: random.Random, extra: int) -> None:
    values, _, mask = padded(groups)
    width = values.shape[1]
    order = list(range(len(groups)))
    shuffle.shuffle(order)
    mixed = [shuffle.sample(groups[row], len(groups[row])) for row in order]
    other_values, _, other_mask = padded(mixed, width + extra)
    for kind in KINDS:
        whole = dispersion(values, mask, kind)
        assert same_bits(whole[order], dispersion(other_values, other_mask, kind))
        alone = torch.cat([dispersion(values[i : i + 1], mask[i : i + 1], kind) for i in range(len(groups))])
        assert same_bits(whole, alone)
    for name in ("adjusted", "reference"):
        assert same_bits(skewness(values, mask, name)[order], skewness(other_values, other_mask, name))


def test_large_batch_has_the_bits_of_single_prompts() -> None:
    """Wide enough for vectorised and threaded loops."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(1031, 16, generator=generator)
    mask = torch.rand(1031, 16, generator=generator) < 0.9
    whole = torch.stack([dispersion(values, mask), skewness(values, mask), skewness(values, mask, "reference")])
    for row in range(0, 1031, 37):
        v, m = values[row : row + 1], mask[row : row + 1]
        alone = torch.stack([dispersion(v, m), skewness(v, m), skewness(v, m, "reference")])
        assert same_bits(whole[:, row : row + 1].contiguous(), alone)


@pytest.mark.parametrize("index", [["b", "a", "b", "c", "a"], torch.tensor([7, 2, 7, 9, 2])], ids=["labels", "tensor"])
def test_pad_groups(index: object) -> None:
    values, mask, (row, column) = pad_groups(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), index)  # type: ignore[arg-type]
    assert values.tolist() == [[1, 3], [2, 5], [4, 0]]
    assert mask.tolist() == [[True, True], [True, True], [True, False]]
    assert values[row, column].tolist() == [1, 2, 3, 4, 5]


def test_pad_groups_empty_and_wrong() -> None:
    values, mask, (row, column) = pad_groups(torch.zeros(0), [])
    assert values.shape == mask.shape == (0, 0)
    assert values[row, column].shape == (0,)
    with pytest.raises(ValueError, match="expected values and index"):
        pad_groups(torch.zeros(2), ["a"])
    with pytest.raises(ValueError, match="expected values and mask"):
        dispersion(torch.zeros(2, 3), torch.zeros(2, 2).bool())
