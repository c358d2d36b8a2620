# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration: one frozen dataclass a part of the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agpo_core.schema import Checked, SettingError, named, option


@dataclass(frozen=True)
class ProbeConfig(Checked):
    """The first responses of a group, whose statistics drive both controllers."""

    _key = "probe"

    size: int | None = option(
        None,
        "Responses per prompt in the probe. auto: half of the group, at least 2 (the whole group when reuse is "
        "false). If equal to the group size: no second phase, and the temperature stays at its base.",
        ge=2,
    )
    reuse: bool = option(
        True, "Also train on the probe responses. false: they are discarded, as in the public code [code]."
    )


@dataclass(frozen=True)
class SignalConfig(Checked):
    """How a probe is summarised, and over how many steps signals are averaged."""

    _key = "signals"

    dispersion: Literal["std", "mad", "iqr"] = option(
        "std",
        "Spread of the outcomes: sample standard deviation, 1.4826*MAD or IQR/1.349. With binary outcomes MAD "
        "and IQR are 0 for many mixed groups, so the controllers see no difference between prompts.",
        "code",
    )
    skewness: Literal["adjusted", "reference"] = option(
        "adjusted",
        "adjusted: the standard G1 estimator. reference: the public code's mixed convention, clipped to +-10.",
    )
    ema_weight: float = option(
        0.1,
        "Weight of the newest step in every running mean and standard deviation: of the uncertainty, the probe "
        "signals, the policy entropy and the step KL.",
        "code",
        gt=0.0,
        le=1.0,
    )
    normalize: bool = option(
        True,
        "Scale every signal to [0, 1]: dispersion is divided by its largest value for n outcomes in [0, 1], vote "
        "entropy by ln n, skewness k becomes |k|/(1+|k|). false: raw values, as in the public code.",
    )


