# SPDX-License-Identifier: Apache-2.0
"""Running statistics: bias correction, order, drops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agpo_core import RunningStat
from tests.core.strategies import INF, NAN

numbers = st.floats(-1e6, 1e6)


def test_empty() -> None:
    stat = RunningStat.empty(0.1)
    assert (stat.updates, stat.mean, stat.std) == (0, 0.0, 0.0)
    assert stat.update([]) is stat
    assert stat.update([NAN, INF, -INF]) is stat


def test_first_update_is_unbiased() -> None:
    stat = RunningStat.empty(0.1).update([1.0, 3.0])
    assert stat.mean == pytest.approx(2.0, rel=1e-15)
    assert stat.std == pytest.approx(1.0, rel=1e-12)
    assert stat.updates == 1


def test_second_update_closed_form() -> None:
    stat = RunningStat.empty(0.25).update([4.0]).update([8.0, NAN])
    # weights: 0.75*0.25 for the first step, 0.25 for the second
    mean = (0.1875 * 4 + 0.25 * 8) / 0.4375
    square = (0.1875 * 16 + 0.25 * 64) / 0.4375
    assert stat.mean == pytest.approx(mean, rel=1e-15)
    assert stat.std == pytest.approx(math.sqrt(square - mean * mean), rel=1e-12)


def test_zero_is_a_value() -> None:
    stat = RunningStat.empty(0.1).update([0.0]).update([1.0])
    assert stat.mean == pytest.approx(0.1 / 0.19)


@given(st.lists(numbers, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_order_free(values: list[float], shuffle) -> None:  # type: ignore[no-untyped-def]
    stat = RunningStat.empty(0.3).update([1.5, 2.5])
    assert stat.update(values) == stat.update(shuffle.sample(values, len(values)))


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=6))
def test_mean_stays_within_what_was_seen(steps: list[list[float]]) -> None:
    stat = RunningStat.empty(0.1)
    for values in steps:
        stat = stat.update(values)
    seen = [value for values in steps for value in values]
    assert min(seen) - 1e-6 <= stat.mean <= max(seen) + 1e-6
    assert RunningStat.from_dict(stat.to_dict()) == stat


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.1, NAN])
def test_decay_range(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_weight"):
        RunningStat.empty(decay)
