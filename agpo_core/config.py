# SPDX-License-Identifier: Apache-2.0
"""The configuration of the method: typed, frozen and validated.

Types, bounds and documentation of the settings are written with the fields (`sections.py`) and nowhere else. Validation
reads them there; the YAML file and the table in the docs are generated from them (`iter_fields`).

A key that is left out, or null, takes the preset's value. Some settings accept `auto` (None in Python): the value then
follows from the framework, the group or the data.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from agpo_core.schema import (
    AUTO,
    Checked,
    SettingError,
    coerce,
    current,
    hints_of,
    named,
    option,
    preset_option,
    say_renamed,
    section,
    type_text,
)
from agpo_core.sections import (
    AdvantageConfig,
    AllocationConfig,
    AverageConfig,
    ClipConfig,
    LengthConfig,
    LossConfig,
    ProbeConfig,
    ReferenceConfig,
    SignalConfig,
    StepSizeConfig,
    TemperatureConfig,
)

# Old names, accepted until the next release. Each running value used to have its own decay; all were 0.1.
RENAMED: dict[str, str] = {
    "scoring": "logprob_temperature",
    "temperature.decay": "signals.ema_weight",
    "clip.decay": "signals.ema_weight",
    "clip.kl_decay": "signals.ema_weight",
    "clip.entropy_decay": "signals.ema_weight",  # with clip.form=reference: reference.entropy_ema_weight
    "clip.alpha": "reference.alpha",
    "clip.gamma": "reference.gamma",
    "clip.delta": "reference.delta",
    "clip.zeta": "reference.zeta",
}


@dataclass(frozen=True)
class AGPOConfig(Checked):
    """All settings of the method.

    `AGPOConfig(preset="grpo")` has every value of that preset. A section may be given as a mapping of the keys that
    differ from the preset, or as a section object, which replaces the preset's section. A framework adds its own
    settings in a subclass and lists in `not_deciding` those that do not affect decisions.

    Raises:
        SettingError: (a ValueError) unknown key, wrong type, value out of range, or settings that contradict each
            other.
    """

    not_deciding: ClassVar[tuple[str, ...]] = ("average",)

    preset: Literal["agpo", "agpo_d", "agpo_l", "reference", "grpo"] = option(
        "agpo",
        "Values of the keys that are not set. agpo: ours. agpo_d: dual feedback only, with the paper's discarded "
        "probe. agpo_l: the adaptive-loss paper. reference: the public code's formulas. grpo: everything off.",
    )
    probe: ProbeConfig = section("The first responses of a group.")
    signals: SignalConfig = section("How a probe is summarised, and over how many steps signals are averaged.")
    temperature: TemperatureConfig = section("Adaptive sampling temperature.")
    clip: ClipConfig = section("Adaptive clip ratio.")
    reference: ReferenceConfig = section("Settings that only the form reference reads.")
    step_size: StepSizeConfig = section("Adaptive step size.")
    advantage: AdvantageConfig = section("Group-relative advantages.")
    loss: LossConfig = section("Adaptive loss.")
    length: LengthConfig = section("Length reward.")
    allocation: AllocationConfig = section("Adaptive allocation.")
    average: AverageConfig = section("Average of the weights.")
    logprob_temperature: Literal["own", "corrected", "uncorrected"] = preset_option(
        "own",
        "Temperature of the log-probabilities in the loss. own: the sampling temperature of each response, in every "
        "pass. corrected: 1, with token importance weights. uncorrected: 1 without weights, as in the public code.",
    )

    def __post_init__(self) -> None:
        coerce("preset", self.preset, hints_of(type(self))["preset"])
        preset = PRESETS[self.preset]
        for name, part in _sections(type(self)).items():
            given = getattr(self, name)
            if given is None or isinstance(given, Mapping):
                values: dict[str, Any] = {}
                _overlay(part, values, preset.get(name, {}), f"{name}.")
                _overlay(part, values, given or {}, f"{name}.")
                object.__setattr__(self, name, part(**values))
        for item in dataclasses.fields(self):
            if item.metadata.get("of_preset") and getattr(self, item.name) is None:
                object.__setattr__(self, item.name, preset.get(item.name, item.metadata["default"]))
        super().__post_init__()

    @property
    def adaptive(self) -> bool:
        """Whether at least one controller reads the probe. If not, no probe is run."""
        return self.temperature.enabled or self.clip.enabled or self.allocation.enabled

    @property
    def keeps_state(self) -> bool:
        """Whether any state is kept from step to step."""
        return self.adaptive or self.step_size.enabled

    @property
    def shapes_advantages(self) -> bool:
        """Whether advantages can differ from plain group advantages of the rewards."""
        return self.advantage.outcome_gate or self.advantage.zero_variance != "keep" or self.length.weight > 0.0

    @property
    def masks_groups(self) -> bool:
        """Whether groups can be left out of the loss's denominator."""
        return self.advantage.zero_variance in ("mask", "signed_mask")

    @property
    def weighs_rows(self) -> bool:
        """Whether the loss weighs responses differently from plain aggregation."""
        unequal = self.allocation.enabled and self.allocation.weighting == "prompts"
        return self.masks_groups or unequal or self.loss.adaptive != "none"

    @property
    def active(self) -> bool:
        """Whether anything differs from plain GRPO."""
        return self.keeps_state or self.shapes_advantages or self.weighs_rows

    def _check(self) -> None:
        if self.allocation.enabled and not self.probe.reuse:
            raise SettingError(
                f"{named('allocation.enabled')}=true with {named('probe.reuse')}=false: without reuse the probe "
                f"takes all of GRPO's responses and none are left to allocate; set {named('probe.reuse')}=true"
            )

    @classmethod
    def from_preset(cls, name: str, *, prefix: str = "") -> Self:
        """The unchanged preset `name`."""
        return cls.from_dict({"preset": name}, prefix=prefix)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, prefix: str = "") -> Self:
        """A config from the keys that the user set; all others take the values of `mapping["preset"]`.

        A value of None (null in a file) counts as left out. "auto" stands for None where a setting accepts it. Old
        names are accepted with a FutureWarning.

        Args:
            mapping: nested settings, as in a YAML file.
            prefix: where the caller keeps these keys ("algorithm.agpo"), for messages.

        Raises:
            ValueError: unknown key (the message has the nearest known one), wrong type, or value out of range.
        """
        try:
            if not isinstance(mapping, Mapping):
                raise SettingError(f"{named('')}: must be a mapping, got {type(mapping).__name__}")
            return cls(**_known(cls, _with_present_names(mapping)))
        except SettingError as error:
            raise error.under(prefix) from None

    @classmethod
    def from_saved(cls, mapping: Mapping[str, Any]) -> Self:
        """`from_dict` for the result of `to_dict`, of this or an older version, without warnings about old names."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return cls.from_dict(mapping)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a plain nested dict. `from_dict` of it gives an equal config."""
        return _with_auto(dataclasses.asdict(self))

    def fingerprint(self) -> str:
        """sha256 of the settings that affect decisions. Runs with equal fingerprints decide by the same rules."""
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k not in self.not_deciding}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def decides_like(self, fingerprint: str, saved: Mapping[str, Any] | None = None) -> bool:
        """Whether a saved state belongs to a run with the same decision settings as this config.

        Names and fingerprints change between versions, so an old config is read and compared by its present meaning.

        Args:
            fingerprint: the one saved with the state.
            saved: `to_dict` of that run, if it was kept.
        """
        if fingerprint == self.fingerprint():
            return True
        try:
            return saved is not None and type(self).from_saved(saved).fingerprint() == self.fingerprint()
        except ValueError:
            return False


