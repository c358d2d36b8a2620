# SPDX-License-Identifier: Apache-2.0
"""Where the answer of a response begins and ends; the corpus has the verdicts that follow from it."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest

from recipe.agpo.data import gold
from recipe.agpo.rewards import choice, maths, numeric, text
from recipe.agpo.rewards.boxes import boxes, groups
from recipe.agpo.rewards.extract import MAX_CHARACTERS, final_answer, last_value, mathematical_answer, settled
from recipe.agpo.rewards.formulas import formulas, value
from recipe.agpo.rewards.visible import visible


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{u - v}. So our answer is correct.", "u - v"),
        ("\\boxed{u - v}\nThe answer is consistent with the picture.", "u - v"),
        ("\\boxed{u - v}. The answer is verified by putting 3 in.", "u - v"),
        ("\\boxed{u - v}\n\n#### Check\nWe put 3 in.", "u - v"),
        ("\\boxed{u - v}\n\n#### 3. Verification\nWe put 3 in.", "u - v"),
        ("所以\\boxed{u - v}。答案是正确的。", "u - v"),
        ("\\boxed{u - v}。结果是合理的。", "u - v"),
        ("\\boxed{8}. Check: the result is 16 = 2 * 8.", "8"),
        ("\\boxed{8}. Sorry, the result is 9.", "9"),
        ("\\boxed{8}. The answer is 9.", "9"),
        ("\\boxed{8}. The answer is undefined.", "undefined"),
        ("\\boxed{14\\pi}. The answer is approximately 43.98.", "14\\pi"),
        ("\\boxed{44}. The answer is approximately 43.98.", "43.98"),
        ("\\boxed{Oslo}. Sorry, the answer is Bergen.", "Bergen"),
        ("\\boxed{Salt Lake City}", "Salt Lake City"),
        ("\\boxed{8}\n#########", "8"),
        ("\\boxed{8}\n####", "8"),
        ("\\boxed{\\text{Answer: } 54}", "54"),
        ("\\boxed{\\textbf{The answer is}~54}", "~54"),
        ("\\boxed{答案为54}", "54"),
        ("<answer>The answer is 54.</answer>", "54"),
    ],
)
def test_remarks_and_statements(response: str, answer: str) -> None:
    found = final_answer(response)
    assert found is not None and not found.denied and found.text == answer


@pytest.mark.parametrize(
    ("joint", "answer"),
    [
        (", ", "4, 11"),
        (" and ", "4, 11"),
        ("、", "4, 11"),
        ("和", "4, 11"),
        ("; ", "4, 11"),
        ("$ and $", "4, 11"),
        ("\\) or \\(", "4, 11"),
        (" \\quad \\text{and} \\quad ", "4, 11"),
        ("\\text{ or }", "4, 11"),
        ("$, or maybe $", "4, 11"),
        (",\n", "4, 11"),
        ("\\]\nand\n\\[y = ", "4, 11"),
        ("，以及", "4, 11"),
        (". Then ", "11"),
        (" so ", "11"),
        ("\n\n", "11"),
        (" ", "11"),
        (" = ", "11"),
        (" and hence ", "11"),
        ("", "11"),
    ],
)
def test_boxes_are_joined_alike_in_responses_and_in_golds(joint: str, answer: str) -> None:
    solution = f"We find $\\boxed{{4}}{joint}\\boxed{{11}}$."
    found = final_answer(solution)
    assert found is not None and found.text == answer
    assert gold.boxed(solution) == answer


def test_boxes() -> None:
    assert [b.content for b in boxes("\\boxed{a{b}} {\\fbox{c}} \\boxed 5 \\boxed{d")[0]] == ["a{b}", "c", "5"]
    assert boxes("\\boxed{d \\boxed{e}") == ([(9, 18, "e")], True)
    assert boxes("\\boxed{d \\boxed{e}}")[0] == [(0, 19, "d \\boxed{e}")]
    assert boxes("a box {of} chocolates") == ([], False)
    assert [
        g.content for g in groups("\\boxed{1}\\boxed{ }, \\boxed{2}", boxes("\\boxed{1}\\boxed{ }, \\boxed{2}")[0], 3)
    ]
    assert groups("\\boxed{0.5} or \\boxed{1/2}", boxes("\\boxed{0.5} or \\boxed{1/2}")[0], 1)[0].content == "1/2"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Hence the area is $13\\pi$.", "13\\pi"),
        ("Hence the area is\n\\[\nS = 13\\pi.\n\\]", "S = 13\\pi"),
        ("Hence\n$$13\\pi$$\nThis completes the solution.", "13\\pi"),
        ("We get\n\\begin{align*}\nS &= \\pi r^2 \\\\\n&= 13\\pi\n\\end{align*}", "13\\pi"),
        ("Thus $a = 2 \\implies b = 13\\pi$", "b = 13\\pi"),
        ("So the area is 13\\pi.", "13\\pi"),
        ("So the area is 13π.", "13\\pi"),
        ("So the area is 13 pi.", "13\\pi"),
        ("So $n = 4$ is the smallest value of $n$.", "n = 4"),
        ("So $f(n) = n^2$ for all $n > 4$.", "f(n) = n^2"),
        ("The area is $13\\pi$ (about 40.84).", "13\\pi"),
        ("The radius is $3$, so there are 28 of them.", "28"),
        ("So $x = 4$ or $x = 11$.", "4, 11"),
        ("So $x = 4$ and $y = 11$.", "x = 4, y = 11"),
        ("She earns $18 a day and $20 a week.", "20 a week"),
        ("所以一共有13个。", "13个"),
        ("因此，面积为$13\\pi$。", "13\\pi"),
        ("The number is 13 (not 14).", "13"),
    ],
)
def test_without_a_statement_a_formula_counts_as_a_whole(response: str, answer: str) -> None:
    found = last_value(response)
    assert found is not None and (found.text, found.asked_form, found.denied) == (answer, False, False)
    assert final_answer(response) is None


@pytest.mark.parametrize(
    ("answer", "kept", "left_open"),
    [
        ("73, not 72", "73", False),
        ("not 72 but 73", "73", False),
        ("$73$ rather than $72$", "73", False),
        ("不是72，而是73", "73", False),
        ("not 72", None, True),
        ("72 but maybe 73", None, True),
        ("72, although it might be 73", None, True),
        ("72 is wrong", None, True),
        ("isn't 72", None, True),
        ("可能是72，也可能是73", None, True),
        ("not defined", "not defined", False),
        ("\\text{does not exist}", "\\text{does not exist}", False),
        ("72", "72", False),
        ("x \\text{ is not an integer}", "x \\text{ is not an integer}", False),
    ],
)
def test_denials_and_hedges(answer: str, kept: str | None, left_open: bool) -> None:
    found, denied = settled(answer)
    assert denied == left_open
    assert kept is None or found == kept


@pytest.mark.parametrize(
    "response",
    [
        "The answer is 72 but maybe 73.",
        "So 72 is not the answer.",
        "\\boxed{\\text{not }72}",
        "not \\boxed{72}",
        "\\boxed{72} is not the answer",
        "The answer is 72. Or maybe the answer is 73.",
        "So it is 73 or 72",
        "72不对",
    ],
)
@pytest.mark.parametrize("module", [maths, numeric])
def test_what_is_denied_or_left_open_is_wrong_for_each_of_its_numbers(module, response: str) -> None:
    for number in ("72", "73"):
        found = module.judge(response, number, {})
        assert found.outcome == 0.0


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning"])
def test_a_box_in_thinking_that_was_cut_off_is_no_answer(tag: str) -> None:
    assert mathematical_answer(f"<{tag}>It is \\boxed{{7}}, or") is None
    assert mathematical_answer(f"<{tag}>" + "x" * MAX_CHARACTERS + "\\boxed{7}") is None  # opened before what is read
    ended = mathematical_answer(f"<{tag}>It is \\boxed{{7}}.</{tag}>")
    behind = mathematical_answer(f"<{tag}>It is \\boxed{{7}}.</{tag}>\\boxed{{8}}")
    assert ended is not None and ended.text == "7"
    assert behind is not None and behind.text == "8"


def test_invisible_characters_are_those_that_unicode_calls_control_or_format() -> None:
    kept = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x85"  # tabs and line ends
    marks = {
        c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Cc", "Cf") and c not in kept
    }
    assert visible("".join(sorted(marks))) == ""
    assert visible("7\ufe0f2\u034f\u3164") == "72"
    assert visible("a\xa0b\u2003c\u3000d\u2028e\r\nf") == "a b c d\ne\nf"
    assert visible("∑ é 中 ｘ 𝑥 −") == "∑ é 中 ｘ 𝑥 −"


@pytest.mark.parametrize(
    "token",
    [
        "</s>",
        "<s>",
        "<eos>",
        "<|im_end|>",
        "<|endoftext|>",
        "<｜end▁of▁sentence｜>",
        "<end_of_turn>",
        "[EOS]",
        "[/INST]",
        "<EOS>",
        "<pad>",
        "<|eot_id|>",
        "[SEP]",
    ],
)
def test_tokens_of_a_tokeniser_are_no_part_of_an_answer(token: str) -> None:
    for response in (f"The answer is 7{token}", f"\\boxed{{7}}{token}{token}", f"#### 7{token}\n"):
        found = final_answer(response)
        assert found is not None and found.text == "7"


def test_comparisons_and_intervals_are_no_tokens() -> None:
    assert visible("a <s and s> b, [0, 1], x<y>z") == "a <s and s> b, [0, 1], x<y>z"


def test_formulas() -> None:
    found = formulas("$a$ then \\(b\\), $$c$$ and \\[d\\] for $5 or $6 but not \\$7$")
    assert [f.inside for f in found] == ["a", "b", "c", "d"]
    assert value("\\begin{aligned} x &= 1 \\\\ &= 2 \\end{aligned}") == "2"
    assert value("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}.") == "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"


FRAGMENTS = (
    "answer is ",
    "answer to a ",
    "answer (",
    "answer, ",
    "#### ",
    "# ",
    "**Answer**\n",
    "答案是",
    "选",
    "\\boxed{",
    "\\boxed{1},",
    "\\boxed 1 ",
    "$",
    "$1",
    "$1$ and ",
    "\\(",
    "\\[",
    "\\[ \\( ",
    "\\begin{math}",
    "\\text{",
    "& ",
    "not 1 ",
    "1, not ",
    "1 or ",
    "1 but maybe ",
    "because ",
    "1 is wrong ",
    "<think>",
    "</think>",
    "<",
    "<|a",
    "\u200b",
    "1,",
    "- ",
    "12 pi ",
    "A ",
    "A B ",
    "(A) ",
    "A is ",
    "only A ",
    "A错误",
    "\n",
    ". ",
    "**",
    "(",
    "or the answer is ",
    "where $x>0$ ",
)


def judged_s(fragment: str, length: int) -> float:
    """CPU seconds to judge a response of one repeated fragment, the less of two."""
    response = (fragment * (length // len(fragment) + 1))[:length]
    times = []
    for _ in range(2):
        started = time.process_time()
        maths.judge(response, "7", {}), numeric.judge(response, "7", {}), text.judge(response, "7", {})
        choice.judge(response, "A", {"options": ["6", "7"]}), gold.last_box(response)
        times.append(time.process_time() - started)
    return min(times)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_time_grows_with_the_length_and_not_with_its_square(fragment: str) -> None:
    # Eight times the text: 8 for linear work, 64 for quadratic work. The floor keeps noise out of tiny times.
    assert judged_s(fragment, MAX_CHARACTERS) < 32 * max(judged_s(fragment, MAX_CHARACTERS // 8), 2e-3)
