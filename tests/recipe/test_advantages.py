# SPDX-License-Identifier: Apache-2.0
"""The registered advantage estimator against verl's own, and what it adds."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from agpo_core import ResponseAdvantages
from recipe.agpo.training.advantages import RowContext, agpo_advantage, with_rows

GRPO = OmegaConf.create({"agpo": {"preset": "grpo"}})


def batch(rewards: list[float], tokens: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Token-level rewards on the last token, and a full mask."""
    token_rewards = torch.zeros(len(rewards), tokens)
    token_rewards[:, -1] = torch.tensor(rewards)
    return token_rewards, torch.ones(len(rewards), tokens)


@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("settings", [GRPO, None])
def test_parity_with_verls_grpo(group: int, binary: bool, normalise: bool, settings: Any) -> None:
    torch.manual_seed(group)
    prompts, tokens = 6, 7
    rewards = torch.rand(prompts * group)
    if binary:
        # All-equal groups apart: there verl divides rounding noise by epsilon, and we return exactly 0.
        rewards = (rewards < 0.5).float()
        rewards[::group], rewards[group - 1 :: group] = 0.0, 1.0
    index = numpy.repeat([f"p{i}" for i in range(prompts)], group).astype(object)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (len(rewards), 1))).float()
    token_rewards = torch.zeros(len(rewards), tokens)
    token_rewards[:, 0] = rewards
    order = torch.randperm(len(rewards))
    token_rewards, mask, index = token_rewards[order], mask[order], index[order.numpy()]
    config = OmegaConf.merge(settings or {}, {"norm_adv_by_std_in_grpo": normalise})

    ours, returns = agpo_advantage(token_rewards, mask, index, config)
    theirs = compute_grpo_outcome_advantage(token_rewards.clone(), mask, index, norm_adv_by_std_in_grpo=normalise)[0]
    exact = compute_grpo_outcome_advantage(token_rewards.double(), mask, index, norm_adv_by_std_in_grpo=normalise)[0]
    assert ours.dtype == torch.float32
    if settings is GRPO:
        assert torch.equal(ours, theirs), "off means off: verl's GRPO bit for bit"
        return
    assert torch.equal(ours, returns)
    # agpo_core computes in float64 and rounds once, so it is verl's function without verl's rounding noise ...
    torch.testing.assert_close(ours, exact.float(), rtol=1.2e-7, atol=1e-12)
    # ... which is some units in the last place, more where rewards lie close together.
    torch.testing.assert_close(ours, theirs.float(), rtol=5e-6, atol=5e-6)
    assert bool((ours[mask == 0] == 0).all())


