# SPDX-License-Identifier: Apache-2.0
"""Kind ``math``: which answers are equal, by kind of notation; what nobody computes; classes of votes."""

from __future__ import annotations

import random
import signal

import pytest

from recipe.agpo.rewards import Verifier, maths, notation, symbolic
from recipe.agpo.rewards.canonical import canonical, normalised, same
from recipe.agpo.rewards.extract import Extracted
from recipe.agpo.rewards.verdict import Work

# (answer, reference), by what they have in common.
EQUAL = {
    "equations, side by side or up to a factor": [
        ("2^{10}=1024", "2^{10}=1024"),
        ("1024 = 2^{10}", "2^{10}=1024"),
        ("I=4t", "I=4t"),
        ("3x=y+6", "y=3x-6"),
        ("2x+4y-3=0", "y=-\\frac12x+\\frac34"),
        ("xy=1", "y=\\frac1x"),
        ("2x^2+2y^2=8", "x^2+y^2=4"),
    ],
    "a label in front of the value": [
        ("x=5", "5"),
        ("f(x)=x+1", "x+1"),
        ("A=25\\pi", "25\\pi"),
        ("\\angle ABC=60^\\circ", "60^\\circ"),
        ("f(2)=4", "4"),
        ("\\text{Area}=12\\pi", "12\\pi"),
        ("AB=2\\sqrt{3}", "2\\sqrt3"),
        ("|AB|=5", "5"),
        ("P(A)=\\frac12", "\\frac12"),
        ("\\sin\\theta=\\frac{\\sqrt3}{2}", "\\frac{\\sqrt3}{2}"),
        ("a_{10}=19", "19"),
        ("S_n=n^2", "n^2"),
        ("(x,y)=(2,3)", "(2,3)"),
        ("2\\sqrt3", "d=2\\sqrt3"),
        ("S_1:S_2=7:32", "7:32"),
        ("x = 5+5+1 = 11", "11"),
    ],
    "a calculation that is true": [
        ("3+4=7", "7"),
        ("(x+1)^2=x^2+2x+1", "x^2+2x+1"),
        ("\\sqrt{8}=2\\sqrt2", "2\\sqrt2"),
    ],
    "a rounding behind the exact value": [("2\\sqrt{2}\\approx 2.83", "2\\sqrt2"), ("x\\approx 11", "11")],
    "exact numbers": [("\\frac{1}{2^{99}}", "2^{-99}"), ("1-2^{-60}", "1-2^{-60}"), ("\\sqrt{\\frac49}", "\\frac23")],
    "bases": [
        ("204_5", "204_5"),
        ("204_{5}", "204_5"),
        ("204_{\\text{five}}", "204_5"),
        ("204", "204_5"),
        ("1a_{16}", "1A_{16}"),
    ],
    "factorials": [("5!", "120"), ("8!", "40320"), ("\\frac{7!}{3!4!}", "35"), ("\\frac{8!}{2!}", "20160")],
    "magnitudes": [
        ("5 million", "5000000"),
        ("5{,}000{,}000", "5 million"),
        ("5万", "50000"),
        ("3亿", "300000000"),
        ("5百万", "5000000"),
        ("5 thousand dollars", "5000"),
        ("2.5\\text{ million}", "2500000"),
        ("5 dozen", "60"),
        ("five million", "5000000"),
    ],
    "thousands and lists": [
        ("32,\\!349", "32349"),
        ("32349", "32,\\!349"),
        ("11,\\! 111,\\! 100", "11111100"),
        ("100, 200", "100,200"),
        ("100200", "100,200"),
        ("100,200", "100, 200"),
        ("100 and 200", "100,200"),
        ("200, 100", "100,200"),
        ("1;2;3", "1,2,3"),
        ("1, 2, 3", "1;2;3"),
        ("1000,99", "1000.99"),
        ("0,125", "0.125"),
    ],
    "repeating decimals": [
        ("0.\\overline{3}", "1/3"),
        ("0.1\\overline{6}", "\\frac16"),
        ("0.\\dot{3}", "\\frac13"),
        ("0.333...", "1/3"),
        ("1.\\overline{27}", "\\frac{14}{11}"),
        ("-0.\\bar{3}", "-1/3"),
    ],
    "long decimals": [
        ("0.333333", "1/3"),
        ("1/3", "0.333333"),
        ("3.14159", "\\pi"),
        ("\\pi", "3.14159"),
        ("2.828427", "2\\sqrt2"),
        ("(0.333333, 2)", "(1/3, 2)"),
        ("33.33333%", "1/3"),
        ("0.3333333", "0.333333"),
    ],
    "the empty set": [("\\varnothing", "\\emptyset"), ("\\emptyset", "∅"), ("\\{\\}", "\\emptyset")],
    "ordinals": [("12^{th}", "12"), ("12^{\\text{th}}", "12"), ("12", "12^{th}"), ("21st", "21")],
    "several values": [
        ("3或-3", "\\pm 3"),
        ("3或-3", "3,-3"),
        ("-3或3", "3或-3"),
        ("3 and -3", "-3, 3"),
        ("1\\pm\\sqrt2", "1-\\sqrt2, 1+\\sqrt2"),
        ("x=2 \\text{ or } x=3", "2,3"),
        ("x=2, y=3", "(2,3)"),
        ("y=3, x=2", "x=2, y=3"),
        ("n=1,2,3", "1,2,3"),
        ("(1,2),(3,4),(1,2)", "(3,4),(1,2)"),
        ("\\{2,1\\}", "\\{1,2\\}"),
        ("(1,2)", "1,2"),
        ("1,2", "(1,2)"),
    ],
    "a statement inside the answer": [
        ("\\text{Answer: } 42", "42"),
        ("答案是42", "42"),
        ("\\text{The answer is } 42", "42"),
        ("42", "\\text{Answer: } 42"),
        ("\\textbf{Final answer: }\\sqrt{8}", "2\\sqrt2"),
        ("The number of points in the graph of $f(x)$ is 19", "19"),
    ],
    "marks that show nothing, and references tidied like answers": [
        ("42</s>", "42"),
        ("42<|im_end|>", "42"),
        ("42<end_of_turn>", "42"),
        ("4\u202e2\u202c", "42"),
        ("\u20664\u00ad2\ufe0f\u180e\u2069", "42"),
        ("\\sqrt{8}\ufe0f", "2\\sqrt2"),
        ("42", "**42**"),
        ("\\sqrt{8}", "$2\\sqrt{2}$."),
        ("42", "4\u00ad2</s>"),
    ],
    "intervals and inequalities": [
        ("x\\in[-2,7]", "[-2,7]"),
        ("-2\\le x\\le 7", "[-2,7]"),
        ("[-2,7]", "-2\\le x\\le 7"),
        ("x<1", "-x>-1"),
        ("x>2", "2<x"),
        ("x\\ge 3", "[3,\\infty)"),
        ("(5,6)\\cup(2,3)", "(2,3)\\cup(5,6)"),
        ("(-\\infty,1)\\cup(1,\\infty)", "\\mathbb{R}\\setminus\\{1\\}"),
        ("x\\ne 1", "x \\neq 1"),
        ("0<f(x)<1", "(0,1)"),
    ],
    "units": [
        ("3\\sqrt{13}\\text{ cm}", "3\\sqrt{13}"),
        ("12\\pi\\text{ cm}^2", "12\\pi"),
        ("12\\pi \\mathrm{~cm}^2", "12\\pi"),
        ("12\\pi square units", "12\\pi"),
        ("1,250.5€", "1250.5"),
    ],
    "expressions": [
        ("(x+1)^2", "x^2+2x+1"),
        ("\\sin^2 x+\\cos^2 x", "1"),
        ("|x|", "\\sqrt{x^2}"),
        ("\\ln 4", "2\\ln 2"),
        ("\\log_2 8", "3"),
        ("e^{i\\pi}", "-1"),
        ("(1+2i)(3-i)", "5+5i"),
        ("\\binom{10}{3}", "120"),
        ("\\cos 60^\\circ", "\\frac12"),
        ("(-1)^{2n}", "1"),
        ("\\sum_{k=1}^{10}k", "55"),
        ("\\int_0^1 x dx", "\\frac12"),
        ("x**10", "x^{10}"),
        ("sqrt(8)", "2\\sqrt2"),
        ("2*sqrt(3)", "2\\sqrt3"),
        ("pi/4", "\\frac{\\pi}{4}"),
        ("3πr", "3\\pi r"),
        ("14:64", "7:32"),
        ("q+p", "p+q"),
        ("a, b, c", "a,b,c"),
        (
            "\\begin{pmatrix}1+3t\\\\2+4t\\end{pmatrix}",
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}+t\\begin{pmatrix}3\\\\4\\end{pmatrix}",
        ),
        ("\\\\frac{\\\\pi}{4}", "\\frac{\\pi}{4}"),
    ],
}
DIFFERENT = {
    "statements that are false or true by themselves": [
        ("2^{10}=1000", "2^{10}=1024"),
        ("I=3t", "I=4t"),
        ("3<2", "5<4"),
        ("1+1=3", "2+2=5"),
        ("1<2", "1<3"),
        ("3>2", "2<4"),
        ("1 \\ne 2", "1 \\ne 3"),
        ("2^{10} > 1000", "2^{10} > 900"),
        ("7 \\equiv 1", "7 = 2"),
    ],
    "vectors with a factor": [
        ("\\mathbf{r} = t\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\mathbf{r} = t\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
        ("\\mathbf{v}=2(1,2)", "\\mathbf{v}=2(1,3)"),
        ("2(1,2)", "2(1,3)"),
        ("2\\langle 1,2\\rangle", "3\\langle 1,2\\rangle"),
        ("3\\vec{i}+4\\vec{j}", "3\\vec{i}+5\\vec{j}"),
    ],
    "numbers that are close": [
        ("1/2^{98}", "1/2^{99}"),
        ("1-2^{-60}", "1-2^{-61}"),
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
        ("\\pi+10^{-30}", "\\pi"),
        ("\\sqrt{2}+\\frac{1}{2^{90}}", "\\sqrt{2}"),
        ("x+2^{-80}", "x"),
        ("e^{-100}", "0"),
        ("10^{-20}", "10^{-21}"),
        ("10^{-20}", "0"),
    ],
    "short or other decimals": [
        ("0.33", "1/3"),
        ("3.14", "\\pi"),
        ("0.333334", "1/3"),
        ("12345.67", "12345.68"),
        ("12345.70", "12345.67"),
        ("2.828428", "2\\sqrt2"),
        ("0.0000672", "0.0000673"),
        ("0.\\overline{4}", "1/3"),
        ("3,5", "3.5"),
        ("3.5", "3,5"),
    ],
    "bases": [("204_6", "204_5"), ("203_5", "204_5"), ("54", "204_5"), ("1A_{16}", "1B_{16}")],
    "the last side of an equation": [
        ("x+y=5", "5"),
        ("2x=5", "5"),
        ("x^2=9", "9"),
        ("3x+1=10", "10"),
        ("xy=6", "6"),
        ("3+4=8", "8"),
        ("2\\sqrt{3}+1=5", "5"),
        ("x-y=\\sqrt{2}", "\\sqrt{2}"),
        ("x=1", "y=1"),
        ("y=2x+4", "2x-y+3=0"),
        ("x>5", "5"),
        ("x \\ge 5", "5"),
    ],
    "hedges": [
        ("not 72", "72"),
        ("72 is not the answer", "72"),
        ("72 but maybe 73", "72"),
        ("72 \\approx 73", "72"),
        ("72\\approx 73", "73"),
        ("maybe 72", "72"),
        ("72 or 73", "72"),
        ("isn't 72", "72"),
        ("不是72", "72"),
        ("72, not 73", "72"),
        ("more than 72", "72"),
        ("at least 72", "72"),
        ("\\text{not } 72", "72"),
        ("\\neq 72", "72"),
        ("x\\neq 72", "72"),
        ("<72", "72"),
        ("2\\sqrt{2}\\approx 2.93", "2\\sqrt2"),
    ],
    "factorials": [("5!", "5"), ("8!", "8"), ("3!!", "3"), ("n!", "n")],
    "magnitudes": [
        ("5 million", "5"),
        ("5万", "5"),
        ("5 hundred", "5"),
        ("2.5\\text{ million}", "2.5"),
        ("5", "5 million"),
    ],
    "several values": [
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("(1,2]", "[1,2)"),
        ("x=2, y=3", "(3,2)"),
        ("3", "3或-3"),
        ("5;3", "3;5"),
        ("(6,31,-1]", "(6,31,-1)"),
        ("1,1,2", "1,2,2"),
        ("\\pm 3", "3"),
        ("\\{1,2\\}", "(1,2)"),
        ("100,201", "100,200"),
    ],
    "intervals and inequalities": [
        ("-2< x\\le 7", "[-2,7]"),
        ("x<1", "x>-1"),
        ("x>3", "[3,\\infty)"),
        ("(2,3)\\cup(5,7)", "(5,6)\\cup(2,3)"),
        ("x\\le 3", "x\\ge 3"),
    ],
    "letters that look like units": [("3t", "3"), ("5t", "5s"), ("3c", "3"), ("4m", "4h")],
    "expressions": [
        ("\\sqrt{x^2}", "x"),
        ("C_n", "C_m"),
        ("q-p", "p-q"),
        ("\\frac{n(n+1)}{2}", "\\frac{n(n-1)}{2}"),
        ("12:00", "1:00"),
        ("1 + \\frac{1}{e}", "1 - \\frac{1}{e}"),
        ("f(x)", "f(y)"),
        ("No", "on"),
        ("(B)", "\\text{(C)}"),
        ("x + \\lfloor x/1000 \\rfloor", "x"),
    ],
    "what is no mathematics": [
        ("__import__('os').system('true')", "\\sqrt2"),
        ("x.__class__", "x"),
        ("().__class__.__bases__", "\\pi"),
        ("eval(1)", "\\sqrt2"),
        ("\\input{file}", "\\sqrt2"),
        ("lambda x: x", "x"),
    ],
}
TOO_LARGE = [
    "(x+1)^{9999}",
    "\\Gamma(10^9)",
    "\\exp(\\exp(\\exp(99)))",
    "(" * 450 + "1" + ")" * 450,
    "9^{9^{9}}",
    "(10^9)!",
    "((9!)!)!",
    "\\binom{10^9}{5}",
    "\\sum_{k=1}^{10^9}k",
    "\\prod_{k=1}^{10^9}k",
    "x^{10^{10}}",
    "2^{2^{2^{2^{2^2}}}}",
    "2^" * 200 + "2",
    "\\sqrt{" * 200 + "2" + "}" * 200,
    "\\frac{" * 100 + "1" + "}{2}" * 100,
    "-" * 900 + "1",
    "|" * 200 + "x",
    "1" * 900 + "x",
    "\\cosh(10^9)",
    "a_{" * 150 + "1" + "}" * 150,
    "x+" * 499 + "x",
]


def judged(answer: str, gold: str) -> float:
    found = maths.compare(Extracted(answer, True), gold)
    return found.finish(symbolic.equal(*found.arguments)).outcome if isinstance(found, Work) else found.outcome


@pytest.mark.parametrize("kind", list(EQUAL))
def test_equal_answers(kind: str) -> None:
    assert [pair for pair in EQUAL[kind] if judged(*pair) != 1.0] == []


@pytest.mark.parametrize("kind", list(DIFFERENT))
def test_different_answers(kind: str) -> None:
    assert [pair for pair in DIFFERENT[kind] if judged(*pair) != 0.0] == []


def test_every_gold_equals_itself_and_can_be_judged_against() -> None:
    golds = {gold for pairs in EQUAL.values() for _, gold in pairs}
    assert [gold for gold in golds if judged(gold, gold) != 1.0 or maths.check_gold(gold) is not None] == []


@pytest.mark.parametrize("answer", TOO_LARGE, ids=lambda answer: answer[:24])
def test_what_nobody_computes_is_recognised_and_wrong(answer: str, monkeypatch) -> None:
    assert symbolic.explosive(normalised(answer))

    def computed(*_: object) -> None:
        raise AssertionError("it was computed")

    monkeypatch.setattr(symbolic, "_evaluate", computed)
    monkeypatch.setattr(symbolic, "_carried_out", computed)
    assert judged(answer, "\\sqrt{2}") == judged(answer, "x+1") == judged(answer, "\\frac{\\pi}{3}") == 0.0


def test_an_integral_that_never_ends_is_wrong() -> None:
    assert judged("\\int_0^{10^9} e^{e^{x}} dx", "\\pi") == 0.0


def test_random_notation_is_judged() -> None:
    tokens = (
        "\\frac { } ( ) [ ] \\{ \\} ^{ _{ 1 2 10 x n i e \\pi + - = < \\le , ; ! | \\sqrt{ \\sin \\log \\exp( "
        "\\binom{5}{2} \\sum_{k=1}^{9} \\int_0^1 dx \\begin{pmatrix} \\end{pmatrix} & \\\\ \\infty \\pm \\mp \\cup "
        "\\text{ and % \\approx "
        "\\in f( \\overline{3} 0. .5 : ' $ \\cdot 或 ∅"
    ).split()
    draw = random.Random(7)
    for _ in range(300):
        answer = draw.choice(("", " ")).join(draw.choice(tokens) for _ in range(draw.choice((3, 5, 8, 20))))
        assert judged(answer, "2\\sqrt{2}") in (0.0, 1.0)
        maths.check_gold(answer)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("x", True),
        ("f(2)", True),
        ("\\angle ABC", True),
        ("x_{1}", True),
        ("|AB|", True),
        ("(x, y)", True),
        ("AB:CD", True),
        ("\\frac{dy}{dx}", True),
        ("Total area", True),
        ("面积", True),
        ("\\frac{NO}{BO}", True),
        ("P(X>2)", False),
        ("x+y", False),
        ("2x", False),
        ("x^2", False),
        ("xy", False),
        ("\\sqrt{x}", False),
        ("\\frac{x}{2}", False),
        ("3", False),
    ],
)
def test_labels(text: str, label: bool) -> None:
    assert notation.is_label(text) == label


