# SPDX-License-Identifier: Apache-2.0
"""The fallback vote key: equal answers share it, different answers do not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.answers import MAX_CHARACTERS, canonical, fallback_vote_key


@pytest.mark.parametrize(
    ("response", "key"),
    [
        (r"so \boxed{5}", "5"),
        (r"first \boxed{4}, no: \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        (r"\boxed{x^{2}+1}", "x^{2}+1"),
        ("#### 1,234", "1234"),
        ("The final answer is 7.", "7"),
        ("the answer: 7\nwait\nanswer = 8", "8"),
        ("答案是 12。", "12"),
        ("答案：12", "12"),
        ("some words\n\n42\n", "42"),
        ("B", "b"),
        ("", ""),
        ("  \n \n", ""),
        (r"\boxed{5", "\\boxed{5"),
    ],
)
def test_where_the_answer_is_read(response: str, key: str) -> None:
    assert fallback_vote_key(response) == key


def test_the_last_marker_wins_whatever_its_kind() -> None:
    assert fallback_vote_key("#### 5\nthe answer is 6") == "6"
    assert fallback_vote_key("the answer is 6\n#### 5") == "5"
    assert fallback_vote_key("the answer is 6\n答案是 7") == "7"


@pytest.mark.parametrize(
    "text", ["0.5", "0.50", "1/2", r"\frac{1}{2}", r"\dfrac{1}{2}", "50%", r"50\%", "$0.5$", " .50 "]
)
def test_spellings_of_one_half(text: str) -> None:
    assert canonical(text) == "1/2"


def test_spellings_of_an_integer() -> None:
    assert {canonical(t) for t in ("1234", "1,234", "1234.0", "+1234", "$1,234$.", " 1234 ")} == {"1234"}
    assert canonical("-3/6") == "-1/2"


def test_different_answers_stay_apart() -> None:
    answers = ["1", "-1", "10", "0.1", ".5", "5", "1/3", "x", "x+1", "x + 1", "12,34", "1 2", ""]
    assert len({canonical(a) for a in answers}) == len(answers)


def test_division_by_zero_is_text() -> None:
    assert canonical("1/0") == "1/0"


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_equal_fractions_share_a_key(top: int, bottom: int) -> None:
    expected = canonical(f"{2 * top}/{2 * bottom}")
    assert canonical(f"{top}/{bottom}") == expected
    sign = "-" if top < 0 else ""
    assert canonical(rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}") == expected


@given(st.text(max_size=300))
def test_any_text_has_a_key(text: str) -> None:
    assert isinstance(fallback_vote_key(text), str)


@given(st.text(alphabet="0123456789.,/%+-$ \\x{}", max_size=12))
def test_a_canonical_answer_stays_as_it_is(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


def test_a_long_response_costs_no_more_than_its_end() -> None:
    started = time.perf_counter()
    assert fallback_vote_key("answer is (" * 200_000 + "\n#### 5") == "5"
    assert time.perf_counter() - started < 0.5
    assert len(fallback_vote_key("x" * 10 * MAX_CHARACTERS)) <= MAX_CHARACTERS
