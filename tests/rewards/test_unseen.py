# SPDX-License-Identifier: Apache-2.0
"""Answers as models write them, whose verdicts a second person set; each was judged wrongly once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recipe.agpo.rewards import Verifier
from recipe.agpo.rewards.canonical import normalised
from recipe.agpo.rewards.formulas import FORMULA
from recipe.agpo.rewards.units import dimension
from recipe.agpo.rewards.verdict import OK

OPTIONS = {"options": ["12 cm", "15 cm", "18 cm", "20 cm"]}


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    verifier = Verifier(workers=1)
    yield verifier
    verifier.close()


def boxed(answer: str) -> str:
    return rf"So the final answer is $\boxed{{{answer}}}$."


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"x>1 \text{ and } x<5", "1<x<5", True),
        (r"x>1 \text{ or } x<5", "1<x<5", False),
        (r"x<-1 \text{ or } x>3", r"(-\infty,-1)\cup(3,\infty)", True),
        (r"x<-1 \text{ and } x>3", r"(-\infty,-1)\cup(3,\infty)", False),
        (r"x>3 \text{ or } x<-1", r"x<-1 \text{ or } x>3", True),
        (r"x>3 \text{ and } x<-1", r"x<-1 \text{ or } x>3", False),
        (r"\begin{cases}x=3\\y=-1\end{cases}", "x=3,y=-1", True),
        (r"\begin{cases}x=-1\\y=3\end{cases}", "x=3,y=-1", False),
        (r"k\pi\ (k\in\mathbb{Z})", r"k\pi, k\in\mathbb{Z}", True),
        (r"2k\pi\ (k\in\mathbb{Z})", r"k\pi, k\in\mathbb{Z}", False),
        ("2:3:1", "2:3", False),
        ("2:4:6", "1:2:3", True),
        ("0:0:0", "1:2:3", False),
        (r"\{\emptyset\}", r"\emptyset", False),
        (r"\frac{r}{R}", r"\frac{R}{r}", False),
        (r"\frac{R}{r}", r"\frac{R}{r}", True),
        ("2^{1.5}", r"2\sqrt{2}", True),
        ("2^{1.4}", r"2\sqrt{2}", False),
        (r"\log_e 2", r"\ln 2", True),
        (r"3\mathbf i+4\mathbf j", r"3\mathbf{i}+4\mathbf{j}", True),
        (r"\mathbb R", r"\mathbb{R}", True),
        ("1.26765e30", "2^{100}+1", False),
        (r"\frac{1}{2} \text{ or } 50\%", r"\frac{1}{2}", True),
        (r"\frac{1}{2} \text{ or } 60\%", r"\frac{1}{2}", False),
        ("7:30 p.m.", r"\text{7:30 PM}", True),
        ("7:30 a.m.", r"\text{7:30 PM}", False),
        (r"7{:}30", "7:30", True),
        (r"72\;", "72", True),
        (r"\color{red}{72}", "72", True),
        (r"{\bf 72}", "72", True),
        (r"\underline{72}", "72", True),
        (r"\large 72", "72", True),
        (r"\fbox{72}", "72", True),
        (r"72 \text{ (exactly)}", "72", True),
        ("5" + " million" * 100, "72", False),
    ],
)
def test_a_box(verifier: Verifier, answer: str, gold: str, right: bool) -> None:
    verdict = verifier.verify(boxed(answer), gold, "math")
    assert (verdict.outcome, verdict.status) == (float(right), OK)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("12 m", "12 cm", False),
        ("120 mm", "12 cm", True),
        (r"12 \text{ kg}", "12 cm", False),
        ("12", "12 cm", True),
        (r"5 \text{ minutes}", "5 hours", False),
        (r"180 \text{ minutes}", "3 hours", True),
        (r"45\text{ radians}", r"45^\circ", False),
        (r"6\text{ m}^2", r"6\text{ cm}^2", False),
        (r"6 \text{ square centimeters}", r"6\text{ cm}^2", True),
        (r"36\pi \text{ m}", r"36\pi \text{ cm}", False),
        (r"36\pi \text{ cm}", r"36\pi \text{ cm}", True),
        ("12.5 cents", r"\$12.50", False),
        ("1250 cents", r"\$12.50", True),
        ("20", r"20^\circ C", True),
        (r"20^\circ", r"20^\circ C", True),
    ],
)
def test_units(verifier: Verifier, answer: str, gold: str, right: bool) -> None:
    assert verifier.verify(boxed(answer), gold, "math").outcome == float(right)


def test_units_in_words() -> None:
    assert dimension("square centimeters") == dimension("cm^2")
    assert dimension("平方米") == dimension("m2")


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        # An exclamation mark in prose is punctuation, in mathematics a factorial.
        ("The answer is 5!", "5", True),
        ("The answer is 5!!", "5", True),
        ("So it's 72!", "72", True),
        ("The answer is $5!$", "5", False),
        ("The answer is $5!$", "120", True),
        ("The answer is 5! = 120", "120", True),
        ("The answer is 5! = 120", "5", False),
        # Taken back.
        ("The answer is 72. Wait, it is 71.", "72", False),
        ("The answer is 72. Wait, it is 71.", "71", True),
        ("The answer is 72. No wait, it should be $71$.", "71", True),
        ("答案是72。不对，应该是71。", "72", False),
        ("答案是72。不对，应该是71。", "71", True),
        ("Is it 72? No.", "72", False),
        ("It is wrong that the answer is 72.", "72", False),
        ("答案是72吗？不，是71。", "72", False),
        ("答案是72吗？不，是71。", "71", True),
        ("Is the answer 71? The answer is 72.", "72", True),
        # Another number, or a bound.
        ("The answer is 72 squared.", "72", False),
        ("答案是负72", "72", False),
        ("答案是负72", "-72", True),
        ("答案是72的一半", "72", False),
        ("答案是72平方", "72", False),
        ("答案是72平方米", "72", True),
        ("答案不可能是72", "72", False),
        ("答案大于72", "72", False),
        ("答案至少是72", "72", False),
        ("x > 72", "72", False),
        ("x = 72", "72", True),
        # Several.
        ("Candidates: 70, 71, 72.", "72", False),
        ("The primes are 2, 3 and 5.", "2,3,5", True),
        ("2, 3, 5", "2,3,5", True),
        ("In 2023, 5 people came.", "5", True),
        # Explained.
        ("The answer is 72 (since 48+24=72).", "72", True),
        ("Answer: 72 clips (48 + 24)", "72", True),
        ("The answer is 72 (or 73).", "72", False),
        # In Chinese numerals, without a statement.
        ("因此一共有七十二个。", "72", True),
        ("因此一共有七十二个。", "71", False),
        ("四分之三", "3/4", True),
    ],
)
def test_prose(verifier: Verifier, response: str, gold: str, right: bool) -> None:
    assert verifier.verify(response, gold, "math").outcome == float(right)


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("The answer is A. Wait, no, it's B.", "B", True),
        ("The answer is B. Wait, it's C.", "B", False),
        ("The answer is B? No, C.", "B", False),
        ("应选择B选项。", "B", True),
        ("The answer is 'B'.", "B", True),
        ("A, C", "AC", True),
        ("AC", "AC", True),
        ("A or C", "AC", False),
    ],
)
def test_choices(verifier: Verifier, response: str, gold: str, right: bool) -> None:
    assert verifier.verify(response, gold, "choice", OPTIONS).outcome == float(right)


@pytest.mark.parametrize("answer", [r"\frac{1}{2}", "1/2", "x>1", "1,1,1"])
def test_an_expression_that_contains_an_option(verifier: Verifier, answer: str) -> None:
    assert verifier.verify(boxed(answer), "A", "choice", {"options": ["1", "3"]}).outcome == 0.0


def test_a_text_that_is_corrected(verifier: Verifier) -> None:
    assert verifier.verify("The answer is Paris. Wait, it's London.", "Paris", "text").outcome == 0.0


def test_a_magnitude_without_end(verifier: Verifier) -> None:
    verdict = verifier.verify(boxed("5" + " trillion" * 200), "72", "numeric")
    assert (verdict.outcome, verdict.status) == (0.0, OK)


@pytest.mark.parametrize("space", [r"\quad ", r"\, ", r"\;", r"\qquad", "~", " \t", r"\ "])
def test_a_run_of_spaces_is_one(space: str) -> None:
    # Runs of spaces took cubic time in the pattern of numbers.
    assert normalised("1" + space * 500 + "2") == "1 2"


def test_a_formula_is_bounded() -> None:
    assert FORMULA.search("\\[" + "x" * 3000 + "\\]") is None
