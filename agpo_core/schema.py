# SPDX-License-Identifier: Apache-2.0
"""Declaration and checks of a setting: type, bounds and documentation are in the field's metadata."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
import types
import warnings
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}

AUTO = "auto"  # None as written in files: the value follows from the framework, the group or the data


def named(key: str) -> str:
    """A key inside a message of `SettingError`."""
    return f"\x02{key}\x03"


class SettingError(ValueError):
    """A setting that is not valid. Keys in its message (`named`) get the prefix under which the caller keeps them."""

    def __init__(self, text: str, prefix: str = "") -> None:
        self._text = text
        dot = "." if prefix else ""
        message = re.sub("\x02(.*?)\x03", lambda m: f"{prefix}{dot}{m[1]}" if m[1] else prefix or "settings", text)
        super().__init__(message)

    def under(self, prefix: str) -> SettingError:
        """The same error with this prefix on its keys."""
        return SettingError(self._text, prefix)


def option(
    default: Any, doc: str, source: str = "ours", *, renamed: Mapping[str, str] | None = None, **bounds: float
) -> Any:
    """A setting. renamed: old values, and their present names."""
    return field(default=default, metadata=_metadata(default, doc, source, renamed, bounds))


def preset_option(default: Any, doc: str, source: str = "ours", **bounds: float) -> Any:
    """A setting outside the sections that differs between presets; if left out, the preset's value is taken."""
    return field(default=None, metadata=_metadata(default, doc, source, None, bounds) | {"of_preset": True})


def _metadata(default: Any, doc: str, source: str, renamed: Any, bounds: Mapping[str, float]) -> dict[str, Any]:
    return {"doc": doc, "source": source, "default": default, "renamed": renamed or {}, **bounds}


def section(doc: str) -> Any:
    """A section of settings; if left out, the preset's values are taken."""
    return field(default=None, metadata={"doc": doc, "source": "ours"})


def hints_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in get_args(hint))
    if hint is type(None):
        return AUTO
    return str(hint.__name__)


def coerce(key: str, value: Any, hint: Any) -> Any:
    """Return `value` in the type that `hint` names, or raise SettingError.

    An int is accepted as a float; nothing else is converted. Where None is a value, "auto" stands for it.
    """
    if get_origin(hint) in (Union, types.UnionType):
        if value is None or value == AUTO:
            return None
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if isinstance(value, str) and value in choices:
            return value
        close = difflib.get_close_matches(str(value), choices, n=1)
        fix = f"; did you mean {close[0]}?" if close else ""
        raise SettingError(f"{named(key)}={value!r}: must be one of {', '.join(choices)}{fix}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        got = type(value).__name__
        raise SettingError(
            f"{named(key)}={value!r}: must be {type_text(hint)}, got {got}; set {named(key)} to a {hint.__name__}"
        )
    return value


def _check_bounds(key: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{named(key)}={value!r}: must be a finite number; set {named(key)} to one")
    if value is None or not isinstance(value, int | float):
        return
    wanted = " and ".join(f"{word} {bounds[name]:g}" for name, (word, _) in _BOUNDS.items() if name in bounds)
    if not all(test(value, bounds[name]) for name, (_, test) in _BOUNDS.items() if name in bounds):
        raise SettingError(f"{named(key)}={value!r}: must be {wanted}; set {named(key)} within that range")


def current(key: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    """A value under its present name. An old name is accepted with a warning."""
    new = metadata.get("renamed", {}).get(value) if isinstance(value, str) else None
    if new is None:
        return value
    say_renamed(f"{key}={value}", f"{key}={new}")
    return new


def say_renamed(old: str, new: str) -> None:
    """Warn that a name is deprecated."""
    warnings.warn(f"{old} is now called {new}; the next release removes the old name", FutureWarning, stacklevel=2)


class Checked:
    """Coerces and checks every scalar field of a frozen dataclass against its type and its metadata."""

    _key = ""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, key = getattr(self, item.name), self._path(item.name)
            if isinstance(hints[item.name], type) and dataclasses.is_dataclass(hints[item.name]):
                if not isinstance(value, hints[item.name]):
                    raise SettingError(f"{named(key)}={value!r}: must be a {hints[item.name].__name__}")
                continue
            value = coerce(key, current(key, value, item.metadata), hints[item.name])
            _check_bounds(key, value, item.metadata)
            object.__setattr__(self, item.name, value)
        self._check()

    def _path(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name

    def _check(self) -> None:
        """Rules that tie several fields together."""

    def _ordered(self, low: str, high: str) -> None:
        a, b = getattr(self, low), getattr(self, high)
        if a > b:
            raise SettingError(
                f"{named(self._path(low))}={a}: must be <= {named(self._path(high))}={b}; lower it or raise {high}"
            )

    def _base_within(self, base: float | None, low: float, high: float) -> None:
        if base is not None and not low <= base <= high:
            raise SettingError(
                f"{named(self._path('base'))}={base}: must be within [{low}, {high}]; move base, min or max"
            )
