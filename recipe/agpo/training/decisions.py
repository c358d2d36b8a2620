# SPDX-License-Identifier: Apache-2.0
"""Decisions for the rows of a step (clip ratios and weights), and the records of the decisions file."""

from __future__ import annotations

import math
from typing import Any

import torch

from agpo_core import (
    AGPOConfig,
    ControllerState,
    Reason,
    Resolved,
    decide_clip,
    denominator_weights,
    prompt_weights,
)
from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW
from recipe.agpo.training.batch import StepGroups


def clip_columns(
    groups: StepGroups, state: ControllerState, config: AGPOConfig, settings: Resolved
) -> dict[str, torch.Tensor]:
    """Decide the clip ratios: each row gets those of its prompt, padding rows the base. Returns them as columns."""
    decision = decide_clip(groups.stats, groups.signals(), state, config, settings.clip_low, settings.clip_high)
    for prompt, reason in zip(groups.prompts, decision.reason.tolist(), strict=True):
        prompt.clip_reason = Reason(reason).label
    # The last one is for padding rows, whose index is -1.
    low, high = [*decision.low.tolist(), settings.clip_low], [*decision.high.tolist(), settings.clip_high]
    for row, p in zip(groups.rows, groups.prompt_of_row, strict=True):
        row.clip_low, row.clip_high = low[p], high[p]
    return {CLIP_LOW: groups.tensor("clip_low").float(), CLIP_HIGH: groups.tensor("clip_high").float()}


def row_weights(groups: StepGroups, config: AGPOConfig, updates: torch.Tensor, mode: Any) -> torch.Tensor:
    """Weight of each row: denominator weight times the weight of its prompt; always 1 in plain GRPO.

    Args:
        groups: the step.
        config: ours.
        updates: the update of each row, ``[B]``.
        mode: verl's ``loss_agg_mode``.
    """
    in_loss = groups.tensor("valid") & ~groups.tensor("masked")
    weights = denominator_weights(groups.tensor("loss_tokens"), in_loss, updates, mode)
    if config.allocation.enabled and config.allocation.weighting == "prompts":
        of_prompt = torch.cat([prompt_weights(groups.sizes), torch.ones(1)])  # the last one: padding rows
        weights = weights * of_prompt[torch.tensor(groups.prompt_of_row)]
    return weights


def updates_of_rows(rows: int, mini_batch: int, ranks: int, shuffle: bool) -> torch.Tensor:
    """The update of each row; the same for all if verl shuffles or the rows do not fill their updates."""
    if shuffle or rows % mini_batch:
        return torch.zeros(rows, dtype=torch.long)
    # Rank r holds rows [r*rows/ranks, ...) and takes its mini-batches from them in order.
    return (torch.arange(rows) % (rows // ranks)) // (mini_batch // ranks)


def decision_rows(groups: StepGroups, step: int) -> list[dict[str, Any]]:
    """One JSON-ready object per prompt for the decisions file."""
    stats, found = groups.stats, []
    with_length = any(groups.column("length"))
    for p, (prompt, members) in enumerate(zip(groups.prompts, groups.members, strict=True)):
        record, first = prompt.record, members[0]
        found.append(
            {
                "step": step,
                "prompt": prompt.uid,
                "tau": record.tau if record else _plain(first.tau),
                "tau_reason": prompt.tau_reason,
                "eps_low": None if first.clip_low is None else _plain(first.clip_low),
                "eps_high": None if first.clip_high is None else _plain(first.clip_high),
                "eps_reason": prompt.clip_reason,
                "probe_dispersion": _plain(stats.dispersion[p]),
                "probe_skewness": _plain(stats.skewness[p]),
                "probe_vote_entropy": _plain(stats.vote_entropy[p]),
                "uncertainty": record.uncertainty if record else None,
                "centred": record.centred if record else None,
                "outcomes": [_plain(row.outcome) for row in members],
                "roles": [row.role for row in members],
                "statuses": [row.status for row in members],
                "vote_keys": [row.vote_key for row in members],
                "tokens": [row.tokens for row in members],
            }
            | ({"length": [_plain(row.length) for row in members]} if with_length else {})
        )
    return found


def _plain(value: Any) -> float | None:
    """Six decimals, or six digits where that is more: the clip ratios of GSPO are near 0.0003."""
    number = float(value)
    if not math.isfinite(number):
        return None
    return round(number, 6) if abs(number) >= 0.01 else float(f"{number:.6g}")
