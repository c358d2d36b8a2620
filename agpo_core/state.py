# SPDX-License-Identifier: Apache-2.0
"""The controller state on disk: versioned JSON with a checksum, replaced atomically."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from agpo_core.config import AGPOConfig
from agpo_core.records import STATE_VERSION, ControllerState, ReferenceState
from agpo_core.running import RunningStat
from agpo_core.sealed import read_sealed, write_sealed
from agpo_core.step_size import StepSize

FORMAT = "agpo-controller-state"

_READABLE = (1, 2, STATE_VERSION)
_LARGEST_COUNT = 10**15
_ROUNDING, _TINY = 1e-9, 1e-300  # tolerances: relative, and for squares that underflow


class StateError(ValueError):
    """A state file that cannot be used; the message gives the file, the field and the reason."""


def state_to_dict(state: ControllerState) -> dict[str, Any]:
    """A state as plain values, for JSON; floats are kept exactly."""
    return dataclasses.asdict(state)


def state_from_dict(values: Mapping[str, Any]) -> ControllerState:
    """The inverse of `state_to_dict`.

    Raises:
        StateError: unknown version, missing field, wrong type, or a value that no run can reach (a negative count, a
            scale that is not above 0, NaN). The message names the field and its value.
    """
    version = _get(values, "version", "")
    if type(version) is not int or version not in _READABLE:
        raise StateError(f"controller state has version {version!r}, this package reads {_READABLE}")
    # Version 1 had no step size: the learning rate is not scaled.
    size = _get(values, "step_size", "") if version > 1 else {"scale": 1.0, "exceeded": True}
    reference = _get(values, "reference", "")
    return ControllerState(
        uncertainty=_statistic(values, "uncertainty"),
        dispersion=_statistic(values, "dispersion"),
        vote_entropy=_statistic(values, "vote_entropy"),
        skewness=_statistic(values, "skewness"),
        entropy=_statistic(values, "entropy"),
        step_kl=_statistic(values, "step_kl"),
        reference=ReferenceState(*(_number(reference, n, "reference.") for n in ("u_bar", "h_ref", "kl_ema"))),
        step_size=StepSize(_number(size, "scale", "step_size.", above=0.0), _flag(size, "exceeded", "step_size.")),
        step=_count(values, "step", ""),
    )


def _scale_bounds(config: AGPOConfig) -> tuple[float, float]:
    return (config.step_size.min, config.step_size.max) if config.step_size.enabled else (1.0, 1.0)


def _statistic(state: Any, name: str) -> RunningStat:
    """A running statistic. All signals are >= 0, so its sums are >= 0 as well."""
    values, path = _get(state, name, ""), f"{name}."
    # Until version 2 it was called decay.
    weight_name = "decay" if isinstance(values, Mapping) and "decay" in values else "ema_weight"
    ema_weight = _number(values, weight_name, path, above=0.0, most=1.0)
    mean, square = _number(values, "mean_acc", path), _number(values, "square_acc", path)
    weight, updates = _number(values, "weight", path, most=1.0), _count(values, "updates", path)
    if (weight > 0.0) != (updates > 0) or (updates == 0 and (mean > 0.0 or square > 0.0)):
        raise StateError(
            f"controller state has {path}updates={updates} with weight={weight!r}, mean_acc={mean!r} and "
            f"square_acc={square!r}: these must be 0 without updates, and the weight above 0 with any"
        )
    # The mean of squares is at least the square of the mean; otherwise one of the two was edited.
    if mean * mean > square * weight * (1.0 + _ROUNDING) + _TINY:
        raise StateError(
            f"controller state has {path}square_acc={square!r}: must be >= mean_acc**2/weight={mean * mean / weight!r}"
        )
    return RunningStat(ema_weight, mean, square, weight, updates)


def _get(values: Any, name: str, path: str) -> Any:
    if not isinstance(values, Mapping):
        field = path.removesuffix(".") or "state"
        raise StateError(f"controller state has a malformed field: {field}={values!r:.80} must be an object")
    if name not in values:
        raise StateError(f"controller state lacks the field {name!r}" + (f" of {path[:-1]}" if path else ""))
    return values[name]


def _bad(path: str, value: Any, must: str) -> StateError:
    return StateError(f"controller state has a malformed field: {path}={value!r:.80} must be {must}")


def _number(values: Any, name: str, path: str, *, above: float | None = None, most: float = math.inf) -> float:
    """A finite number: > above if that is given, otherwise >= 0."""
    value = _get(values, name, path)
    low = ">= 0" if above is None else f"> {above:g}"
    must = f"a finite number {low}" + (f" and <= {most:g}" if most < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(path + name, value, must)
    try:
        number = float(value)
    except OverflowError:
        raise _bad(path + name, "an integer beyond the range of floats", must) from None
    if not math.isfinite(number) or number > most or (number < 0.0 if above is None else number <= above):
        raise _bad(path + name, value, must)
    return number


def _count(values: Any, name: str, path: str) -> int:
    value = _get(values, name, path)
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise _bad(path + name, value, f"a whole number from 0 to {_LARGEST_COUNT}")
    return value


def _flag(values: Any, name: str, path: str) -> bool:
    value = _get(values, name, path)
    if not isinstance(value, bool):
        raise _bad(path + name, value, "true or false")
    return value


def save_state(
    path: str | os.PathLike[str],
    state: ControllerState,
    fingerprint: str,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the state so that `path` holds either the old file or the whole new one, even after a crash.

    Args:
        path: the file.
        state: the state.
        fingerprint: `AGPOConfig.fingerprint` of the run.
        extra: any JSON values to keep in the same file.

    Raises:
        ValueError: a value is not JSON (NaN and infinities are not).
        OSError: the disk does not accept the file.
    """
    payload = {"state": state_to_dict(state), "fingerprint": fingerprint, "extra": dict(extra or {})}
    write_sealed(path, FORMAT, STATE_VERSION, payload)


