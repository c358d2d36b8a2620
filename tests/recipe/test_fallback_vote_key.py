# SPDX-License-Identifier: Apache-2.0
"""The vote key for reward functions that give none: equal answers share it, different answers do not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.rewards.extract import MAX_ANSWER
from recipe.agpo.rollout.outcomes import fallback_vote_key


@pytest.mark.parametrize(
    ("response", "key"),
    [
        (r"so \boxed{5}", "n:5"),
        (r"first \boxed{4}, no: \boxed{5}", "n:5"),
        (r"\boxed{\frac{1}{2}}", "n:1/2"),
        ("#### 1,234", "n:1234"),
        ("the answer: 7\nwait\nanswer = 8", "n:8"),
        ("答案是 12。", "n:12"),
        ("some words\n\n42\n", "n:42"),
        ("The answer is Paris.", "t:paris"),
        ("Some words\n PARIS", "t:paris"),
        ("", ""),
        ("  \n \n", ""),
    ],
)
def test_where_the_answer_is_read(response: str, key: str) -> None:
    assert fallback_vote_key(response) == key


@given(st.text(max_size=300))
def test_any_text_has_a_key(text: str) -> None:
    assert isinstance(fallback_vote_key(text), str)


def test_long_responses_cost_nothing() -> None:
    started = time.process_time()
    assert fallback_vote_key("answer is (" * 200_000 + "\n#### 5") == "n:5"
    assert len(fallback_vote_key("x" * 1_000_000)) <= MAX_ANSWER + 2
    assert time.process_time() - started < 5.0
