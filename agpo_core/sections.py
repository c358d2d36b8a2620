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
        "Responses per prompt in the probe. auto: half of the group, at least 2 (the whole group when "
        "reuse is "
        "false). Equal to the group size: no second phase, the temperature stays at its base.",
        ge=2,
    )
    reuse: bool = option(
        True, "Train on the probe responses too. false: they are thrown away, as in the public code [code]."
    )


@dataclass(frozen=True)
class SignalConfig(Checked):
    """How a probe is summarised."""

    _key = "signals"

    dispersion: Literal["std", "mad", "iqr"] = option(
        "std",
        "Spread of the outcomes: sample standard deviation, 1.4826*MAD or IQR/1.349. With binary outcomes "
        "MAD "
        "and IQR are 0 for many mixed groups, which blinds the controllers.",
        "code",
    )
    skewness: Literal["adjusted", "reference"] = option(
        "adjusted",
        "adjusted: the standard G1 estimator. reference: the public code's mixed convention, clipped to +-10.",
    )
    ema_weight: float = option(
        0.1,
        "Weight of the newest step in every running mean and deviation: of the uncertainty, the probe signals, the "
        "policy entropy and the step KL.",
        "code",
        gt=0.0,
        le=1.0,
    )
    normalize: bool = option(
        True,
        "Bring every signal to [0, 1]: dispersion by its largest value for n outcomes in [0, 1], vote "
        "entropy by "
        "ln n, skewness k as |k|/(1+|k|). false: raw values, as in the public code.",
    )


