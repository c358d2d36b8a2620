# SPDX-License-Identifier: Apache-2.0
"""Finding and spelling answers: fast, safe, and the same key for equal numbers. The corpus has the verdicts."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.rewards import choice, maths, numeric, text
from recipe.agpo.rewards.canonical import canonical, same
from recipe.agpo.rewards.extract import MAX_CHARACTERS, final_answer, last_line, last_value, tidy
from recipe.agpo.rewards.verdict import Work

HALVES = (
    "1/2",
    "0.5",
    ".50",
    "\\frac12",
    "\\frac{1}{2}",
    "\\dfrac{1}{2}",
    "$0.5$",
    "½",
    "二分之一",
    "2/4",
    "x = 0.5",
    "5e-1",
    "5\\times10^{-1}",
    "\\left(\\frac{1}{2}\\right)",
    "0.5 cm",
    "０.５",
)
HOSTILE = {
    "braces": "{" * 10_000,
    "closed braces": "\\boxed{" + "{" * 9_000 + "}" * 9_001,
    "open boxes": "\\boxed{" * 3_000,
    "nested boxes": "\\boxed{" * 1_000 + "7" + "}" * 1_000,
    "statements": "answer is " * 5_000,
    "statements in Chinese": "答案是" * 6_000,
    "tags": "<answer>" * 4_000 + "</answer>" * 100,
    "numbers": "1," * 10_000,
    "digits": "7" * 20_000,
    "spaces": " " * 20_000 + "7",
    "backslashes": "\\" * 20_000,
    "dollars": "$" * 20_000,
    "stars": "*" * 20_000 + "_" * 5_000,
    "fractions": "\\frac{" * 4_000,
    "stops": "answer is " + ". " * 9_000,
    "fillers": "answer is " + "thus " * 3_000,
    "units": "answer is 7 " + "a " * 9_000,
    "chinese numerals": "答案是" + "万" * 19_000,
    "5 MB": "a" * 5_000_000,
}


@pytest.mark.parametrize("spelling", HALVES)
def test_spellings_of_one_half(spelling: str) -> None:
    assert canonical(spelling).key == "n:1/2"


@pytest.mark.parametrize("spelling", ["50%", "50\\%", "50 percent", "百分之五十", "$50\\%$"])
def test_percentages_are_numbers(spelling: str) -> None:
    read = canonical(spelling)
    assert (read.key, read.percent) == ("n:1/2", True)
    assert same(read, canonical("50")) and same(canonical("50"), read) and same(read, canonical("0.5"))
    assert not same(canonical("0.5"), canonical("50"))


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_read_back_exactly(value: Fraction) -> None:
    sign, n, d = "-" if value < 0 else "", abs(value.numerator), value.denominator
    for spelling in (f"{sign}{n}/{d}", f"{sign}\\frac{{{n}}}{{{d}}}", f"x={sign}\\dfrac{{{n}}}{{{d}}}"):
        assert canonical(spelling).number == value, spelling


@given(st.integers(-(10**15), 10**15), st.integers(0, 4))
def test_a_decimal_is_read_back_exactly(digits: int, places: int) -> None:
    value = Fraction(digits, 10**places)
    plain = f"{digits // 10**places if digits >= 0 else -(-digits // 10**places)}"
    sign = "-" if digits < 0 and plain == "0" else ""
    decimals = f".{abs(digits) % 10**places:0{places}d}" if places else ""
    grouped = f"{int(plain):,}"
    for spelling in (f"{sign}{plain}{decimals}", f"{sign}{grouped}{decimals}", f"{sign}{plain}{decimals} apples"):
        assert canonical(spelling).number == value, spelling


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_different_numbers_have_different_keys(a: Fraction, b: Fraction) -> None:
    assert (canonical(str(a)).key == canonical(str(b)).key) == (a == b)


def test_different_answers_stay_apart() -> None:
    answers = "1 -1 10 0.1 5 1/3 x x+1 12,34 (1,2) 5x 1:2 9**9**9 \\sqrt{2}".split() + [""]
    assert len({canonical(answer).key for answer in answers}) == len(answers)


@given(st.text(max_size=500))
def test_any_text_can_be_judged(response: str) -> None:
    canonical(response)
    for module, gold, args in (
        (maths, "7", {}),
        (numeric, "7", {"unit": "m"}),
        (choice, "A", {"options": ["6", "7"]}),
        (text, "seven", {}),
    ):
        found = module.judge(response, gold, args)
        assert isinstance(found, Work) or found.outcome in (0.0, 1.0)


@given(st.text(max_size=60))
def test_tidying_twice_changes_nothing_more_than_its_rounds(answer: str) -> None:
    assert len(tidy(answer)) <= len(answer)


@pytest.mark.parametrize("name", list(HOSTILE))
def test_no_response_takes_long(name: str) -> None:
    started = time.process_time()
    response = HOSTILE[name]
    found = final_answer(response)
    last_value(response), last_line(response)
    maths.judge(response, "7", {}), choice.judge(response, "A", {"options": ["6", "7"]})
    text.judge(response, "7", {}), numeric.judge(response, "7", {})
    # Generous for a slow machine: quadratic work on these takes minutes.
    assert time.process_time() - started < 5.0
    assert found is None or len(found.text) <= MAX_CHARACTERS


def test_only_the_end_of_a_response_is_read() -> None:
    assert final_answer("\\boxed{7}" + "x" * MAX_CHARACTERS) is None
    assert final_answer("\\boxed{7}" + "x" * (MAX_CHARACTERS // 2)).text == "7"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("response", "asked"), [("\\boxed{7}", True), ("#### 7", True), ("答案是7", True), ("so 3+4 = 7", False)]
)
def test_the_form_is_kept_apart_from_the_outcome(response: str, asked: bool) -> None:
    found = maths.judge(response, "7", {})
    assert not isinstance(found, Work)
    assert (found.outcome, found.found_format) == (1.0, asked)


@pytest.mark.parametrize(
    ("module", "gold", "args", "words"),
    [
        (maths, "", {}, "empty"),
        (maths, "\\frac{", {}, "neither a number"),
        (maths, "9^{9^{9}}", {}, "too large"),
        (choice, "E", {"options": ["1", "2"]}, "no option of AB"),
        (choice, "A", {"options": ["1"]}, "at least 2"),
        (choice, "A", {"options": ["1", " "]}, "an option is empty"),
        (numeric, "1.5", {"rel_tol": -1}, "rel_tol=-1"),
        (numeric, "1.5", {"abs_tol": "wide"}, "abs_tol='wide'"),
        (text, " . ", {}, "no letter"),
    ],
)
def test_golds_that_cannot_be_judged_against(module, gold, args, words) -> None:
    problem = module.check_gold(gold, args)
    assert problem is not None and words in problem


@pytest.mark.parametrize(
    "gold", ["7", "2\\sqrt{2}", "Tuesday", "(1, 2)", "3;5", "x^2+1", "[0,1)", "\\frac{\\pi}{4}", "\\frac{x^2}{y^2}"]
)
def test_golds_that_can(gold: str) -> None:
    assert maths.check_gold(gold) is None


@pytest.mark.parametrize(
    ("unit", "dimension", "factor"),
    [
        ("cm", "length", 0.01),
        ("km", "length", 1000.0),
        ("kJ", "energy", 1000.0),
        ("minutes", "time", 60.0),
        ("m^2", "area", 1.0),
        ("cm^{3}", "volume", 1e-6),
        ("mL", "volume", 1e-6),
        ("nm", "length", 1e-9),
    ],
)
def test_units(unit: str, dimension: str, factor: float) -> None:
    found = numeric.dimension(unit)
    assert found is not None and found[0] == dimension and found[1] == pytest.approx(factor)


def test_words_are_no_units() -> None:
    assert numeric.dimension("apples") is None and numeric.dimension("") is None
