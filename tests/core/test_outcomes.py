# SPDX-License-Identifier: Apache-2.0
"""Zero-variance rules, the outcome gate and the length reward, in closed form and as properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agpo_core import AdvantageConfig, LengthConfig, group_advantages, response_advantages

NO_LENGTH = LengthConfig()


def shaped(
    outcomes: list[float],
    groups: list[int],
    *,
    rewards: list[float] | None = None,
    lengths: list[int] | None = None,
    truncated: list[bool] | None = None,
    mask: list[bool] | None = None,
    length: LengthConfig = NO_LENGTH,
    **advantage: Any,
) -> Any:
    n = len(outcomes)
    return response_advantages(
        torch.tensor(rewards if rewards is not None else outcomes, dtype=torch.float64),
        torch.tensor(outcomes, dtype=torch.float64),
        torch.tensor(groups),
        torch.tensor(mask or [True] * n),
        torch.tensor(lengths or [10] * n),
        torch.tensor(truncated or [False] * n),
        advantage=AdvantageConfig(**advantage),
        length=length,
    )


MIXED, RIGHT, WRONG, HALF = [1.0, 0.0, 0.0, 1.0], [1.0] * 4, [0.0] * 4, [0.5] * 4
ALL = MIXED + RIGHT + WRONG + HALF
GROUPS = [g for g in range(4) for _ in range(4)]


@pytest.mark.parametrize(
    ("rule", "values", "stays"),
    [
        ("keep", [0, 0, 0], [True, True, True]),
        ("signed", [1, -1, 0], [True, True, True]),
        ("mask", [0, 0, 0], [False, False, False]),
        ("signed_mask", [1, -1, 0], [True, True, False]),
    ],
)
def test_zero_variance_rules(rule: str, values: list[int], stays: list[bool]) -> None:
    """All right, all wrong, and all at neither bound of what is attainable."""
    out = shaped(ALL, GROUPS, zero_variance=rule)
    plain = group_advantages(torch.tensor(ALL, dtype=torch.float64), torch.tensor(GROUPS))
    assert torch.equal(out.advantages[:4], plain[:4]), "a mixed group is GRPO's"
    assert out.advantages[4:].tolist() == [v for v in values for _ in range(4)]
    assert out.in_loss.tolist() == [True] * 4 + [s for s in stays for _ in range(4)]
    assert out.zero_variance.tolist() == [False] * 4 + [True] * 12


def test_bounds_other_than_0_and_1() -> None:
    out = shaped([-1.0, -1.0, 2.0, 2.0], [0, 0, 1, 1], zero_variance="signed", outcome_min=-1.0, outcome_max=2.0)
    assert out.advantages.tolist() == [-1, -1, 1, 1]


def test_a_shaped_reward_gives_a_wrong_group_no_gradient_unless_the_gate_is_off() -> None:
    """The phantom advantage: the least long of four wrong answers would be reinforced."""
    rewards = [0.0, 0.05, 0.1, 0.2]
    gated = shaped(WRONG, [0] * 4, rewards=rewards)
    assert gated.advantages.tolist() == [0.0] * 4
    phantom = shaped(WRONG, [0] * 4, rewards=rewards, outcome_gate=False)
    assert phantom.advantages[3] > 1.0, "normalised by its tiny deviation it is as large as a right answer's"
    mixed = shaped([1.0, 0.0], [0, 0], rewards=[1.2, 0.1])
    assert mixed.advantages.tolist() == group_advantages(torch.tensor([1.2, 0.1], dtype=torch.float64), [0, 0]).tolist()


def test_masked_and_failed_members_decide_nothing() -> None:
    nan = float("nan")
    out = shaped([1.0, 1.0, 0.0, nan], [0] * 4, mask=[True, True, False, False], zero_variance="mask")
    assert out.zero_variance.tolist() == [True, True, False, False] and not out.in_loss.any()
    alone = shaped([1.0, 0.0], [0, 0], mask=[True, False], zero_variance="mask")
    assert alone.in_loss.tolist() == [True, False] and alone.advantages[0] == pytest.approx(1.0, abs=1e-5)


# ---- length reward -------------------------------------------------------------------------------------


def test_the_length_reward_is_linear_centred_and_for_right_responses_only() -> None:
    out = shaped([1, 1, 1, 0], [0] * 4, lengths=[10, 20, 40, 5], length=LengthConfig(weight=0.3), scale="none")
    brevity = torch.tensor([1.0, 2 / 3, 0.0], dtype=torch.float64)
    assert torch.allclose(out.length[:3], 0.3 * (brevity - brevity.mean()))
    assert out.length[3] == 0.0, "a wrong response is not paid for being short"
    assert torch.allclose(out.advantages, torch.tensor([0.25, 0.25, 0.25, -0.75]).double() + out.length)


def test_groups_without_a_right_response_get_nothing_and_right_ones_by_choice() -> None:
    lengths = [1, 2, 3, 4]
    assert shaped(WRONG, [0] * 4, lengths=lengths, length=LengthConfig(weight=0.5)).advantages.tolist() == [0.0] * 4
    right = shaped(RIGHT, [0] * 4, lengths=lengths, length=LengthConfig(weight=0.3))
    assert torch.allclose(right.advantages, 0.3 * torch.tensor([0.5, 1 / 6, -1 / 6, -0.5], dtype=torch.float64))
    without = shaped(RIGHT, [0] * 4, lengths=lengths, length=LengthConfig(weight=0.3, all_right=False))
    assert without.advantages.tolist() == [0.0] * 4


def test_a_truncated_right_response_counts_as_the_longest() -> None:
    out = shaped(
        RIGHT, [0] * 4, lengths=[8, 8, 10, 20], truncated=[True, False, False, False], length=LengthConfig(weight=0.2)
    )
    assert out.length[0] == out.length[3] == out.length.min() and out.length[1] == out.length.max()


def test_with_a_mask_a_right_group_that_the_length_reward_moves_stays_in_the_loss() -> None:
    length = LengthConfig(weight=0.2)
    outcomes, groups = RIGHT + RIGHT + WRONG, [0] * 4 + [1] * 4 + [2] * 4
    out = shaped(outcomes, groups, lengths=[1, 2, 3, 4] + [7] * 8, length=length, zero_variance="mask")
    assert out.in_loss.tolist() == [True] * 4 + [False] * 8


@settings(max_examples=200, deadline=None)
@given(
    outcomes=st.lists(st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]), min_size=1, max_size=8),
    data=st.data(),
    weight=st.floats(0.0, 0.5),
    scale=st.sampled_from(["std", "none", "dispersion"]),
    rule=st.sampled_from(["keep", "signed", "mask", "signed_mask"]),
)
def test_length_never_beats_correctness(outcomes: list[float], data: Any, weight: float, scale: str, rule: str) -> None:
    n = len(outcomes)
    lengths = data.draw(st.lists(st.integers(1, 4096), min_size=n, max_size=n))
    truncated = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    out = shaped(
        outcomes,
        [0] * n,
        lengths=lengths,
        truncated=truncated,
        length=LengthConfig(weight=weight),
        scale=scale,
        zero_variance=rule,
    )
    right = [i for i in range(n) if outcomes[i] == 1.0]
    others = [i for i in range(n) if outcomes[i] < 1.0]
    assert float(out.length.abs().max()) <= weight + 1e-12
    assert abs(float(out.length.sum())) < 1e-9
    assert all(float(out.length[i]) == 0.0 for i in others)
    if right and others:
        assert min(float(out.advantages[i]) for i in right) > max(float(out.advantages[i]) for i in others)
    if not right and len(set(outcomes)) == 1 and rule in ("keep", "mask") and n > 1:
        assert not out.advantages.any()


@given(st.randoms())
def test_any_order_of_responses_gives_the_same_values(shuffler: Any) -> None:
    lengths = [3, 9, 4, 4, 7, 1, 2, 2, 5, 6, 7, 8, 1, 1, 2, 3]
    config = {"length": LengthConfig(weight=0.25), "zero_variance": "signed_mask"}
    base = shaped(ALL, GROUPS, lengths=lengths, **config)
    order = list(range(16))
    shuffler.shuffle(order)
    other = shaped([ALL[i] for i in order], [GROUPS[i] for i in order], lengths=[lengths[i] for i in order], **config)
    torch.testing.assert_close(other.advantages, base.advantages[order], rtol=0, atol=1e-15)
    assert torch.equal(other.in_loss, base.in_loss[order])


def test_contradictory_bounds_and_weights_are_named() -> None:
    with pytest.raises(ValueError, match=r"outcome_min=1.0: must be below .*outcome_max=1.0"):
        AdvantageConfig(outcome_min=1.0)
    with pytest.raises(ValueError, match=r"length.weight=0.7: must be >= 0 and <= 0.5"):
        LengthConfig(weight=0.7)


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("rule", ["keep", "signed_mask"])
@pytest.mark.parametrize("all_right", [True, False])
def test_an_empty_batch_has_empty_advantages(weight: float, rule: str, all_right: bool) -> None:
    got = shaped([], [], length=LengthConfig(weight=weight, all_right=all_right), zero_variance=rule)
    for part in (got.advantages, got.length, got.in_loss, got.zero_variance):
        assert part.shape == (0,)
    assert got.in_loss.dtype == torch.bool


@pytest.mark.parametrize("rule", ["keep", "signed", "mask", "signed_mask"])
def test_a_group_of_which_nothing_counts(rule: str) -> None:
    got = shaped(
        [1.0, 1.0, 1.0, 0.0],
        [0, 0, 1, 1],
        mask=[False, False, True, True],
        lengths=[1, 9, 5, 5],
        length=LengthConfig(weight=0.1),
        zero_variance=rule,
    )
    assert got.advantages[:2].tolist() == [0.0, 0.0] and not got.in_loss[:2].any()
    assert got.advantages[2] > 0 and got.in_loss[2:].all()


def test_rewards_in_half_precision_give_finite_advantages() -> None:
    rewards = torch.tensor([6e4, -6e4, 6e4], dtype=torch.float16)
    got = response_advantages(
        rewards,
        torch.tensor([1.0, 0.0, 1.0]),
        [0, 0, 0],
        torch.ones(3, dtype=torch.bool),
        torch.ones(3),
        torch.zeros(3, dtype=torch.bool),
        advantage=AdvantageConfig(scale="none"),
        length=NO_LENGTH,
    )
    assert got.advantages.tolist() == [40000.0, -65504.0, 40000.0]
    assert group_advantages(rewards, [0, 0, 0], scale="none").tolist() == [40000.0, -65504.0, 40000.0]
