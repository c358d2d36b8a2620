# SPDX-License-Identifier: Apache-2.0
"""Allocation: the total is kept exactly, open prompts get more, and no other split has less variance."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agpo_core import AllocationConfig, allocate, expected_variance

CONFIG = AllocationConfig(enabled=True)
SIZES = {"probe_size": 4, "group_size": 8}


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    [(0, 0, 0.25 / 2), (2, 4, 2.5 * 2.5 / 30), (0, 4, 0.5 * 4.5 / 30), (4, 4, 4.5 * 0.5 / 30), (1.5, 3, 4 / 20)],
)
def test_expected_variance_in_closed_form(right: float, count: int, expected: float) -> None:
    """Mean of p(1-p) under Beta(a, b): ab/((a+b)(a+b+1))."""
    assert expected_variance(right, count, 0.5) == pytest.approx(expected)


def test_open_prompts_get_more_than_decided_ones() -> None:
    extra = allocate([0, 2, 4, 1], [4, 4, 4, 4], config=CONFIG, **SIZES)
    assert sum(extra) == 16
    assert extra == [2, 6, 2, 6], "in proportion to the square roots of 0.075, 0.208, 0.075, 0.175"


def test_equal_probes_are_plain_grpo() -> None:
    assert allocate([1, 1, 1], [4, 4, 4], config=CONFIG, **SIZES) == [4, 4, 4]


def test_a_failed_probe_counts_as_unknown_and_a_cap_holds() -> None:
    extra = allocate([0, 0, 0, 0], [0, 4, 4, 4], config=CONFIG, **SIZES)
    assert extra[0] > max(extra[1:]) and sum(extra) == 16
    capped = allocate([0, 0, 0, 0], [0, 4, 4, 4], config=AllocationConfig(enabled=True, max_factor=1.125), **SIZES)
    assert capped[0] == 9 - 4 and sum(capped) == 16
    tight = AllocationConfig(enabled=True, max_factor=1.0)
    assert allocate([0, 2, 4], [4, 4, 4], config=tight, **SIZES) == [4, 4, 4]


@settings(max_examples=60, deadline=None)
@given(
    probes=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    rest=st.integers(0, 2),
    factor=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
)
def test_no_other_split_of_the_same_total_has_less_variance(probes: list[int], rest: int, factor: float) -> None:
    config = AllocationConfig(enabled=True, max_factor=factor)
    count = [2] * len(probes)
    extra = allocate(probes, count, probe_size=2, group_size=2 + rest, config=config)
    most = int(factor * (2 + rest)) - 2
    assert sum(extra) == rest * len(probes) and all(0 <= n <= most for n in extra)
    variance = [expected_variance(k, 2, config.prior) for k in probes]

    def total(split: tuple[int, ...]) -> float:
        return sum(v / (2 + n) for v, n in zip(variance, split, strict=True))

    splits = itertools.product(range(most + 1), repeat=len(probes))
    best = min(total(s) for s in splits if sum(s) == sum(extra))
    assert total(tuple(extra)) == pytest.approx(best)


@given(probes=st.lists(st.integers(0, 4), min_size=1, max_size=8), seed=st.randoms())
def test_the_order_of_prompts_changes_ties_only(probes: list[int], seed: object) -> None:
    count = [4] * len(probes)
    extra = allocate(probes, count, config=CONFIG, **SIZES)
    order = list(range(len(probes)))
    seed.shuffle(order)  # type: ignore[attr-defined]
    shuffled = allocate([probes[i] for i in order], count, config=CONFIG, **SIZES)
    for k in set(probes):
        mine = [extra[i] for i in range(len(probes)) if probes[i] == k]
        other = [shuffled[j] for j, i in enumerate(order) if probes[i] == k]
        assert sum(mine) - sum(other) in range(-len(mine), len(mine) + 1) and max(mine) - min(mine) <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"right": [1], "count": [4, 4]}, "1 sums of outcomes for 2 counts"),
        ({"right": [5], "count": [4]}, "right=5"),
        ({"right": [1], "count": [4], "probe_size": 9}, "probe_size=9"),
        ({"right": [1], "count": [4], "probe_size": 0}, "probe_size=0"),
    ],
)
def test_bad_input_is_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        allocate(**({"right": [], "count": [], "config": CONFIG, **SIZES} | arguments))
