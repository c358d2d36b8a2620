# SPDX-License-Identifier: Apache-2.0
"""Every data set of the installed reasoning-gym: its own answers count, and no answer runs as a program.

The answers that attack write a file, write to the descriptors of a worker, and patch a scorer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.rewards import gym
from recipe.agpo.rewards.gym_rules import RULES, arithmetic, formula, literal
from recipe.agpo.rewards.pool import WorkerPool
from recipe.agpo.rewards.verifier import Item, Verifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    reasoning_gym = pytest.importorskip("reasoning_gym")

pytestmark = pytest.mark.xdist_group("gym")  # the entries are generated once
ROOT = Path(__file__).resolve().parents[2]
ENTRIES = 20
# Problems that take seconds to draw with the default configuration.
CONFIGS: dict[str, dict[str, Any]] = {
    "futoshiki": {"min_board_size": 4, "max_board_size": 4},
    "knight_swap": {"impossible_ratio": 0.8},
    "zebra_puzzles": {"num_people": 3, "num_characteristics": 3},
}
EVALUATED = sorted(name for name, rule in RULES.items() if rule.evaluates)
MESSAGE = json.dumps({"status": "ok", "value": 1.0})


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[tuple[dict[str, Any], float]]]:
    """Data set -> its entries and what its own scorer gives their own answers, called directly."""
    found = {}
    for name in RULES:
        dataset = reasoning_gym.create_dataset(name, seed=5, size=ENTRIES, **CONFIGS.get(name, {}))
        entries = [dataset[i] for i in range(ENTRIES)]
        found[name] = [(entry, dataset.score_answer(entry["answer"], entry)) for entry in entries]
    return found


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with WorkerPool(workers=1, time_limit_s=20.0) as pool:
        yield Verifier(pool)


def gold(name: str, entry: dict[str, Any]) -> str:
    return json.dumps({"dataset": name, "config": CONFIGS.get(name, {}), "entry": entry})


def attacks(target: Path) -> list[str]:
    """One file, one descriptor and one scorer, in the spellings that evaluation could run."""
    write = f"__import__('pathlib').Path({str(target)!r}).write_text('x')"
    system = f'__import__("os").system("touch {target}")'
    descriptors = f"[__import__('os').write(fd, {MESSAGE!r}.encode() + bytes([10])) for fd in range(64)]"
    scorer = (
        "[setattr(c, 'score_answer', lambda *a: 1.0) for c, _ in __import__('reasoning_gym').factory.DATASETS.values()]"
    )
    return [
        write,
        system,
        descriptors,
        scorer,
        f"eval({system!r})",
        f"exec({scorer!r})",
        f'sympify("{system}")',
        f"S({descriptors!r})",
        f"parse_expr({scorer!r})",
        f"(lambda: {write})()",
        f"f'{{{system}}}'",
        f"open({str(target)!r}, 'w').write('x')",
        f"Symbol.__class__.__base__.__subclasses__()[0] or {write}",
        f"x.__init__.__globals__['__builtins__'] or {write}",
        f"({write}, 1)[1]",
        f"[{write}]",
        f"{{1: {write}}}",
        f"[x for x in [{write}]]",
        f"(y := {write})",
        f"1 if {write} else 2",
        f"sqrt({write})",
        f"Integral({write}, x)",
        f"eval(\n{system!r})",
        f"\uff45val({system!r})",  # a fullwidth letter, which Python reads as e
        f"__builtins__['eval']({system!r})",
        f"exp(x, {write})",
        f"log(*[{write}])",
        f"sin(x={write})",
        f"'A'.join(['B', {write} and 'C'])",
        f"lambdify(x, {system!r})()",
        f"Function({system!r})(x)",
    ]


def test_every_data_set_was_looked_at() -> None:
    """A data set of a later release: read its scorer, then add it to the rules. Composite ones use other scorers."""
    assert set(reasoning_gym.factory.DATASETS) == set(RULES) | {"composite"}


def test_own_answers_score_as_they_do_directly(verifier: Verifier, drawn) -> None:
    items, expected = [], []
    for name, rows in drawn.items():
        for entry, marks in rows:
            if entry["answer"] is not None:
                response = f"<answer>{entry['answer']}</answer>"
                items.append(Item(response, gold(name, entry), "gym", {"full_marks": False}))
                expected.append((name, entry["answer"], marks))
    found = [v.outcome for v in verifier.verify_many(items)]
    assert [
        (*what, outcome) for what, outcome in zip(expected, found, strict=True) if outcome != pytest.approx(what[2])
    ] == []
    assert {name for name, _, marks in expected if marks == 1.0} == set(RULES) - {
        "boxnet",
        "graph_color",
        "propositional_logic",
        "rubiks_cube",
        "rush_hour",  # have no answer of their own
    }


def test_answers_that_attack_are_wrong_and_change_nothing(verifier: Verifier, drawn, tmp_path: Path) -> None:
    target = tmp_path / "written"
    texts = attacks(target)
    items = []
    for name, rows in drawn.items():
        entry = rows[0][0]
        own, reference = entry["answer"], gold(name, entry)
        spelled = [*texts, *map("\\boxed{{{}}}".format, texts)]
        if RULES[name].evaluates:  # others look for a number or a word in the text
            spelled += [
                form.format(a=attack, own=own)
                for attack in texts
                for form in (
                    "<answer>{own} + {a}</answer>",
                    "<answer>{a} + {own}</answer>",
                    "<answer>{own}, {a}</answer>",
                    "<answer>{own}\n{a}</answer>",
                    "<answer>[{own}, {a}]</answer>",
                    "<answer>({own}) * ({a})</answer>",
                    "<answer>{own} # {a}</answer>",
                )
            ]
        items += [Item(response, reference, "gym") for response in spelled]
    found = verifier.verify_many(items)
    assert [
        (item.response, json.loads(item.gold)["dataset"], verdict)
        for item, verdict in zip(items, found, strict=True)
        if verdict.outcome != 0.0 or not verdict.judged
    ] == []
    assert list(tmp_path.iterdir()) == []
    # Later verdicts, by the same worker: right answers are right, and wrong ones wrong.
    for name, rows in drawn.items():
        entry, marks = rows[1]
        if marks == 1.0:
            right, wrong = (
                verifier.verify(f"<answer>{text}</answer>", gold(name, entry), "gym")
                for text in (entry["answer"], "wrong: 987654321")
            )
            assert (right.outcome, wrong.outcome) == (1.0, 0.0), name


def test_plain_scorers_evaluate_nothing(drawn) -> None:
    """Python reports each text that is compiled; scorers that are called without confinement compile none."""
    rows = {name: drawn[name][0][0] for name in RULES if not RULES[name].evaluates}
    program = (
        "import json, sys\n"
        "from recipe.agpo.rewards import gym\n"
        "gym.prepare()\n"
        "tasks, texts, compiled = *json.load(sys.stdin), []\n"
        "for task in tasks:\n"
        "    gym._dataset(task['dataset'], json.dumps(task['config'], sort_keys=True))\n"
        "sys.addaudithook(lambda event, args: event == 'compile' and args[1] == '<string>' and compiled.append(args))\n"
        "for task in tasks:\n"
        "    for text in [task['entry']['answer'], *texts]:\n"
        "        compiled.clear()\n"
        "        gym.score(text, json.dumps(task))\n"
        "        if compiled:\n"
        "            print(task['dataset'], text, str(compiled)[:200])\n"
    )
    tasks = [json.loads(gold(name, entry)) for name, entry in rows.items()]
    texts = ["1", "[1]", '{"a": 1}', "x", "1 + 1", "__import__('os').getpid()", "eval('1')", "'a'", "(1, 2)", "a=1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        input=json.dumps([tasks, texts]),
        capture_output=True,
        text=True,
        check=True,
    )
    # These two evaluate a part of the entry, which its rule has checked; ast.parse compiles nothing that runs.
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("bitwise_arithmetic", "number_sorting"))]
    assert lines == []


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("complex_arithmetic", "nan"),
        ("complex_arithmetic", "nan + nani"),
        ("number_sorting", "[NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN]"),
        ("game_of_life_halting", "either"),
        ("puzzle24", "6*4*1*1"),
        ("prime_factorization", "none of them"),
        ("boxnet", "[1]"),
        ("game_of_life", '{"a": 1}'),
        ("coin_flip", "1e999"),
        ("propositional_logic", "(" * 5_000 + "P" + ")" * 5_000),
        ("graph_color", "[" * 100_000),
        ("calendar_arithmetic", "9" * 5_000),
    ],
)
def test_answers_that_fool_or_break_a_scorer_are_wrong(verifier: Verifier, drawn, name: str, answer: str) -> None:
    entries = [entry for entry, _ in drawn[name] if entry["metadata"].get("numbers") != [6, 4, 1, 1]]
    for entry in entries[:4]:
        found = verifier.verify(f"<answer>{answer}</answer>", gold(name, entry), "gym")
        assert found.outcome == 0.0 and found.judged, found


def test_an_answer_that_costs_too_much_is_wrong(drawn) -> None:
    entry = drawn["rubiks_cube"][0][0]
    with WorkerPool(workers=1, time_limit_s=0.5) as pool:
        found = Verifier(pool).verify("<answer>R9999999999</answer>", gold("rubiks_cube", entry), "gym")
    assert found.outcome == 0.0 and found.judged, found


def test_the_question_is_not_its_own_integral(verifier: Verifier, drawn) -> None:
    name = "intermediate_integration"
    solved = [entry for entry, _ in drawn[name] if "Integral" not in entry["answer"]]
    assert solved
    for entry in solved:
        echo = f"Integral({entry['metadata']['integrand']}, {entry['metadata']['variable']}) + C"
        assert verifier.verify(f"<answer>{echo}</answer>", gold(name, entry), "gym").outcome == 0.0


def test_a_near_miss_of_a_countdown_is_wrong(verifier: Verifier) -> None:
    entry = {"answer": "900*1 + (200 - 200)", "metadata": {"numbers": [900, 1, 200, 200], "target": 900}}
    for answer, outcome in (("900*1 + 200 - 200", 1.0), ("900 + 1/(200*200)", 0.0)):
        assert verifier.verify(f"<answer>{answer}</answer>", gold("countdown", entry), "gym").outcome == outcome, answer


def test_other_spellings_of_a_right_answer(verifier: Verifier) -> None:
    entry = {"answer": "x**2/2 + C", "metadata": {"variable": "x", "integrand": "x"}}
    for answer in ("C + x*x/2", "0.5*x**2 + C", "(x**2 - 1)/2", "x**2/2 + log(E) - cos(pi)*C"):
        assert verifier.verify(f"<answer>{answer}</answer>", gold("simple_integration", entry), "gym").outcome == 1.0
    assert verifier.verify("<answer>x**3</answer>", gold("simple_integration", entry), "gym").outcome == 0.0


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("of_a_later_release", {"answer": "1", "metadata": {}}, "nobody has checked"),
        ("composite", {"answer": "1", "metadata": {"source_dataset": "of_a_later_release"}}, "nobody has checked"),
        ("countdown", {"answer": "open('x')", "metadata": {"numbers": [1], "target": 1}}, "form of an answer"),
        ("bitwise_arithmetic", {"answer": "0x1", "metadata": {"problem": "__import__('os').getpid()"}}, "problem"),
        ("number_sorting", {"answer": "__import__('os').listdir()", "metadata": {"direction": "ascending"}}, "numbers"),
        ("simple_integration", {"answer": "C", "metadata": {"variable": "x", "integrand": "open('x')"}}, "integrand"),
        ("simple_integration", {"answer": "C", "metadata": {"variable": "eval", "integrand": "x"}}, "variable"),
        ("polynomial_multiplication", {"answer": "S('x')", "metadata": {"variables": ["x"]}}, "polynomial"),
        ("polynomial_multiplication", {"answer": "x", "metadata": {"variables": "x"}}, "variables"),
        ("puzzle24", {"answer": "24", "metadata": {}}, "numbers"),
    ],
)
def test_an_entry_that_would_run_as_a_program_is_refused(verifier: Verifier, name: str, entry, words: str) -> None:
    assert words in str(gym.check_gold(gold(name, entry), {}))
    assert verifier.verify("<answer>1</answer>", gold(name, entry), "gym").status == "bad_gold"
    with pytest.raises(ValueError, match=words):
        gym.score("1", gold(name, entry))


def test_entries_of_a_composite_are_scored_by_their_own_data_set(verifier: Verifier, drawn) -> None:
    entry = drawn["countdown"][0][0]
    config = {"datasets": [{"name": "countdown", "weight": 1, "config": {"size": 3}}]}
    reference = json.dumps({"dataset": "composite", "config": config, "entry": entry})
    assert verifier.verify(f"<answer>{entry['answer']}</answer>", reference, "gym").outcome == 1.0
    assert verifier.verify("<answer>1 + 1</answer>", reference, "gym").outcome == 0.0


def test_what_the_grammars_take() -> None:
    assert all(map(arithmetic, ["1", "-(2 + 3)*4/5 - 6", " 1+2 ", "(((1)))"]))
    refused = [
        "",
        "2**3",
        "2^3",
        "1.5",
        "1e3",
        "1_0",
        "1j",
        "x",
        "1,2",
        "1 if 1 else 2",
        "not 1",
        "1//2",
        "1%2",
        "(1",
        "1\n+2",
        "٣",
        "1" * 41,
        "(" * 41 + "1" + ")" * 41,
        "1+" * 3000 + "1",
        "-" * 30 + "1",
        "()",
        "1 2",
        "1 # 2",
    ]
    assert [text for text in refused if arithmetic(text)] == []
    names, functions = frozenset("x"), frozenset({"sin"})
    taken = ["x**2", "sin(x)", "2**x", "x**(1/2)", "x**-3", "(x**10)**10", "1.5e3*x", "sin(sin(x))**2"]
    assert [text for text in taken if not formula(text, names, functions)] == []
    refused = [
        "y",
        "sin",
        "cos(x)",
        "sin(x, x)",
        "sin(*x)",
        "sin(x=1)",
        "sin()",
        "x(2)",
        "x.real",
        "x[0]",
        "x**9**9",
        "x**1001",
        "((x**100)**100)**100",
        "1e999",
        "1e-999",
        "x if x else x",
        "x, x",
        "sin(x)(x)",
        "lambda: x",
        "x**(9**9)",
        "x@x",
        "x//x",
        "x and x",
        "x == x",
        "'x'",
        "True",
        "None",
        "x**1e9",
        'sin("x")',
    ]
    assert [text for text in refused if formula(text, names, functions)] == []
    assert literal("[[1, -2], (3, 'Q')]", "[Q_]") and literal("()", "")
    refused = [
        "[x]",
        "['QQ']",
        "{1: 2}",
        "{1}",
        "[1.5]",
        "[1 + 1]",
        "[*[1]]",
        "[b'Q']",
        "[f'Q']",
        "1",
        "'Q'",
        "[True]",
        "[[" * 30 + "]]" * 30,
        "[None]",
        "[1][0]",
        "[1 for _ in [1]]",
        "[...]",
    ]
    assert [text for text in refused if literal(text, "[Q_]")] == []