@pytest.mark.parametrize(
    ("decimal", "number", "equal"),
    [
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("0.66667", "2/3", False),
        ("0.666667", "2/3", True),
        ("0.666666", "2/3", False),
        ("3141.59", "3141.5927", False),
        ("314.159", "314.15927", True),
        ("0.142857", "1/7", True),
        ("1.23457e-8", "1.234567e-8", True),
        ("1.23458e-8", "1.234567e-8", False),
        ("33.333333%", "1/3", True),
    ],
)
def test_the_one_rule_for_decimals(decimal: str, number: str, equal: bool) -> None:
    assert same(canonical(decimal), canonical(number)) == same(canonical(number), canonical(decimal)) == equal


def test_classes_hold_only_what_was_shown_equal() -> None:
    answers = ["\\sqrt{8}", "1,2", "(1,2)", "2\\sqrt{2}", "(2,1)", "\\frac{4}{\\sqrt{2}}", "2,1", "\\{1,2\\}"]
    for seed in range(6):
        random.Random(seed).shuffle(answers)
        heads = [answers[i] for i in symbolic.classes(answers)]
        classes = dict(zip(answers, heads, strict=True))
        assert classes["(1,2)"] != classes["(2,1)"]
        assert classes["\\sqrt{8}"] == classes["2\\sqrt{2}"] == classes["\\frac{4}{\\sqrt{2}}"]


