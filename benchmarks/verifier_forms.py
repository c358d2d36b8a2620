# SPDX-License-Identifier: Apache-2.0
"""How an answer is found in a response: golds in many forms of stating them, and labelled responses of a model.

    .venv/bin/python benchmarks/verifier_forms.py --golds test.jsonl --labelled math_cot_100.jsonl

``--golds``: a JSON-lines file with the field ``answer``, such as MATH-500. Each gold is put into every form and must be
accepted; in the same form a gold followed by a wrong factor must be refused. ``--labelled``: a JSON-lines file with the
fields ``gt``, ``code`` (responses) and ``score`` (labels), such as ``math_cot_100.jsonl`` of Qwen2.5-Math's evaluation.
Neither file is part of this project; a missing file is skipped. Plain math-verify judges the same responses.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import file
from recipe.agpo.data.rows import json_lines
from recipe.agpo.rewards import Item, Verifier
from recipe.agpo.rewards.pool import WorkerPool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RESULTS = Path(__file__).resolve().parent / "results"
WORK = "We compute step by step: first $3 + 4 = 7$, then $7 - 2 = 5$.\n\n"
# name: the response around {a}; the gold is in a formula, as in the benchmark.
FORMS = {
    "box": "Therefore we get $\\boxed{{{a}}}$.",
    "sentence": "The answer is ${a}$.",
    "heading, display formula": "**Final Answer**\n\n$${a}$$",
    "heading, inline formula": "### Final Answer\n\n${a}$",
    "####": "#### {a}",
    "bold": "**Answer: ${a}$**",
    "答案是": "所以答案是${a}$。",
    "故答案为": "故答案为：${a}$．",
    "因此": "因此，所求的值为\n$${a}$$",
    "answer tags": "<answer>${a}$</answer>",
    "box, remark": "So the answer is $\\boxed{{{a}}}$, and we are done. This answer is correct.",
    "display box, closing sentence": "\\[\n\\boxed{{{a}}}\n\\]\nThis completes the solution.",
    "no statement, display formula": "Hence the requested value equals\n\\[\n{a}\n\\]",
    "no statement, prose behind": "Hence we get ${a}$, as desired.",
    "several boxes": None,
}


def parts(gold: str) -> list[str]:
    """The parts of a list at its own level: ``3, 5`` has two, ``(3, 5)`` has one."""
    found, depth, start = [], 0, 0
    for position, character in enumerate(gold):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and gold[position : position + 3] != ",\\!":
            found.append(gold[start:position].strip())
            start = position + 1
    return [*found, gold[start:].strip()]


def response(form: str, gold: str) -> str | None:
    """A made-up solution that ends with ``gold`` in a form; None where the form does not apply."""
    pattern = FORMS[form]
    if pattern is not None:
        return WORK + pattern.format(a=gold)
    several = parts(gold)
    if len(several) < 2 or all(part.isdigit() and len(part) == 3 for part in several[1:]):
        return None
    return WORK + "The solutions are $" + "$ and $".join(f"\\boxed{{{part}}}" for part in several) + "$."


def wrong(gold: str) -> str:
    """Another answer of the same shape."""
    return f"{gold} + 17" if not gold.startswith("\\text") else "\\text{somewhere else}"


def plain_math_verify(answer: str, gold: str) -> float:
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse, verify

    return float(verify(parse(f"${gold}$"), parse(answer)))


def forms(golds: list[str], verifier: Verifier, pool: WorkerPool) -> dict[str, Any]:
    """Per form: how many golds, how many accepted by ours and by math-verify, and which ours refuses."""
    table: dict[str, Any] = {}
    for form in FORMS:
        pairs = [(text, gold) for gold in golds if (text := response(form, gold)) is not None]
        ours = verifier.verify_many([Item(text, gold, "math") for text, gold in pairs])
        others = [pool.submit("benchmarks.verifier_forms:plain_math_verify", list(pair)) for pair in pairs]
        mutated = [(text, gold) for gold in golds if (text := response(form, wrong(gold))) is not None]
        accepted = verifier.verify_many([Item(text, gold, "math") for text, gold in mutated])
        table[form] = {
            "golds": len(pairs),
            "ours": sum(v.outcome == 1.0 for v in ours),
            "math-verify": sum(job.result().value == 1.0 for job in others),
            "wrong accepted by ours": sum(v.outcome == 1.0 for v in accepted),
            "refused": [gold for (_, gold), v in zip(pairs, ours, strict=True) if v.outcome != 1.0],
            "wrongly accepted": [gold for (_, gold), v in zip(mutated, accepted, strict=True) if v.outcome == 1.0],
        }
    return table


def labelled(rows: list[dict[str, Any]], verifier: Verifier, pool: WorkerPool) -> dict[str, Any]:
    """Agreement with the labels, and each case that differs as problem and response number."""
    cases = [
        (row["idx"], k, text, str(row.get("answer") or row["gt"]), bool(row["score"][k]))
        for row in rows
        for k, text in enumerate(row["code"])
    ]
    ours = verifier.verify_many([Item(text, gold, "math") for _, _, text, gold, _ in cases])
    others = [pool.submit("benchmarks.verifier_forms:plain_math_verify", [text, gold]) for _, _, text, gold, _ in cases]
    differ = {
        name: [f"{i}/{k}" for (i, k, _, _, label), outcome in zip(cases, found, strict=True) if outcome != float(label)]
        for name, found in (
            ("ours", [v.outcome for v in ours]),
            ("math-verify", [job.result().value for job in others]),
        )
    }
    return {"responses": len(cases)} | {f"{name} differs from the label": ids for name, ids in differ.items()}


def read(path: Path | None) -> list[dict[str, Any]] | None:
    """The objects of a file of JSON lines; None without a file."""
    if path is None:
        return None
    rows = []
    for number, value, problem in json_lines(path):
        if not isinstance(value, dict):
            raise SystemExit(f"{path}, line {number}: {problem or 'not an object'}")
        rows.append(value)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", type=file, help="JSON lines with the field answer")
    parser.add_argument("--labelled", type=file, help="JSON lines with gt, code and score")
    parser.add_argument("--out", type=Path, default=RESULTS / "verifier_forms.json")
    parser.add_argument("--verbose", action="store_true", help="print the golds that are refused")
    arguments = parser.parse_args()
    if arguments.golds is None and arguments.labelled is None:
        parser.error("nothing to measure: give --golds, --labelled or both")
    golds, rows = read(arguments.golds), read(arguments.labelled)
    verifier = Verifier(workers=2, time_limit_s=20.0)
    result: dict[str, Any] = {}
    with WorkerPool(workers=2, time_limit_s=20.0) as pool:
        if golds is not None:
            table = forms([str(row["answer"]) for row in golds], verifier, pool)
            print("| form | golds | ours | math-verify | wrong accepted by ours |\n|---|---|---|---|---|")
            for form, row in table.items():
                shares = " | ".join(f"{row[name] / max(1, row['golds']):.1%}" for name in ("ours", "math-verify"))
                print(f"| {form} | {row['golds']} | {shares} | {row['wrong accepted by ours']} |")
                refused, accepted = row.pop("refused"), row.pop("wrongly accepted")  # the file's text stays out
                if arguments.verbose:
                    print("   refused:", refused, "accepted:", accepted)
            result["forms"] = table
        if rows is not None:
            result["labelled"] = labelled(rows, verifier, pool)
            print(json.dumps(result["labelled"], indent=1))
    verifier.close()
    if result:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
