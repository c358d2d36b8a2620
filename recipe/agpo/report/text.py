# SPDX-License-Identifier: Apache-2.0
"""Text and numbers for the page. Everything that a model or a file system wrote goes through :func:`visible`."""

from __future__ import annotations

import math
import unicodedata


def visible(text: object) -> str:
    """The text with control characters, lone surrogates and marks that turn the direction of writing spelt out.

    They would be invisible, or would change the visible text.
    """
    return "".join(_visible(character) for character in str(text))


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co"):
        return character
    if character in "\u200c\u200d":  # joiners: part of the spelling of several languages, and of emoji
        return character
    return f"\\u{ord(character):04x}"


def number(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, whole above a thousand, without an exponent where that stays short."""
    if value == 0.0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.0f}" if size >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def compact(value: float) -> str:
    """A tick of an axis: at most six characters or so."""
    size = abs(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.3g}{letter}"
    if value and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers within [low, high], about ``wanted`` of them."""
    span = high - low
    if not span > 0.0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= wanted)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + i) * step for i in range(count)]


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds when it is short."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
