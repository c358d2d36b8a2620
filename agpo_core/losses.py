# SPDX-License-Identifier: Apache-2.0
"""The clipped surrogate with a clip ratio per response, and its aggregation.

Shapes: _B rows (one response each, or several when packed), _T tokens. Log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from agpo_core.packing import sequence_sums

AggregationMode = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum", "seq-mean-token-sum-norm"
]

LOG_RATIO_LIMIT = 20.0  # the importance ratio stays within exp(+-20)


@dataclass(frozen=True)
class SurrogateOutput:
    """The loss per token, and its metrics.

    Attributes:
        loss_BT: [B, T] loss per token, 0 outside `mask`.
        mask: bool [B, T], the tokens that count.
        clip_fraction_low, clip_fraction_high: share of tokens clipped at the lower and at the upper clip ratio.
        dual_clip_fraction: share of tokens clipped by the dual clip.
        step_kl: token mean of old minus new log-prob (k1), nats.
        step_kl_k3: token mean of ratio - 1 - ln ratio (k3), nats; never negative.
        nonfinite_tokens: number of tokens left out because a value was not finite.
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
        """The scalar metrics by name, detached."""
        return {
            "clip_fraction_low": self.clip_fraction_low,
            "clip_fraction_high": self.clip_fraction_high,
            "dual_clip_fraction": self.dual_clip_fraction,
            "step_kl": self.step_kl,
            "step_kl_k3": self.step_kl_k3,
            "nonfinite_tokens": self.nonfinite_tokens,
        }


