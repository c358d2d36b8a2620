# SPDX-License-Identifier: Apache-2.0
"""What a response counts in the loss. Every policy loss here is proportional to its advantages, so a weight on a
response's advantage is a weight on its loss: that is how denominators, prompts and groups are weighed.

Shapes: _B responses (rows of a batch), _T tokens, _P groups.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from agpo_core.losses import AggregationMode

AdaptiveForm = Literal["none", "floor", "exp"]


def denominator_weights(tokens_B: Tensor, in_loss_B: Tensor, block_B: Tensor, mode: AggregationMode) -> Tensor:
    """Weights that take rows out of the denominator of an aggregation that does not know of it.

    tokens_B: tokens of each row that the aggregation counts; in_loss_B: bool, rows that are to stay; the others have
    advantage 0; block_B: which update (mini-batch over all ranks) a row belongs to, int from 0. Returns [B]: all over
    kept tokens of the block (token-mean), all over kept rows (seq-mean-*), 1 (token-sum), and 1 in a block of which
    nothing is kept. A row without tokens counts as a row for the seq-mean modes.
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
    """Weights of the responses of each prompt with which all prompts count alike, whatever their numbers of responses.

    size_P: responses that count. Returns [P]: mean size over size, 1 for a prompt without any; equal sizes: exactly 1.
    """
    size = size_P.double()
    mean = size.sum() / (size > 0.0).sum().clamp(min=1)
    return torch.where(size > 0.0, mean / size.clamp(min=1.0), torch.ones_like(size)).float()


def group_losses(loss_BT: Tensor, mask_BT: Tensor, group_B: Tensor, groups: int, mode: AggregationMode) -> Tensor:
    """Numerator and denominator of each group's policy loss, [P, 2] float64.

    Sums of several micro-batches or ranks add up. token-*: the group's mean over tokens; seq-mean-*: the mean over its
    responses of their token means. Rows with a negative group belong to none; values outside the mask may be NaN. No
    row or no token: 0 and 0.
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
    """The adaptive loss of each group [ours, a reading of AGPO-L]; floor > 0, in units of the loss.

    none: L. floor: max(L, -floor). exp: floor*exp(L/floor), never negative, and above L = floor its tangent, so that a
    group whose loss is high does not take the update over.
    """
    if form == "none":
        return loss_P
    if form == "floor":
        return loss_P.clamp(min=-floor)
    ratio = loss_P / floor
    return floor * torch.where(ratio > 1.0, math.e * ratio, ratio.clamp(max=1.0).exp())


def adaptive_weights(sums_P2: Tensor, form: AdaptiveForm, floor: float) -> Tensor:
    """The derivative of `adaptive_loss` by each group's loss, [P], from `group_losses`; 1 for groups that are empty
    or whose loss is not finite."""
    loss = sums_P2[:, 0] / sums_P2[:, 1].clamp(min=1e-12)
    if form == "none":
        weight = torch.ones_like(loss)
    elif form == "floor":
        weight = (loss > -floor).double()
    else:
        weight = (loss / floor).clamp(max=1.0).exp()
    return torch.where((sums_P2[:, 1] > 0.0) & loss.isfinite(), weight, torch.ones_like(weight))