_STEP_SIZE_OFF = {"step_size": {"enabled": False}}
_CONTROLLERS_OFF = _STEP_SIZE_OFF | {"temperature": {"enabled": False}, "clip": {"enabled": False}}
PRESETS: dict[str, Mapping[str, Any]] = {
    "agpo": {},
    "agpo_d": _STEP_SIZE_OFF | {"probe": {"reuse": False}},
    "agpo_l": _CONTROLLERS_OFF
    | {"advantage": {"zero_variance": "mask"}, "loss": {"adaptive": "floor"}, "length": {"weight": 0.1}},
    "reference": _STEP_SIZE_OFF
    | {
        "probe": {"reuse": False},
        "signals": {"skewness": "reference", "normalize": False},
        "temperature": {"form": "reference", "min": 0.5, "max": 1.5},
        "clip": {"form": "reference", "base": 0.2},
        "advantage": {"scale": "dispersion", "epsilon": 1e-8, "outcome_gate": False},
        "logprob_temperature": "uncorrected",
    },
    "grpo": _CONTROLLERS_OFF | {"advantage": {"outcome_gate": False}},
}


def _sections(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in hints_of(cls).items() if dataclasses.is_dataclass(hint)}


def _with_auto(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _with_auto(value) if isinstance(value, dict) else AUTO if value is None else value
        for key, value in values.items()
    }