class _Widen(torch.autograd.Function):
    """Half precision as float32. In backward, a gradient beyond the half-precision range becomes its largest number
    with the same sign.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.dtype = values.dtype
        return values.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        limit = torch.finfo(ctx.dtype).max
        # An infinite gradient (the loss scale is too large) stays infinite, so that a gradient scaler detects it.
        return torch.where(grads[0].isfinite(), grads[0].clamp(-limit, limit), grads[0]).to(ctx.dtype)


def widened(values: Tensor) -> Tensor:
    """Half precision as float32, wider types as they are."""
    if torch.promote_types(values.dtype, torch.float32) == values.dtype:
        return values
    return _Widen.apply(values)  # type: ignore[no-untyped-call, no-any-return]


def surrogate_by_definition(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    counts: Tensor,
    ratio_min: Tensor,
    ratio_max: Tensor,
    dual_clip: float | None,
    weights: Tensor | None,
) -> Tensor:
    """The loss of `clipped_surrogate` in plain torch operations. It defines the loss and its derivatives of any order.

    Args:
        log_prob, old_log_prob, advantages: [B, T], or broadcast to it.
        counts: bool [B, T]. Elsewhere loss and derivatives are 0, and the values may be anything.
        ratio_min, ratio_max: bounds of the ratio.
        dual_clip: > 1, or None.
        weights: importance weights, or None.

    Where two branches are equal, the derivative is that of the unclipped one.
    """
    log_prob = torch.where(counts, log_prob, 0.0)
    old_log_prob, advantages = torch.where(counts, old_log_prob, 0.0), torch.where(counts, advantages, 0.0)
    ratio = (log_prob - old_log_prob).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    free = -advantages * ratio
    held = -advantages * torch.minimum(torch.maximum(ratio.detach(), ratio_min), ratio_max)
    loss = torch.where(held > free, held, free)
    if dual_clip is not None:
        ceiling = advantages.abs() * dual_clip
        loss = torch.where(loss > ceiling, ceiling, loss)
    if weights is not None:
        loss = loss * torch.where(counts, weights, 0.0)
    return torch.where(counts, loss, 0.0)


class _KnownSlope(torch.autograd.Function):
    """A value whose derivative with respect to `log_prob` is already computed. Backward needs only that tensor.

    With create_graph=True the derivative comes from the definition.
    """

    @staticmethod
    def forward(ctx: Any, log_prob: Tensor, value: Tensor, slope: Tensor, definition: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.log_prob, ctx.definition = log_prob, definition
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (slope,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grads[0] * slope, None, None, None
        (gradient,) = torch.autograd.grad(ctx.definition(), ctx.log_prob, grads[0], create_graph=True)
        return gradient, None, None, None


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
        raise ValueError(f"{name}: expected [{rows}], [{rows}, 1] or [{rows}, {tokens}], got {tuple(value.shape)}")
    return value.detach().to(like_BT.device)


def _clip(value: float | Tensor, like_BT: Tensor, name: str) -> Tensor:
    if not isinstance(value, Tensor) and not value >= 0.0:
        raise ValueError(f"{name}={value}: must be a number >= 0")
    # In float64, so that 1 - 0.2 is rounded once, as in verl.
    return _rows(value, like_BT, name).double()


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
    """(loss, slope = d loss/d log_prob, which tokens count, metrics); all but the metrics are [B, T].

    The operations and their order are those of verl's vanilla loss, so the results are bit-identical. Indicators are
    the
    numbers 0 and 1, and many steps work in place: on a CPU, `where` and boolean sums take several times as long.
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
        ceiling = negative.abs() * dual_clip  # only reached where A < 0: elsewhere the loss is not above 0
        dual = torch.gt(loss, ceiling, out=torch.empty_like(loss))
        loss = torch.minimum(loss, ceiling, out=loss)
    slope = _finite_or_zero(free.clone()).mul_(torch.eq(loss, free, out=indicator))
    slope.mul_(torch.eq(log_ratio, difference, out=indicator))  # 0 where the log ratio is clamped
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
    dual_clip: float | None = None,
    weights: Tensor | None = None,
) -> SurrogateOutput:
    """Clipped policy loss per token, with a clip ratio per response (PPO).

    ratio = exp(clamp(log_prob - old_log_prob, +-20)); loss = max(-A*ratio, -A*clamp(ratio, 1 - low, 1 + high)); with a
    dual clip, at most -A*dual_clip where A < 0; multiplied by `weights`. In float32 the result equals verl's vanilla
    loss bit for bit. verl uses dual_clip = 3.0 by default; PPO has no dual clip.

    Args:
        log_prob: [B, T] under the policy that is trained. Only this argument gets a gradient (a sub-gradient at a
            kink).
        old_log_prob: [B, T] under the policy before the step.
        advantages: [B] or [B, T].
        mask: [B, T], bool or 0/1; 1 = counts.
        clip_low, clip_high: a number >= 0, [B], [B, 1] or [B, T]. Packed responses: values per token from `per_token`.
        dual_clip: > 1, or None for none.
        weights: [B] or [B, T] importance weights, or None.

    Returns:
        A `SurrogateOutput`. Half-precision input is computed in float32; its gradient has the input's type, and a
        finite gradient beyond the range of that type becomes its largest number with the same sign. Backward keeps one
        [B, T] floating-point tensor beside the arguments. Second derivatives (create_graph=True) use
        `surrogate_by_definition`.

    Degenerate cases: a token with a non-finite log-prob, advantage, clip ratio, weight or loss has loss 0 and gradient
    0, is counted in `nonfinite_tokens`, and is not in the returned mask, so that the denominator can leave it out.
    Without tokens (B = 0, T = 0, all masked) all metrics and the gradient are 0.

    Raises:
        ValueError: a shape does not fit, a clip ratio is negative, or dual_clip is not above 1.
    """
    if log_prob.dim() != 2:
        raise ValueError(f"log_prob: expected [B, T], got {tuple(log_prob.shape)}")
    for name, value in (("old_log_prob", old_log_prob), ("mask", mask)):
        if value.shape != log_prob.shape:
            raise ValueError(f"{name}: expected {tuple(log_prob.shape)}, got {tuple(value.shape)}")
    if dual_clip is not None and not dual_clip > 1.0:
        raise ValueError(f"dual_clip={dual_clip}: must be > 1, or None")
    wide = widened(log_prob)
    dtype = wide.dtype
    arguments = (
        old_log_prob.detach().to(dtype),
        _rows(advantages, wide, "advantages").to(dtype),
        (1.0 - _clip(clip_low, wide, "clip_low")).to(dtype),
        (1.0 + _clip(clip_high, wide, "clip_high")).to(dtype),
        dual_clip,
        None if weights is None else _rows(weights, wide, "weights").to(dtype),
    )
    old, advantage, low, high, dual, weight = arguments
    value, slope, counts, metrics = _evaluate(wide.detach(), old, advantage, mask.to(dtype), low, high, dual, weight)
    counted = counts.bool()

    def definition() -> Tensor:
        return surrogate_by_definition(wide, old, advantage, counted, low, high, dual, weight)

    loss = _KnownSlope.apply(wide, value, slope, definition)  # type: ignore[no-untyped-call]
    return SurrogateOutput(loss, counted, **metrics)


