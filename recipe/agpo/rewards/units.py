# SPDX-License-Identifier: Apache-2.0
"""Units of measurement: their dimension, and their size in its base unit."""

from __future__ import annotations

import math
import re

_WORDED_POWER = re.compile(r"(?:(square|sq\.?|平方)|(?:cubic|cu\.?|立方))\s*(?=\S)", re.IGNORECASE)

# unit -> (dimension, factor to the base unit)
_BASE: dict[str, tuple[str, float]] = {
    "m": ("length", 1.0),
    "g": ("mass", 1e-3),
    "s": ("time", 1.0),
    "J": ("energy", 1.0),
    "K": ("temperature", 1.0),
    "Hz": ("frequency", 1.0),
    "Pa": ("pressure", 1.0),
    "W": ("power", 1.0),
    "N": ("force", 1.0),
    "V": ("voltage", 1.0),
    "A": ("current", 1.0),
    "eV": ("energy", 1.602176634e-19),
    "L": ("volume", 1e-3),
    "mol": ("amount", 1.0),
    "pc": ("length", 3.0856775814913673e16),
    "Ω": ("resistance", 1.0),
    "C": ("charge", 1.0),
    "T": ("field", 1.0),
}
_PREFIXES = {
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "c": 1e-2,
    "m": 1e-3,
    "µ": 1e-6,
    "u": 1e-6,
    "n": 1e-9,
    "p": 1e-12,
    "d": 1e-1,
}
_OTHER: dict[str, tuple[str, float]] = {
    "min": ("time", 60.0),
    "h": ("time", 3600.0),
    "hr": ("time", 3600.0),
    "day": ("time", 86400.0),
    "year": ("time", 3.15576e7),
    "yr": ("time", 3.15576e7),
    "atm": ("pressure", 101325.0),
    "bar": ("pressure", 1e5),
    "erg": ("energy", 1e-7),
    "cal": ("energy", 4.184),
    "kcal": ("energy", 4184.0),
    "å": ("length", 1e-10),
    "angstrom": ("length", 1e-10),
    "au": ("length", 1.495978707e11),
    "ly": ("length", 9.4607304725808e15),
    "rad": ("angle", 1.0),
    "radian": ("angle", 1.0),
    "degree": ("angle", math.pi / 180),
    "deg": ("angle", math.pi / 180),
    "arcsec": ("angle", math.pi / 648000),
    "ft": ("length", 0.3048),
    "inch": ("length", 0.0254),
    "yard": ("length", 0.9144),
    "mile": ("length", 1609.344),
    "week": ("time", 604800.0),
    "month": ("time", 2629800.0),
    "dollar": ("money", 1.0),
    "cent": ("money", 0.01),
    "元": ("yuan", 1.0),
    "角": ("yuan", 0.1),
    "kg": ("mass", 1.0),
    "ton": ("mass", 1000.0),
    "liter": ("volume", 1e-3),
    "km/s": ("speed", 1e3),
    "m/s": ("speed", 1.0),
    "cm/s": ("speed", 1e-2),
    "km/h": ("speed", 1 / 3.6),
    "mph": ("speed", 0.44704),
}
_NAMES = {
    "meter": "m",
    "metre": "m",
    "kilometer": "km",
    "kilometre": "km",
    "centimeter": "cm",
    "centimetre": "cm",
    "millimeter": "mm",
    "nanometer": "nm",
    "micrometer": "µm",
    "micron": "µm",
    "gram": "g",
    "kilogram": "kg",
    "milligram": "mg",
    "second": "s",
    "sec": "s",
    "millisecond": "ms",
    "minute": "min",
    "hour": "h",
    "days": "day",
    "joule": "J",
    "kilojoule": "kJ",
    "kelvin": "K",
    "hertz": "Hz",
    "pascal": "Pa",
    "watt": "W",
    "newton": "N",
    "arcsecond": "arcsec",
    "inches": "inch",
    "in": "inch",
    "feet": "ft",
    "foot": "ft",
    "hrs": "hr",
    "mins": "min",
    "secs": "s",
    "天": "day",
    "周": "week",
    "个月": "month",
    "年": "year",
    "吨": "ton",
    "yuan": "元",
    "volt": "V",
    "ampere": "A",
    "amp": "A",
    "ohm": "Ω",
    "electronvolt": "eV",
    "parsec": "pc",
    "litre": "L",
    "米": "m",
    "千米": "km",
    "公里": "km",
    "厘米": "cm",
    "毫米": "mm",
    "克": "g",
    "千克": "kg",
    "公斤": "kg",
    "秒": "s",
    "分钟": "min",
    "小时": "h",
    "升": "L",
    "毫升": "mL",
    "度": "degree",
    "弧度": "rad",
    "焦耳": "J",
    "焦": "J",
}


def dimension(unit: str) -> tuple[str, float] | None:
    """(dimension, factor to its base unit) of a unit, None if it is not known."""
    name = re.sub(r"[{}$\\ ]|\^1$", "", unit).rstrip(".")
    name = _NAMES.get(name) or _NAMES.get(name.lower()) or _NAMES.get(name.lower().rstrip("s")) or name
    for spelling in (name, name.lower(), name.lower().rstrip("s")):
        if spelling in _OTHER:
            return _OTHER[spelling]
    worded = _WORDED_POWER.match(name)
    if worded:
        name = name[worded.end() :] + ("2" if worded.group(1) else "3")
    power = re.fullmatch(r"(.+?)\^?([23²³])", name)
    if power and (base := dimension(power.group(1))) is not None and base[0] == "length":
        exponent = 2 if power.group(2) in "2²" else 3
        return ("area", base[1] ** 2) if exponent == 2 else ("volume", base[1] ** 3)
    for symbol, (kind, factor) in _BASE.items():
        if name.endswith(symbol) and name[: -len(symbol)] in _PREFIXES:
            return kind, factor * _PREFIXES[name[: -len(symbol)]]
    return None
