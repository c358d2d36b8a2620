# SPDX-License-Identifier: Apache-2.0
"""Adaptive step size: a factor on the learning rate that keeps the drift of each step near a target.

The drift of a step is KL(old policy || new policy) divided by the policy entropy. Clipping removes the gradient only of
tokens whose ratio has already left the clip range. An optimiser that normalises its steps (Adam) still moves the policy
by the learning rate. This module therefore limits the step itself, in both directions: the configured learning rate is
only where the search starts from. Adjusting the learning rate by the measured KL is not new: distributed PPO
(arXiv 1707.02286) and the `adaptive` schedules of RSL-RL, rl_games and torchrl do it. The rule below is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agpo_core.sections import StepSizeConfig

START_LR = 1e-6  # learning rate of the first step; a step that large models are trained with, so it harms no model
START = 0.01  # factor of the first step where the configured learning rate is unknown
FIRST_CHANGE = 10.0  # largest factor and divisor per step until the drift first exceeds its target
RISE = 1.25  # largest factor per step after that
FALL = 3.0  # largest divisor per step after that
LOWEST_SCHEDULE = 0.1  # below this factor of a schedule the drift says little about the configured learning rate
STOP = 10.0  # times the target: an update at this drift is not taken
DIGITS = 4  # of the scale: ranks sum in different orders, and rounding removes the difference in the last bits


@dataclass(frozen=True)
class StepSize:
    """State of the adaptive step size.

    Attributes:
        scale: factor on the learning rate of the next step's updates.
        exceeded: whether the drift has ever been above its target.
    """

    scale: float = 1.0
    exceeded: bool = False


def initial_step_size(config: StepSizeConfig, lr: float | None = None) -> StepSize:
    """The step size of the first step.

    Args:
        config: section `step_size`. `start` auto: the first step has learning rate 1e-6, within `min` and `max`.
        lr: the configured learning rate; None: unknown, and auto is 0.01.
    """
    if not config.enabled:
        return StepSize()
    if config.start is not None:
        return StepSize(config.start)
    return StepSize(_within(START_LR / lr if lr else START, config))


def next_step_size(
    step_kl: float | None,
    entropy: float | None,
    state: StepSize,
    config: StepSizeConfig,
    schedule: float = 1.0,
    informative: bool = True,
) -> StepSize:
    """The step size after a step [ours].

    scale <- clip(scale * clip(sqrt(target/drift), 1/fall, rise), min, max), with drift = step_kl/entropy and target =
    drift_target * schedule^2. The square root is there because the KL of a small step grows with the square of its
    size. Both limits are 10 until the drift first exceeds its target; then rise is 1.25 and fall 3.

    Args:
        step_kl: KL(old || new) of the step's updates, nats per token (k3: `SurrogateOutput.step_kl_k3`), averaged over
            the updates, each on the tokens that it is about to train on; if there is only one, the KL after it.
        entropy: policy entropy, nats per token. It is in the divisor so that a policy of low entropy moves less.
        state: the step size of this step.
        config: section `step_size`.
        schedule: the scheduled learning rate of the step over the configured one. A schedule thus keeps its meaning:
            at half of the configured rate the step is half as large, and its drift a quarter.
        informative: whether any response had an advantage; if not, the scale does not rise. Otherwise a few batches
            without a gradient would raise it to `max`.

    Returns:
        The next `StepSize`. It is unchanged if `step_kl` or `entropy` is None or not above 0, or `schedule` is below
        0.1 (the start of a warm-up, the end of a decay). A KL that is NaN or infinite counts as a large one. With the
        controller off the scale is 1.
    """
    if not config.enabled:
        return StepSize()
    if step_kl is None or entropy is None or step_kl <= 0.0 or not entropy > 0.0 or not schedule >= LOWEST_SCHEDULE:
        return state
    drift, target = step_kl / entropy, config.drift_target * schedule**2
    exceeded = state.exceeded or not drift <= target
    wanted = math.sqrt(target / drift) if math.isfinite(drift) else 0.0
    rise, fall = (RISE, FALL) if state.exceeded else (FIRST_CHANGE, FIRST_CHANGE)
    factor = max(1.0 / fall, min(rise if informative else 1.0, wanted))
    return StepSize(_within(state.scale * factor, config), exceeded)


def stops_updates(step_kl: float, entropy: float | None, config: StepSizeConfig, schedule: float = 1.0) -> bool:
    """Whether the rest of a step's updates is left out, because the policy has drifted too far already.

    Args:
        step_kl: KL(old || now) on the tokens of the update that would follow, nats per token (k3).
        entropy, config, schedule: as in `next_step_size`.

    Returns:
        True if the drift is above ten times its target, or is not a number. In normal operation the last update of a
        step sees three to four times the target, which is a mean over the updates.
    """
    if not config.enabled or entropy is None or not entropy > 0.0:
        return False
    return not step_kl / entropy <= STOP * config.drift_target * max(schedule, LOWEST_SCHEDULE) ** 2


def _within(scale: float, config: StepSizeConfig) -> float:
    return max(config.min, min(config.max, float(f"{scale:.{DIGITS}g}")))
