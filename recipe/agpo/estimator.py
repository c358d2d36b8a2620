# SPDX-License-Identifier: Apache-2.0
"""The advantage estimator ``agpo`` in verl's registry.

verl hands an estimator rewards, mask, prompt ids and its config, and nothing else. What AGPO also needs (which
rows belong to one session, which were scored) comes from our trainer through ``row_context``; without it the
estimator takes every row with a response as one valid member, so that it also works in other verl trainers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from agpo_core import AGPOConfig, group_advantages


@dataclass(frozen=True)
class RowContext:
    """One entry per batch row.

    Attributes:
        sessions: session of each row; rows of one session share one reward (multi-output agent loops).
        final: whether the row is the last output of its session: the one that counts in the group.
        valid: whether the session has a trustworthy reward.
    """

    sessions: Sequence[str]
    final: Sequence[bool]
    valid: Sequence[bool]


_context: ContextVar[RowContext | None] = ContextVar("agpo_row_context", default=None)


@contextmanager
def row_context(context: RowContext) -> Iterator[None]:
    """Make ``context`` visible to the estimator inside the ``with`` block."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def agpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any],
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Group-relative advantages on the response rewards (``agpo_core.group_advantages``).

    Args:
        token_level_rewards: ``[B, T]``; a response's reward is the sum over its tokens.
        response_mask: ``[B, T]``, 1 for generated tokens.
        index: prompt id of each row.
        config: verl's ``algorithm`` section. ``norm_adv_by_std_in_grpo=False`` (Dr.GRPO) turns the
            normalisation off, as for verl's ``grpo``.

    Returns:
        ``(advantages, returns)``, both ``[B, T]``. Rows without a valid reward get 0 and are not counted.
    """
    settings = _settings(config)
    rewards = token_level_rewards.sum(dim=-1)
    context = _context.get()
    valid = response_mask.bool().any(dim=-1) & torch.isfinite(rewards)
    counted = valid
    if context is not None:
        valid = valid & torch.tensor(list(context.valid), dtype=torch.bool, device=rewards.device)
        counted = valid & torch.tensor(list(context.final), dtype=torch.bool, device=rewards.device)

    scale = settings.advantage.scale
    if config is not None and not config.get("norm_adv_by_std_in_grpo", True):
        scale = "none"
    if settings.adaptive:
        per_row = group_advantages(rewards, list(index), counted, scale=scale, epsilon=settings.advantage.epsilon)
    else:
        per_row = _verl_grpo(rewards, index, counted, normalise=scale != "none")
    if context is not None:
        by_session = {s: i for i, (s, last) in enumerate(zip(context.sessions, context.final, strict=True)) if last}
        per_row = per_row[[by_session[s] for s in context.sessions]]
        per_row = torch.where(valid, per_row, torch.zeros_like(per_row))
    advantages = per_row.unsqueeze(-1) * response_mask
    return advantages, advantages


def _verl_grpo(
    rewards: torch.Tensor, index: Sequence[Any], counted: torch.Tensor, *, normalise: bool
) -> torch.Tensor:
    """With all controllers off: verl's own estimator on the rows that count, for the same bits."""
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rows = counted.nonzero().flatten()
    kept = rewards[rows].unsqueeze(-1)
    names = [index[i] for i in rows.tolist()]
    advantages, _ = compute_grpo_outcome_advantage(
        kept, torch.ones_like(kept), names, norm_adv_by_std_in_grpo=normalise  # type: ignore[arg-type]
    )
    per_row = torch.zeros_like(rewards)
    per_row[rows] = advantages.squeeze(-1)
    return per_row


def _settings(config: Any) -> AGPOConfig:
    from omegaconf import OmegaConf

    from recipe.agpo.settings import agpo_config

    if config is None:
        return AGPOConfig()
    return agpo_config(OmegaConf.create({"algorithm": {"agpo": config.get("agpo", None) or {}}}))
