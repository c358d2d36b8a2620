# SPDX-License-Identifier: Apache-2.0
"""Adaptive sampling temperature: heat where the probe is uncertain, cool where it is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agpo_core.config import AGPOConfig
from agpo_core.records import ControllerState, ProbeStats, Reason, first_reason, read_signals

DECIMALS = 6  # decisions are rounded, so that no last bit of an exp can change one
UNSET = 1e-8  # the public code reads a running value up to this as "never set" [code]
_EXP_LIMIT = 50.0  # beyond it every bound is reached, and exp stays finite


@dataclass(frozen=True)
class TemperatureDecision:
    """Per prompt, all [P]: tau (float64), reason (int8, see Reason), uncertainty and its centred value."""

    tau: Tensor
    reason: Tensor
    uncertainty: Tensor
    centred: Tensor


def exp_exact(values_P: Tensor) -> Tensor:
    """exp by the scalar maths library: the same bits in every batch size, unlike a vectorised exp."""
    clamped = values_P.clamp(-_EXP_LIMIT, _EXP_LIMIT).tolist()
    return torch.tensor([math.exp(value) for value in clamped], dtype=torch.float64)


def scale_base(base: float, log_scale_P: Tensor, scale_P: Tensor, low: float, high: float) -> Tensor:
    """base*scale within [low, high], rounded; exactly the base where the log scale is 0."""
    scaled = (base * scale_P).clamp(low, high).round(decimals=DECIMALS).clamp(low, high)
    return torch.where(log_scale_P == 0.0, torch.full_like(scaled, base), scaled)


def enough_probe(stats: ProbeStats, form: str) -> Tensor:
    """Prompts with enough valid probe responses: one for the public code's form, two for ours.

    One outcome alone always has zero dispersion; reading that as certainty would be wrong.
    """
    return stats.count >= (1 if form == "reference" else 2)


def uncertainty(stats: ProbeStats, config: AGPOConfig) -> Tensor:
    """U = w_d*d + w_e*E + w_k*|k|, [P] float64 [code]; of normalised signals unless signals.normalize is
    false."""
    signals, weights = read_signals(stats, config), config.temperature
    total = weights.weight_dispersion * signals.dispersion
    total = total + weights.weight_vote_entropy * signals.vote_entropy
    return total + weights.weight_skewness * signals.skewness


def fold_baseline(
    values: Sequence[float], usable: Sequence[bool], u_bar: float, ema_weight: float
) -> tuple[list[float], list[bool], float]:
    """Fold the baseline prompt by prompt in the given order [code].

    c = (U - u_bar)/(u_bar + 1e-8), then u_bar <- w*U + (1-w)*u_bar, w = ema_weight; while u_bar <= 1e-8: c = 0 and
    u_bar <- U. Returns c per prompt, whether the baseline was set for it, and the last baseline.
    """
    centred, was_set = [], []
    for value, use in zip(values, usable, strict=True):
        known = u_bar > UNSET
        centred.append((value - u_bar) / (u_bar + UNSET) if use and known else 0.0)
        was_set.append(known)
        if use:
            u_bar = ema_weight * value + (1.0 - ema_weight) * u_bar if known else value
    return centred, was_set, u_bar


def decide_temperature(
    stats: ProbeStats, state: ControllerState, config: AGPOConfig, base: float
) -> TemperatureDecision:
    """Choose the temperature of each prompt's second phase.

    Form log [ours]: tau = clip(base*exp(gain*z), min, max), z = (U - running mean)/max(running std,
    std_floor); before the first update z = 0. A prompt's decision depends on its own probe and the state
    only. Form reference [code]: tau = clip(base*(1 + gain*c), min, max) with c of `fold_baseline`, in the
    given order.

    stats: the probes of P prompts; state: frozen for the step; base: centre of tau. Returns decisions [P].
    Prompts with too few valid responses keep the base. With the controller off every prompt does.
    """
    settings = config.temperature
    level = uncertainty(stats, config)
    nothing = torch.zeros_like(level, dtype=torch.bool)
    if not settings.enabled:
        off = [(Reason.OFF, ~nothing)]
        return TemperatureDecision(torch.full_like(level, base), first_reason(off), level, torch.zeros_like(level))
    enough = enough_probe(stats, settings.form)
    if settings.form == "reference":
        values, was_set, _ = fold_baseline(
            level.tolist(), enough.tolist(), state.reference.u_bar, config.signals.ema_weight
        )
        centred = torch.tensor(values, dtype=torch.float64)
        warmup = ~torch.tensor(was_set, dtype=torch.bool)
        tau = (base * (1.0 + settings.gain * centred)).clamp(settings.min, settings.max)
        tau = torch.where(centred == 0.0, torch.full_like(tau, base), tau)
    else:
        warmup = nothing | (state.uncertainty.updates == 0)
        centred = (level - state.uncertainty.mean) / max(state.uncertainty.std, settings.std_floor)
        centred = torch.where(enough & ~warmup, centred, torch.zeros_like(centred))
        log_scale = settings.gain * centred
        tau = scale_base(base, log_scale, exp_exact(log_scale), settings.min, settings.max)
    reason = first_reason(
        [
            (Reason.NO_PROBE, ~enough),
            (Reason.WARMUP, warmup),
            (Reason.AT_MIN, tau <= settings.min),
            (Reason.AT_MAX, tau >= settings.max),
            (Reason.ZERO_DISPERSION, stats.dispersion == 0.0),
            (Reason.HEATED, tau > base),
            (Reason.COOLED, tau < base),
        ]
    )
    return TemperatureDecision(tau, reason, level, centred)