def _unknown(cls: type, dotted: str) -> SettingError:
    known = [key for key, *_ in iter_fields(cls)] + list(_sections(cls))
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.6)
    if not close:  # a known name in the wrong section
        leaf = dotted.rsplit(".", 1)[-1]
        close = [key for key in known if key.rsplit(".", 1)[-1] == leaf][:1]
    hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
    return SettingError(f"{named(dotted)}: unknown key; {hint}")


def _known(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `cls` that are set in `given`; raises for unknown keys."""
    sections, known = _sections(cls), {item.name for item in dataclasses.fields(cls)}
    for name, value in given.items():
        if name not in known:
            raise _unknown(cls, str(name))
        if name in sections and value is not None:
            if not isinstance(value, Mapping):
                raise SettingError(f"{named(name)}={value!r}: must be a mapping of settings")
            for leaf in value:
                if leaf not in {item.name for item in dataclasses.fields(sections[name])}:
                    raise _unknown(cls, f"{name}.{leaf}")
    return {name: value for name, value in given.items() if value is not None}


def _overlay(part: type, values: dict[str, Any], given: Mapping[str, Any], path: str) -> None:
    """Write the keys of one section that are set in `given` over `values`, checking their types."""
    hints = hints_of(part)
    fields = {item.name: item for item in dataclasses.fields(part)}
    for name, value in given.items():
        if name not in fields:
            raise _unknown(AGPOConfig, f"{path}{name}")
        if value is not None:
            value = current(f"{path}{name}", value, fields[name].metadata)
            values[name] = coerce(f"{path}{name}", value, hints[name])


def _with_present_names(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with `RENAMED` keys under their present names, with a warning for each."""
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
    form = dict(PRESETS.get(str(out.get("preset") or "agpo"), {}).get("clip", {})).get("form")
    clip = out.get("clip")
    form = (clip.get("form") if isinstance(clip, dict) else None) or form
    for old, new in RENAMED.items():
        section_name, _, leaf = old.rpartition(".")
        holder = out.get(section_name) if section_name else out
        value = holder.pop(leaf, None) if isinstance(holder, dict) else None
        if value is None:
            continue
        if old == "clip.entropy_decay" and form == "reference":
            new = "reference.entropy_ema_weight"
        say_renamed(old, new)
        section_name, _, leaf = new.rpartition(".")
        target = out
        if section_name:
            target = out[section_name] = out.get(section_name) or {}
        if not isinstance(target, dict):
            continue  # reported when it is read
        if target.get(leaf) not in (None, value):
            raise SettingError(
                f"{named(old)}={value!r}: is now called {named(new)}, which is set to {target[leaf]!r}; "
                f"set only {named(new)}"
            )
        target[leaf] = value
    return out


def iter_fields(cls: type[AGPOConfig] = AGPOConfig) -> Iterator[tuple[str, str, Any, str, str]]:
    """Yield (dotted key, type, default of preset agpo, doc, source) for every setting, in file order."""
    for item in dataclasses.fields(cls):
        part = _sections(cls).get(item.name)
        for leaf in dataclasses.fields(part) if part else [item]:
            meta, hint = leaf.metadata, hints_of(part or cls)[leaf.name]
            key = f"{item.name}.{leaf.name}" if part else leaf.name
            yield key, type_text(hint), meta["default"], meta["doc"], meta["source"]


@dataclass(frozen=True)
class Resolved:
    """The settings of a config inside one framework, with every auto filled in.

    Attributes:
        tau_base: temperature of the probe, and the value that tau is adapted from.
        clip_low, clip_high: values that the clip ratio is adapted from.
        probe_size: responses per prompt in the probe. If equal to group_size there is no second phase, or, with
            probe.reuse false, a whole group follows the discarded probe.
        group_size: responses per prompt.
    """

    tau_base: float
    clip_low: float
    clip_high: float
    probe_size: int
    group_size: int


def resolve(
    config: AGPOConfig,
    *,
    temperature: float,
    clip_low: float,
    clip_high: float,
    group_size: int,
    prefix: str = "",
) -> Resolved:
    """Fill in the settings that the config leaves to the framework, and check those that depend on both.

    A controller that is off is not checked. With all controllers off there is one phase (probe_size = group_size).

    Args:
        config: the method's settings.
        temperature: the framework's sampling temperature.
        clip_low, clip_high: the framework's clip ratios.
        group_size: responses per prompt.
        prefix: prefix of the keys in messages.

    Raises:
        ValueError: a value outside its bounds; the message names the key to change.
    """
    try:
        return _resolve(config, temperature, clip_low, clip_high, group_size)
    except SettingError as error:
        raise error.under(prefix) from None


def _resolve(config: AGPOConfig, temperature: float, low: float, high: float, group_size: int) -> Resolved:
    if group_size < 1:
        raise SettingError(f"group_size={group_size}: must be >= 1")
    tau_base = _resolve_temperature(config.temperature, temperature) if config.temperature.enabled else temperature
    if config.clip.enabled:
        low, high = _resolve_clip(config.clip, low, high)
    return Resolved(tau_base, low, high, _resolve_probe(config, group_size), group_size)


def _resolve_temperature(config: TemperatureConfig, framework: float) -> float:
    base = framework if config.base is None else config.base
    if config.min <= base <= config.max:
        return base
    side = "min" if base < config.min else "max"
    raise SettingError(
        f"base temperature {base} is outside [{config.min}, {config.max}]: set "
        f"{named(f'temperature.{side}')}={base} "
        f"or {named('temperature.base')} to a value within"
    )


def _resolve_clip(config: ClipConfig, low: float, high: float) -> tuple[float, float]:
    if config.base is not None:
        low = high = config.base
    # 1 or more on the lower side is no lower clip, as verl's CISPO uses it.
    if not (0.0 < low < math.inf and 0.0 < high < math.inf):
        raise SettingError(f"clip ratios ({low}, {high}): must be above 0; set the framework's clip ratios")
    if high < low < 1.0:
        raise SettingError(
            f"clip ratios ({low}, {high}): the lower must not exceed the upper; set the framework's lower clip ratio "
            f"to {high} or less"
        )
    return low, high


def _resolve_probe(config: AGPOConfig, group_size: int) -> int:
    if not config.adaptive:
        return group_size
    if group_size < 2:
        raise SettingError(f"group_size={group_size}: a probe needs at least 2 responses per prompt; raise it")
    size = config.probe.size
    if size is None:
        return max(2, group_size // 2) if config.probe.reuse else group_size
    if size > group_size:
        raise SettingError(f"{named('probe.size')}={size}: must be <= the group size {group_size}; lower it")
    return size
