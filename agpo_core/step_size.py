# SPDX-License-Identifier: Apache-2.0
"""Adaptive step size: a factor on the learning rate that holds the policy's drift per step at a target.

A clip ratio only stops tokens that have already moved; an optimiser that normalises its steps (Adam) moves the policy
by the learning rate all the same. So the trust region has a second hand, on the step itself. The idea of steering the
learning rate by the measured KL is older than this package: distributed PPO (arXiv 1707.02286) and the `adaptive`
schedules of RSL-RL and rl_games. The rule below is ours.
"""

from __future__ import annotations

import math

from agpo_core.records import StepSize
from agpo_core.sections import StepSizeConfig

FIRST_RISE = 2.0  # per step, until the drift first exceeds the target
RISE = 1.25  # per step, from then on
FALL = 3.0  # per step
DIGITS = 4  # ranks add up their drift in another order; rounding keeps the last bits out of the decision


def next_step_size(step_kl: float | None, entropy: float | None, state: StepSize, config: StepSizeConfig) -> StepSize:
    """The step size after a step [ours].

    scale <- clip(scale * clip(sqrt(drift_target/drift), 1/3, rise), min, max), drift = step_kl/entropy: the KL of a
    small step grows with the square of its size. rise is 2 until the drift first exceeds the target, 1.25 from then on.

    step_kl: KL(old || new) of the step's updates, nats per token (k3: `SurrogateOutput.step_kl_k3`), averaged over
    updates on tokens that each of them is about to train on. entropy: of the policy, nats per token: a policy that is
    almost sure of its tokens may move less. Either is None or not above 0: nothing was seen to move, the scale is held.
    A KL that is NaN or infinite: the scale falls as far as it may. With the controller off the scale is 1.
    """
    if not config.enabled:
        return StepSize()
    if step_kl is None or entropy is None or step_kl <= 0.0 or not entropy > 0.0:
        return state
    drift = step_kl / entropy
    exceeded = state.exceeded or not drift <= config.drift_target
    wanted = math.sqrt(config.drift_target / drift) if math.isfinite(drift) else 0.0
    factor = max(1.0 / FALL, min(RISE if exceeded else FIRST_RISE, wanted))
    return StepSize(_within(state.scale * factor, config), exceeded)


def _within(scale: float, config: StepSizeConfig) -> float:
    return max(config.min, min(config.max, float(f"{scale:.{DIGITS}g}")))