def load_state(path: str | os.PathLike[str]) -> tuple[ControllerState, str, dict[str, Any]]:
    """Read (state, fingerprint, extra) from a file of `save_state`.

    Raises:
        StateError: the file is missing, damaged, of another version, or holds values that no run can reach; the message
            names the file.
    """
    try:
        version, payload = read_sealed(path, FORMAT, _READABLE, ["state", "fingerprint", "extra"])
    except ValueError as error:
        raise StateError(str(error)) from error
    kinds = {"state": dict, "fingerprint": str, "extra": dict}
    for name, kind in kinds.items():
        if not isinstance(payload[name], kind):
            must = "string" if kind is str else "object"
            raise StateError(f"{path}: {name}={payload[name]!r:.80} must be a JSON {must}")
    inner = payload["state"].get("version")
    if inner != version:
        raise StateError(f"{path}: state.version={inner!r} in a file of version {version}")
    try:
        state = state_from_dict(payload["state"])
    except StateError as error:
        raise StateError(f"{path}: {error}") from error
    return state, payload["fingerprint"], payload["extra"]


class OtherSettings(StateError):
    """The state was written by a run whose settings lead to other decisions."""


def resume_state(path: str | os.PathLike[str], config: AGPOConfig, *, keep: bool = False) -> ControllerState:
    """The state from which a run of `config` continues.

    Args:
        path: a file of `save_state`.
        config: settings of the run that continues.
        keep: also accept a state of other settings; its step size is then limited to the bounds of `config`.

    Raises:
        OtherSettings: the state is of other settings and `keep` is false.
        StateError: `load_state` refuses the file, or its step size is outside the bounds of the same settings.
    """
    state, fingerprint, extra = load_state(path)
    scale, (low, high) = state.step_size.scale, _scale_bounds(config)
    if config.decides_like(fingerprint, extra.get("config")):
        if not low <= scale <= high:
            raise StateError(f"{path}: step_size.scale={scale!r}: must be within [{low}, {high}], as the settings say")
        return state
    if not keep:
        raise OtherSettings(f"{path} was written with other settings, so its decisions would not continue")
    size = dataclasses.replace(state.step_size, scale=min(max(scale, low), high))
    return dataclasses.replace(state, step_size=size)
