# SPDX-License-Identifier: Apache-2.0
"""Group advantages: closed form, degenerate groups, parity with verl."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given

from agpo_core import group_advantages, group_advantages_padded
from tests.core.strategies import INF, NAN, padded, probes, same_bits


def test_closed_form() -> None:
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0])
    index = ["p"] * 4
    std = (1 / 3) ** 0.5
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert torch.allclose(group_advantages(rewards, index), signs * 0.5 / (std + 1e-6))
    assert group_advantages(rewards, index, scale="none").tolist() == (signs * 0.5).tolist()
    assert torch.allclose(group_advantages(rewards, index, scale="dispersion"), signs * 0.5 / std)


@pytest.mark.parametrize(("scale", "expected"), [("std", 0.7 / (1 + 1e-6)), ("none", 0.7), ("dispersion", 0.7)])
def test_group_of_one(scale: str, expected: float) -> None:
    got = group_advantages(torch.tensor([0.7, NAN]), [3, 3], scale=scale)  # type: ignore[arg-type]
    assert got.tolist() == pytest.approx([expected, 0.0])


@pytest.mark.parametrize("scale", ["std", "none", "dispersion"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3.3, 1e20])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_all_equal_is_exactly_zero(scale: str, value: float, size: int) -> None:
    got = group_advantages(torch.full((size,), value), [0] * size, scale=scale)  # type: ignore[arg-type]
    assert got.tolist() == [0.0] * size


def test_invalid_responses_get_zero_and_do_not_count() -> None:
    rewards = torch.tensor([1.0, 0.0, NAN, INF, 9.0, -INF])
    mask = torch.tensor([True, True, True, True, False, True])
    got = group_advantages(rewards, torch.zeros(6).long(), mask)
    clean = group_advantages(torch.tensor([1.0, 0.0]), [0, 0])
    assert got.tolist() == [*clean.tolist(), 0.0, 0.0, 0.0, 0.0]


def test_empty_and_wrong() -> None:
    assert group_advantages(torch.zeros(0), []).shape == (0,)
    assert group_advantages_padded(torch.zeros(3, 0), torch.zeros(3, 0).bool()).shape == (3, 0)
    assert group_advantages(torch.ones(2), [0, 0], torch.zeros(2).bool()).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="scale"):
        group_advantages(torch.zeros(2), [0, 0], scale="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected mask"):
        group_advantages(torch.zeros(2), [0, 0], torch.ones(3).bool())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_type_follows_the_rewards(dtype: torch.dtype) -> None:
    assert group_advantages(torch.tensor([0.0, 1.0]).to(dtype), [0, 0]).dtype == dtype
    assert group_advantages(torch.tensor([0, 1]), [0, 0]).dtype == torch.float32


@given(probes())
def test_padded_bounds_and_zero_mean(groups: list) -> None:
    rewards, _, mask = padded(groups)
    got = group_advantages_padded(rewards, mask)
    assert got.isfinite().all()
    valid = mask & rewards.isfinite()
    assert (got[~valid] == 0).all()
    several = valid.sum(1) > 1
    assert (got.sum(1)[several].abs() < 1e-4).all()


@pytest.mark.parametrize("seed", range(10))
def test_same_bits_in_any_order(seed: int) -> None:
    shuffle = random.Random(seed)
    rewards = torch.rand(200, generator=torch.Generator().manual_seed(seed))
    index = [shuffle.randrange(31) for _ in range(200)]
    order = shuffle.sample(range(200), 200)
    whole = group_advantages(rewards, index)
    assert same_bits(whole[order], group_advantages(rewards[order], [index[i] for i in order]))
    assert same_bits(whole, group_advantages(rewards, torch.tensor(index)))
    member = [i for i in range(200) if index[i] == index[0]]
    assert same_bits(whole[member], group_advantages(rewards[member], [0] * len(member)))


@pytest.mark.parametrize("by_std", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_parity_with_verl(by_std: bool, binary: bool) -> None:
    algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    import numpy as np

    shuffle = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(300, generator=generator)
    rewards = (rewards > 0.5).float() if binary else rewards
    # ragged groups, singletons, one group with all equal
    index = [f"u{shuffle.randrange(60)}" for _ in range(290)] + [f"single{i}" for i in range(5)] + ["same"] * 5
    rewards[-5:] = 1.0
    token_rewards = torch.zeros(300, 7)
    token_rewards[:, -1] = rewards
    mask = torch.ones(300, 7)
    got = group_advantages(rewards, index, scale="std" if by_std else "none")
    for name in ("compute_grpo_outcome_advantage", "compute_grpo_vectorized_outcome_advantage"):
        numbers = np.array([sorted(set(index)).index(label) for label in index])
        theirs, _ = getattr(algos, name)(token_rewards.clone(), mask, numbers, 1e-6, by_std)
        assert torch.allclose(got, theirs[:, 0], rtol=1e-6, atol=1e-6), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    rewards = torch.rand(64, 8)
    mask = torch.ones(64, 8, dtype=torch.bool)
    here = group_advantages_padded(rewards, mask)
    there = group_advantages_padded(rewards.cuda(), mask.cuda())
    assert there.is_cuda and torch.allclose(here, there.cpu(), atol=1e-6)
    index = torch.arange(512) // 8
    flat = group_advantages(rewards.reshape(-1).cuda(), index.cuda())
    assert torch.allclose(here.reshape(-1), flat.cpu(), atol=1e-6)


@pytest.mark.parametrize("scale", ["std", "none", "dispersion"])
def test_rewards_whose_squares_overflow_count_as_infinite(scale: str) -> None:
    rewards = torch.tensor([1e308, 1.0, 0.0, -1e200], dtype=torch.float64)
    got = group_advantages(rewards, [0] * 4, scale=scale)  # type: ignore[arg-type]
    assert got[0] == got[3] == 0.0 and got[1] == -got[2] > 0.0


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 0)])
def test_no_reward_at_all(shape: tuple[int, int]) -> None:
    assert group_advantages_padded(torch.zeros(shape), torch.ones(shape)).shape == shape
