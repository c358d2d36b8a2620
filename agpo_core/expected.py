# SPDX-License-Identifier: Apache-2.0
"""Test cases for integrations and their expected results, in plain Python arithmetic.

The arithmetic is independent of this package's tensor code, so that the package can be tested against it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from agpo_core.config import AGPOConfig
from agpo_core.losses import AggregationMode
from agpo_core.records import ControllerState, StepSignals
from agpo_core.running import RunningStat

BASE_TAU, BASE_EPS, BASE_EPS_HIGH = 1.0, 0.2, 0.28
SIGNALS = StepSignals(policy_entropy=0.6, step_kl=0.03, step_kl_k3=0.03)


@dataclass(frozen=True)
class GroupCase:
    """One probe and its statistics, computed by hand."""

    name: str
    outcomes: list[float]
    keys: list[str | None]
    count: int
    mean: float
    dispersion: float
    skewness: float
    vote_entropy: float


_NAN = math.nan
CASES = (
    GroupCase("half right", [1, 0, 1, 0], ["a", "b", "a", "c"], 4, 0.5, math.sqrt(1 / 3), 0.0, 1.5 * math.log(2)),
    GroupCase("one right", [0, 0, 1, 0], ["b", "b", "a", "b"], 4, 0.25, 0.5, 2.0, 2 * math.log(2) - 0.75 * math.log(3)),
    GroupCase("all right", [1, 1, 1, 1], ["a", "a", "a", "a"], 4, 1.0, 0.0, 0.0, 0.0),
    GroupCase("all wrong, split", [0, 0, 0, 0], ["a", "b", "c", "d"], 4, 0.0, 0.0, 0.0, 2 * math.log(2)),
    GroupCase("no answer read", [0, 0, 1, 1], [None, "", "a", "a"], 4, 0.5, math.sqrt(1 / 3), 0.0, math.log(2)),
    GroupCase(
        "one failed",
        [1, _NAN, 0, 0],
        ["a", "x", "b", "b"],
        3,
        1 / 3,
        math.sqrt(1 / 3),
        math.sqrt(3),
        math.log(3) - 2 / 3 * math.log(2),
    ),
    GroupCase("one valid", [_NAN, _NAN, 1, _NAN], ["x", "y", "a", "z"], 1, 1.0, 0.0, 0.0, 0.0),
)


def contract_config() -> AGPOConfig:
    gains = {"dispersion_gain": -0.1, "vote_entropy_gain": 0.1, "skewness_gain": 0.05}
    return AGPOConfig.from_dict({"temperature": {"gain": 0.3, "weight_skewness": 0.5}, "clip": gains})


def contract_state(config: AGPOConfig) -> ControllerState:
    """A state after two steps."""

    def seen(*steps: list[float]) -> RunningStat:
        stat = RunningStat.empty(0.1)
        for values in steps:
            stat = stat.update(values)
        return stat

    return dataclasses.replace(
        ControllerState.initial(config),
        uncertainty=seen([0.2, 0.6], [0.9]),
        dispersion=seen([0.1, 0.5], [0.4]),
        vote_entropy=seen([0.3], [0.5, 0.8]),
        skewness=seen([0.0, 0.4]),
        entropy=seen([1.0], [0.8]),
        step_kl=seen([0.02], [0.04]),
        step=2,
    )


def normalised(case: GroupCase) -> tuple[float, float, float]:
    """Dispersion, vote entropy and skewness, scaled to [0, 1]."""
    n = case.count
    if n < 2:
        return 0.0, 0.0, 0.0
    largest = math.sqrt((n // 2) * ((n + 1) // 2) / (n * (n - 1)))
    skewness = abs(case.skewness)
    return case.dispersion / largest, case.vote_entropy / math.log(n), skewness / (1.0 + skewness)


def expected_uncertainty(case: GroupCase) -> float:
    dispersion, votes, skewness = normalised(case)
    return dispersion + votes + 0.5 * skewness


def within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def expected_tau(case: GroupCase, state: ControllerState, config: AGPOConfig) -> float:
    seen, settings = state.uncertainty, config.temperature
    if case.count < 2 or not seen.updates:
        return BASE_TAU
    z = (expected_uncertainty(case) - seen.mean) / max(seen.std, settings.std_floor)
    return within(BASE_TAU * math.exp(settings.gain * z), settings.min, settings.max)


def expected_scale(case: GroupCase, state: ControllerState, config: AGPOConfig) -> float:
    settings = config.clip
    total = 0.0
    if case.count >= 2:
        gains = (settings.dispersion_gain, settings.vote_entropy_gain, settings.skewness_gain)
        running = (state.dispersion, state.vote_entropy, state.skewness)
        for gain, value, seen in zip(gains, normalised(case), running, strict=True):
            if seen.updates:
                total += gain * (value - seen.mean) / max(seen.std, 0.05)
    if state.entropy.updates and SIGNALS.policy_entropy:
        ratio = math.log(SIGNALS.policy_entropy / state.entropy.mean)
        total += settings.entropy_gain * within(ratio, -math.log(2), math.log(2))
    if state.step_kl.updates:
        total -= settings.kl_gain * max(0.0, math.log(state.step_kl.mean / settings.kl_target))
    return math.exp(total)


@dataclass(frozen=True)
class LossCase:
    """Four responses of three tokens. Some ratios lie within their own row's clip ratios and outside another row's."""

    ratios = ((1.0, 1.15, 1.35), (0.85, 0.7, 1.05), (1.3, 0.6, 1.15), (1.0, 1.0, 4.5))
    mask = ((1, 1, 1), (1, 1, 0), (1, 1, 1), (0, 1, 1))
    advantages = (1.0, -0.5, 0.7, -2.0)
    low = (0.1, 0.2, 0.3, 0.2)
    high = (0.1, 0.4, 0.2, 0.28)

    def token(self, row: int, place: int, dual_clip: float | None) -> tuple[float, float]:
        """Loss of a token, and its derivative with respect to the log-prob."""
        ratio, advantage = self.ratios[row][place], self.advantages[row]
        free = -advantage * ratio
        held = -advantage * within(ratio, 1.0 - self.low[row], 1.0 + self.high[row])
        loss, slope = (free, free) if free >= held else (held, 0.0)
        if dual_clip is not None and advantage < 0.0 and loss > -advantage * dual_clip:
            loss, slope = -advantage * dual_clip, 0.0
        return loss, slope

    def weight(self, row: int, mode: AggregationMode) -> float:
        """Weight of a token of this row in the aggregate."""
        tokens = sum(map(sum, self.mask))
        rows, own = len(self.mask), sum(self.mask[row])
        weights = {
            "token-sum": 1.0,
            "token-mean": 1.0 / tokens,
            "seq-mean-token-sum": 1.0 / rows,
            "seq-mean-token-mean": 1.0 / (rows * own),
            "seq-mean-token-sum-norm": 1.0 / (rows * len(self.mask[0])),
        }
        return weights[mode]
