# SPDX-License-Identifier: Apache-2.0
"""Group-relative advantages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from agpo_core.stats import SortedGroups, pad_groups, usable

AdvantageScale = Literal["std", "none", "dispersion"]

DISPERSION_FLOOR = 1e-8  # [code]


def group_advantages_padded(
    rewards_PG: Tensor, mask_PG: Tensor, *, scale: AdvantageScale = "std", epsilon: float = 1e-6
) -> Tensor:
    """Advantage of each response relative to its group.

    std (GRPO): (r - mean)/(std + epsilon). none (Dr.GRPO): r - mean. dispersion [code]: (r - mean)/max(std, 1e-8). std
    is the sample standard deviation (n - 1). The computation is in float64 on the device of the rewards.

    Args:
        rewards_PG: [P, G], in any unit.
        mask_PG: bool [P, G]; masked and non-finite rewards are left out and get advantage 0. Rewards beyond +-1e150
            count as infinite.
        scale: which of the three formulas.
        epsilon: added to the deviation, for scale std.

    Returns:
        [P, G] in the type of the rewards. A value beyond the range of that type becomes its largest number with the
        same sign.

    Degenerate cases: equal rewards give exactly 0. A group of one takes mean 0 and deviation 1, as in verl's grpo
    estimator: r/(1 + epsilon), r, and r for the three scales.

    Raises:
        ValueError: unknown scale, or shapes that differ.
    """
    if scale not in ("std", "none", "dispersion"):
        raise ValueError(f"scale {scale!r}: must be std, none or dispersion")
    groups = SortedGroups(rewards_PG, mask_PG)
    single = groups.count_P == 1
    mean = torch.where(single, torch.zeros_like(groups.mean_P), groups.mean_P)
    rewards = rewards_PG.detach().to(torch.float64)
    advantages = rewards - mean.unsqueeze(1)
    if scale != "none":
        std = torch.where(single, torch.ones_like(mean), groups.std())
        divisor = std + epsilon if scale == "std" else std.clamp(min=DISPERSION_FLOOR)
        advantages = advantages / divisor.unsqueeze(1)
    idle = groups.equal_P & ~single
    counts = mask_PG.bool() & usable(rewards) & ~idle.unsqueeze(1)
    result = torch.where(counts, advantages, torch.zeros_like(advantages))
    return in_type(result, rewards_PG.dtype if rewards_PG.is_floating_point() else torch.float32)


def in_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to another floating-point type; values beyond its range become its largest number with the same sign."""
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).to(dtype)


def group_advantages(
    rewards_N: Tensor,
    index_N: Tensor | Sequence[Hashable],
    mask_N: Tensor | None = None,
    *,
    scale: AdvantageScale = "std",
    epsilon: float = 1e-6,
) -> Tensor:
    """`group_advantages_padded` for a flat batch.

    Args:
        rewards_N: [N], in any unit.
        index_N: the group of each response, an integer tensor or hashable labels.
        mask_N: bool [N], responses that count; None: all.
        scale, epsilon: as in `group_advantages_padded`.

    Returns:
        [N] in the type and order of the rewards.

    Raises:
        ValueError: unknown scale, or lengths that differ.
    """
    rewards, present, (row, column) = pad_groups(rewards_N, index_N)
    if mask_N is not None:
        if mask_N.shape != rewards_N.shape:
            raise ValueError(f"expected mask {tuple(rewards_N.shape)}, got {tuple(mask_N.shape)}")
        present[row, column] = mask_N.bool()
    return group_advantages_padded(rewards, present, scale=scale, epsilon=epsilon)[row, column]