def test_a_pair_that_never_ends_leaves_the_others_merged(monkeypatch) -> None:
    def endless(first: str, second: str) -> bool:
        while "endless" in (first, second):
            pass
        return {first, second} <= {"a", "b"}

    monkeypatch.setattr(symbolic, "equal_both_ways", endless)
    before = signal.getsignal(signal.SIGPROF)
    assert symbolic.classes(["a", "endless", "b", "c"], pair_limit_s=0.05) == [0, 1, 0, 3]
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0) and signal.getsignal(signal.SIGPROF) == before


def test_the_limit_of_a_pair_holds_inside_other_limits() -> None:
    with pytest.raises(symbolic.OutOfTime), symbolic._cpu_limit(0.05):
        with symbolic._cpu_limit(10.0):
            while True:
                pass
    with symbolic._cpu_limit(10.0):
        with pytest.raises(symbolic.OutOfTime), symbolic._cpu_limit(0.05):
            while True:
                pass
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 5.0  # the outer limit goes on


def test_merging_goes_on_pair_by_pair_when_the_worker_dies(monkeypatch) -> None:
    monkeypatch.setattr("recipe.agpo.rewards.verifier._CLASSES", "tests.rewards.jobs:die")
    monkeypatch.setattr("recipe.agpo.rewards.verifier._PAIR", "tests.rewards.jobs:pair_or_die")
    monkeypatch.setattr(symbolic, "PAIR_LIMIT_S", 30.0)  # the stand-in imports the parser in its own time
    verifier = Verifier(workers=1)
    keys = ["x:\\sqrt{8}", "x:deadly", "x:2\\sqrt{2}", "x:\\sqrt{3}", "t:word"]
    merged = verifier.merge_vote_keys(keys)
    verifier.close()
    assert merged == ["x:\\sqrt{8}", "x:deadly", "x:\\sqrt{8}", "x:\\sqrt{3}", "t:word"]


