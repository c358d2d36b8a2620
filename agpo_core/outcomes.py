# SPDX-License-Identifier: Apache-2.0
"""Advantages that know the outcome: zero-variance groups, the gate on shaped rewards, the length reward."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agpo_core.advantages import group_advantages_padded, in_type
from agpo_core.sections import AdvantageConfig, LengthConfig
from agpo_core.stats import SortedGroups, pad_groups


@dataclass(frozen=True)
class ResponseAdvantages:
    """What each response of a batch is worth; all [N], in its order.

    Attributes:
        advantages: total advantage; 0 for responses that do not count.
        length: the part of it that the length reward made.
        in_loss: bool, whether it stays in the loss's denominator.
        zero_variance: bool, member of a group whose counted outcomes are all equal.
    """

    advantages: Tensor
    length: Tensor
    in_loss: Tensor
    zero_variance: Tensor


def response_advantages(
    rewards_N: Tensor,
    outcomes_N: Tensor,
    index_N: Tensor | Sequence[Hashable],
    mask_N: Tensor,
    lengths_N: Tensor,
    truncated_N: Tensor,
    *,
    advantage: AdvantageConfig,
    length: LengthConfig,
) -> ResponseAdvantages:
    """Advantages of a batch of groups, ragged or not.

    rewards_N: what is maximised, shaped or not; outcomes_N: the verifier's verdicts, which alone say what is right and
    whether a group is decided; index_N: the group of each response; mask_N: bool, which count; lengths_N: generated
    tokens; truncated_N: bool, stopped by the token limit.

    1. Group advantages of the rewards (`group_advantages_padded`).
    2. Groups of two or more with equal outcomes have zero variance: 0 if `outcome_gate`; +1 or -1 if the rule is signed
       and they are at a bound of the attainable outcomes.
    3. Right responses (outcome_max) get up to +-weight by their length among the right ones of their group, linear
       from the shortest to the longest, centred on 0. A truncated one counts as the longest. The spread is at most
       half of the distance to the best response that is not right, so the order of right and wrong cannot turn, and a
       group without a right response gets nothing.
    4. With a masking rule a zero-variance group without any advantage leaves the denominator.

    No response at all (N = 0) gives empty results; a group of which nothing counts has advantages 0 and leaves the
    denominator.
    """
    rewards, present, at = pad_groups(rewards_N, index_N)
    present[at] = mask_N.bool()
    outcomes = _padded(outcomes_N.double(), present, at)
    valid = present & outcomes.isfinite()
    groups = SortedGroups(outcomes, valid)
    decided = (groups.equal_P & (groups.count_P >= 2)).unsqueeze(1) & present
    values = group_advantages_padded(rewards, present, scale=advantage.scale, epsilon=advantage.epsilon).double()
    if advantage.outcome_gate:
        values = torch.where(decided, 0.0, values)
    right = valid & (outcomes >= advantage.outcome_max)
    if advantage.zero_variance in ("signed", "signed_mask"):
        wrong = valid & (outcomes <= advantage.outcome_min)
        values = torch.where(decided & right, 1.0, torch.where(decided & wrong, -1.0, values))
    bonus = _length_part(values, valid, right, decided, lengths_N, truncated_N, at, length)
    values = values + bonus
    in_loss = present
    if advantage.zero_variance in ("mask", "signed_mask"):
        in_loss = present & ~(decided & (values == 0.0).all(dim=1, keepdim=True))
    dtype = rewards_N.dtype if rewards_N.is_floating_point() else torch.float32
    return ResponseAdvantages(in_type(values, dtype)[at], bonus[at].to(dtype), in_loss[at], decided[at])


def _length_part(
    values: Tensor,
    valid: Tensor,
    right: Tensor,
    decided: Tensor,
    lengths_N: Tensor,
    truncated_N: Tensor,
    at: tuple[Tensor, Tensor],
    config: LengthConfig,
) -> Tensor:
    """The length reward's part of the advantages, [P, G]."""
    if config.weight == 0.0 or values.numel() == 0:
        return torch.zeros_like(values)
    eligible = right & valid if config.all_right else right & valid & ~decided
    tokens = _padded(lengths_N.double(), valid, at)
    longest = torch.where(eligible, tokens, -torch.inf).amax(dim=1, keepdim=True)
    shortest = torch.where(eligible, tokens, torch.inf).amin(dim=1, keepdim=True)
    tokens = torch.where(_padded(truncated_N.bool(), valid, at), longest, tokens)
    span = longest - shortest
    usable = eligible & (span > 0.0)
    brevity = torch.where(usable, (longest - tokens) / torch.where(span > 0.0, span, 1.0), 0.0)
    count = usable.sum(dim=1, keepdim=True).clamp(min=1)
    centred = torch.where(usable, brevity - brevity.sum(dim=1, keepdim=True) / count, 0.0)
    best_other = torch.where(valid & ~right, values, -torch.inf).amax(dim=1, keepdim=True)
    worst_right = torch.where(eligible, values, torch.inf).amin(dim=1, keepdim=True)
    room = ((worst_right - best_other) / 2.0).clamp(min=0.0)
    return centred * room.nan_to_num(nan=0.0, posinf=config.weight).clamp(max=config.weight)


def _padded(values_N: Tensor, like_PG: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
    out = torch.zeros(like_PG.shape, dtype=values_N.dtype, device=values_N.device)
    out[at] = values_N
    return out
