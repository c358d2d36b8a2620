# SPDX-License-Identifier: Apache-2.0
"""Immutable records: probe statistics, step signals, controller state, and reasons of decisions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from agpo_core.config import AGPOConfig
from agpo_core.running import RunningStat
from agpo_core.step_size import StepSize, initial_step_size

STATE_VERSION = 3


class Reason(IntEnum):
    """The reason of a decision: the first that applies, in this order."""

    OFF = 0  # the controller is disabled
    NO_PROBE = 1  # too few valid probe responses to measure anything
    WARMUP = 2  # no running value exists yet to compare with
    AT_MIN = 3
    AT_MAX = 4
    ZERO_DISPERSION = 5  # all probe outcomes are equal (the formula is still applied)
    HEATED = 6
    COOLED = 7
    WIDENED = 8
    TIGHTENED = 9
    NEUTRAL = 10

    @property
    def label(self) -> str:
        """Lower-case name, for logs."""
        return self.name.lower()


def first_reason(cases: list[tuple[Reason, Tensor]]) -> Tensor:
    """int8 [P]: for each prompt the first reason whose mask is true; NEUTRAL if none is."""
    reason = torch.full_like(cases[0][1], int(Reason.NEUTRAL), dtype=torch.int8)
    for name, applies in reversed(cases):
        reason = torch.where(applies, torch.full_like(reason, int(name)), reason)
    return reason


@dataclass(frozen=True)
class ProbeStats:
    """Statistics of the probe of each prompt, all [P] on the CPU, float64 except `count` (int64).

    Attributes:
        count: valid responses.
        mean, dispersion: in units of the outcome.
        skewness: without unit, signed.
        vote_entropy: in nats.
        normalized_dispersion, normalized_vote_entropy, normalized_skewness: within [0, 1]: dispersion divided by its
            largest possible value, vote entropy by ln n, skewness as |k|/(1 + |k|).
    """

    count: Tensor
    mean: Tensor
    dispersion: Tensor
    skewness: Tensor
    vote_entropy: Tensor
    normalized_dispersion: Tensor
    normalized_skewness: Tensor
    normalized_vote_entropy: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def select(self, index: slice | Tensor) -> ProbeStats:
        """The statistics of some of the prompts."""
        return ProbeStats(*(getattr(self, item.name)[index] for item in dataclasses.fields(self)))


@dataclass(frozen=True)
class Signals:
    """The three probe signals that the controllers read, [P] float64: normalised or raw, skewness unsigned."""

    dispersion: Tensor
    skewness: Tensor
    vote_entropy: Tensor


def read_signals(stats: ProbeStats, config: AGPOConfig) -> Signals:
    """The normalised or the raw signals, depending on `signals.normalize`."""
    if config.signals.normalize:
        return Signals(stats.normalized_dispersion, stats.normalized_skewness, stats.normalized_vote_entropy)
    return Signals(stats.dispersion, stats.skewness.abs(), stats.vote_entropy)


@dataclass(frozen=True, kw_only=True)
class StepSignals:
    """Measurements of a step's updates. Keyword-only; None: unknown.

    Attributes:
        policy_entropy: token mean of the full-vocabulary entropy under the old policy, nats.
        step_kl: token mean of old minus new log-prob in the step's updates (k1), nats per token; for the clip ratio.
        step_kl_k3: token mean of ratio - 1 - ln ratio (k3), nats per token; for the step size. Report both or neither:
            `clipped_surrogate` returns both.
        policy_entropy_P: policy entropy per prompt [P]; only the form "reference" reads it.
        schedule: the scheduled learning rate of the step over the configured one; for the step size.
        informative: whether any response had an advantage. Without one a small drift says nothing about the learning
            rate, and the step size does not rise.
    """

    policy_entropy: float | None = None
    step_kl: float | None = None
    step_kl_k3: float | None = None
    policy_entropy_P: Tensor | None = None
    schedule: float = 1.0
    informative: bool = True


@dataclass(frozen=True)
class ReferenceState:
    """Running values of the public code, where 0 means "never set" [code]."""

    u_bar: float = 0.0
    h_ref: float = 0.0
    kl_ema: float = 0.0


@dataclass(frozen=True)
class ControllerState:
    """The values kept between steps. They do not change within a step, so every prompt sees the same ones."""

    uncertainty: RunningStat
    dispersion: RunningStat
    vote_entropy: RunningStat
    skewness: RunningStat
    entropy: RunningStat
    step_kl: RunningStat
    reference: ReferenceState = ReferenceState()
    step_size: StepSize = StepSize()
    step: int = 0
    version: int = STATE_VERSION

    @classmethod
    def initial(cls, config: AGPOConfig, lr: float | None = None) -> ControllerState:
        """The state before the first step. lr: the configured learning rate, from which the step size starts."""
        empty = RunningStat.empty(config.signals.ema_weight)
        return cls(
            uncertainty=empty,
            dispersion=empty,
            vote_entropy=empty,
            skewness=empty,
            entropy=empty,
            step_kl=empty,
            step_size=initial_step_size(config.step_size, lr),
        )
