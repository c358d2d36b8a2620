# SPDX-License-Identifier: Apache-2.0
"""How a setting is declared and checked: type, bounds and documentation stand in the field's metadata, once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

KEY_PREFIX = "algorithm.agpo"

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}


def option(default: Any, doc: str, source: str = "ours", **bounds: float) -> Any:
    return field(default=default, metadata={"doc": doc, "source": source, **bounds})


def section(factory: Any, doc: str) -> Any:
    return field(default_factory=factory, metadata={"doc": doc, "source": "ours"})


def hints_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def type_text(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in get_args(hint))
    if hint is type(None):
        return "null"
    return str(hint.__name__)


def coerce(key: str, value: Any, hint: Any) -> Any:
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
        raise ValueError(f"{key}={value!r}: must be {type_text(hint)}, got {got}; set {key} to a {hint.__name__}")
    return value


def _check_bounds(key: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value!r}: must be a finite number; set {key} to one")
    if value is None or not isinstance(value, int | float):
        return
    wanted = " and ".join(f"{word} {bounds[name]:g}" for name, (word, _) in _BOUNDS.items() if name in bounds)
    if not all(test(value, bounds[name]) for name, (_, test) in _BOUNDS.items() if name in bounds):
        raise ValueError(f"{key}={value!r}: must be {wanted}; set {key} within that range")


class Checked:
    """Coerces and checks every scalar field of a frozen dataclass against its type and its metadata."""

    _key = KEY_PREFIX

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value, key = getattr(self, item.name), f"{self._key}.{item.name}"
            if isinstance(hints[item.name], type) and dataclasses.is_dataclass(hints[item.name]):
                if not isinstance(value, hints[item.name]):
                    raise ValueError(f"{key}={value!r}: must be a {hints[item.name].__name__}")
                continue
            value = coerce(key, value, hints[item.name])
            _check_bounds(key, value, item.metadata)
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Rules that tie several fields together."""

    def _ordered(self, low: str, high: str) -> None:
        a, b = getattr(self, low), getattr(self, high)
        if a > b:
            raise ValueError(f"{self._key}.{low}={a}: must be <= {self._key}.{high}={b}; lower it or raise {high}")

    def _base_within(self, base: float | None, low: float, high: float) -> None:
        if base is not None and not low <= base <= high:
            raise ValueError(f"{self._key}.base={base}: must be within [{low}, {high}]; move base, min or max")
