# SPDX-License-Identifier: Apache-2.0
"""Decide the temperature of the rest of a group from its probe."""

from __future__ import annotations

from dataclasses import fields

import torch

from agpo_core import (
    AGPOConfig,
    ControllerState,
    ProbeStats,
    Reason,
    decide_temperature,
    probe_statistics,
    vote_classes,
)
from recipe.agpo.columns import ProbeRecord
from recipe.agpo.rollout.outcomes import Scored


def decide(scored: list[Scored], state: ControllerState, config: AGPOConfig, tau_base: float) -> ProbeRecord:
    """Temperature for the rest of one prompt's group from its probe responses, in session order."""
    outcomes = torch.tensor([[s.outcome for s in scored]], dtype=torch.float64)
    mask = torch.tensor([[s.valid for s in scored]])
    stats = probe_statistics(outcomes, vote_classes([[s.vote_key for s in scored]]), mask, config=config)
    decision = decide_temperature(stats, state, config, tau_base)
    return ProbeRecord(
        outcomes=[s.outcome if s.valid else None for s in scored],
        vote_keys=[s.vote_key for s in scored],
        statuses=[s.status for s in scored],
        discarded=not config.probe.reuse,
        stats={field.name: float(getattr(stats, field.name)[0]) for field in fields(ProbeStats)},
        tau=float(decision.tau[0]),
        reason=Reason(int(decision.reason[0])).label,
        uncertainty=_finite(decision.uncertainty[0]),
        centred=_finite(decision.centred[0]),
    )


def _finite(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None