def test_hanging_answers_do_not_keep_equal_ones_apart() -> None:
    verifier = Verifier(workers=1)
    endless = ["x:\\int_0^{10^9} e^{e^{x}} dx", "x:\\int_0^{9^9} e^{e^{x}} dx"]
    keys = ["x:\\sqrt{8}", endless[0], "x:2\\sqrt{2}", endless[1], "x:\\frac{4}{\\sqrt{2}}", "n:5"]
    merged = verifier.merge_vote_keys(keys)
    verifier.close()
    assert merged == ["x:\\sqrt{8}", endless[0], "x:\\sqrt{8}", endless[1], "x:\\sqrt{8}", "n:5"]


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("V+v", "v+V", True),
        ("V+v", "2v", False),
        ("Vv", "v^2", False),
        ("E e^{2}", "e^2 E", True),
        ("E e^{2}", "e^3", False),
        ("E_1+E_2", "E_{2}+E_{1}", True),
        ("E_1", "E_2", False),
        (r"2M_{\odot}", r"M_\odot \cdot 2", True),
        (r"e^{1/\lambda}", r"\exp(\frac{1}{\lambda})", True),
        (r"e^{1/\lambda}", r"e^{1/\mu}", False),
        (r"\ddot{x}+x", r"x+\ddot{x}", True),
        ("M+1", "m+1", True),
    ],
)
def test_names_of_quantities(answer: str, gold: str, equal: bool) -> None:
    assert symbolic.equal(answer, gold) is equal
