# SPDX-License-Identifier: Apache-2.0
"""Kind ``math`` on public pairs of answers: Math-Verify's own test pairs, and golds of MATH-500 with one change.

    .venv/bin/python benchmarks/verifier_pairs.py --math-verify <checkout of huggingface/Math-Verify> \\
        --math500 <jsonl with a field "answer">

The files are only read: the results contain figures, test ids and our own reasons. A part whose file is not given
is skipped.

- Pairs: every (gold, answer, verdict) in the parametrised tests of Math-Verify. The answer is put into a
  box: the last formula or number of a sentence, else the whole text; a response that has a box already, or is longer
  than ``LONG``, stays as it is. Math-Verify itself is run on the same responses, with the settings of each test.
  Where we disagree on purpose, ``ON_PURPOSE`` says why.
- Changes: one digit, one sign or one bracket of a gold is changed at random (with a seed), and the result is given as
  the answer. A change that leaves the value as it was (``-0``) is left out, by :func:`no_change`.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import random
import re
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import file, positive, whole
from recipe.agpo.rewards import Item, Verifier, maths
from recipe.agpo.rewards.extract import final_answer
from recipe.agpo.rewards.pool import WorkerPool

RESULTS = Path(__file__).resolve().parent / "results"
LONG = 300
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,])[$€]?\d[\d.,]*(?:[€$²\w]*)")
_BRACKETS = {"(": "[", ")": "]", "[": "(", "]": ")"}

# Test id -> why our verdict differs from the one that the test expects.
_ESCAPED = "every backslash is doubled, so that the text holds line breaks in place of commands"
_SPACING = "the box leaves nothing of the line breaks that the test is about"
ON_PURPOSE: dict[str, str] = {
    "test_all.py::test_number_extraction[6]": "a reference with a comma is a list, not a decimal",
    "test_all.py::test_number_extraction[7]": "a comma between few digits parts a list",
    "test_all.py::test_latex_notation[5]": _SPACING,
    "test_all.py::test_latex_notation[6]": _SPACING,
    "test_all.py::test_latex_notation[9]": "the equation is false; its last side alone is not the answer",
    "test_all.py::test_latex_notation_math[5]": _ESCAPED,
    "test_all.py::test_relations_math[13]": "the answer says that a third is about 11",
    "test_all.py::test_relations_math[16]": "the answer says that a third is about 1.3",
    "test_all.py::test_relations_math[21]": "the reference is a false equation with an unknown command",
    "test_all.py::test_complex_math_expressions[7]": "the test allows half a hundredth; 0.33 is not a third",
    "test_all.py::test_complex_math_expressions[13]": "the test allows half a hundredth; 2.6667 is short",
    "test_all.py::test_math_extraction_edge_cases[5]": "the answer is taken back, and the new solution is cut off",
    "test_all.py::test_math_extraction_additional_cases[27]": "boxes without anything between them are not joined",
    "test_all.py::test_set_rel_assymetry[3]": "an interval equals its inequality on either side",
    "test_boxed.py::test_boxed[0]": _ESCAPED,
    "test_boxed.py::test_boxed[1]": _ESCAPED,
    "test_boxed.py::test_boxed[2]": _ESCAPED,
    "test_numina_cases.py::test_numina_cases[24]": "the box of the reference is never closed",
    "test_open_thoughts.py::test_open_thoughts[14]": "other words than conjunctions part two boxes",
    "test_open_thoughts.py::test_open_thoughts[27]": "other words than conjunctions part two boxes",
    "test_strict.py::test_strict_variable_comparison[1]": "the test exchanges the variables; here f(x) is not f(y)",
    "test_yujianll.py::test_string_extraction[9]": "the test expects 1 + 1/e to equal 1 - 1/e",
}


@dataclass(frozen=True)
class Pair:
    """One row of a parametrised test."""

    id: str
    gold: str
    answer: str
    expected: bool
    settings: dict[str, Any]


def pairs(checkout: Path) -> list[Pair]:
    """The literal rows of every test that is parametrised over ``gold`` and ``pred``."""
    found = []
    for path in sorted((checkout / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if not isinstance(call, ast.Call) or len(call.args) != 2 or not isinstance(call.args[1], ast.List):
                    continue
                names = [name.strip() for name in ast.literal_eval(call.args[0]).split(",")]
                if names[:2] != ["gold", "pred"]:
                    continue
                for index, row in enumerate(call.args[1].elts):
                    try:
                        values = dict(zip(names, ast.literal_eval(row), strict=True))
                    except ValueError:
                        continue  # computed by the test itself
                    expected = values.pop("expected") if "expected" in values else values.pop("result")
                    gold, answer = values.pop("gold"), values.pop("pred")
                    found.append(Pair(f"{path.name}::{node.name}[{index}]", gold, answer, bool(expected), values))
    return found


def boxed(answer: str) -> str:
    """A response that states the answer in a box."""
    if "boxed" in answer or len(answer) > LONG:
        return answer
    found = [(m.end(), next(group for group in m.groups() if group)) for m in _FORMULA.finditer(answer)]
    if len(answer.split()) > 4:
        prose = _FORMULA.sub(lambda m: " " * len(m[0]), answer)
        found += [(m.end(), m.group().rstrip(".")) for m in _NUMBER.finditer(prose)]
    inside = max(found)[1] if found else answer
    return f"\\boxed{{{inside.strip()}}}"


def reference(gold: str) -> str:
    """The gold of a pair as data preparation reads it: of a solution, what stands in its box."""
    found = final_answer(gold) if "boxed" in gold or len(gold) > LONG else None
    return found.text if found else gold


def math_verify(gold: str, response: str, settings: dict[str, Any]) -> bool:
    """Math-Verify's verdict."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse, verify

    names = {"precision": "float_rounding", "strict": "strict", "allow_set_relation_comp": "allow_set_relation_comp"}
    chosen = {names[name]: value for name, value in settings.items()}
    sides = [parse(text, parsing_timeout=None) for text in (gold, response)]
    return bool(verify(*sides, timeout_seconds=None, **chosen))