def aggregate(
    loss_BT: Tensor,
    mask_BT: Tensor,
    mode: AggregationMode = "token-mean",
    norm_length: float | None = None,
    *,
    sequence_BT: Tensor | None = None,
) -> Tensor:
    """Reduce the loss per token to one number, over the rows given (no communication between ranks).

    token-sum: sum over tokens. token-mean: sum over tokens / number of tokens. seq-mean-token-sum: mean over responses
    of their token sums. seq-mean-token-mean: mean over responses of their token means. seq-mean-token-sum-norm:
    seq-mean-token-sum / norm_length.

    Args:
        loss_BT: [B, T].
        mask_BT: [B, T], non-zero = counts; the loss elsewhere may be NaN.
        mode: which of the five.
        norm_length: finite number > 0, in tokens; None: T (1 where T is 0).
        sequence_BT: int [B, T], the response of each token where several share a row (`sequence_ids`), negative: none.
            None: each row is one response. seq-mean-token-sum-norm then needs norm_length.

    Returns:
        A scalar, float32 for half-precision input. Responses without tokens do not count. Without any token (B = 0, T =
        0, all masked) it is 0 in every mode, with gradient 0.

    Raises:
        ValueError: a shape does not fit, or the mode or norm_length is not valid.
    """
    if loss_BT.dim() != 2 or mask_BT.shape != loss_BT.shape:
        raise ValueError(f"expected loss and mask [B, T], got {tuple(loss_BT.shape)} and {tuple(mask_BT.shape)}")
    mask = mask_BT if mask_BT.dtype == torch.bool else mask_BT != 0
    loss = widened(loss_BT)
    return _reduce(torch.where(mask, loss, loss.new_zeros(())), mask, mode, norm_length, sequence_BT)


def _reduce(
    loss_BT: Tensor, mask: Tensor, mode: AggregationMode, norm_length: float | None, sequence_BT: Tensor | None
) -> Tensor:
    """`aggregate` for a loss that is 0 outside its mask."""
    if norm_length is not None and not 0.0 < norm_length < math.inf:
        raise ValueError(f"norm_length={norm_length}: must be a finite number > 0")
    if sequence_BT is not None:
        if sequence_BT.shape != loss_BT.shape:
            raise ValueError(f"sequence_BT: expected {tuple(loss_BT.shape)}, got {tuple(sequence_BT.shape)}")
        if mode == "seq-mean-token-sum-norm" and norm_length is None:
            raise ValueError(
                "seq-mean-token-sum-norm of packed responses: set norm_length; the row's width is not a response length"
            )
        mask = mask & (sequence_BT >= 0)
        loss_BT = torch.where(mask, loss_BT, loss_BT.new_zeros(()))
    if mode == "token-sum":
        return loss_BT.sum()
    if mode == "token-mean":
        return loss_BT.sum() / mask.sum().clamp(min=1)
    if mode not in ("seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
        raise ValueError(f"aggregation mode {mode!r}: unknown")
    if sequence_BT is None:
        count_B, rows = mask.sum(dim=1), loss_BT.sum(dim=1)
    else:
        count_B, rows = sequence_sums(mask.long(), sequence_BT), sequence_sums(loss_BT, sequence_BT)
    if mode == "seq-mean-token-mean":
        rows = rows / count_B.clamp(min=1)
    mean = rows.sum() / (count_B > 0).sum().clamp(min=1)
    if mode == "seq-mean-token-sum-norm":
        return mean / (max(1, loss_BT.shape[1]) if norm_length is None else norm_length)
    return mean


def policy_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    *,
    dual_clip: float | None = None,
    weights: Tensor | None = None,
    mode: AggregationMode = "token-mean",
    norm_length: float | None = None,
    sequence_BT: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`clipped_surrogate`, then `aggregate` over the tokens that count.

    Args and errors: those of the two functions.

    Returns:
        (scalar loss, detached metrics by name).
    """
    output = clipped_surrogate(
        log_prob, old_log_prob, advantages, mask, clip_low, clip_high, dual_clip=dual_clip, weights=weights
    )
    return _reduce(output.loss_BT, output.mask, mode, norm_length, sequence_BT), output.metrics()


@torch.no_grad()
def importance_weights(log_prob_scoring: Tensor, log_prob_sampling: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated token importance weights, for log-probs at another temperature than that of sampling.

    w = min(exp(log_prob_scoring - log_prob_sampling), cap).

    Args:
        log_prob_scoring, log_prob_sampling: [B, T] of the same tokens, in nats.
        mask: [B, T], non-zero = counts.
        cap: largest weight, > 0.

    Returns:
        [B, T], detached. Masked tokens and tokens with a non-finite log-prob have weight 0.

    Raises:
        ValueError: cap is not above 0, or the shapes differ.
    """
    if not cap > 0.0:
        raise ValueError(f"cap={cap}: must be > 0")
    if log_prob_scoring.shape != log_prob_sampling.shape or mask.shape != log_prob_scoring.shape:
        raise ValueError("log-probs and mask must have the same shape [B, T]")
    dtype = torch.promote_types(log_prob_scoring.dtype, torch.float32)
    difference = log_prob_scoring.to(dtype) - log_prob_sampling.to(dtype)
    weights = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)
    return torch.where((mask != 0) & difference.isfinite(), weights, 0.0)
