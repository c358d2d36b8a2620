# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.data import gold
from recipe.agpo.data.example import BadRow

balanced = st.recursive(
    st.text("ab1+ ", max_size=5),
    lambda inner: st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}"),
    max_leaves=6,
)


@given(balanced, st.text("ab$. \n", max_size=10))
def test_box_with_nested_braces(content: str, tail: str) -> None:
    assert gold.last_box(f"first \\boxed{{0}}, then \\boxed{{{content}}}{tail}") == (content.strip(), tail)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("$x=\\boxed{1}$, $y=\\boxed{2}$", "1, 2"),
        ("\\[\\boxed{1}\\quad \\text{and} \\quad\\boxed{2}\\]", "1, 2"),
        ("\\(\\boxed{1}\\) or \\(\\boxed{2}\\)", "1, 2"),
        ("\\boxed{1\\frac{1}{2}}, or \\boxed{\\frac{3}{2}}", "\\frac{3}{2}"),  # one value in two spellings
        ("\\boxed{1}. Hence \\boxed{2}", "2"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{1} and \\boxed{2", "1"),  # cut off: the one before counts
        ("\\fbox{1}", "1"),
        ("\\boxed 7.", "7"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\framebox{204}", "204"),
        ("nothing", None),
    ],
)
def test_last_box(text: str, content: str | None) -> None:
    found = gold.last_box(text)
    assert (found and found[0]) == content


def test_empty_box_is_no_gold() -> None:
    with pytest.raises(BadRow, match="empty"):
        gold.boxed("\\boxed{ }")


@pytest.mark.parametrize(
    ("tail", "unit"),
    [
        (" \\mathrm{~cm}\n\\]", "cm"),
        ("$ parsecs away.", "parsecs"),
        ("$ meters per second squared.", ""),
        (" \\mathrm{~km} / \\mathrm{s}$.", "km/s"),
        (" \\mu \\mathrm{m}\n", "µm"),
        (" {cm}^{-1}$", ""),  # a power is another unit
        (" \\mathrm{~kg} \\mathrm{~m} / \\mathrm{s}", ""),
        ("^{\\circ}\n", "degree"),
        ("^{\\circ} \\mathrm{C}", ""),  # a temperature
        ("^{\\prime \\prime}", "arcsec"),
        (" / \\mathrm{cm}^{3}$", ""),
        (" \\mathrm{~cm}=0.012 R", "cm"),
        (" bushels, of which 1", ""),
        (".", ""),
        (" J.", "J"),
    ],
)
def test_unit_behind(tail: str, unit: str) -> None:
    assert gold.unit_behind(tail) == unit


def test_split_options() -> None:
    assert gold.split_options("A) -10 and 10 B) $f(2)$ C) x. D D) 1,000") == ["-10 and 10", "$f(2)$", "x. D", "1,000"]
    assert gold.split_options("A. 1 B. 2 B) C. 3") == ["1", "2 B)", "3"]
    for bad in ("B) 1 C) 2", "A) only", ""):
        with pytest.raises(BadRow):
            gold.split_options(bad)


@pytest.mark.parametrize(("value", "text"), [(27.0, "27"), (0.5, "0.5"), ("025", "25"), (" 9/2 ", "9/2"), (3, "3")])
def test_plain_answer(value: object, text: str) -> None:
    assert gold.plain_answer(value) == text


@pytest.mark.parametrize("value", [None, "", "  ", True, [1]])
def test_plain_answer_refuses(value: object) -> None:
    with pytest.raises(BadRow):
        gold.plain_answer(value)


def test_blanks() -> None:
    assert gold.blanks("$5$;$10$") == "5; 10"
    assert gold.blanks("1；$\\frac{8}{9}$") == "1; \\frac{8}{9}"
    assert gold.blanks("$[0,2]$") == "[0,2]"
    assert gold.blanks("$\\textcircled{2}$") == "②"
