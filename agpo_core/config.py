# SPDX-License-Identifier: Apache-2.0
"""The one configuration of the method: typed, frozen, validated, documented field by field.

The field metadata (`doc`, `source`, and the bounds `gt`, `ge`, `lt`, `le`) is the only truth: validation
reads it here, and the YAML file and the table in the docs are generated from it (`iter_fields`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

KEY_PREFIX = "algorithm.agpo"

_NOT_DECIDING = ("reward_timeout_s", "decisions_file", "on_config_change", "token_budget", "lr_schedule")
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}


def _option(default: Any, doc: str, source: str = "ours", **bounds: float) -> Any:
    return field(default=default, metadata={"doc": doc, "source": source, **bounds})


def _section(factory: Any, doc: str) -> Any:
    return field(default_factory=factory, metadata={"doc": doc, "source": "ours"})


def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_type_text(arg) for arg in get_args(hint))
    if hint is type(None):
        return "null"
    return str(hint.__name__)


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Return `value` in the type that `hint` names, or raise: ints pass as floats, nothing else converts."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if isinstance(value, str) and value in choices:
            return value
        close = difflib.get_close_matches(str(value), choices, n=1)
        fix = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{key}={value!r}: must be one of {', '.join(choices)}{fix}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        got = type(value).__name__
        raise ValueError(
            f"{key}={value!r}: must be {_type_text(hint)}, got {got}; set {key} to a {hint.__name__}"
        )
    return value


def _check_bounds(key: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value!r}: must be a finite number; set {key} to one")
    if value is None or not isinstance(value, int | float):
        return
    wanted = " and ".join(f"{word} {bounds[name]:g}" for name, (word, _) in _BOUNDS.items() if name in bounds)
    if not all(test(value, bounds[name]) for name, (_, test) in _BOUNDS.items() if name in bounds):
        raise ValueError(f"{key}={value!r}: must be {wanted}; set {key} within that range")


class _Checked:
    """Coerces and checks every scalar field of a frozen dataclass against its type and its metadata."""

    _key = KEY_PREFIX

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, key = getattr(self, item.name), f"{self._key}.{item.name}"
            if isinstance(hints[item.name], type) and dataclasses.is_dataclass(hints[item.name]):
                if not isinstance(value, hints[item.name]):
                    raise ValueError(f"{key}={value!r}: must be a {hints[item.name].__name__}")
                continue
            value = _coerce(key, value, hints[item.name])
            _check_bounds(key, value, item.metadata)
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Rules that tie several fields together."""

    def _ordered(self, low: str, high: str) -> None:
        a, b = getattr(self, low), getattr(self, high)
        if a > b:
            raise ValueError(
                f"{self._key}.{low}={a}: must be <= {self._key}.{high}={b}; lower it or raise {high}"
            )

    def _base_within(self, base: float | None, low: float, high: float) -> None:
        if base is not None and not low <= base <= high:
            raise ValueError(
                f"{self._key}.base={base}: must be within [{low}, {high}]; move base, min or max"
            )


@dataclass(frozen=True)
class ProbeConfig(_Checked):
    """The first responses of a group, whose statistics drive both controllers."""

    _key = f"{KEY_PREFIX}.probe"

    size: int | None = _option(
        None,
        "Responses per prompt in the probe. null: half of the group, at least 2 (the whole group when "
        "reuse is "
        "false). Equal to the group size: no second phase, the temperature stays at its base.",
        ge=2,
    )
    reuse: bool = _option(
        True, "Train on the probe responses too. false: they are thrown away, as in the public code [code]."
    )


@dataclass(frozen=True)
class SignalConfig(_Checked):
    """How a probe is summarised."""

    _key = f"{KEY_PREFIX}.signals"

    dispersion: Literal["std", "mad", "iqr"] = _option(
        "std",
        "Spread of the outcomes: sample standard deviation, 1.4826*MAD or IQR/1.349. With binary outcomes "
        "MAD "
        "and IQR are 0 for many mixed groups, which blinds the controllers.",
        "code",
    )
    skewness: Literal["adjusted", "reference"] = _option(
        "adjusted",
        "adjusted: the standard G1 estimator. reference: the public code's mixed convention, clipped to "
        "+-10.",
    )
    normalize: bool = _option(
        True,
        "Bring every signal to [0, 1]: dispersion by its largest value for n outcomes in [0, 1], vote "
        "entropy by "
        "ln n, skewness k as |k|/(1+|k|). false: raw values, as in the public code.",
    )


