# SPDX-License-Identifier: Apache-2.0
"""Weights of responses in the loss.

Every policy loss here is proportional to its advantages, so multiplying an advantage by a weight multiplies the loss of
that response. Denominators, prompts and groups are weighted in this way. Shapes: _B responses (rows of a batch), _T
tokens, _P groups.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from agpo_core.losses import AggregationMode

AdaptiveForm = Literal["none", "floor", "exp"]


def denominator_weights(tokens_B: Tensor, in_loss_B: Tensor, block_B: Tensor, mode: AggregationMode) -> Tensor:
    """Weights that remove rows from the denominator of an aggregation that counts all rows.

    The weight of a row is (all tokens of its update)/(kept tokens) for token-mean, (all rows)/(kept rows) for
    seq-mean-*, and 1 for token-sum.

    Args:
        tokens_B: [B] tokens of each row that the aggregation counts.
        in_loss_B: bool [B], rows to keep; the other rows have advantage 0.
        block_B: int [B] from 0, the update (mini-batch over all ranks) of each row.
        mode: aggregation of the loss.

    Returns:
        [B] float32; 1 in an update of which no row is kept. For seq-mean-*, a row without tokens counts as a row.
    """
    if mode == "token-sum":
        return torch.ones(len(tokens_B))
    size = tokens_B.double() if mode == "token-mean" else torch.ones(len(tokens_B), dtype=torch.float64)
    blocks = int(block_B.max()) + 1 if len(block_B) else 0
    everything = torch.zeros(blocks, dtype=torch.float64).index_add_(0, block_B, size)
    kept = torch.zeros(blocks, dtype=torch.float64).index_add_(0, block_B, size * in_loss_B.double())
    ratio = torch.where(kept > 0.0, everything / kept.clamp(min=1.0), torch.ones_like(kept))
    return ratio[block_B].float()


def prompt_weights(size_P: Tensor) -> Tensor:
    """Weights with which every prompt counts the same, for different numbers of responses [ours].

    Args:
        size_P: [P] responses of each prompt that count.

    Returns:
        [P] float32, the weight of each response of a prompt: mean size / size; 1 for a prompt without responses. Equal
        sizes give exactly 1.
    """
    size = size_P.double()
    mean = size.sum() / (size > 0.0).sum().clamp(min=1)
    return torch.where(size > 0.0, mean / size.clamp(min=1.0), torch.ones_like(size)).float()


def group_losses(loss_BT: Tensor, mask_BT: Tensor, group_B: Tensor, groups: int, mode: AggregationMode) -> Tensor:
    """Numerator and denominator of the policy loss of each group.

    Results of several micro-batches or ranks may be added. token-*: the group's mean over tokens. seq-mean-*: the mean
    over its responses of their token means.

    Args:
        loss_BT: [B, T] loss per token.
        mask_BT: [B, T], non-zero = counts; the loss elsewhere may be NaN.
        group_B: int [B], the group of each row; negative: none.
        groups: number of groups P.
        mode: aggregation of the loss.

    Returns:
        [P, 2] float64; 0 and 0 for a group without rows or tokens.
    """
    mask = mask_BT != 0
    tokens = mask.sum(dim=1).double()
    total = torch.where(mask, loss_BT.detach().double(), 0.0).sum(dim=1)
    if mode.startswith("seq-mean"):
        total, tokens = total / tokens.clamp(min=1.0), (tokens > 0.0).double()
    rows = torch.stack([total, tokens], dim=1)
    real = (group_B >= 0).double().unsqueeze(1)
    sums = torch.zeros(groups, 2, dtype=torch.float64, device=rows.device)
    return sums.index_add_(0, group_B.clamp(min=0), rows * real)


def adaptive_loss(loss_P: Tensor, form: AdaptiveForm, floor: float) -> Tensor:
    """The adaptive loss of each group [ours, our reading of AGPO-L].

    none: L. floor: max(L, -floor). exp: floor*exp(L/floor), never negative; above L = floor it is replaced by its
    tangent, which limits the weight of a group with a high loss.

    Args:
        loss_P: [P] policy loss of each group.
        form: which of the three.
        floor: > 0, in units of the loss.

    Returns:
        [P].
    """
    if form == "none":
        return loss_P
    if form == "floor":
        return loss_P.clamp(min=-floor)
    ratio = loss_P / floor
    return floor * torch.where(ratio > 1.0, math.e * ratio, ratio.clamp(max=1.0).exp())


def adaptive_weights(sums_P2: Tensor, form: AdaptiveForm, floor: float) -> Tensor:
    """Derivative of `adaptive_loss` with respect to the loss of each group.

    Args:
        sums_P2: [P, 2] from `group_losses`.
        form, floor: as in `adaptive_loss`.

    Returns:
        [P]; 1 for groups that are empty or whose loss is not finite.
    """
    loss = sums_P2[:, 0] / sums_P2[:, 1].clamp(min=1e-12)
    if form == "none":
        weight = torch.ones_like(loss)
    elif form == "floor":
        weight = (loss > -floor).double()
    else:
        weight = (loss / floor).clamp(max=1.0).exp()
    return torch.where((sums_P2[:, 1] > 0.0) & loss.isfinite(), weight, torch.ones_like(weight))
