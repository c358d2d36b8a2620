# SPDX-License-Identifier: Apache-2.0
"""Adaptive sampling temperature: higher for prompts with an uncertain probe, lower for certain ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agpo_core.config import AGPOConfig
from agpo_core.records import ControllerState, ProbeStats, Reason, first_reason, read_signals

DECIMALS = 6  # decisions are rounded, so that the last bit of an exp cannot change them
UNSET = 1e-8  # the public code reads a running value up to this as "never set" [code]
_EXP_LIMIT = 50.0  # at this argument every bound is already reached, and exp is still finite


@dataclass(frozen=True)
class TemperatureDecision:
    """Temperatures of P prompts.

    Attributes:
        tau: float64 [P], temperature.
        reason: int8 [P], see `Reason`.
        uncertainty: float64 [P], U of `uncertainty`.
        centred: float64 [P], U relative to its running values: z (form log) or c (form reference).
    """

    tau: Tensor
    reason: Tensor
    uncertainty: Tensor
    centred: Tensor


def exp_exact(values_P: Tensor) -> Tensor:
    """exp by Python's scalar function: bit-identical for every batch size, unlike a vectorised exp."""
    clamped = values_P.clamp(-_EXP_LIMIT, _EXP_LIMIT).tolist()
    return torch.tensor([math.exp(value) for value in clamped], dtype=torch.float64)


def scale_base(base: float, log_scale_P: Tensor, scale_P: Tensor, low: float, high: float) -> Tensor:
    """base*scale, limited to [low, high] and rounded; exactly the base where the log scale is 0."""
    scaled = (base * scale_P).clamp(low, high).round(decimals=DECIMALS).clamp(low, high)
    return torch.where(log_scale_P == 0.0, torch.full_like(scaled, base), scaled)


def enough_probe(stats: ProbeStats, form: str) -> Tensor:
    """Prompts with enough valid probe responses: one for the public code's form, two for ours.

    The dispersion of a single outcome is always 0, which does not mean that the prompt is certain.
    """
    return stats.count >= (1 if form == "reference" else 2)


def uncertainty(stats: ProbeStats, config: AGPOConfig) -> Tensor:
    """Uncertainty U = w_d*d + w_e*E + w_k*|k| of each prompt [code].

    d: dispersion, E: vote entropy, k: skewness; normalised unless `signals.normalize` is false. The weights are in
    section `temperature`.

    Returns:
        [P] float64, >= 0.
    """
    signals, weights = read_signals(stats, config), config.temperature
    total = weights.weight_dispersion * signals.dispersion
    total = total + weights.weight_vote_entropy * signals.vote_entropy
    return total + weights.weight_skewness * signals.skewness


def fold_baseline(
    values: Sequence[float], usable: Sequence[bool], u_bar: float, ema_weight: float
) -> tuple[list[float], list[bool], float]:
    """Update the baseline prompt by prompt in the given order [code].

    c = (U - u_bar)/(u_bar + 1e-8), then u_bar <- w*U + (1-w)*u_bar, w = ema_weight; while u_bar <= 1e-8: c = 0 and
    u_bar <- U.

    Returns:
        (c per prompt, whether the baseline was set for it, last baseline).
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

    Form log [ours]: tau = clip(base*exp(gain*z), min, max), z = (U - running mean)/max(running std, std_floor), U of
    `uncertainty`; z = 0 before the first update. The decision on a prompt depends only on its own probe and the state.

    Form reference [code]: tau = clip(base*(1 + gain*c), min, max) with c of `fold_baseline`, in the given order of
    prompts.

    Args:
        stats: probe statistics of P prompts.
        state: state at the start of the step.
        config: section `temperature`, and `signals.normalize`.
        base: temperature to start from.

    Returns:
        Decisions [P]. Prompts with too few valid probe responses keep the base, and so does every prompt if the
        controller is off.
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
