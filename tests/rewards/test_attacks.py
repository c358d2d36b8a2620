# SPDX-License-Identifier: Apache-2.0
"""Answers that would run as programs, against the kinds whose graders are ours or math-verify's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipe.agpo.rewards.pool import WorkerPool
from recipe.agpo.rewards.verifier import Item, Verifier

ROOT = Path(__file__).resolve().parents[2]
GOLDS = {"math": "2\\sqrt{2}", "numeric": "3.5", "choice": "B", "text": "Lake Geneva"}
RIGHT = {"math": "\\sqrt{8}", "numeric": "3.5", "choice": "B", "text": "lake geneva"}


def attacks(target: str) -> list[str]:
    write = f"__import__('pathlib').Path('{target}').write_text('x')"
    message = json.dumps({"status": "ok", "value": True})
    descriptors = f"[__import__('os').write(fd, {message!r}.encode() + bytes([10])) for fd in range(64)]"
    grader = "setattr(__import__('math_verify'), 'verify', lambda *a, **k: True)"
    spelled = []
    for code in (write, descriptors, grader):
        spelled += [
            code,
            f"eval({code!r})",
            f"1 + {code}",
            f"(2 * ({code}))",
            f"x = {code}",
            f"\\frac{{{code}}}{{2}}",
            f"\\operatorname{{eval}}({code!r})",
            f"\\text{{{code}}}",
            f"\\mathrm{{S}}({code!r})",
            f"\\sqrt{{{code}}}",
            f"\\begin{{pmatrix}}{code} & 1\\end{{pmatrix}}",
            f"\\{{{code}, 1\\}}",
            f"sympify({code!r})",
        ]
    return spelled


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with WorkerPool(workers=1, time_limit_s=20.0) as pool:
        yield Verifier(pool)


@pytest.mark.parametrize("kind", sorted(GOLDS))
def test_answers_that_attack_are_wrong_and_change_nothing(verifier: Verifier, kind: str, tmp_path: Path) -> None:
    responses = [
        form % attack
        for attack in attacks(str(tmp_path / "written"))
        for form in ("\\boxed{%s}", "$%s$", "The answer is $%s$", "<answer>%s</answer>")
    ]
    found = verifier.verify_many([Item(response, GOLDS[kind], kind) for response in responses])
    wrong = [(r, v) for r, v in zip(responses, found, strict=True) if v.outcome != 0.0 or not v.judged]
    assert wrong == []
    assert list(tmp_path.iterdir()) == []
    assert verifier.verify(f"\\boxed{{{RIGHT[kind]}}}", GOLDS[kind], kind).outcome == 1.0
    assert verifier.verify("\\boxed{\\sqrt{7}}", "2\\sqrt{2}", "math").outcome == 0.0


def test_math_verify_compiles_nothing_but_arithmetic() -> None:
    """sympy's parse_expr compiles what it is given; Python reports it."""
    program = (
        "import json, sys\n"
        "from recipe.agpo.rewards import symbolic\n"
        "symbolic.prepare(); symbolic.equal('sin(x)', '2'); symbolic.equal('3*5', '15+0')\n"
        "compiled = []\n"
        "def hook(event, args):\n"
        "    if event == 'compile' and args[1] == '<string>':\n"
        "        source = args[0]\n"
        "        compiled.append(source.decode() if isinstance(source, bytes) else str(source))\n"
        "sys.addaudithook(hook)\n"
        "for text in json.load(sys.stdin):\n"
        "    symbolic.equal(text, '\\\\sqrt{2}')\n"
        "json.dump(compiled, sys.stdout)\n"
    )
    texts = [*attacks("/nowhere/written"), "1 + 2*3 = x", "open('x')", "(1 + 2) * 3"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    compiled = [source for source in json.loads(done.stdout) if source != "from sympy import *"]  # parse_expr's own
    assert compiled, "the hook sees what is compiled"
    # What is left are sympy's constructors of numbers, between operators and brackets.
    numbers = re.compile(r"(?:Integer|Float|Rational|Symbol|Add|Mul|Pow)\b|evaluate ?= ?False|[\s\d.,'()+*/\-]")
    assert [source for source in compiled if numbers.sub("", source)] == []
