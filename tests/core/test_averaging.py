# SPDX-License-Identifier: Apache-2.0
"""The average of the weights: closed forms, exact copies and restarts, and weights that nobody asked to change."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agpo_core import AverageConfig, AverageError, WeightAverage, averaging_rate
from tests.core.strategies import same_bits

SEQUENCES = st.lists(st.floats(-10.0, 10.0, width=32, allow_subnormal=False), min_size=1, max_size=30)


def averaged(values: list[float], **settings: Any) -> float:
    average = WeightAverage(**settings)
    for value in values:
        average.update([torch.tensor([value], dtype=torch.float64)])
    return float(average.tensors[0])


def steps(count: int, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Weights of a run: two tensors after each of ``count`` updates."""
    generator = torch.Generator().manual_seed(count)
    return [
        [torch.randn(3, 2, generator=generator).to(dtype), torch.randn(4, generator=generator).to(dtype)]
        for _ in range(count)
    ]


@given(SEQUENCES)
def test_with_gamma_0_it_is_the_mean(values: list[float]) -> None:
    assert averaged(values, gamma=0.0) == pytest.approx(sum(values) / len(values), abs=1e-9)


@given(SEQUENCES, st.integers(1, 6))
def test_with_a_whole_gamma_an_update_counts_as_its_rising_factorial(values: list[float], gamma: int) -> None:
    shares = [math.prod(range(i, i + gamma)) for i in range(1, len(values) + 1)]
    expected = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
    assert averaged(values, gamma=float(gamma)) == pytest.approx(expected, abs=1e-9)


def test_three_updates_by_hand() -> None:
    # Rates 1, 5/6, 5/7: 2 -> 2 + 5/6 (8 - 2) = 7 -> 7 + 5/7 (0 - 7) = 2.
    assert averaged([2.0, 8.0, 0.0]) == pytest.approx(2.0)


@given(SEQUENCES, st.floats(0.0, 20.0), st.one_of(st.none(), st.integers(1, 20)))
def test_it_stays_between_the_extremes(values: list[float], gamma: float, horizon: int | None) -> None:
    assert min(values) - 1e-9 <= averaged(values, gamma=gamma, horizon=horizon) <= max(values) + 1e-9


@given(st.integers(1, 10**6), st.floats(0.0, 100.0), st.one_of(st.none(), st.integers(1, 10**6)))
def test_the_rate_falls_from_1_to_the_horizon(update: int, gamma: float, horizon: int | None) -> None:
    rate = averaging_rate(update, gamma, horizon)
    assert averaging_rate(1, gamma, horizon) == 1.0
    assert averaging_rate(update + 1, gamma, horizon) <= rate <= 1.0
    assert rate >= (0.0 if horizon is None else 1.0 / horizon)


