# SPDX-License-Identifier: Apache-2.0
"""Weights against the loss that they stand for: denominators, prompts, and the adaptive loss of whole groups."""

from __future__ import annotations

import math

import pytest
import torch

from agpo_core import (
    LossConfig,
    adaptive_loss,
    adaptive_weights,
    aggregate,
    clipped_surrogate,
    denominator_weights,
    group_losses,
    prompt_weights,
)

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
FORMS = ["none", "floor", "exp"]


@pytest.mark.parametrize("mode", MODES)
def test_weighted_rows_are_a_batch_without_the_others(mode: str) -> None:
    torch.manual_seed(0)
    loss, lengths = torch.randn(6, 5), torch.tensor([1, 5, 3, 2, 4, 5])
    mask = torch.arange(5) < lengths.unsqueeze(1)
    stay = torch.tensor([True, False, True, True, False, True])
    weight = denominator_weights(lengths, stay, torch.zeros(6, dtype=torch.long), mode)
    mine = aggregate(loss * (weight * stay).unsqueeze(1), mask, mode)
    torch.testing.assert_close(mine, aggregate(loss[stay], mask[stay], mode))


@pytest.mark.parametrize("mode", MODES)
def test_each_update_has_its_own_denominator(mode: str) -> None:
    lengths, stay = torch.tensor([2, 4, 6, 8]), torch.tensor([True, False, False, False])
    weight = denominator_weights(lengths, stay, torch.tensor([0, 0, 1, 1]), mode)
    first = {"token-mean": 3.0, "token-sum": 1.0}.get(mode, 2.0)
    assert weight.tolist() == [first, first, 1.0, 1.0], "with nothing kept there is nothing to divide"


def test_prompts_count_alike_whatever_their_size() -> None:
    assert prompt_weights(torch.tensor([6, 2, 0])).tolist() == pytest.approx([4 / 6, 2.0, 1.0])
    assert torch.equal(prompt_weights(torch.tensor([8, 8])), torch.ones(2))


def test_allocation_biases_the_gradient_and_the_weights_remove_the_bias() -> None:
    """Two prompts, 7 and 1 responses: the plain mean follows the first prompt, the weighted one both."""
    torch.manual_seed(1)
    score = torch.randn(8)
    per_prompt = torch.stack([score[:7].mean(), score[7:].mean()]).mean()
    weight = prompt_weights(torch.tensor([7, 1]))[torch.tensor([0] * 7 + [1])]
    torch.testing.assert_close((weight * score).mean(), per_prompt)
    assert not torch.allclose(score.mean(), per_prompt)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_the_derivative_of_the_adaptive_loss(form: str) -> None:
    loss = torch.tensor([-0.5, -0.2, -0.05, 0.0, 0.04, 0.3], dtype=torch.float64, requires_grad=True)
    adaptive_loss(loss, form, 0.1).sum().backward()
    sums = torch.stack([loss.detach() * 3, torch.full((6,), 3.0, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(adaptive_weights(sums, form, 0.1), loss.grad)


def test_forms_in_closed_form() -> None:
    loss = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0], dtype=torch.float64)
    assert adaptive_loss(loss, "floor", 0.25).tolist() == [-0.25, -0.1, 0.0, 0.1, 1.0]
    smooth = adaptive_loss(loss, "exp", 0.1)
    assert bool((smooth >= 0).all()) and smooth[2] == pytest.approx(0.1)
    assert smooth[3] == pytest.approx(0.1 * math.e) and smooth[4] == pytest.approx(math.e)
    empty = torch.zeros(1, 2, dtype=torch.float64)
    assert [adaptive_weights(empty, form, 0.1).item() for form in FORMS] == [1.0] * 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_the_gradient_of_a_split_batch_is_that_of_the_adaptive_loss_of_whole_groups(form: str, mode: str) -> None:
    """Groups over four micro-batches: sums first, weights from them, then each part's own backward pass."""
    torch.manual_seed(2)
    rows, tokens, groups = 8, 6, 3
    old = -torch.rand(rows, tokens, dtype=torch.float64)
    start = old + 0.3 * torch.randn(rows, tokens, dtype=torch.float64)
    advantage = torch.randn(rows, dtype=torch.float64)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1))
    group = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])

    def per_token(new: torch.Tensor, part: slice) -> torch.Tensor:
        return clipped_surrogate(new[part], old[part], advantage[part], mask[part], 0.2, 0.2).loss_BT

    # Whole: each group's loss, made adaptive, weighted by its share of the batch.
    whole = start.clone().requires_grad_()
    loss = per_token(whole, slice(None))
    if mode == "token-mean":
        numerator = torch.stack([(loss * mask)[group == g].sum() for g in range(groups)])
        size = torch.stack([mask[group == g].sum() for g in range(groups)])
    else:
        means = (loss * mask).sum(1) / mask.sum(1)
        numerator = torch.stack([means[group == g].sum() for g in range(groups)])
        size = torch.stack([(group == g).sum() for g in range(groups)])
    (adaptive_loss(numerator / size, form, 0.05) * size / size.sum()).sum().backward()

    parts = [slice(i, i + 2) for i in range(0, rows, 2)]
    with torch.no_grad():
        sums = sum(group_losses(per_token(start, p), mask[p], group[p], groups, mode) for p in parts)
    weight = adaptive_weights(sums, form, 0.05)[group]
    split = start.clone().requires_grad_()
    for p in parts:
        weighted = per_token(split, p) * weight[p].unsqueeze(1)
        if mode == "token-mean":
            (weighted.sum() / mask.sum()).backward()
        else:
            ((weighted.sum(1) / mask[p].sum(1)).sum() / rows).backward()
    torch.testing.assert_close(split.grad, whole.grad)
    assert bool(whole.grad.any())


def test_padding_rows_belong_to_no_group() -> None:
    sums = group_losses(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([0, -1, 0]), 1, "token-mean")
    assert sums.tolist() == [[4.0, 4.0]]


def test_a_floor_of_the_wrong_sign_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss.floor=-0.1: must be > 0"):
        LossConfig(adaptive="floor", floor=-0.1)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_groups_without_rows_or_tokens(mode: str) -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert group_losses(torch.zeros(0, 0), torch.zeros(0, 0), none, 2, mode).tolist() == [[0.0, 0.0]] * 2  # type: ignore[arg-type]
    no_tokens = group_losses(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, dtype=torch.long), 1, mode)  # type: ignore[arg-type]
    assert no_tokens.tolist() == [[0.0, 0.0]]
    dirty = torch.tensor([[1.0, float("nan")], [float("inf"), float("nan")]])
    mask = torch.tensor([[1, 0], [0, 0]])
    assert group_losses(dirty, mask, torch.tensor([0, 1]), 2, mode).tolist() == [[1.0, 1.0], [0.0, 0.0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["none", "floor", "exp"])
def test_a_group_loss_that_is_not_finite_weighs_1(form: str) -> None:
    sums = torch.tensor([[float("nan"), 1.0], [float("-inf"), 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert adaptive_weights(sums, form, 0.1).tolist() == [1.0, 1.0, 1.0]  # type: ignore[arg-type]