@dataclass(frozen=True)
class TemperatureConfig(Checked):
    """Adaptive sampling temperature tau of the second phase."""

    _key = "temperature"

    enabled: bool = option(
        True, "Adapt tau per prompt. false: every response is sampled at the framework's temperature."
    )
    form: Literal["log", "reference"] = option(
        "log",
        "log: tau = base*exp(gain*z), z the uncertainty standardised by its running mean and standard deviation; "
        "heating and cooling are symmetric. reference: tau = base*(1+gain*c), c the relative distance to a running "
        "mean that is updated prompt by prompt [code].",
    )
    gain: float = option(
        0.15,
        "Strength. Positive: tau rises for uncertain prompts and falls for certain ones. 0: tau stays at base.",
        "code",
    )
    min: float = option(0.7, "Lowest tau.", gt=0.0)
    max: float = option(1.4, "Highest tau.", gt=0.0)
    weight_dispersion: float = option(1.0, "Weight of dispersion in the uncertainty.", "code", ge=0.0)
    weight_vote_entropy: float = option(1.0, "Weight of vote entropy in the uncertainty.", "code", ge=0.0)
    weight_skewness: float = option(0.0, "Weight of |skewness| in the uncertainty.", "code", ge=0.0)
    std_floor: float = option(
        0.05, "Smallest running deviation to divide by, in units of the uncertainty (form log).", gt=0.0
    )
    base: float | None = option(None, "Value that tau is adapted from. auto: the framework's temperature.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class ClipConfig(Checked):
    """Adaptive clip ratio eps. With a positive gain, eps rises with the signal."""

    _key = "clip"

    enabled: bool = option(True, "Adapt eps per prompt. false: the framework's clip ratios.")
    form: Literal["log", "reference"] = option(
        "log",
        "log: eps = base*exp(s), s the sum of gains times standardised signals. reference: the public code's "
        "quotient [code].",
    )
    min: float = option(
        0.05,
        "Smallest eps, on the lower and the upper side. For a base of the framework outside [min, max], as GSPO's "
        "0.0003, both bounds are multiplied by base/0.2.",
        "code",
        gt=0.0,
        lt=1.0,
    )
    max: float = option(0.4, "Largest eps, on the lower and the upper side. See min.", "code", gt=0.0, lt=1.0)
    base: float | None = option(
        None,
        "Value that eps is adapted from, on both sides. auto: the framework's lower and upper clip ratio.",
        gt=0.0,
        lt=1.0,
    )
    dispersion_gain: float = option(
        -0.1, "Per standard deviation of dispersion. Negative: mixed groups get a smaller eps."
    )
    skewness_gain: float = option(
        0.0, "Per standard deviation of |skewness|. Positive: skewed groups get a larger eps."
    )
    vote_entropy_gain: float = option(
        0.1, "Per standard deviation of vote entropy. Positive: split votes give a larger eps."
    )
    entropy_gain: float = option(
        0.5,
        "Per ln(policy entropy / its running mean), limited to +-ln 2. Positive: low entropy gives a smaller eps.",
    )
    kl_gain: float = option(
        0.5,
        "Per ln(running step KL / kl_target), where that is above 0; subtracted: a step KL above its target gives a "
        "smaller eps.",
        ge=0.0,
    )
    kl_target: float = option(0.01, "Step KL, in nats per token, above which eps is reduced.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class ReferenceConfig(Checked):
    """Settings that only the form `reference` of temperature and clip reads: the public code's formulas."""

    _key = "reference"

    alpha: float = option(1.0, "Weight of dispersion in the divisor of eps.", "code", ge=0.0)
    gamma: float = option(0.5, "Weight of the running step KL in the divisor of eps.", "code", ge=0.0)
    delta: float = option(0.1, "Weight of vote entropy in the numerator of eps.", "code", ge=0.0)
    zeta: float = option(0.0, "Weight of |skewness| in the divisor of eps.", "code", ge=0.0)
    entropy_ema_weight: float = option(
        0.01, "Weight of the newest prompt in the running policy entropy of the entropy gate.", "code", gt=0.0, le=1.0
    )


@dataclass(frozen=True)
class StepSizeConfig(Checked):
    """Adaptive step size: a factor on the learning rate."""

    _key = "step_size"

    enabled: bool = option(
        True,
        "Scale the learning rate, up or down, so that the drift of a step stays at its target. false: the framework's "
        "learning rate is used unchanged.",
    )
    drift_target: float = option(
        0.005, "Target of the drift: KL(old policy || new policy) of one step, divided by the policy entropy.", gt=0.0
    )
    start: float | None = option(
        None,
        "Factor of the first step. auto: the first step has learning rate 1e-6, whatever is configured. Until the "
        "drift first exceeds its target, the factor changes by up to ten times per step.",
        gt=0.0,
    )
    min: float = option(1e-6, "Smallest factor.", gt=0.0)
    max: float = option(1e4, "Largest factor. 1: never above the configured learning rate.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        if self.start is not None and not self.min <= self.start <= self.max:
            raise SettingError(
                f"{named('step_size.start')}={self.start}: must be within [{named('step_size.min')}={self.min}, "
                f"{named('step_size.max')}={self.max}]; set {named('step_size.start')}="
                f"{min(max(self.start, self.min), self.max)}"
            )


@dataclass(frozen=True)
class AdvantageConfig(Checked):
    """Group-relative advantages, and groups whose outcomes are all equal."""

    _key = "advantage"

    scale: Literal["std", "none", "dispersion"] = option(
        "std",
        "std: (r-mean)/(std+epsilon), GRPO. none: r-mean, Dr.GRPO. dispersion: (r-mean)/max(std, 1e-8) [code].",
    )
    epsilon: float = option(1e-6, "Added to the standard deviation when scale is std.", gt=0.0)
    outcome_gate: bool = option(
        True,
        "A group whose outcomes are all equal has advantage 0, even if its shaped rewards differ. false: only the "
        "shaped rewards count, and a group with only wrong responses can have a gradient.",
    )
    zero_variance: Literal["keep", "signed", "mask", "signed_mask"] = option(
        "keep",
        "Groups whose outcomes are all equal. keep: they stay in the loss with advantage 0, as in GRPO. signed: "
        "advantage +1 if all are at outcome_max, -1 if all are at outcome_min (AGPO-L v1). mask: they are left out of "
        "the loss and its denominator (AGPO-L v3). signed_mask: signed, and those at neither bound are masked.",
        renamed={"drop": "keep"},
    )
    outcome_min: float = option(0.0, "Outcome that the verifier gives a wrong response.")
    outcome_max: float = option(1.0, "Outcome that the verifier gives a correct response.")

    def _check(self) -> None:
        if self.outcome_min >= self.outcome_max:
            raise SettingError(
                f"{named('advantage.outcome_min')}={self.outcome_min}: must be below "
                f"{named('advantage.outcome_max')}={self.outcome_max}; set both to what the verifier gives a wrong and "
                "a correct response"
            )


@dataclass(frozen=True)
class LossConfig(Checked):
    """Adaptive loss on the policy loss L_g of each group (AGPO-L v3; both forms are our reading of it)."""

    _key = "loss"

    adaptive: Literal["none", "floor", "exp"] = option(
        "none",
        "floor: max(L_g, -floor), no gradient below -floor. exp: floor*exp(L_g/floor), gradient weight exp(L_g/floor), "
        "a smooth lower bound of 0. Both need one more forward pass per update.",
    )
    floor: float = option(
        0.1, "floor: the lower bound of L_g is -floor. exp: the scale of L_g. In units of the loss.", gt=0.0
    )


@dataclass(frozen=True)
class LengthConfig(Checked):
    """Length reward among the correct responses of a group."""

    _key = "length"

    weight: float = option(
        0.0,
        "Largest difference in advantage between the shortest and the longest correct response. It is limited to half "
        "of the difference between correct and wrong responses of the group. 0: off.",
        ge=0.0,
        le=0.5,
    )
    all_right: bool = option(
        True,
        "Also apply it to groups in which every response is correct. In such a group the length reward is the only "
        "source of a gradient.",
    )


@dataclass(frozen=True)
class AllocationConfig(Checked):
    """How many more responses each prompt gets after its probe, with the same total per step as GRPO."""

    _key = "allocation"

    enabled: bool = option(
        False,
        "Give more of the step's responses to prompts whose outcome is uncertain after the probe. All prompts of a "
        "step then wait for the last probe.",
    )
    prior: float = option(
        0.5, "Pseudo-count of correct and of wrong outcomes before the probe (a Beta prior; 0.5: Jeffreys).", gt=0.0
    )
    max_factor: float = option(2.0, "Largest number of responses of one prompt, in group sizes.", ge=1.0)
    weighting: Literal["responses", "prompts"] = option(
        "prompts",
        "Weight of a prompt in the loss. prompts: the same for all, so allocation adds no bias. responses: "
        "proportional to its number of responses.",
    )


@dataclass(frozen=True)
class AverageConfig(Checked):
    """An average of the weights over the updates, for validation and export."""

    _key = "average"

    enabled: bool = option(
        False,
        "Keep an average of the weights over the optimiser's updates. Sampling and training stay on the raw weights; "
        "validation, export and agpo eval use the average. It decides nothing: switch it on or off at any time.",
    )
    gamma: float = option(
        4.0,
        "After update k the average moves by (gamma+1)/(k+gamma) towards the weights. 0: the mean of all updates. "
        "Larger values forget early updates sooner.",
        ge=0.0,
    )
    horizon: int | None = option(
        None,
        "Smallest such weight is 1/horizon: after that many updates the average is an exponential one. auto: no limit.",
        ge=1,
    )
    offload: bool = option(
        False,
        "Keep the average in CPU memory. It needs 4 bytes a weight, divided among the ranks. With verl's param_offload "
        "it is always there.",
    )
    validate: bool = option(
        True,
        "Validate with the average, at the cost of two more transfers of the weights to the sampler. false: with the "
        "raw weights.",
    )
