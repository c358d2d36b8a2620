# SPDX-License-Identifier: Apache-2.0
"""Advantages that depend on the verifier's outcome: groups of equal outcomes, shaped rewards, length reward."""

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
    """Advantages of the responses of a batch; all [N], in the order of the batch.

    Attributes:
        advantages: total advantage; 0 for responses that do not count.
        length: the part of the advantage that comes from the length reward.
        in_loss: bool, whether the response counts in the loss's denominator.
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
    """Advantages of a batch of groups, of equal or different sizes.

    1. Group advantages of the rewards (`group_advantages_padded`).
    2. Groups of two or more with equal outcomes get advantage 0 if `outcome_gate` is true. A signed `zero_variance`
       rule gives them +1 or -1 if they are at a bound of the attainable outcomes (AGPO-L).
    3. Length reward [ours]: correct responses (outcome_max) get up to +-weight by their length among the correct ones
       of their group, linear from the shortest to the longest, centred on 0. A truncated response counts as the
       longest. The spread is at most half of the distance to the best response that is not correct, so a correct
       response always ranks above a wrong one.
    4. With a masking `zero_variance` rule, groups of equal outcomes whose advantages are all 0 leave the denominator
       (AGPO-L).

    Args:
        rewards_N: [N] rewards to maximise, shaped or not.
        outcomes_N: [N] outcomes of the verifier. They alone decide which responses are correct and which groups are
            equal.
        index_N: the group of each response, an integer tensor or hashable labels.
        mask_N: bool [N], responses that count.
        lengths_N: [N] generated tokens.
        truncated_N: bool [N], stopped by the token limit.
        advantage, length: settings of these two sections.

    Returns:
        `ResponseAdvantages`. N = 0 gives empty results. A group without a correct response gets no length reward. A
        group in which nothing counts has advantages 0 and is not in the denominator.

    Raises:
        ValueError: lengths that differ.
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
