# SPDX-License-Identifier: Apache-2.0
"""Kind ``numeric``: a number with a tolerance and a unit, as in the OCW courses."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards import maths
from recipe.agpo.rewards.canonical import Canonical, canonical
from recipe.agpo.rewards.extract import mathematical_answer
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

VALUE = "recipe.agpo.rewards.symbolic:value"
REL_TOL = 0.01  # three significant digits in the worst case, as the OCW solutions are given

# Where the reference is a number, letters behind a space are no variables.
_UNIT_BEHIND = re.compile(r"(?<=[\w)}\]])\s+[a-zA-Zµμ°][\w/^{}.*·²³-]*$")

# unit -> (dimension, factor to the base unit)
_BASE: dict[str, tuple[str, float]] = {
    "m": ("length", 1.0), "g": ("mass", 1e-3), "s": ("time", 1.0), "J": ("energy", 1.0), "K": ("temperature", 1.0),
    "Hz": ("frequency", 1.0), "Pa": ("pressure", 1.0), "W": ("power", 1.0), "N": ("force", 1.0), "V": ("voltage", 1.0),
    "A": ("current", 1.0), "eV": ("energy", 1.602176634e-19), "L": ("volume", 1e-3), "mol": ("amount", 1.0),
    "pc": ("length", 3.0856775814913673e16), "Ω": ("resistance", 1.0), "C": ("charge", 1.0), "T": ("field", 1.0),
}  # fmt: skip
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "c": 1e-2, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9,
             "p": 1e-12, "d": 1e-1}  # fmt: skip
_OTHER: dict[str, tuple[str, float]] = {
    "min": ("time", 60.0), "h": ("time", 3600.0), "hr": ("time", 3600.0), "day": ("time", 86400.0),
    "year": ("time", 3.15576e7), "yr": ("time", 3.15576e7), "atm": ("pressure", 101325.0), "bar": ("pressure", 1e5),
    "erg": ("energy", 1e-7), "cal": ("energy", 4.184), "kcal": ("energy", 4184.0), "å": ("length", 1e-10),
    "angstrom": ("length", 1e-10), "au": ("length", 1.495978707e11), "ly": ("length", 9.4607304725808e15),
    "rad": ("angle", 1.0), "radian": ("angle", 1.0), "degree": ("angle", math.pi / 180),
    "deg": ("angle", math.pi / 180),
    "arcsec": ("angle", math.pi / 648000), "ft": ("length", 0.3048), "inch": ("length", 0.0254),
    "kg": ("mass", 1.0), "ton": ("mass", 1000.0), "liter": ("volume", 1e-3), "km/s": ("speed", 1e3),
    "m/s": ("speed", 1.0), "cm/s": ("speed", 1e-2), "km/h": ("speed", 1 / 3.6), "mph": ("speed", 0.44704),
}  # fmt: skip
_NAMES = {
    "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "centimeter": "cm", "centimetre": "cm",
    "millimeter": "mm", "nanometer": "nm", "micrometer": "µm", "micron": "µm", "gram": "g", "kilogram": "kg",
    "milligram": "mg", "second": "s", "sec": "s", "millisecond": "ms", "minute": "min", "hour": "h", "days": "day",
    "joule": "J", "kilojoule": "kJ", "kelvin": "K", "hertz": "Hz", "pascal": "Pa", "watt": "W", "newton": "N",
    "arcsecond": "arcsec",
    "volt": "V", "ampere": "A", "amp": "A", "ohm": "Ω", "electronvolt": "eV", "parsec": "pc", "litre": "L",
    "米": "m", "千米": "km", "公里": "km", "厘米": "cm", "毫米": "mm", "克": "g", "千克": "kg", "公斤": "kg", "秒": "s",
    "分钟": "min", "小时": "h", "升": "L", "毫升": "mL", "度": "degree", "弧度": "rad", "焦耳": "J", "焦": "J",
}  # fmt: skip


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the final answer lies within the tolerance of ``gold``.

    args: ``rel_tol`` (default 0.01) and ``abs_tol`` (default 0); ``unit``: the unit that was asked for. A unit that is
    left out or not known here is ignored; a known one of the same dimension is converted; one of another dimension
    is wrong. A gold that is no number is judged as kind ``math``.
    """
    reference = canonical(maths.cleaned(gold))
    if not gold.strip():
        return Judgement(0.0, False, "", BAD_GOLD, "the reference answer is empty")
    if reference.number is None:
        return maths.judge(response, gold, args)
    found = mathematical_answer(response)
    if found is None:
        return Judgement(0.0, False, "", NO_ANSWER)
    unit = str(args.get("unit") or reference.unit)
    target = float(reference.number)
    right = Judgement(1.0, found.asked_form, reference.key)
    answer = maths.readings(maths.cleaned(found.text), keep_equation=False)[-1]
    wrong = Judgement(0.0, found.asked_form, answer.key)
    if found.denied:
        return wrong
    if answer.number is not None:
        return right if _agrees(answer, target, unit, args) else wrong

    def finish(value: float | None) -> Judgement:
        return right if value is not None and _close(value, target, args) else wrong

    expression = maths.formula(maths.cleaned(found.text).rpartition("=")[2])
    return Work(VALUE, [_UNIT_BEHIND.sub("", expression)], finish, control=[gold], wrong=wrong)


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if answers can be judged against ``gold``, else why not."""
    for name in ("rel_tol", "abs_tol"):
        tolerance = args.get(name, 0.0)
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            return f"{name}={tolerance!r}: must be a finite number >= 0"
    return maths.check_gold(gold)


def dimension(unit: str) -> tuple[str, float] | None:
    """(dimension, factor to its base unit) of a unit, None if it is not known."""
    name = re.sub(r"[{}$\\ ]|\^1$", "", unit).rstrip(".")
    name = _NAMES.get(name) or _NAMES.get(name.lower()) or _NAMES.get(name.lower().rstrip("s")) or name
    for spelling in (name, name.lower(), name.lower().rstrip("s")):
        if spelling in _OTHER:
            return _OTHER[spelling]
    power = re.fullmatch(r"(.+?)\^?([23²³])", name)
    if power and (base := dimension(power.group(1))) is not None and base[0] == "length":
        exponent = 2 if power.group(2) in "2²" else 3
        return ("area", base[1] ** 2) if exponent == 2 else ("volume", base[1] ** 3)
    for symbol, (kind, factor) in _BASE.items():
        if name.endswith(symbol) and name[: -len(symbol)] in _PREFIXES:
            return kind, factor * _PREFIXES[name[: -len(symbol)]]
    return None


def _agrees(answer: Canonical, target: float, unit: str, args: Mapping[str, Any]) -> bool:
    assert answer.number is not None
    value = float(answer.number)
    asked, given = dimension(unit) if unit else None, dimension(answer.unit) if answer.unit else None
    if asked and given:
        if asked[0] != given[0]:
            return False
        value *= given[1] / asked[1]
    if _close(value, target, args):
        return True
    return answer.percent and _close(100 * value, target, args)


def _close(value: float, target: float, args: Mapping[str, Any]) -> bool:
    rel, absolute = float(args.get("rel_tol", REL_TOL)), float(args.get("abs_tol", 0.0))
    return math.isclose(value, target, rel_tol=0.0, abs_tol=max(rel * abs(target), absolute, 1e-12 * abs(target)))