def test_after_the_horizon_the_average_is_exponential() -> None:
    values = [float(i % 7) for i in range(40)]
    expected = averaged(values[:30], horizon=5)  # the polynomial rate is below 1/5 from update 21 on
    for value in values[30:]:
        expected += (value - expected) / 5
    assert averaged(values, horizon=5) == pytest.approx(expected)
    assert averaged(values, horizon=1) == values[-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_first_update_copies_exactly_into_memory_of_its_own(dtype: torch.dtype) -> None:
    weights = steps(1, dtype)[0]
    average = WeightAverage()
    assert average.tensors == ()
    average.update(iter(weights))
    for kept, weight in zip(average.tensors, weights, strict=True):
        assert kept.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(kept, weight.to(kept.dtype)) and kept.data_ptr() != weight.data_ptr()
        weight.zero_()
        assert kept.count_nonzero() == kept.numel()


def test_small_changes_of_bfloat16_weights_are_not_lost() -> None:
    low, high = torch.tensor([1.0]), torch.tensor([1.0 + 1 / 128])  # neighbours in bfloat16
    average = WeightAverage(gamma=0.0)
    for i in range(512):
        average.update([(high if i % 4 == 0 else low).bfloat16()])
    assert float(average.tensors[0]) == pytest.approx(1.0 + 1 / 512, abs=1e-6)


def test_updates_change_no_weight_and_need_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    average = WeightAverage()
    for _ in range(3):
        average.update([weight])
    assert torch.equal(weight, torch.ones(3)) and weight.grad is None
    assert not average.tensors[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_swapped_weights_come_back_bit_for_bit_even_after_an_exception(dtype: torch.dtype) -> None:
    average = WeightAverage()
    for weights in steps(4, dtype):
        average.update(weights)
    before, kept = [w.clone() for w in weights], [t.clone() for t in average.tensors]
    with pytest.raises(KeyboardInterrupt), average.swapped(weights):
        for weight, own, mean in zip(weights, before, kept, strict=True):
            assert torch.equal(weight, mean.to(dtype)) and not torch.equal(weight, own)
        with pytest.raises(RuntimeError, match="in the place of the weights"):
            average.update(weights)
        raise KeyboardInterrupt
    assert all(torch.equal(weight, own) for weight, own in zip(weights, before, strict=True))
    assert all(same_bits(tensor, own) for tensor, own in zip(average.tensors, kept, strict=True))


def test_a_tensor_that_is_passed_twice_comes_back_as_it_was() -> None:
    weight = torch.ones(2)
    average = WeightAverage(gamma=0.0)
    average.update([weight, weight])
    weight.fill_(3.0)
    average.update([weight, weight])
    with average.swapped([weight, weight]):
        assert weight.tolist() == [2.0, 2.0]
    assert weight.tolist() == [3.0, 3.0] and [t.tolist() for t in average.tensors] == [[2.0, 2.0]] * 2


def test_weights_that_cannot_be_written_leave_the_others_as_they_were() -> None:
    weights = [torch.ones(2), torch.ones(1).expand(3)]
    average = WeightAverage(gamma=0.0)
    average.update(weights)
    weights[0].fill_(3.0)
    average.update(weights)
    with pytest.raises(RuntimeError, match="memory location"):
        average.swap_in(weights)
    assert weights[0].tolist() == [3.0, 3.0] and average.tensors[0].tolist() == [2.0, 2.0]
    with pytest.raises(RuntimeError, match="call `swap_in` first"):
        average.swap_out(weights)


def test_before_the_first_update_nothing_is_swapped_or_copied() -> None:
    weight, average = torch.ones(2), WeightAverage()
    average.copy_to([weight])
    with average.swapped([weight]):
        assert weight.tolist() == [1.0, 1.0]
    assert average.count == 0


def test_copy_to_rounds_to_the_weights_type() -> None:
    average = WeightAverage(gamma=0.0)
    for value in (1.0, 2.0, 2.0):
        average.update([torch.tensor([value])])
    target = torch.zeros(1, dtype=torch.bfloat16)
    average.copy_to([target])
    assert target.item() == torch.tensor(5 / 3).bfloat16().item()


@given(st.integers(0, 6), st.integers(1, 5))
def test_a_restart_continues_bit_for_bit(before: int, after: int) -> None:
    whole, first = WeightAverage(gamma=3.0, horizon=4), WeightAverage(gamma=3.0, horizon=4)
    run = steps(before + after)
    for weights in run[:before]:
        whole.update(weights)
        first.update(weights)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = WeightAverage(gamma=3.0, horizon=4)
    second.load_state_dict(torch.load(file, weights_only=True), run[0] if before else None)
    for weights in run[before:]:
        whole.update(weights)
        second.update(weights)
    assert second.count == before + after
    assert all(same_bits(a, b) for a, b in zip(whole.tensors, second.tensors, strict=True))


def test_a_state_is_a_copy() -> None:
    average = WeightAverage()
    average.update([torch.ones(2)])
    state = average.state_dict()
    average.update([torch.zeros(2)])
    assert state["tensors"][0].tolist() == [1.0, 1.0]
    other = WeightAverage()
    other.load_state_dict(state)
    state["tensors"][0].zero_()
    assert other.tensors[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version=2"),
        ({"count": -1}, "count=-1"),
        ({"count": True}, "count=True"),
        ({"count": 0}, "count=0 with 1 tensors"),
        ({"tensors": None}, "tensors=NoneType"),
        ({"tensors": [torch.ones(2, dtype=torch.bfloat16)]}, "must be float32 or float64"),
        ({"tensors": [torch.ones(2, dtype=torch.int64)]}, "torch.int64"),
        ({"tensors": [torch.ones(3)]}, r"tensor 0 has shape \[2\], and the average has \[3\]"),
        ({"tensors": [torch.ones(2)] * 2}, "1 tensors, and it was begun with 2"),
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(change: dict[str, Any], words: str) -> None:
    average = WeightAverage()
    average.update([torch.ones(2)])
    state = average.state_dict() | change
    with pytest.raises(AverageError, match=words):
        average.load_state_dict(state, [torch.ones(2)])
    assert average.count == 1 and average.tensors[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([torch.ones(3)], r"tensor 0 has shape \[3\]"),
        ([], "0 tensors, and it was begun with 1"),
        ([torch.ones(2, dtype=torch.int64)], "torch.int64: only floating-point"),
        ([[1.0, 2.0]], "item 0 is list"),
    ],
)
def test_other_tensors_are_refused_in_words(weights: list[Any], words: str) -> None:
    average = WeightAverage()
    average.update([torch.ones(2)])
    for refused in (average.update, average.copy_to, lambda given: average.swapped(given).__enter__()):
        with pytest.raises(AverageError, match=words):
            refused(weights)
    assert average.count == 1


@pytest.mark.parametrize(("settings", "words"), [({"gamma": -1.0}, "gamma=-1"), ({"horizon": 0}, "horizon=0")])
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WeightAverage(**settings)
    with pytest.raises(ValueError, match="update=0"):
        averaging_rate(0)


def test_the_section_says_where_it_is_kept() -> None:
    assert WeightAverage.from_config(AverageConfig(offload=True), "meta").device == torch.device("cpu")
    assert WeightAverage.from_config(AverageConfig(), "meta").device == torch.device("meta")
    made = WeightAverage.from_config(AverageConfig(gamma=2.0, horizon=9))
    assert (made.gamma, made.horizon, made.device) == (2.0, 9, None)