@dataclass(frozen=True)
class TemperatureConfig(_Checked):
    """Adaptive sampling temperature tau of the second phase."""

    _key = f"{KEY_PREFIX}.temperature"

    enabled: bool = _option(
        True, "Adapt tau per prompt. false: every response is sampled at the framework's own."
    )
    form: Literal["log", "reference"] = _option(
        "log",
        "log: tau = base*exp(gain*z), z the uncertainty standardised by its running mean and standard "
        "deviation, "
        "so that heating and cooling are symmetric. reference: tau = base*(1+gain*c), c the relative "
        "distance "
        "to a running mean that is folded prompt by prompt [code].",
    )
    gain: float = _option(
        0.15,
        "Strength. Positive: uncertain prompts are heated, certain ones cooled. 0 holds tau at base.",
        "code",
    )
    min: float = _option(0.7, "Lowest tau.", gt=0.0)
    max: float = _option(1.4, "Highest tau.", gt=0.0)
    weight_dispersion: float = _option(1.0, "Weight of dispersion in the uncertainty.", "code", ge=0.0)
    weight_vote_entropy: float = _option(1.0, "Weight of vote entropy in the uncertainty.", "code", ge=0.0)
    weight_skewness: float = _option(0.0, "Weight of |skewness| in the uncertainty.", "code", ge=0.0)
    decay: float = _option(
        0.1,
        "Share of the newest step in the running mean and deviation of the uncertainty.",
        "code",
        gt=0.0,
        le=1.0,
    )
    std_floor: float = _option(
        0.05, "Smallest running deviation to divide by, in units of the uncertainty (form log).", gt=0.0
    )
    base: float | None = _option(None, "Centre of tau. null: the framework's own temperature.", gt=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class ClipConfig(_Checked):
    """Adaptive clip ratio eps. A positive gain means: the signal widens the clip."""

    _key = f"{KEY_PREFIX}.clip"

    enabled: bool = _option(True, "Adapt eps per prompt. false: the framework's own clip ratios.")
    form: Literal["log", "reference"] = _option(
        "log",
        "log: eps = base*exp(s), s a sum of gains times standardised signals. reference: the public code's "
        "quotient [code].",
    )
    min: float = _option(0.05, "Smallest eps, lower and upper side alike.", "code", gt=0.0, lt=1.0)
    max: float = _option(0.4, "Largest eps, lower and upper side alike.", "code", gt=0.0, lt=1.0)
    base: float | None = _option(
        None,
        "Centre of eps, both sides. null: the framework's own lower and upper clip ratio.",
        gt=0.0,
        lt=1.0,
    )
    dispersion_gain: float = _option(
        -0.1, "Per standard deviation of dispersion; negative: mixed groups tighten."
    )
    skewness_gain: float = _option(
        0.0, "Per standard deviation of |skewness|; positive: lopsided groups widen."
    )
    vote_entropy_gain: float = _option(
        0.1, "Per standard deviation of vote entropy; positive: split votes widen."
    )
    entropy_gain: float = _option(
        0.5, "Per ln(policy entropy / its running mean), held within +-ln 2; positive: low entropy tightens."
    )
    kl_gain: float = _option(
        0.5,
        "Per ln(running step KL / kl_target) above 0, subtracted: drift beyond the target tightens.",
        ge=0.0,
    )
    kl_target: float = _option(
        0.01, "Step KL in nats per token that is tolerated without tightening.", gt=0.0
    )
    decay: float = _option(0.1, "Share of the newest step in the running probe signals.", gt=0.0, le=1.0)
    entropy_decay: float = _option(
        0.1,
        "Share of the newest step in the running policy entropy (preset reference: 0.01).",
        gt=0.0,
        le=1.0,
    )
    kl_decay: float = _option(0.1, "Share of the newest step in the running step KL.", "code", gt=0.0, le=1.0)
    alpha: float = _option(1.0, "Form reference only: weight of dispersion in the divisor.", "code", ge=0.0)
    gamma: float = _option(
        0.5, "Form reference only: weight of the running step KL in the divisor.", "code", ge=0.0
    )
    delta: float = _option(
        0.1, "Form reference only: weight of vote entropy in the numerator.", "code", ge=0.0
    )
    zeta: float = _option(0.0, "Form reference only: weight of |skewness| in the divisor.", "code", ge=0.0)

    def _check(self) -> None:
        self._ordered("min", "max")
        self._base_within(self.base, self.min, self.max)


@dataclass(frozen=True)
class AdvantageConfig(_Checked):
    """Group-relative advantages."""

    _key = f"{KEY_PREFIX}.advantage"

    scale: Literal["std", "none", "dispersion"] = _option(
        "std",
        "std: (r-mean)/(std+epsilon), GRPO. none: r-mean, Dr.GRPO. dispersion: (r-mean)/max(std, 1e-8) "
        "[code].",
    )
    epsilon: float = _option(1e-6, "Added to the standard deviation when scale is std.", gt=0.0)


@dataclass(frozen=True)
class AGPOConfig(_Checked):
    """All settings of the method. Build it with `from_dict` or `from_preset`, so that the preset applies."""

    _key = KEY_PREFIX

    preset: Literal["agpo", "reference", "grpo"] = _option(
        "agpo",
        "Where unset keys come from. agpo: ours. reference: the public code's formulas. grpo: both "
        "controllers off.",
    )
    probe: ProbeConfig = _section(ProbeConfig, "The first responses of a group.")
    signals: SignalConfig = _section(SignalConfig, "How a probe is summarised.")
    temperature: TemperatureConfig = _section(TemperatureConfig, "Adaptive sampling temperature.")
    clip: ClipConfig = _section(ClipConfig, "Adaptive clip ratio.")
    advantage: AdvantageConfig = _section(AdvantageConfig, "Group-relative advantages.")
    scoring: Literal["own", "corrected", "uncorrected"] = _option(
        "own",
        "own: every log-prob pass uses the response's own temperature. corrected: passes at temperature 1, "
        "token "
        "importance weights correct them. uncorrected: temperature 1 and no correction, as in the public "
        "code.",
    )
    reward_timeout_s: float = _option(
        60.0, "Longest wait for the outcome of one probe response, in seconds.", gt=0.0
    )
    outcome_key: str | None = _option(
        None, "Name of the verifier's outcome among the reward's extra values. null: the first that is known."
    )
    vote_key: str | None = _option(
        None, "Name of the answer's vote key among the reward's extra values. null: the first that is known."
    )
    token_budget: int | None = _option(
        None,
        "End the run after the step in which this many tokens have been generated for training, probes included. "
        "Works with every estimator. null: no end but verl's own.",
        ge=1,
    )
    lr_schedule: Literal["steps", "tokens"] = _option(
        "steps",
        "What the learning-rate schedule counts. tokens: generated tokens over token_budget stand for steps "
        "over total steps, so that runs of one budget decay alike whatever a step costs.",
    )
    decisions_file: bool = _option(True, "Write every decision, prompt by prompt, to a file.")
    on_config_change: Literal["refuse", "keep", "reset"] = _option(
        "refuse",
        "Resuming from a checkpoint of other settings: refuse, keep its controller state, or reset the "
        "state.",
    )

    @property
    def adaptive(self) -> bool:
        """Whether at least one controller is on. If not, no probe is run."""
        return self.temperature.enabled or self.clip.enabled

    @classmethod
    def from_preset(cls, name: str) -> AGPOConfig:
        """The unchanged preset `name`."""
        return cls.from_dict({"preset": name})

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> AGPOConfig:
        """A config from the keys that the user set, on top of the values of `mapping["preset"]`.

        None keeps the preset's value, unless the field's type allows None. Raises ValueError for an unknown
        key (with the nearest known one), for a wrong type and for a value out of range.
        """
        if not isinstance(mapping, Mapping):
            raise ValueError(f"{KEY_PREFIX}: must be a mapping, got {type(mapping).__name__}")
        preset = mapping.get("preset")
        preset = "agpo" if preset is None else preset
        _coerce(f"{KEY_PREFIX}.preset", preset, _hints(cls)["preset"])
        values: dict[str, Any] = {"preset": preset}
        _overlay(cls, values, PRESETS[preset], "")
        _overlay(cls, values, {key: value for key, value in mapping.items() if key != "preset"}, "")
        for name, section in _sections(cls).items():
            values[name] = section(**values.get(name, {}))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a plain nested dict; `from_dict` of it is equal to this config."""
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """sha256 of what changes decisions: two runs with the same one decide alike."""
        kept = {k: v for k, v in self.to_dict().items() if k not in _NOT_DECIDING}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


PRESETS: dict[str, Mapping[str, Any]] = {
    "agpo": {},
    "reference": {
        "probe": {"reuse": False},
        "signals": {"skewness": "reference", "normalize": False},
        "temperature": {"form": "reference", "min": 0.5, "max": 1.5},
        "clip": {"form": "reference", "base": 0.2, "entropy_decay": 0.01},
        "advantage": {"scale": "dispersion", "epsilon": 1e-8},
        "scoring": "uncorrected",
    },
    "grpo": {"temperature": {"enabled": False}, "clip": {"enabled": False}},
}


def _sections(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in _hints(cls).items() if dataclasses.is_dataclass(hint)}


def _known_keys() -> list[str]:
    return [key for key, *_ in iter_fields()]


def _unknown(dotted: str) -> ValueError:
    known = _known_keys() + list(_sections(AGPOConfig))
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.6)
    if not close:  # a right name in the wrong section
        leaf = dotted.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
    return ValueError(f"{KEY_PREFIX}.{dotted}: unknown key; {hint}")


def _overlay(cls: type, values: dict[str, Any], given: Mapping[str, Any], path: str) -> None:
    """Write the keys that are set in `given` over `values`, checking names and types, section by section."""
    hints = _hints(cls)
    names = {item.name for item in dataclasses.fields(cls)}
    for name, value in given.items():
        if name not in names:
            raise _unknown(f"{path}{name}")
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise ValueError(f"{KEY_PREFIX}.{path}{name}={value!r}: must be a mapping of settings")
            _overlay(hint, values.setdefault(name, {}), value, f"{path}{name}.")
        elif value is None and type(None) not in get_args(hint):
            continue
        else:
            values[name] = _coerce(f"{KEY_PREFIX}.{path}{name}", value, hint)


def iter_fields() -> Iterator[tuple[str, str, Any, str, str]]:
    """Yield (dotted key, type, default of preset agpo, doc, source) for every setting, in file order."""
    for item in dataclasses.fields(AGPOConfig):
        section = _sections(AGPOConfig).get(item.name)
        if section is None:
            hint = _hints(AGPOConfig)[item.name]
            yield item.name, _type_text(hint), item.default, item.metadata["doc"], item.metadata["source"]
            continue
        for leaf in dataclasses.fields(section):
            hint = _hints(section)[leaf.name]
            meta = leaf.metadata
            yield f"{item.name}.{leaf.name}", _type_text(hint), leaf.default, meta["doc"], meta["source"]


@dataclass(frozen=True)
class Resolved:
    """What a config means inside one framework: every null filled in.

    tau_base: centre of the temperature. clip_low, clip_high: centre of the clip ratio. probe_size: responses
    of the first phase (equal to group_size: no second phase, or a whole discarded probe when probe.reuse is
    false).
    """

    tau_base: float
    clip_low: float
    clip_high: float
    probe_size: int
    group_size: int


def resolve(
    config: AGPOConfig, *, temperature: float, clip_low: float, clip_high: float, group_size: int
) -> Resolved:
    """Fill what the config leaves to the framework, and check what depends on both.

    temperature: the framework's sampling temperature; clip_low, clip_high: its clip ratios; group_size:
    responses per prompt. Raises ValueError naming the key to change. A controller that is off is not checked,
    and with both off there is one phase (probe_size = group_size).
    """
    if group_size < 1:
        raise ValueError(f"group_size={group_size}: must be >= 1")
    tau_base = temperature
    if config.temperature.enabled:
        tau_base = _resolve_temperature(config.temperature, temperature)
    low, high = clip_low, clip_high
    if config.clip.enabled:
        low, high = _resolve_clip(config.clip, clip_low, clip_high)
    return Resolved(tau_base, low, high, _resolve_probe(config, group_size), group_size)


def _resolve_temperature(config: TemperatureConfig, framework: float) -> float:
    base = framework if config.base is None else config.base
    if config.min <= base <= config.max:
        return base
    side = "min" if base < config.min else "max"
    raise ValueError(
        f"base temperature {base} is outside [{config.min}, {config.max}]: set "
        f"{KEY_PREFIX}.temperature.{side}={base} "
        f"or {KEY_PREFIX}.temperature.base to a value within"
    )


def _resolve_clip(config: ClipConfig, low: float, high: float) -> tuple[float, float]:
    if config.base is not None:
        low = high = config.base
    if not 0.0 < low < 1.0 or not 0.0 < high < 1.0:
        raise ValueError(
            f"clip ratios ({low}, {high}): must be within (0, 1); set the framework's clip ratio"
        )
    if low > high:
        raise ValueError(f"clip ratios ({low}, {high}): the lower must not exceed the upper")
    if low < config.min:
        raise ValueError(
            f"base clip ratio {low} is below the smallest: set {KEY_PREFIX}.clip.min={low} or lower"
        )
    if low > config.max:
        raise ValueError(
            f"base clip ratio {low} is above the largest: set {KEY_PREFIX}.clip.max={high} or higher"
        )
    if high > config.max:
        raise ValueError(
            f"upper clip ratio {high} (clip-higher) is above {KEY_PREFIX}.clip.max={config.max}: "
            f"set {KEY_PREFIX}.clip.max={high} or higher"
        )
    return low, high


def _resolve_probe(config: AGPOConfig, group_size: int) -> int:
    if not config.adaptive:
        return group_size
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a probe needs at least 2 responses per prompt; raise it")
    size = config.probe.size
    if size is None:
        return max(2, group_size // 2) if config.probe.reuse else group_size
    if size > group_size:
        raise ValueError(f"{KEY_PREFIX}.probe.size={size}: must be <= the group size {group_size}; lower it")
    return size