@dataclass(frozen=True)
class TemperatureConfig(Checked):
    """Adaptive sampling temperature tau of the second phase."""

    _key = "temperature"

    enabled: bool = option(True, "Adapt tau per prompt. false: every response is sampled at the framework's own.")
    form: Literal["log", "reference"] = option(
        "log",
        "log: tau = base*exp(gain*z), z the uncertainty standardised by its running mean and standard "
        "deviation, "
        "so that heating and cooling are symmetric. reference: tau = base*(1+gain*c), c the relative "
        "distance "
        "to a running mean that is folded prompt by prompt [code].",
    )
    gain: float = option(
        0.15,
        "Strength. Positive: uncertain prompts are heated, certain ones cooled. 0 holds tau at base.",
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
    base: float | None = option(None, "Centre of tau. auto: the framework's own temperature.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class ClipConfig(Checked):
    """Adaptive clip ratio eps. A positive gain means: the signal widens the clip."""

    _key = "clip"

    enabled: bool = option(True, "Adapt eps per prompt. false: the framework's own clip ratios.")
    form: Literal["log", "reference"] = option(
        "log",
        "log: eps = base*exp(s), s a sum of gains times standardised signals. reference: the public code's "
        "quotient [code].",
    )
    min: float = option(0.05, "Smallest eps, lower and upper side alike.", "code", gt=0.0, lt=1.0)
    max: float = option(0.4, "Largest eps, lower and upper side alike.", "code", gt=0.0, lt=1.0)
    base: float | None = option(
        None,
        "Centre of eps, both sides. auto: the framework's own lower and upper clip ratio.",
        gt=0.0,
        lt=1.0,
    )
    dispersion_gain: float = option(-0.1, "Per standard deviation of dispersion; negative: mixed groups tighten.")
    skewness_gain: float = option(0.0, "Per standard deviation of |skewness|; positive: lopsided groups widen.")
    vote_entropy_gain: float = option(0.1, "Per standard deviation of vote entropy; positive: split votes widen.")
    entropy_gain: float = option(
        0.5, "Per ln(policy entropy / its running mean), held within +-ln 2; positive: low entropy tightens."
    )
    kl_gain: float = option(
        0.5,
        "Per ln(running step KL / kl_target) above 0, subtracted: drift beyond the target tightens.",
        ge=0.0,
    )
    kl_target: float = option(0.01, "Step KL in nats per token that is tolerated without tightening.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class ReferenceConfig(Checked):
    """What only the forms `reference` of temperature and clip read: the public code's formulas."""

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
        True, "Scale the learning rate so that the drift of a step stays at its target. false: the framework's own."
    )
    drift_target: float = option(
        0.005, "Drift to aim at: KL of the old and the new policy in one step, over the policy entropy.", gt=0.0
    )
    start: float = option(0.03, "First factor. It doubles every step until the drift first exceeds its target.", gt=0.0)
    min: float = option(0.001, "Smallest factor.", gt=0.0)
    max: float = option(
        1.0,
        "Largest factor. 1: never above the learning rate that was asked for. 100, say: the learning rate hardly needs "
        "choosing.",
        gt=0.0,
    )

    def _check(self) -> None:
        self._ordered("min", "max")
        if not self.min <= self.start <= self.max:
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
        "A group whose outcomes are all equal has advantage 0, whatever its shaped rewards say. false: shaped rewards "
        "alone decide, and a group that is wrong throughout can have a gradient.",
    )
    zero_variance: Literal["keep", "signed", "mask", "signed_mask"] = option(
        "keep",
        "Groups whose outcomes are all equal. keep: they stay, with advantage 0, as in GRPO. signed: all at "
        "outcome_max +1, all at outcome_min -1 (AGPO-L v1). mask: they leave the loss and its denominator "
        "(AGPO-L v3). signed_mask: signed, and those at neither bound are masked.",
        renamed={"drop": "keep"},
    )
    outcome_min: float = option(0.0, "Lowest attainable outcome: wrong.")
    outcome_max: float = option(1.0, "Highest attainable outcome: right.")

    def _check(self) -> None:
        if self.outcome_min >= self.outcome_max:
            raise SettingError(
                f"{named('advantage.outcome_min')}={self.outcome_min}: must be below "
                f"{named('advantage.outcome_max')}={self.outcome_max}; set both to what the verifier gives a wrong and "
                "a right response"
            )


@dataclass(frozen=True)
class LossConfig(Checked):
    """Adaptive loss on the policy loss L_g of each group (AGPO-L v3; both forms are our reading of it)."""

    _key = "loss"

    adaptive: Literal["none", "floor", "exp"] = option(
        "none",
        "floor: max(L_g, -floor), no gradient below it. exp: floor*exp(L_g/floor), gradient weight exp(L_g/floor), a "
        "smooth floor at 0. Both cost one more forward pass an update.",
    )
    floor: float = option(
        0.1, "Where the loss stops paying (floor), or how fast it does (exp); in units of the loss.", gt=0.0
    )


@dataclass(frozen=True)
class LengthConfig(Checked):
    """Length reward among the right responses of a group."""

    _key = "length"

    weight: float = option(
        0.0,
        "Largest difference in advantage between the shortest and the longest right response. Never more than half of "
        "what separates right from wrong in the group. 0: off.",
        ge=0.0,
        le=0.5,
    )
    all_right: bool = option(True, "Also in groups that are right throughout: there nothing else pulls.")


@dataclass(frozen=True)
class AllocationConfig(Checked):
    """How many more responses each prompt gets after its probe, within GRPO's total of the step."""

    _key = "allocation"

    enabled: bool = option(
        False,
        "Spend the rest of the step's responses where the outcome is open. All prompts of a step then wait for the "
        "last probe.",
    )
    prior: float = option(
        0.5, "Pseudo-count of right and of wrong outcomes before the probe (a Beta prior; 0.5: Jeffreys).", gt=0.0
    )
    max_factor: float = option(2.0, "Most responses of one prompt, in group sizes.", ge=1.0)
    weighting: Literal["responses", "prompts"] = option(
        "prompts",
        "What a prompt counts in the loss. prompts: all the same, whatever their number of responses (no bias of the "
        "allocation). responses: in proportion to them.",
    )
