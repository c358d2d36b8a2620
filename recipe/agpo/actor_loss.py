# SPDX-License-Identifier: Apache-2.0
"""The loss that runs in verl's actor workers: verl's own ``ppo_loss`` with per-response clip ratios.

verl's ``ppo_loss`` reads ``clip_ratio_low`` and ``clip_ratio_high`` from its config. We hand it a copy in which
they are ``[B, 1]`` tensors, so KL loss, entropy bonus, dual clip, every aggregation mode and rollout correction
stay verl's code. The registered policy loss ``agpo`` is ``agpo_core.clipped_surrogate``: the same value as
verl's ``vanilla``, with the clip fraction per side, the step KL and a rule for non-finite tokens. verl's ``gspo`` and
``cispo`` take tensors as they are: they stay verl's code too, and get our sums beside them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from agpo_core import clipped_surrogate

BASE_LOSSES = ("vanilla", "gspo", "cispo")
BASE_LOSS = "agpo_base_loss"
CLIP_LOW, CLIP_HIGH, ROW_WEIGHT = "agpo_clip_low", "agpo_clip_high", "agpo_row_weight"
METRIC_PREFIX = "actor/agpo/"


def actor_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
    """verl's ``ppo_loss`` with the clip ratios of ``data``'s own columns.

    Args:
        config: verl's ``ActorConfig``; not changed.
        model_output: what the engine computed, with ``log_probs``.
        data: micro-batch of B rows with the columns ``agpo_clip_low`` and ``agpo_clip_high`` ``[B]``.
        dp_group: data-parallel group, passed on.

    Returns:
        ``(loss, metrics)`` as ``ppo_loss``; without the columns exactly what ``ppo_loss`` returns.
    """
    from verl.workers.utils.losses import ppo_loss

    if CLIP_LOW in data.keys():
        config = copy.copy(config)
        # ActorConfig freezes its fields; this copy lives for one micro-batch only.
        object.__setattr__(config, "clip_ratio_low", data[CLIP_LOW].unsqueeze(-1))
        object.__setattr__(config, "clip_ratio_high", data[CLIP_HIGH].unsqueeze(-1))
        object.__setattr__(config, ROW_WEIGHT, data[ROW_WEIGHT])
    loss, metrics = ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    return loss, _with_sums(metrics)


def agpo_policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Policy loss ``agpo`` for verl's registry; signature and shapes as verl's ``vanilla``.

    ``config.clip_ratio_low`` / ``clip_ratio_high`` may be numbers or ``[B, 1]`` tensors. A response that has no
    valid reward is already masked; ``agpo_row_weight`` takes it out of the fixed denominator of the ``seq-mean``
    modes (rows of the mini-batch / valid rows), so that it leaves loss and denominator alike. It scales advantages:
    every one of these losses is proportional to them. ``agpo_base_loss`` names another loss of ``BASE_LOSSES``.
    """
    from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn

    weight = getattr(config, ROW_WEIGHT, None)
    if weight is not None and loss_agg_mode.startswith("seq-mean") and bool((weight != 1).any()):
        advantages = advantages * weight.unsqueeze(-1).to(advantages.dtype)

    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    out = clipped_surrogate(
        log_prob,
        old_log_prob,
        advantages,
        response_mask,
        low,
        high,
        dual_clip=config.get("clip_ratio_c", 3.0),
        weights=rollout_is_weights,
    )
    tokens = out.mask.sum()
    sums = {
        f"{METRIC_PREFIX}tokens": tokens.item(),
        f"{METRIC_PREFIX}kl_sum": (out.step_kl * tokens).item(),
        f"{METRIC_PREFIX}nonfinite_tokens": out.nonfinite_tokens.item(),
    }
    base = getattr(config, BASE_LOSS, "vanilla")
    if base != "vanilla":
        # They clip another ratio, or clip it otherwise: verl's own clip fraction is the one to read.
        loss, metrics = get_policy_loss_fn(base)(
            old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
        )
        return loss, metrics | sums
    loss = agg_loss(
        loss_mat=out.loss_BT, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info
    )
    metrics = {
        "actor/pg_clipfrac": (out.clip_fraction_low + out.clip_fraction_high).item(),
        "actor/ppo_kl": out.step_kl.item(),
        "actor/pg_clipfrac_lower": out.dual_clip_fraction.item(),
        f"{METRIC_PREFIX}clip_low_tokens": (out.clip_fraction_low * tokens).item(),
        f"{METRIC_PREFIX}clip_high_tokens": (out.clip_fraction_high * tokens).item(),
    }
    return loss, metrics | sums


def _with_sums(metrics: dict[str, Any]) -> dict[str, Any]:
    """Our token counts and sums add up over micro-batches; verl would average them."""
    from verl.utils.metric import AggregationType, Metric

    for key, value in metrics.items():
        if key.startswith(METRIC_PREFIX):
            metrics[key] = Metric(AggregationType.SUM)
            metrics[key].extend(value.values)
    return metrics
