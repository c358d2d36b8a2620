# SPDX-License-Identifier: Apache-2.0
"""What the trainer decides for the rows of a step: clip ratios and weights; and what it writes down per prompt."""

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
    """Clip ratios of each row, ``[B]`` float32: those of its prompt; padding rows get the base."""
    decision = decide_clip(groups.stats, groups.signals(), state, config, settings.clip_low, settings.clip_high)
    groups.clip_reason = [Reason(int(r)).label for r in decision.reason]
    index = torch.tensor(groups.prompt_of_row)
    columns = {}
    for name, values, base in (
        (CLIP_LOW, decision.low, settings.clip_low),
        (CLIP_HIGH, decision.high, settings.clip_high),
    ):
        padded = torch.cat([values.double(), torch.tensor([base], dtype=torch.float64)])
        columns[name] = padded[index].float()
    return columns


def row_weights(groups: StepGroups, config: AGPOConfig, updates: torch.Tensor, mode: Any) -> torch.Tensor:
    """Per row: its share of the denominator, times its prompt's weight; 1 everywhere in plain GRPO.

    Args:
        groups: the step.
        config: ours.
        updates: which update each row is in, ``[B]``.
        mode: verl's ``loss_agg_mode``.
    """
    in_loss = torch.tensor([v and not m for v, m in zip(groups.valid, groups.masked, strict=True)])
    weights = denominator_weights(groups.row_tokens, in_loss, updates, mode)
    if config.allocation.enabled and config.allocation.weighting == "prompts":
        of_prompt = torch.cat([prompt_weights(groups.sizes), torch.ones(1)])  # the last one: padding rows
        weights = weights * of_prompt[torch.tensor(groups.prompt_of_row)]
    return weights


def updates_of_rows(rows: int, mini_batch: int, ranks: int, shuffle: bool) -> torch.Tensor:
    """Which update each row is in; one for all where verl shuffles or rows do not fill their updates."""
    if shuffle or rows % mini_batch:
        return torch.zeros(rows, dtype=torch.long)
    # Rank r holds rows [r*rows/ranks, ...) and takes its mini-batches from them in order.
    return (torch.arange(rows) % (rows // ranks)) // (mini_batch // ranks)


def decision_rows(groups: StepGroups, step: int) -> list[dict[str, Any]]:
    """One JSON-ready object per prompt for the decisions file."""
    by_prompt: list[list[int]] = [[] for _ in groups.prompts]
    for i, p in enumerate(groups.prompt_of_row):
        if p >= 0 and groups.final[i]:
            by_prompt[p].append(i)
    rows = []
    for p, uid in enumerate(groups.prompts):
        members, record = by_prompt[p], groups.records[p]
        first = members[0]
        rows.append(
            {
                "step": step,
                "prompt": uid,
                "tau": record.tau if record else _plain(groups.tau[first]),
                "tau_reason": record.reason if record else Reason.OFF.label,
                "eps_low": None if groups.clip_low is None else _plain(groups.clip_low[first]),
                "eps_high": None if groups.clip_high is None else _plain(groups.clip_high[first]),
                "eps_reason": groups.clip_reason[p] if groups.clip_reason else Reason.OFF.label,
                "probe_dispersion": _plain(groups.stats.dispersion[p]),
                "probe_skewness": _plain(groups.stats.skewness[p]),
                "probe_vote_entropy": _plain(groups.stats.vote_entropy[p]),
                "uncertainty": record.uncertainty if record else None,
                "centred": record.centred if record else None,
                "outcomes": [_plain(groups.outcomes[i]) for i in members],
                "roles": [groups.roles[i] for i in members],
                "statuses": [groups.statuses[i] for i in members],
                "vote_keys": [groups.vote_keys[i] for i in members],
                "tokens": [int(groups.tokens[i]) for i in members],
            }
            | ({"length": [_plain(groups.length[i]) for i in members]} if bool(groups.length.any()) else {})
        )
    return rows


def _plain(value: Any) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
