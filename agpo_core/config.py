# SPDX-License-Identifier: Apache-2.0
"""The one configuration of the method: typed, frozen, validated, documented field by field.

Types, bounds and documentation stand with the fields (`sections.py`), and nowhere else: validation reads them there,
and the YAML file and the table in the docs are generated from them (`iter_fields`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from agpo_core.schema import KEY_PREFIX, Checked, coerce, hints_of, option, section, type_text
from agpo_core.sections import (
    AdvantageConfig,
    AllocationConfig,
    ClipConfig,
    LengthConfig,
    LossConfig,
    ProbeConfig,
    SignalConfig,
    StepSizeConfig,
    TemperatureConfig,
)

_NOT_DECIDING = ("reward_timeout_s", "decisions_file", "on_config_change", "token_budget", "lr_schedule")


@dataclass(frozen=True)
class AGPOConfig(Checked):
    """All settings of the method. Build it with `from_dict` or `from_preset`, so that the preset applies."""

    _key = KEY_PREFIX

    preset: Literal["agpo", "agpo_d", "agpo_l", "reference", "grpo"] = option(
        "agpo",
        "Where unset keys come from. agpo: ours. agpo_d: dual feedback alone, with the paper's discarded probe. "
        "agpo_l: the adaptive-loss paper. reference: the public code's formulas. grpo: everything off.",
    )
    probe: ProbeConfig = section(ProbeConfig, "The first responses of a group.")
    signals: SignalConfig = section(SignalConfig, "How a probe is summarised.")
    temperature: TemperatureConfig = section(TemperatureConfig, "Adaptive sampling temperature.")
    clip: ClipConfig = section(ClipConfig, "Adaptive clip ratio.")
    step_size: StepSizeConfig = section(StepSizeConfig, "Adaptive step size.")
    advantage: AdvantageConfig = section(AdvantageConfig, "Group-relative advantages.")
    loss: LossConfig = section(LossConfig, "Adaptive loss.")
    length: LengthConfig = section(LengthConfig, "Length reward.")
    allocation: AllocationConfig = section(AllocationConfig, "Adaptive allocation.")
    scoring: Literal["own", "corrected", "uncorrected"] = option(
        "own",
        "own: every log-prob pass uses the response's own temperature. corrected: passes at temperature 1, "
        "token "
        "importance weights correct them. uncorrected: temperature 1 and no correction, as in the public "
        "code.",
    )
    reward_timeout_s: float = option(60.0, "Longest wait for the outcome of one probe response, in seconds.", gt=0.0)
    outcome_key: str | None = option(
        None, "Name of the verifier's outcome among the reward's extra values. null: the first that is known."
    )
    vote_key: str | None = option(
        None, "Name of the answer's vote key among the reward's extra values. null: the first that is known."
    )
    token_budget: int | None = option(
        None,
        "End the run after the step in which this many tokens have been generated for training, probes included. "
        "Works with every estimator. null: no end but verl's own.",
        ge=1,
    )
    lr_schedule: Literal["steps", "tokens"] = option(
        "steps",
        "What the learning-rate schedule counts. tokens: generated tokens over token_budget stand for steps "
        "over total steps, so that runs of one budget decay alike whatever a step costs.",
    )
    decisions_file: bool = option(True, "Write every decision, prompt by prompt, to a file.")
    on_config_change: Literal["refuse", "keep", "reset"] = option(
        "refuse",
        "Resuming from a checkpoint of other settings: refuse, keep its controller state, or reset the state.",
    )

    @property
    def adaptive(self) -> bool:
        """Whether at least one controller reads the probe. If not, no probe is run."""
        return self.temperature.enabled or self.clip.enabled or self.allocation.enabled

    @property
    def keeps_state(self) -> bool:
        """Whether something is remembered from step to step."""
        return self.adaptive or self.step_size.enabled

    @property
    def shapes_advantages(self) -> bool:
        """Whether advantages can differ from plain group advantages of the rewards."""
        return self.advantage.outcome_gate or self.advantage.zero_variance != "drop" or self.length.weight > 0.0

    @property
    def masks_groups(self) -> bool:
        """Whether groups can leave the loss's denominator."""
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
            raise ValueError(
                f"{KEY_PREFIX}.allocation.enabled=true with {KEY_PREFIX}.probe.reuse=false: a probe that does not "
                f"train leaves nothing of GRPO's total to allocate; set {KEY_PREFIX}.probe.reuse=true"
            )

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
        coerce(f"{KEY_PREFIX}.preset", preset, hints_of(cls)["preset"])
        values: dict[str, Any] = {"preset": preset}
        _overlay(cls, values, PRESETS[preset], "")
        _overlay(cls, values, {key: value for key, value in mapping.items() if key != "preset"}, "")
        for name, part in _sections(cls).items():
            values[name] = part(**values.get(name, {}))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as a plain nested dict; `from_dict` of it is equal to this config."""
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """sha256 of what changes decisions: two runs with the same one decide alike."""
        kept = {k: v for k, v in self.to_dict().items() if k not in _NOT_DECIDING}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


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
        "clip": {"form": "reference", "base": 0.2, "entropy_decay": 0.01},
        "advantage": {"scale": "dispersion", "epsilon": 1e-8, "outcome_gate": False},
        "scoring": "uncorrected",
    },
    "grpo": _CONTROLLERS_OFF | {"advantage": {"outcome_gate": False}},
}


def _sections(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in hints_of(cls).items() if dataclasses.is_dataclass(hint)}


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
    hints = hints_of(cls)
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
            values[name] = coerce(f"{KEY_PREFIX}.{path}{name}", value, hint)


def iter_fields() -> Iterator[tuple[str, str, Any, str, str]]:
    """Yield (dotted key, type, default of preset agpo, doc, source) for every setting, in file order."""
    for item in dataclasses.fields(AGPOConfig):
        part = _sections(AGPOConfig).get(item.name)
        if part is None:
            hint = hints_of(AGPOConfig)[item.name]
            yield item.name, type_text(hint), item.default, item.metadata["doc"], item.metadata["source"]
            continue
        for leaf in dataclasses.fields(part):
            hint = hints_of(part)[leaf.name]
            meta = leaf.metadata
            yield f"{item.name}.{leaf.name}", type_text(hint), leaf.default, meta["doc"], meta["source"]


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


def resolve(config: AGPOConfig, *, temperature: float, clip_low: float, clip_high: float, group_size: int) -> Resolved:
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
        raise ValueError(f"clip ratios ({low}, {high}): must be within (0, 1); set the framework's clip ratio")
    if low > high:
        raise ValueError(f"clip ratios ({low}, {high}): the lower must not exceed the upper")
    if low < config.min:
        raise ValueError(f"base clip ratio {low} is below the smallest: set {KEY_PREFIX}.clip.min={low} or lower")
    if low > config.max:
        raise ValueError(f"base clip ratio {low} is above the largest: set {KEY_PREFIX}.clip.max={high} or higher")
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
