# SPDX-License-Identifier: Apache-2.0
"""Adaptive step size: a factor on the learning rate that keeps the drift of each step near a target.

The drift of a step is KL(old policy || new policy) divided by the policy entropy. Clipping removes the gradient only of
tokens whose ratio has already left the clip range. An optimiser that normalises its steps (Adam) still moves the policy
by the learning rate. This module therefore limits the step itself. Adjusting the learning rate by the measured KL is
not new: distributed PPO (arXiv 1707.02286) and the `adaptive` schedules of RSL-RL and rl_games do it. The rule below is
ours.
"""

from __future__ import annotations

import math

from agpo_core.records import StepSize
from agpo_core.sections import StepSizeConfig

FIRST_RISE = 2.0  # largest factor per step until the drift first exceeds its target
RISE = 1.25  # largest factor per step after that
FALL = 3.0  # largest divisor per step
DIGITS = 4  # of the scale: ranks sum in different orders, and rounding removes the difference in the last bits


def next_step_size(step_kl: float | None, entropy: float | None, state: StepSize, config: StepSizeConfig) -> StepSize:
    """The step size after a step [ours].

    scale <- clip(scale * clip(sqrt(drift_target/drift), 1/3, rise), min, max), with drift = step_kl/entropy. The square
    root is there because the KL of a small step grows with the square of its size. rise is 2 until the drift first
    exceeds its target, and 1.25 after that.

    Args:
        step_kl: KL(old || new) of the step's updates, nats per token (k3: `SurrogateOutput.step_kl_k3`), averaged over
            the updates, each on the tokens that it is about to train on.
        entropy: policy entropy, nats per token. It is in the divisor so that a policy of low entropy moves less.
        state: the step size of this step.
        config: section `step_size`.

    Returns:
        The next `StepSize`. If `step_kl` or `entropy` is None or not above 0, it is unchanged. A KL that is NaN or
        infinite divides the scale by 3, the largest reduction per step. With the controller off the scale is 1.
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