def test_hand_computed() -> None:
    """Rewards 1, 0, 0, 0: mean 1/4, sample deviation 1/2."""
    rewards, mask = batch([1.0, 0.0, 0.0, 0.0])
    advantages, _ = agpo_advantage(rewards, mask, list("aaaa"))
    assert advantages[:, 0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert torch.equal(advantages[:, 0], advantages[:, 2])


def test_equal_rewards_give_exactly_zero() -> None:
    """verl: (0.1 - mean)/1e-6 with a mean that is off by one unit in the last place."""
    rewards, mask = batch([0.1, 0.1, 0.1])
    assert agpo_advantage(rewards, mask, list("aaa"))[0].abs().max() == 0


def test_dr_grpo_switch() -> None:
    rewards, mask = batch([1.0, 0.0, 0.0, 0.0])
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": False, "agpo": {}})
    assert agpo_advantage(rewards, mask, list("aaaa"), config)[0][:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_reference_preset_divides_by_the_deviation_alone() -> None:
    rewards, mask = batch([1.0, 0.0])
    config = OmegaConf.create({"agpo": {"preset": "reference"}})
    expected = 0.5 / math.sqrt(0.5)
    assert agpo_advantage(rewards, mask, list("aa"), config)[0][:, 0].tolist() == pytest.approx(
        [expected, -expected], rel=1e-7
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_without_response_or_reward_do_not_count(bad: float) -> None:
    rewards, mask = batch([1.0, 0.0, 5.0, 0.0])
    mask[2] = 0
    rewards[3, -1] = bad
    advantages, _ = agpo_advantage(rewards, mask, list("aaaa"))
    alone, _ = agpo_advantage(*batch([1.0, 0.0]), list("aa"))
    assert torch.equal(advantages[:2], alone)
    assert advantages[2:].abs().max() == 0


def test_the_order_of_rows_does_not_matter() -> None:
    torch.manual_seed(0)
    values, labels = torch.rand(24).tolist(), ["a", "b", "c"] * 8
    rewards, mask = batch(values)
    straight, _ = agpo_advantage(rewards, mask, labels)
    order = torch.randperm(24)
    shuffled, _ = agpo_advantage(rewards[order], mask[order], [labels[i] for i in order])
    assert torch.equal(straight[order], shuffled)


def test_invalid_rows_leave_their_group() -> None:
    """The verifier failed on row 2: its reward of 0 must not pull the mean down."""
    rewards, mask = batch([1.0, 0.0, 0.0])
    context = RowContext(["a_0", "a_1", "a_2"], [True] * 3, [True, True, False])
    (advantages, _), _ = with_rows(context, lambda: agpo_advantage(rewards, mask, list("aaa")))
    alone, _ = agpo_advantage(*batch([1.0, 0.0]), list("aa"))
    assert torch.equal(advantages[:2], alone)
    assert advantages[2].abs().max() == 0


def test_outputs_of_one_session_share_its_advantage_and_count_once() -> None:
    """Session a_0 has two outputs (verl gives both the session's reward): a group of 2, not of 3."""
    rewards, mask = batch([1.0, 1.0, 0.0])
    context = RowContext(["a_0", "a_0", "a_1"], [False, True, True], [True] * 3)
    (advantages, _), _ = with_rows(context, lambda: agpo_advantage(rewards, mask, list("aaa")))
    pair, _ = agpo_advantage(*batch([1.0, 0.0]), list("aa"))
    assert torch.equal(advantages, pair[[0, 0, 1]])
    assert advantages[0, 0] != agpo_advantage(rewards, mask, list("aaa"))[0][0, 0]


def test_the_rows_end_with_their_call() -> None:
    rewards, mask = batch([1.0, 0.0])

    def call() -> None:
        assert agpo_advantage(rewards, mask, list("aa"))[0].abs().max() == 0
        raise ZeroDivisionError

    unscored = RowContext(["a", "b"], [True, True], [False, False])
    with pytest.raises(ZeroDivisionError):
        with_rows(unscored, call)
    assert agpo_advantage(rewards, mask, list("aa"))[0].abs().max() > 0
    with pytest.raises(RuntimeError, match="did not ask the advantage estimator 'agpo'"):
        with_rows(unscored, lambda: None)


def test_verls_own_multi_trajectory_call_reaches_ours() -> None:
    """The path in the trainer: verl passes keywords that we do not name, and its DictConfig."""
    from verl import DataProto
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    import recipe.agpo.plugin  # noqa: F401

    assert core_algos.get_adv_estimator_fn("agpo") is agpo_advantage
    rewards, mask = batch([1.0, 0.0, 0.0, 0.0])
    data = DataProto.from_dict(
        tensors={"token_level_rewards": rewards, "response_mask": mask},
        non_tensors={"uid": numpy.array(list("aabb"), dtype=object)},
    )
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    rows = RowContext(["a_0", "a_1", "b_0", "b_1"], [True] * 4, [True] * 4)
    out, _ = with_rows(
        rows, lambda: compute_advantage_for_multi_trajectories(data, keys, adv_estimator="agpo", config=GRPO)
    )
    expected = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert out.batch["advantages"][:, 0].tolist() == pytest.approx([expected, -expected, 0, 0], rel=1e-6)


# ---- outcomes ------------------------------------------------------------------------------------------


def of(outcomes: list[float], **other: Any) -> RowContext:
    rows = len(outcomes)
    return RowContext(
        [f"s{i}" for i in range(rows)],
        [True] * rows,
        [True] * rows,
        torch.tensor(outcomes),
        **{"tokens": torch.full((rows,), 3), "truncated": torch.zeros(rows, dtype=torch.bool)} | other,
    )


def computed(
    settings: dict[str, Any], rewards: list[float], context: RowContext, index: list[str]
) -> tuple[torch.Tensor, ResponseAdvantages]:
    """What verl gets, first token of each row, and what our trainer gets."""
    config = OmegaConf.create({"agpo": settings})
    (advantages, _), made = with_rows(context, lambda: agpo_advantage(*batch(rewards), index, config))
    return advantages[:, 0], made


def run(settings: dict[str, Any], rewards: list[float], context: RowContext, index: list[str]) -> torch.Tensor:
    return computed(settings, rewards, context, index)[0]


def test_groups_are_judged_on_outcomes_and_not_on_shaped_rewards() -> None:
    wrong = of([0.0, 0.0, 0.0])
    assert not run({}, [0.0, 0.1, 0.3], wrong, ["p"] * 3).any()
    assert run({"advantage": {"outcome_gate": False}}, [0.0, 0.1, 0.3], wrong, ["p"] * 3)[2] > 1.0
    assert run({"preset": "grpo"}, [0.0, 0.1, 0.3], wrong, ["p"] * 3)[2] > 1.0, "off means off"
    signed = run({"advantage": {"zero_variance": "signed"}}, [0.0, 0.1, 0.3], wrong, ["p"] * 3)
    assert signed.tolist() == [-1.0] * 3


def test_what_leaves_the_loss_and_the_length_part_come_back() -> None:
    context = of([1.0, 1.0, 0.0, 0.0], tokens=torch.tensor([10, 30, 5, 5]))
    settings = {"preset": "agpo_l", "length": {"weight": 0.2}}
    advantages, made = computed(settings, [1.0, 1.0, 0.0, 0.0], context, ["p", "p", "q", "q"])
    assert made.in_loss.tolist() == [True, True, False, False]
    torch.testing.assert_close(advantages, torch.tensor([0.1, -0.1, 0.0, 0.0]))
    torch.testing.assert_close(made.length, advantages)
    cut = of([1.0, 1.0, 0.0], tokens=torch.tensor([10, 30, 5]), truncated=torch.tensor([True, False, False]))
    assert not run(settings, [1.0, 1.0, 0.0], cut, ["p"] * 3)[0] > run(settings, [1.0, 1.0, 0.0], cut, ["p"] * 3)[1]


def test_rows_of_one_session_share_what_its_last_row_got() -> None:
    context = RowContext(
        ["a", "a", "b"],
        [False, True, True],
        [True] * 3,
        torch.tensor([1.0, 1.0, 0.0]),
        torch.tensor([0, 9, 9]),
        torch.zeros(3, dtype=torch.bool),
    )
    advantages, made = computed({}, [0.0, 1.0, 0.0], context, ["p"] * 3)
    assert advantages[0] == advantages[1] > 0 > advantages[2]
    assert made.in_loss.tolist() == [True] * 3
