# SPDX-License-Identifier: Apache-2.0
"""Adaptive clip ratio: the bound on the importance ratio, chosen per prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agpo_core.config import AGPOConfig
from agpo_core.records import ControllerState, ProbeStats, Reason, StepSignals, first_reason, read_signals
from agpo_core.running import RunningStat
from agpo_core.sections import ClipConfig
from agpo_core.temperature import UNSET, enough_probe, exp_exact, scale_base

SIGNAL_STD_FLOOR = 0.05  # smallest running standard deviation to divide a probe signal by
USUAL_BASE = 0.2  # the clip ratio of PPO and GRPO, for which `clip.min` and `clip.max` are written
ENTROPY_LIMIT = math.log(2.0)  # the effect of the policy entropy stops at half and at double its running mean


@dataclass(frozen=True)
class ClipDecision:
    """Clip ratios of P prompts.

    Attributes:
        low, high: float64 [P], lower and upper clip ratio.
        reason: int8 [P], see `Reason`.
        log_scale: float64 [P], ln(eps/base) before the bounds.
    """

    low: Tensor
    high: Tensor
    reason: Tensor
    log_scale: Tensor


def clip_bounds(config: ClipConfig, base: float) -> tuple[float, float]:
    """Smallest and largest eps around a base [ours].

    (min, max) if the base is within them. Otherwise both in proportion to the base: (base*min/u, base*max/u), with
    u = 0.2, or the nearer of min and max if 0.2 is outside. GSPO, for one, clips the ratio of a whole sequence, with
    bases near 0.0003.
    """
    if config.min <= base <= config.max:
        return config.min, config.max
    low, high = _factors(config)
    return base * low, base * high


def _factors(config: ClipConfig) -> tuple[float, float]:
    usual = max(config.min, min(config.max, USUAL_BASE))
    return config.min / usual, config.max / usual


def usable_entropy(value: float | None) -> float | None:
    """The policy entropy if it is a positive finite number, else None."""
    return value if value is not None and math.isfinite(value) and value > 0.0 else None


def entropy_term(signals: StepSignals, running: RunningStat) -> float | None:
    """ln(H / running mean of H), limited to +-ln 2 [ours]; None if either is unknown."""
    entropy = usable_entropy(signals.policy_entropy)
    if entropy is None or not running.updates or running.mean <= 0.0:
        return None
    return max(-ENTROPY_LIMIT, min(ENTROPY_LIMIT, math.log(entropy / running.mean)))


def kl_term(running: RunningStat, target: float) -> float | None:
    """max(0, ln(running step KL / target)) [ours]; None before the first measurement."""
    if not running.updates:
        return None
    return max(0.0, math.log(running.mean / target)) if running.mean > 0.0 else 0.0


def fold_entropy(
    values: Sequence[float | None], h_ref: float, ema_weight: float
) -> tuple[list[float], list[bool], float]:
    """Update the reference entropy prompt by prompt in the given order [code].

    gate = clip(H / ref, 0.5, 1.5), ref = h_ref if it is set (> 1e-8) else H; then h_ref <- w*H + (1-w)*h_ref, or H if
    it was not set. An unknown H has gate 1 and changes nothing.

    Returns:
        (gate per prompt, whether h_ref was set for it, last h_ref).
    """
    gates, was_set = [], []
    for value in values:
        known = h_ref > UNSET
        was_set.append(known)
        if value is None:
            gates.append(1.0)
            continue
        gates.append(max(0.5, min(1.5, value / (h_ref if known else value))))
        h_ref = ema_weight * value + (1.0 - ema_weight) * h_ref if known else value
    return gates, was_set, h_ref


def prompt_entropies(signals: StepSignals, prompts: int) -> list[float | None]:
    """Policy entropy of each prompt; where it is unknown, that of the step; None if both are unknown."""
    fallback = usable_entropy(signals.policy_entropy)
    if signals.policy_entropy_P is None:
        return [fallback] * prompts
    if signals.policy_entropy_P.shape != (prompts,):
        raise ValueError(f"policy_entropy_P: expected [{prompts}], got {tuple(signals.policy_entropy_P.shape)}")
    own = (usable_entropy(value) for value in signals.policy_entropy_P.double().tolist())
    return [fallback if value is None else value for value in own]


def _log_scale(stats: ProbeStats, signals: StepSignals, state: ControllerState, config: AGPOConfig) -> Tensor:
    """s of the form log: the sum of gains times known signals, [P]."""
    settings, probe = config.clip, read_signals(stats, config)
    total = torch.zeros_like(stats.mean)
    parts = (
        (settings.dispersion_gain, probe.dispersion, state.dispersion),
        (settings.vote_entropy_gain, probe.vote_entropy, state.vote_entropy),
        (settings.skewness_gain, probe.skewness, state.skewness),
    )
    for gain, value, running in parts:
        if running.updates:
            total = total + gain * ((value - running.mean) / max(running.std, SIGNAL_STD_FLOOR))
    total = torch.where(enough_probe(stats, "log"), total, torch.zeros_like(total))
    entropy = entropy_term(signals, state.entropy)
    drift = kl_term(state.step_kl, settings.kl_target)
    if entropy is not None:
        total = total + settings.entropy_gain * entropy
    if drift is not None:
        total = total - settings.kl_gain * drift
    return total


def _reference_scale(
    stats: ProbeStats, signals: StepSignals, state: ControllerState, config: AGPOConfig
) -> tuple[Tensor, Tensor]:
    """eps/base of the form reference, [P], and bool [P]: the reference entropy was not set yet."""
    settings, probe = config.reference, read_signals(stats, config)
    entropies = prompt_entropies(signals, len(stats))
    gates, was_set, _ = fold_entropy(entropies, state.reference.h_ref, settings.entropy_ema_weight)
    gate = torch.tensor(gates, dtype=torch.float64)
    divisor = 1.0 + settings.alpha * probe.dispersion
    divisor = divisor + settings.gamma * state.reference.kl_ema
    divisor = divisor + settings.zeta * probe.skewness
    return gate * (1.0 + settings.delta * probe.vote_entropy) / divisor, ~torch.tensor(was_set, dtype=torch.bool)


def _scaled(base: float, log_scale: Tensor, scale: Tensor, config: ClipConfig) -> Tensor:
    """base*scale within `clip_bounds`, [P]."""
    low, high = clip_bounds(config, base)
    if config.form == "reference":
        return (base * scale).clamp(low, high)
    if (low, high) == (config.min, config.max):
        return scale_base(base, log_scale, scale, low, high)
    # The factor is rounded instead of the product: six decimals of eps would be too few for a small base.
    return base * scale_base(1.0, log_scale, scale, *_factors(config))


def decide_clip(
    stats: ProbeStats,
    signals: StepSignals,
    state: ControllerState,
    config: AGPOConfig,
    base_low: float,
    base_high: float,
) -> ClipDecision:
    """Choose the clip ratios of each prompt's responses.

    Form log [ours]: low = clip(base_low*exp(s), min, max) with `clip_bounds` of base_low, high likewise, with
    s = dispersion_gain*z_d + vote_entropy_gain*z_e + skewness_gain*z_k + entropy_gain*ln(H/H_mean)
    - kl_gain*max(0, ln(D_mean/kl_target)). z are the probe signals standardised by their running statistics; H is the
    policy entropy and D the step KL. The entropy term is limited to +-ln 2.

    Form reference [code]: eps = clip(base*h*(1 + delta*E)/(1 + alpha*d + gamma*D + zeta*|k|), min, max), with h the
    entropy gate of `fold_entropy`, updated in the given order of prompts.

    Args:
        stats: probe statistics of P prompts.
        signals: only this step's policy entropy is read. Its KL is read at the next step, from the state.
        state: state at the start of the step.
        config: section `clip`, and `reference` for that form.
        base_low, base_high: clip ratios to start from. base_low >= 1: there is no lower clip, because an importance
            ratio is never negative, and `low` is base_low for every prompt (CISPO).

    Returns:
        Decisions [P].

    Degenerate cases: an unknown signal adds 0. Prompts with too few valid probe responses use the entropy and KL terms
    only. With the controller off every prompt has the base values.

    Raises:
        ValueError: `policy_entropy_P` has another length than `stats`.
    """
    settings = config.clip
    zero = torch.zeros_like(stats.mean)
    nothing = torch.zeros_like(zero, dtype=torch.bool)
    if not settings.enabled:
        bases = torch.full_like(zero, base_low), torch.full_like(zero, base_high)
        return ClipDecision(*bases, first_reason([(Reason.OFF, ~nothing)]), zero)
    if settings.form == "reference":
        scale, warmup = _reference_scale(stats, signals, state, config)
        log_scale = torch.tensor([math.log(max(value, 1e-300)) for value in scale.tolist()], dtype=torch.float64)
    else:
        log_scale = _log_scale(stats, signals, state, config)
        scale = exp_exact(log_scale)
        known = state.dispersion.updates or state.step_kl.updates or state.entropy.updates
        warmup = nothing | (not known)
    high = _scaled(base_high, log_scale, scale, settings)
    low = _scaled(base_low, log_scale, scale, settings) if base_low < 1.0 else torch.full_like(zero, base_low)
    # Without a lower clip, the reason is that of the upper one.
    lower, base = (low, base_low) if base_low < 1.0 else (high, base_high)
    reason = first_reason(
        [
            (Reason.NO_PROBE, ~enough_probe(stats, settings.form)),
            (Reason.WARMUP, warmup),
            (Reason.AT_MIN, lower <= clip_bounds(settings, base)[0]),
            (Reason.AT_MAX, high >= clip_bounds(settings, base_high)[1]),
            (Reason.ZERO_DISPERSION, stats.dispersion == 0.0),
            (Reason.WIDENED, high > base_high),
            (Reason.TIGHTENED, lower < base),
        ]
    )
    return ClipDecision(low, high, reason, log_scale)
