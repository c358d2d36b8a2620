# SPDX-License-Identifier: Apache-2.0
"""The clipped surrogate with a clip ratio per response, and its aggregation.

Shapes: _B responses (rows), _T tokens. Token log-probabilities are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

AggregationMode = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum", "seq-mean-token-sum-norm"
]

LOG_RATIO_LIMIT = 20.0  # the importance ratio stays within exp(+-20)


@dataclass(frozen=True)
class SurrogateOutput:
    """loss_BT: loss per token, 0 outside `mask`. mask: bool [B, T], the tokens that count. The rest: scalars.

    clip_fraction_low, clip_fraction_high: share of tokens held by the lower and the upper clip ratio;
    dual_clip_fraction: share held by the dual clip; step_kl: token mean of old minus new log-prob (k1, nats);
    step_kl_k3: token mean of ratio - 1 - ln ratio, never negative; nonfinite_tokens: how many were left out.
    """

    loss_BT: Tensor
    mask: Tensor
    clip_fraction_low: Tensor
    clip_fraction_high: Tensor
    dual_clip_fraction: Tensor
    step_kl: Tensor
    step_kl_k3: Tensor
    nonfinite_tokens: Tensor

    def metrics(self) -> dict[str, Tensor]:
        """The scalars by name, detached."""
        return {
            "clip_fraction_low": self.clip_fraction_low,
            "clip_fraction_high": self.clip_fraction_high,
            "dual_clip_fraction": self.dual_clip_fraction,
            "step_kl": self.step_kl,
            "step_kl_k3": self.step_kl_k3,
            "nonfinite_tokens": self.nonfinite_tokens,
        }


class _KnownSlope(torch.autograd.Function):
    """A value whose derivative by `log_prob` is already known: keeps that one tensor and nothing else."""

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.dtype = log_prob.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).to(ctx.dtype), None, None


def _rows(value: float | Tensor, like_BT: Tensor, name: str) -> Tensor:
    """As [1, 1], [B, 1] or [B, T] on the device of `like_BT`; a number becomes float64."""
    if not isinstance(value, Tensor):
        return torch.full((1, 1), value, dtype=torch.float64, device=like_BT.device)
    rows, tokens = like_BT.shape
    if value.dim() == 0:
        value = value.reshape(1, 1)
    elif value.dim() == 1 and value.shape[0] == rows:
        value = value.unsqueeze(1)
    elif value.dim() != 2 or value.shape[0] != rows or value.shape[1] not in (1, tokens):
        raise ValueError(
            f"{name}: expected [{rows}], [{rows}, 1] or [{rows}, {tokens}], got {tuple(value.shape)}"
        )
    return value.detach().to(like_BT.device)


def _finite_or_zero(values: Tensor) -> Tensor:
    return values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


@torch.no_grad()
def _evaluate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ratio_min: Tensor,
    ratio_max: Tensor,
    dual_clip: float | None,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """(loss, slope = d loss/d log_prob, which tokens count, metrics); all but the metrics [B, T].

    The loss takes the operations of verl's vanilla loss in their order, for the same bits. Indicators are
    numbers 0 and 1, many steps work in place: on a CPU `where` and boolean sums cost several times as much.
    """
    difference = log_prob - old_log_prob
    log_ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    negative = -advantages
    free = ratio * negative
    held = torch.maximum(ratio, ratio_min)
    held = torch.minimum(held, ratio_max, out=held).mul_(negative)
    loss = torch.maximum(free, held)
    indicator = torch.empty_like(loss)
    clipped = torch.gt(held, free, out=held)
    dual = None
    if dual_clip is not None:
        ceiling = negative.abs() * dual_clip  # binds where A < 0 only: elsewhere the loss is not above 0
        dual = torch.gt(loss, ceiling, out=torch.empty_like(loss))
        loss = torch.minimum(loss, ceiling, out=loss)
    slope = _finite_or_zero(free.clone()).mul_(torch.eq(loss, free, out=indicator))
    slope.mul_(torch.eq(log_ratio, difference, out=indicator))  # 0 where the clamp of the log ratio holds
    if weights is not None:
        loss.mul_(weights)
        slope.mul_(weights)
    # 0 * x is NaN if x is not finite
    counts = difference.add_(loss).mul_(0.0).add_(mask).nan_to_num_(nan=0.0)
    loss = _finite_or_zero(loss).mul_(counts)
    slope = _finite_or_zero(slope).mul_(counts)
    clipped.mul_(counts)
    log_ratio = _finite_or_zero(log_ratio).mul_(counts)
    k3 = _finite_or_zero(ratio).sub_(1.0).sub_(log_ratio).mul_(counts)
    total = counts.sum()
    tokens = total.clamp(min=1.0)
    both = clipped.sum()
    low_minus_high = clipped.mul_(negative.sign()).sum()
    metrics = {
        "clip_fraction_low": (both + low_minus_high) / (2.0 * tokens),
        "clip_fraction_high": (both - low_minus_high) / (2.0 * tokens),
        "dual_clip_fraction": torch.zeros_like(tokens) if dual is None else dual.mul_(counts).sum() / tokens,
        "step_kl": log_ratio.sum() / -tokens,
        "step_kl_k3": (k3.sum() / tokens).clamp(min=0.0),
        "nonfinite_tokens": (mask.sum() - total).long(),
    }
    return loss, slope, counts, metrics


def clipped_surrogate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    *,
    dual_clip: float | None = 3.0,
    weights: Tensor | None = None,
) -> SurrogateOutput:
    """Clipped policy loss per token, with its own clip ratio per response.

    ratio = exp(clamp(log_prob - old_log_prob, +-20)); loss = max(-A*ratio, -A*clamp(ratio, 1-low, 1+high));
    where A < 0 at most -A*dual_clip; times `weights`. In float32 the values are those of verl's vanilla loss,
    bit for bit.

    log_prob: [B, T], the only argument that a gradient reaches (at an exact kink a sub-gradient);
    old_log_prob: [B, T]; advantages: [B] or [B, T]; mask: [B, T], bool or 0/1, 1 = counts; clip_low,
    clip_high: a number, [B] or [B, 1]; dual_clip: > 1, or None for none; weights: [B] or [B, T] importance
    weights. Half-precision input is computed in float32, its gradient comes back in its own type. Backward
    keeps one floating-point [B, T] tensor.

    A token with a non-finite log-prob, advantage, weight or loss has loss and gradient 0, is counted, and is
    not in the returned mask, so that it can leave the denominator too. No token at all: all metrics 0.
    """
    if log_prob.dim() != 2:
        raise ValueError(f"log_prob: expected [B, T], got {tuple(log_prob.shape)}")
    for name, value in (("old_log_prob", old_log_prob), ("mask", mask)):
        if value.shape != log_prob.shape:
            raise ValueError(f"{name}: expected {tuple(log_prob.shape)}, got {tuple(value.shape)}")
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip={dual_clip}: must be > 1, or None")
    new = log_prob.detach().to(torch.promote_types(log_prob.dtype, torch.float32))
    dtype = new.dtype
    value, slope, counts, metrics = _evaluate(
        new,
        old_log_prob.detach().to(dtype),
        _rows(advantages, new, "advantages").to(dtype),
        mask.to(dtype),
        # in float64 first: 1 - 0.2 rounded once, as verl has it
        (1.0 - _rows(clip_low, new, "clip_low").double()).to(dtype),
        (1.0 + _rows(clip_high, new, "clip_high").double()).to(dtype),
        dual_clip,
        None if weights is None else _rows(weights, new, "weights").to(dtype),
    )
    loss = _KnownSlope.apply(log_prob, value, slope)  # type: ignore[no-untyped-call]
    return SurrogateOutput(loss, counts.bool(), **metrics)


def aggregate(
    loss_BT: Tensor, mask_BT: Tensor, mode: AggregationMode = "token-mean", norm_length: float | None = None
) -> Tensor:
    """One number from the loss of each token, over the rows given (no other rank is asked).

    token-sum: sum over tokens. token-mean: that over the number of tokens. seq-mean-token-sum: mean over rows
    of their sums. seq-mean-token-mean: mean over rows of their means. seq-mean-token-sum-norm:
    seq-mean-token-sum over norm_length (None: T). mask_BT: non-zero = counts; values elsewhere may be NaN.
    Rows without a token do not count; with none at all the result is 0 and has a gradient (0).
    """
    if loss_BT.dim() != 2 or mask_BT.shape != loss_BT.shape:
        raise ValueError(
            f"expected loss and mask [B, T], got {tuple(loss_BT.shape)} and {tuple(mask_BT.shape)}"
        )
    mask = mask_BT if mask_BT.dtype == torch.bool else mask_BT != 0
    return _reduce(torch.where(mask, loss_BT, loss_BT.new_zeros(())), mask, mode, norm_length)


def _reduce(loss_BT: Tensor, mask: Tensor, mode: AggregationMode, norm_length: float | None) -> Tensor:
    """`aggregate` of a loss that is 0 outside its mask."""
    if mode == "token-sum":
        return loss_BT.sum()
    if mode == "token-mean":
        return loss_BT.sum() / mask.sum().clamp(min=1)
    if mode not in ("seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
        raise ValueError(f"aggregation mode {mode!r}: unknown")
    count_B = mask.sum(dim=1)
    rows = loss_BT.sum(dim=1)
    if mode == "seq-mean-token-mean":
        rows = rows / count_B.clamp(min=1)
    mean = rows.sum() / (count_B > 0).sum().clamp(min=1)
    if mode == "seq-mean-token-sum-norm":
        return mean / (loss_BT.shape[1] if norm_length is None else norm_length)
    return mean


def policy_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    *,
    dual_clip: float | None = 3.0,
    weights: Tensor | None = None,
    mode: AggregationMode = "token-mean",
    norm_length: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`clipped_surrogate`, then `aggregate` over the tokens that count. Returns (loss, detached metrics)."""
    output = clipped_surrogate(
        log_prob, old_log_prob, advantages, mask, clip_low, clip_high, dual_clip=dual_clip, weights=weights
    )
    return _reduce(output.loss_BT, output.mask, mode, norm_length), output.metrics()


@torch.no_grad()
def importance_weights(
    log_prob_scoring: Tensor, log_prob_sampling: Tensor, mask: Tensor, cap: float
) -> Tensor:
    """Truncated token importance weights for scoring at another temperature than sampling.

    w = min(exp(log_prob_scoring - log_prob_sampling), cap), detached, [B, T]; both log-probs [B, T] of the
    same tokens, in nats. Masked tokens and tokens with a non-finite log-prob have weight 0. Raises ValueError
    if cap <= 0.
    """
    if cap <= 0.0:
        raise ValueError(f"cap={cap}: must be > 0")
    if log_prob_scoring.shape != log_prob_sampling.shape or mask.shape != log_prob_scoring.shape:
        raise ValueError("log-probs and mask must have the same shape [B, T]")
    dtype = torch.promote_types(log_prob_scoring.dtype, torch.float32)
    difference = log_prob_scoring.to(dtype) - log_prob_sampling.to(dtype)
    weights = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)
    return torch.where((mask != 0) & difference.isfinite(), weights, 0.0)