def prepare() -> None:
    """Imports, before the time of an answer is measured."""
    math_verify("$1$", "$1$", {})


def agreement(checkout: Path, workers: int) -> dict[str, Any]:
    """Both verifiers on all pairs."""
    rows = pairs(checkout)
    verifier = Verifier(workers=workers, time_limit_s=10.0)
    ours = verifier.verify_many([Item(boxed(row.answer), reference(row.gold), "math") for row in rows])
    verifier.close()
    with WorkerPool(workers=workers, time_limit_s=20.0) as pool:
        name = "benchmarks.verifier_pairs:math_verify"
        jobs = [pool.submit(name, [row.gold, boxed(row.answer), row.settings]) for row in rows]
        theirs = [job.result().value for job in jobs]
    wrong = [row.id for row, verdict in zip(rows, ours, strict=True) if verdict.outcome != float(row.expected)]
    return {
        "pairs": len(rows),
        "ours": len(rows) - len(wrong),
        "math_verify": sum(value is row.expected for row, value in zip(rows, theirs, strict=True)),
        "on_purpose": {name: ON_PURPOSE[name] for name in wrong if name in ON_PURPOSE},
        "disagreements": [name for name in wrong if name not in ON_PURPOSE],
    }


def changed(gold: str, draw: random.Random) -> str | None:
    """The gold with one digit, sign or bracket changed; None if it has none of the drawn kind."""
    kind = draw.choice(("digit", "sign", "bracket"))
    if kind == "sign" and draw.random() < 0.5:
        return "-" + gold
    wanted = {"digit": "0123456789", "sign": "+-", "bracket": "()[]"}[kind]
    places = [i for i, character in enumerate(gold) if character in wanted]
    if not places:
        return None
    i = draw.choice(places)
    if kind == "digit":
        new = draw.choice([digit for digit in "0123456789" if digit != gold[i]])
    else:
        new = {"+": "-", "-": "+"}.get(gold[i]) or _BRACKETS[gold[i]]
    return gold[:i] + new + gold[i + 1 :]


