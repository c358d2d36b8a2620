# SPDX-License-Identifier: Apache-2.0
"""The advantage estimator ``agpo`` in verl's registry.

verl passes an estimator only rewards, mask, prompt ids and its config. Our trainer passes the rest through
``with_rows``: the session of each row, whether it was scored, and the verifier's outcome. Without it, every row with a
response is one valid member of its group and its reward is the outcome, so the estimator also works in other verl
trainers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf

from agpo_core import ResponseAdvantages, response_advantages
from recipe.agpo.settings import RunConfig, agpo_config
from recipe.agpo.verl_api import losses

T = TypeVar("T")


@dataclass(frozen=True)
class RowContext:
    """One entry per batch row.

    Attributes:
        sessions: session of each row; rows of one session share one reward (multi-output agent loops).
        final: whether the row is the last output of its session: the one that counts in the group.
        valid: whether the session has a valid reward.
        outcomes: the verifier's outcome of the session; None: the rewards are the outcomes.
        tokens: generated tokens of the session; None: those of the row.
        truncated: whether the session was stopped by the token limit; None: none was.
    """

    sessions: Sequence[str]
    final: Sequence[bool]
    valid: Sequence[bool]
    outcomes: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    truncated: torch.Tensor | None = None


_rows_in: ContextVar[RowContext | None] = ContextVar("agpo_rows_in", default=None)
_advantages_out: ContextVar[ResponseAdvantages] = ContextVar("agpo_advantages_out")


def with_rows(rows: RowContext, call: Callable[[], T]) -> tuple[T, ResponseAdvantages]:
    """Run ``call``, in which verl asks the estimator ``agpo`` once about these rows.

    verl's call has no arguments for the rows or the result, so both are in a context variable during the call.

    Returns:
        What ``call`` returned, and the advantages, one per row.

    Raises:
        RuntimeError: verl called another estimator.
    """
    context = copy_context()
    context.run(_rows_in.set, rows)
    returned = context.run(call)
    if _advantages_out not in context:
        raise RuntimeError("verl did not ask the advantage estimator 'agpo'. Set algorithm.adv_estimator=agpo.")
    return returned, context[_advantages_out]


def agpo_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any],
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Group-relative advantages of the responses (``agpo_core.response_advantages``).

    Args:
        token_level_rewards: ``[B, T]``; a response's reward is the sum over its tokens.
        response_mask: ``[B, T]``, 1 for generated tokens.
        index: prompt id of each row.
        config: verl's ``algorithm`` section. ``norm_adv_by_std_in_grpo=False`` (Dr.GRPO) turns the
            normalisation off, as for verl's ``grpo``.

    Returns:
        ``(advantages, returns)``, both ``[B, T]``. Rows without a valid reward get 0 and are not counted.
    """
    context = _rows_in.get()
    made = row_advantages(token_level_rewards, response_mask, index, config, context)
    if context is not None:
        _advantages_out.set(made)
    advantages = made.advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


def row_advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any],
    config: Any = None,
    context: RowContext | None = None,
) -> ResponseAdvantages:
    """The advantage of each row; arguments as for ``agpo_advantage``."""
    settings = _settings(config)
    rewards = token_level_rewards.sum(dim=-1)
    valid = response_mask.bool().any(dim=-1) & torch.isfinite(rewards)
    counted = valid
    if context is not None:
        valid = valid & torch.tensor(list(context.valid), dtype=torch.bool, device=rewards.device)
        counted = valid & torch.tensor(list(context.final), dtype=torch.bool, device=rewards.device)

    scale = settings.advantage.scale
    if config is not None and not config.get("norm_adv_by_std_in_grpo", True):
        scale = "none"
    if settings.adaptive or settings.shapes_advantages:
        made = _shaped(rewards, response_mask, index, counted, context, settings, scale)
    else:
        made = _plain(_verl_grpo(rewards, index, counted, normalise=scale != "none"), counted)
    if context is None:
        return made
    by_session = {s: i for i, (s, last) in enumerate(zip(context.sessions, context.final, strict=True)) if last}
    of_session = torch.tensor([by_session[s] for s in context.sessions])
    return _rows(made, of_session, valid)


def _shaped(
    rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Any],
    counted: torch.Tensor,
    context: RowContext | None,
    settings: RunConfig,
    scale: Any,
) -> ResponseAdvantages:
    known = context if context is not None else RowContext((), (), ())
    outcomes = rewards if known.outcomes is None else known.outcomes
    tokens = response_mask.sum(dim=-1) if known.tokens is None else known.tokens
    truncated = torch.zeros_like(counted) if known.truncated is None else known.truncated
    return response_advantages(
        rewards,
        outcomes,
        list(index),
        counted,
        tokens,
        truncated,
        advantage=replace(settings.advantage, scale=scale),
        length=settings.length,
    )


def _plain(advantages: torch.Tensor, counted: torch.Tensor) -> ResponseAdvantages:
    return ResponseAdvantages(advantages, torch.zeros_like(advantages), counted, torch.zeros_like(counted))


def _rows(made: ResponseAdvantages, of_session: torch.Tensor, valid: torch.Tensor) -> ResponseAdvantages:
    """Every row gets the advantage of its session's final row; rows that are not valid get 0."""
    zero = torch.zeros_like(made.advantages)
    return ResponseAdvantages(
        torch.where(valid, made.advantages[of_session], zero),
        torch.where(valid, made.length[of_session], zero),
        valid & made.in_loss[of_session],
        valid & made.zero_variance[of_session],
    )


def _verl_grpo(rewards: torch.Tensor, index: Sequence[Any], counted: torch.Tensor, *, normalise: bool) -> torch.Tensor:
    """With all controllers off: verl's own estimator on the rows that count, so that the result is bit-identical."""
    rows = counted.nonzero().flatten()
    kept = rewards[rows].unsqueeze(-1)
    names = [index[i] for i in rows.tolist()]
    advantages, _ = losses.compute_grpo_outcome_advantage(
        kept,
        torch.ones_like(kept),
        names,
        norm_adv_by_std_in_grpo=normalise,  # type: ignore[arg-type]
    )
    per_row = torch.zeros_like(rewards)
    per_row[rows] = advantages.squeeze(-1)
    return per_row


def _settings(config: Any) -> RunConfig:
    if config is None:
        return RunConfig()
    return agpo_config(OmegaConf.create({"algorithm": {"agpo": config.get("agpo", None) or {}}}))
