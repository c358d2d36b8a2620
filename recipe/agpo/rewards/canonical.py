# SPDX-License-Identifier: Apache-2.0
r"""One spelling for answers that are plainly the same, without symbolic mathematics.

``1/2``, ``0.5``, ``\frac12``, ``\dfrac{1}{2}``, ``50\%``, ``$x = 0.50$`` and ``二分之一`` all have the key
``n:1/2``; what is no plain rational number has the key ``x:`` and its normalised LaTeX. Nothing is ever evaluated:
``9**9**9`` stays text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from recipe.agpo.rewards.visible import visible

MAX_LENGTH = 2_000
MAX_DIGITS = 60
MAX_EXPONENT = 60
# A decimal with as many significant digits, so many of them behind the point, may be a rounding: see `rounding`.
ROUNDED_DIGITS = 6
ROUNDED_PLACES = 3

_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_CIRCLED = re.compile(r"\\textcircled\s*\{?\s*(\d+)\s*\}?|[\u2460-\u2473]")
_STATEMENTS = re.compile(r"(?:\(\d+\)[\s,，、和及与]*)+")
_NO_SPACE = re.compile(r"(?<=\d,)\s*\\!\s*|(?<!\\)\\!")  # 32,\!349
_SPACES = re.compile(r"(?:(?<!\\)\\[,;:> ]|\\q?quad|[~\s])+")
_DELIMITERS = re.compile(
    r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[bB]ig+[lr]?(?![a-zA-Z])|\\displaystyle|\\limits|\\\(|\\\)|\\\[|\\\]"
)
# How something looks: colour, size, weight.
_STYLE = re.compile(
    r"\\(?:text)?color\s*\{[a-zA-Z!0-9]{1,20}\}|\\(?:bf|it|rm|sf|tt|bfseries|tiny|small|large|Large|LARGE"
    r"|huge|Huge|normalsize|textstyle|scriptstyle|checkmark|underline|f?boxed|fbox|mathtt|texttt|emph|boldmath)(?![a-zA-Z])"
)
_BARE_FONT = re.compile(r"\\(math(?:bf|bb|rm|it|sf|cal)|vec|hat|bar|boldsymbol)\s+([a-zA-Z])(?![a-zA-Z])")
_NEGATIVE = re.compile(r"负\s*(?=[\d\\$])")
_MERIDIEM = re.compile(r"(?<=\d)\s*(?:([ap])\.\s?m\b\.?|([ap])m\b)", re.IGNORECASE)
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")
_HALF_SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{\s*(-?\d+)\s*\}\s*(\d)|(\d)\s*\{\s*(\d+)\s*\})")
_ESCAPED = re.compile(r"\\\\(?=[a-zA-Z]{2})")  # \\frac in place of \frac: escaped once too often
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|operatorname|mbox|rm|bf)\s*\{([^{}]*)\}")
_ASSIGNMENT = re.compile(r"(?:[a-zA-Z]|\\[a-z]+|[a-zA-Z]_\{?\w+\}?|[a-zA-Z]\([a-zA-Z0-9]\))\s*=\s*([^=<>]+)")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\{,\}\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_REPEATING = re.compile(
    r"(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar|dot)\s*(?:\{\s*(?P<block>\d{1,30})\s*\}|(?P<digit>\d))(?!\d)"
    r"|(?P<dots>(\d)\6{2,})\s*(?:\\[lc]?dots|\.{2,}|…))"
)
_ORDINAL = re.compile(r"\s*(?:\^\s*\{?\s*)?(?:th|st|nd|rd)\s*\}?(?![a-zA-Z])")
_MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "lakh": 10**5,
    "crore": 10**7,
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "亿": 10**8,
    "萬": 10**4,
    "億": 10**8,
}
_MAGNITUDE = re.compile(
    rf"\s*(?:({'|'.join(m for m in _MAGNITUDES if m.isascii())})s?(?![a-zA-Z])"
    r"|(百(?!分)|千(?![米克瓦卡焦帕赫伏安升字])|[万亿萬億]))",
    re.IGNORECASE,
)
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:"
    rf"(?P<whole>\d+)?\s*\\frac\s*\{{\s*(?P<in>[-+]?\d+)\s*\}}\s*\{{\s*(?P<id>\d+)\s*\}}"
    rf"|(?P<mixed>\d+)\s+(?P<mn>\d+)\s*/\s*(?P<md>\d+)"
    rf"|\(?\s*(?P<num>{_DECIMAL})\s*/\s*(?P<den>{_DECIMAL})\s*\)?"
    rf"|10\s*\^\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}?(?!\s*\^)"
    rf"|(?P<mantissa>{_DECIMAL})(?:\s*(?:\\times|\\cdot|\*|x|×)\s*10\s*\^\s*\{{?\s*(?P<power>[-+]?\d+)\s*\}}?"
    rf"|[eE](?P<exponent>[-+]?\d+))?"
    rf")"
)
_LONG_DECIMAL = re.compile(
    r"[-+]?\s*(?:[$¥€£]\s*)?((?:\d{1,3}(?:,\d{3})+|\d*))\.(\d+)"
    r"(?:\s*(?:\\times|\\cdot|\*|x|×)\s*10\s*\^\s*\{?\s*([-+]?\d{1,3})\s*\}?|[eE]([-+]?\d{1,3}))?(?![\d.])"
)
_CURRENCY = re.compile(r"^(?:US|USD|RMB|HK|A|C)?\s*\\?[$¥€£]\s*|^(?:USD|RMB|EUR|GBP)\s+")
_PERCENT = re.compile(r"\s*(?:\\?%|percent|per cent|pct)", re.IGNORECASE)
_DEGREE = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree|degrees?\b)(?:\s*[CF](?![a-zA-Z]))?", re.IGNORECASE)
# A unit stands after a space, or is Chinese, or is one of the short ones that nobody takes for a variable.
_UNIT = re.compile(
    r"\s+[a-zA-Zµμ$](?:[^\W\d]|[\s/.'$²³{}\\-]|\^\s*\{?\s*-?\d|(?<=[a-zA-Z])-?[1-4](?![\d.]))*|"
    r"\s*[\u4e00-\u9fff](?:[\u4e00-\u9fff/]|[^\W\d])*|"
    r"\s*(?:cm|mm|km|kg|mg|ml|mL|min|hr|hrs|sec|ft|mph|kmh|km/h|m/s|cm\^?\{?2\}?|m\^\{?2\}?|cm²|m²|cm\^?\{?3\}?|[ckm]?m[23]|[€£¥])"
)
# An exclamation mark behind words; behind a number, a bracket or a single letter it is a factorial.
EXCLAMATION = re.compile(r"(?<![\d)}\]!])(?<!\b[a-zA-Z])!+\s*$|！+\s*$")
# Words that take an answer back, doubt it, or give a bound in its place.
HEDGE = re.compile(
    r"\b(?:not|no|never|neither|nor|isn|aren|wasn|cannot|but|maybe|perhaps|possibly|probably|likely|might|may|could"
    r"|wrong|incorrect|false|except|unless|instead|rather|although|however|either|versus|vs|(?:more|less|fewer) than"
    r"|at (?:least|most))\b|n['’]t\b|不是|并非|不对|不等于|错|可能|也许|大概|但|而是|以上|以下"
    r"|大于|小于|超过|不足|至少|至多|不少于|不多于|[多少高低]于",
    re.IGNORECASE,
)
_NOT_A_UNIT = re.compile(
    r"\b(?:or|and|to|plus|minus|times|over|mod|if|when|than|of|is|are|was|divided|remainder|factorial|squared|cubed"
    r"|r|x|y|n|i|pi|sqrt)\b|[或和到至余又π的吗么]|阶乘|次方|[平立]方(?![米分厘毫千公])",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]{3,}|(?<![A-Za-z])(?:no|on|up|in|so|if|we|us)(?![A-Za-z])", re.IGNORECASE)
_MATHS = re.compile(r"[\\^_=<>+*/|]|\d")
_JOINING = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_CHINESE_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE = re.compile(r"负?[零〇一二两三四五六七八九十百千万]+")
_WORDS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {word: 10 * (i + 2) for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}


@dataclass(frozen=True)
class Canonical:
    """An answer in its canonical form.

    Attributes:
        key: ``n:<fraction>`` or ``x:<expression>``; equal keys are equal answers.
        number: its value if it is a plain rational number.
        percent: whether it was written as a percentage; ``number`` is then the value divided by 100.
        unit: what stood behind the number, normalised; ``""`` if nothing.
        places: decimals of a number that may be a rounding (:func:`rounding`), else None.
    """

    key: str
    number: Fraction | None = None
    percent: bool = False
    unit: str = ""
    places: int | None = None


@lru_cache(maxsize=8192)
def canonical(answer: str) -> Canonical:
    """The canonical form of an answer's text; linear in its length."""
    if len(answer) > MAX_LENGTH:
        return Canonical("x:#" + hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()[:16])
    text = normalised(answer)
    if _STATEMENTS.fullmatch(text) and text.count("(") > 1:
        return Canonical("x:" + "".join(re.findall(r"\(\d+\)", text)))  # ①③ and ①、③
    read = _quantity(text)
    if read is None and text[:1] == "(" and text[-1:] == ")":
        read = _quantity(text[1:-1].strip())
    if read is None:
        assigned = _ASSIGNMENT.fullmatch(text)
        if assigned:
            text = assigned.group(1).strip()
            read = _quantity(text)
    if read is not None:
        number, percent, unit = read
        places = rounding(text)
        if places is not None and percent:
            places += 2
        return Canonical(f"n:{number}", number, percent, unit, places)
    # The space behind a command is its end: \omega t is not \omegat.
    compact = re.sub(r"\s+", "", re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\x00", text)).replace("\x00", " ")
    compact = compact.replace("\\cdot", "*").replace("\\times", "*")
    return Canonical(f"x:{compact}")


def wordy(answer: Canonical) -> bool:
    """Words, not mathematics: a parser would read "east" as a product of four symbols."""
    text = _JOINING.sub(",", answer.key[2:])
    return answer.number is None and not _MATHS.search(text) and _WORD.search(text) is not None


def same(answer: Canonical, gold: Canonical) -> bool:
    """Whether two canonical answers are equal. A percentage also equals the bare number that it shows.

    Numbers are compared exactly, but for long decimals: see :func:`rounding`.
    """
    if answer.key == gold.key:
        return True
    if answer.number is None or gold.number is None:
        return False
    if any(
        one.places is not None and within_rounding(one.number, other.number, one.places)
        for one, other in ((answer, gold), (gold, answer))
    ):
        return True
    if answer.percent == gold.percent:
        return False
    # "50" for 50 %, and "50%" for 50: the percent sign is a unit that may be left out.
    return answer.number * (100 if answer.percent else 1) == gold.number * (100 if gold.percent else 1)


def rounding(text: str) -> int | None:
    """The decimals of a number that may be a rounding, else None.

    The one rule for tolerance: a decimal with at least six significant digits, three of them behind the point, equals
    whatever number rounds to it (``0.333333`` is 1/3, ``3.14159`` is pi), on either side. Every other number is exact:
    ``0.33`` is not 1/3, and amounts of money are never rounded.
    """
    found = _LONG_DECIMAL.match(text)
    if found is None:
        return None
    whole, decimals = found.group(1).replace(",", ""), found.group(2)
    if len(decimals) < ROUNDED_PLACES or len((whole + decimals).lstrip("0")) < ROUNDED_DIGITS:
        return None
    places = len(decimals) - int(found.group(3) or found.group(4) or 0)
    return places if places >= ROUNDED_PLACES else None


def within_rounding(rounded: Any, number: Any, places: int) -> bool:
    """Whether ``number`` rounds to ``rounded``, a decimal with so many places."""
    if places > MAX_DIGITS or places < -MAX_DIGITS:
        return False
    half = Fraction(1, 2) / Fraction(10) ** places
    if not isinstance(number, Fraction):  # mpmath's
        number = number.real
        one = number.context.mpf(1)
        error = abs(one * rounded.numerator / rounded.denominator - number)
        return bool(error <= one * half.numerator / half.denominator)
    return bool(abs(rounded - number) <= half)


def normalised(answer: str) -> str:
    """LaTeX without what does not change its meaning."""
    if answer.isascii() and answer.isdecimal():
        return answer  # most answers
    answer = _CIRCLED.sub(lambda m: f"({m[1] or unicodedata.normalize('NFKC', m[0])})", answer)
    answer = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("\u2044", "/"), answer)
    text = unicodedata.normalize("NFKC", answer.rstrip("！ ").encode("utf-8", "replace").decode("utf-8"))
    text = visible(text)
    text = _NEGATIVE.sub("-", text).replace("−", "-").replace("–", "-").replace("×", "\\times")
    text = _NO_SPACE.sub("", text).replace('\\"', "")
    text = text.replace("\\$", "$").replace("{,}", ",").replace("{:}", ":").replace("\\%", "%")
    text = re.sub(r"π(?![a-zA-Z])", r"\\pi", text).replace("π", "\\pi ").replace("√", "\\sqrt ")
    if "\\begin" not in text and "&" not in text:
        text = _ESCAPED.sub(r"\\", text)
    text = _DELIMITERS.sub("", text)
    if "\\" in text:
        text = _BARE_FONT.sub(r"\\\1{\2}", text)
    if "\\" in text and _STYLE.search(text):
        text = re.sub(r"^\{([^{}]*)\}$", r"\1", _STYLE.sub("", text).strip())
    text = _FRACTIONS.sub(r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _HALF_SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _MERIDIEM.sub(lambda m: f" {m[1] or m[2]}m".upper(), _SPACES.sub(" ", text).strip())
    if text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and _matched(text):
        text = text[1:-1].strip()
    text = text.strip(" *_`").rstrip(" ,;。")
    text = EXCLAMATION.sub("", text)
    return text[:-1] if text.endswith(".") and len(text) > 1 else text


def _matched(text: str) -> bool:
    """Whether the first brace closes at the very end."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _quantity(text: str) -> tuple[Fraction, bool, str] | None:
    """(value, whether a percentage, unit) of a text that is one number with an optional unit."""
    bare = _CURRENCY.sub("", text)
    sign = ""
    if bare[:1] in "+-" and _CURRENCY.match(bare[1:].lstrip()):
        sign, bare = bare[0], _CURRENCY.sub("", bare[1:].lstrip())
    bare = bare.replace("$", "")
    match = NUMBER.match(bare)
    repeating = _REPEATING.match(bare.lstrip("+-").lstrip())
    if repeating:
        value: Fraction | None = _repeating(repeating) * (-1 if bare.startswith("-") else 1)
        rest = bare.lstrip("+-").lstrip()[repeating.end() :]
    elif match is None:
        return _words(text)
    else:
        value = _value(match)
        rest = bare[len(bare[: match.end()].rstrip()) :]
    if value is None:
        return None
    value = -value if sign == "-" else value
    if value.denominator == 1:
        rest = rest[ordinal.end() :] if (ordinal := _ORDINAL.match(rest)) else rest
    for _ in range(2):  # "2 hundred thousand"
        if not (magnitude := _MAGNITUDE.match(rest)):
            break
        value *= _MAGNITUDES[(magnitude.group(1) or magnitude.group(2)).lower()]
        rest = rest[magnitude.end() :]
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
        value /= 100
    degree = _DEGREE.match(rest)
    if degree:
        rest = rest[degree.end() :]
    if rest.strip(" .") and not _is_unit(rest.rstrip(" .")):
        return None
    unit = re.sub(r"\s+", " ", rest).strip(" .")
    return value, percent is not None, "degree" if degree and not unit else unit


def _is_unit(text: str) -> bool:
    return _UNIT.fullmatch(text) is not None and not _NOT_A_UNIT.search(text) and not HEDGE.search(text)


def _value(match: re.Match[str]) -> Fraction | None:
    groups = match.groupdict()
    if any(len(text) > MAX_DIGITS for text in groups.values() if text):
        return None
    sign = -1 if groups["sign"] == "-" else 1
    try:
        if groups["id"]:
            fraction = Fraction(int(groups["in"]), int(groups["id"]))
            return sign * (int(groups["whole"]) + fraction if groups["whole"] else fraction)
        if groups["md"]:
            return sign * (int(groups["mixed"]) + Fraction(int(groups["mn"]), int(groups["md"])))
        if groups["den"]:
            return sign * _decimal(groups["num"]) / _decimal(groups["den"])
        power = int(groups["power"] or groups["exponent"] or groups["ten"] or 0)
        if abs(power) > MAX_EXPONENT:
            return None
        return sign * (_decimal(groups["mantissa"]) if groups["mantissa"] else 1) * Fraction(10) ** power
    except (ZeroDivisionError, ValueError):
        return None


def _repeating(match: re.Match[str]) -> Fraction:
    r"""The value of 0.1\overline{6} and of 0.333..."""
    block = match["block"] or match["digit"] or match["dots"][0]
    fixed = match["fixed"] + (match["dots"] or "")
    shift = 10 ** len(fixed)
    return Fraction(int((match["whole"] or "0") + fixed), shift) + Fraction(int(block), shift * (10 ** len(block) - 1))


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s{}]", "", text).rstrip(".") or "0")


def _words(text: str) -> tuple[Fraction, bool, str] | None:
    """Number words of Chinese up to 99,999,999 and of English up to 99."""
    english = re.fullmatch(r"([a-z]+)(?:[- ]([a-z]+))?", text.lower())
    if english and english.group(1) in _WORDS:
        tens, ones = _WORDS[english.group(1)], english.group(2)
        if ones is None:
            return Fraction(tens), False, ""
        if tens >= 20 and 0 < _WORDS.get(ones, 0) < 10:
            return Fraction(tens + _WORDS[ones]), False, ""
        if ones in _MAGNITUDES:
            return Fraction(tens * _MAGNITUDES[ones]), False, ""
        return None
    parts = re.fullmatch(rf"({_CHINESE.pattern}|百)分之({_CHINESE.pattern})", text)
    if parts:
        below = 100 if parts.group(1) == "百" else _chinese(parts.group(1))
        above = _chinese(parts.group(2))
        if below and above is not None:
            return Fraction(above, below), parts.group(1) == "百", ""
        return None
    if _CHINESE.match(text):
        match = _CHINESE.match(text)
        assert match is not None
        value, rest = _chinese(match.group(0)), text[match.end() :]
        unit = not rest or (len(rest) <= 4 and _is_unit(rest))
        if value is not None and unit:
            return Fraction(value), False, rest
    return None


def _chinese(text: str) -> int | None:
    sign, text = (-1, text[1:]) if text.startswith("负") else (1, text)
    total = section = digit = 0
    for character in text:
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        elif character in _CHINESE_UNITS:
            section += (digit or 1) * _CHINESE_UNITS[character]
            digit = 0
        else:  # 万
            if total:
                return None
            total, section, digit = (section + digit) * 10_000, 0, 0
    return sign * (total + section + digit)