def no_change(before: str, after: str) -> bool:
    """Whether both are plain fractions or decimals of one value: a zero with a sign, 1/2 and 5/10."""
    values = []
    for text in (before, after):
        plain = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.replace("\\$", ""))
        try:
            values.append(Fraction(plain))
        except (ValueError, ZeroDivisionError):
            return False
    return values[0] == values[1]


def changes(path: Path, count: int, seed: int, workers: int) -> dict[str, Any]:
    """Golds with one change, judged one after another."""
    golds = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(seed)
    drawn: list[tuple[str, str]] = []
    while len(drawn) < count:
        gold = draw.choice(golds)
        other = changed(gold, draw)
        if other is not None and not no_change(gold, other):
            drawn.append((gold, other))
    verifier = Verifier(workers=workers)
    verifier.verify("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", "math")  # the worker is up
    itself = verifier.verify_many([Item(f"\\boxed{{{gold}}}", gold, "math") for gold in golds])
    accepted, unjudged, slowest = [], 0, 0.0
    for gold, other in drawn:
        started = time.perf_counter()
        verdict = verifier.verify(f"\\boxed{{{other}}}", gold, "math")
        slowest = max(slowest, time.perf_counter() - started)
        unjudged += not verdict.judged
        if verdict.outcome == 1.0:
            accepted.append([gold, other])
    verifier.close()
    return {
        "golds": len(golds),
        "golds_equal_to_themselves": sum(verdict.outcome == 1.0 for verdict in itself),
        "golds_refused": sum(maths.check_gold(gold) is not None for gold in golds),
        "changed": len(drawn),
        "seed": seed,
        "accepted": len(accepted),
        "not_judged": unjudged,
        "slowest_seconds": round(slowest, 3),
        "shown": accepted,  # printed, not kept
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--math-verify", type=Path, help="a checkout of huggingface/Math-Verify")
    parser.add_argument("--math500", type=file, help="a jsonl file with the golds in the field 'answer'")
    parser.add_argument("--changes", type=positive, default=1000)
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "verifier_pairs.json")
    arguments = parser.parse_args()

    document: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    lines = ["| what | ours | Math-Verify |", "|---|---|---|"]
    if arguments.math_verify is None:
        print("Math-Verify's pairs are skipped: --math-verify is not given")
    elif not (arguments.math_verify / "tests").is_dir():
        parser.error(f"--math-verify {arguments.math_verify}: not a checkout, it has no folder 'tests'")
    else:
        found = document["pairs"] = agreement(arguments.math_verify, arguments.workers)
        ours = f"{found['ours']}, {len(found['on_purpose'])} of the others on purpose"
        lines.append(f"| {found['pairs']} test pairs of Math-Verify: agreement | {ours} | {found['math_verify']} |")
        print("neither agreed nor on purpose:", *found["disagreements"] or ["none"], sep="\n  ")
    if arguments.math500 is None:
        print("MATH-500 is skipped: --math500 is not given")
    else:
        found = changes(arguments.math500, arguments.changes, arguments.seed, arguments.workers)
        print("accepted:", *found.pop("shown") or ["none"], sep="\n  ")
        document["changes"] = found
        lines.append(
            f"| {found['golds']} golds of MATH-500: equal to themselves | {found['golds_equal_to_themselves']} | |"
        )
        lines.append(f"| {found['changed']} golds with one change: accepted | {found['accepted']} | |")
        lines.append(f"| ... not judged | {found['not_judged']} | |")
        lines.append(f"| ... slowest | {found['slowest_seconds']} s | |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
