# SPDX-License-Identifier: Apache-2.0
"""How often verifiers agree with a careful person: ours, plain math-verify, and verl's built-in scorers.

    .venv/bin/python benchmarks/verifier_agreement.py

The cases are the hand-checked corpus in tests/rewards/corpus. Our verifier was changed wherever it disagreed with the
person, so its column is not an estimate for unseen data; the other columns describe the corpus. Every scorer runs in
a killable worker; an exception, a hang or an answer that is no number counts as "no verdict". All but ours are
made for mathematics: their results on options and words show what a user would get there.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.agpo.rewards import JUDGED, Item, Verifier
from recipe.agpo.rewards.pool import WorkerPool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the corpus lies with the tests
from tests.rewards.cases import Case, load

RESULTS = Path(__file__).resolve().parent / "results"
RIGHT, ACCEPTED, REJECTED, NONE = "right verdict", "wrong accepted", "right rejected", "no verdict"


def plain_math_verify(response: str, gold: str) -> float:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse, verify

    return float(verify(parse(f"${gold}$"), parse(response)))


def verl_gsm8k_strict(response: str, gold: str) -> float:
    from verl.utils.reward_score.gsm8k import compute_score

    return float(compute_score(response, gold, method="strict"))


def verl_gsm8k_flexible(response: str, gold: str) -> float:
    from verl.utils.reward_score.gsm8k import compute_score

    return float(compute_score(response, gold, method="flexible"))


def verl_math(response: str, gold: str) -> float:
    from verl.utils.reward_score.math_reward import compute_score

    return float(compute_score(response, gold))


def verl_math_dapo(response: str, gold: str) -> float:
    from verl.utils.reward_score.math_dapo import compute_score

    found: Any = compute_score(response, gold)
    return float(found["acc"])


def verl_prime_math(response: str, gold: str) -> float:
    from verl.utils.reward_score.prime_math import compute_score

    return float(compute_score(response, gold)[0])


OTHERS: dict[str, Callable[[str, str], float]] = {
    "math-verify": plain_math_verify,
    "verl gsm8k strict": verl_gsm8k_strict,
    "verl gsm8k flexible": verl_gsm8k_flexible,
    "verl math": verl_math,
    "verl math_dapo": verl_math_dapo,
    "verl prime_math": verl_prime_math,
}


def prepare() -> None:
    """Imports, before the time of an answer is measured."""
    import verl.utils.reward_score  # noqa: F401

    plain_math_verify("1", "1")


def ours(cases: list[Case]) -> list[float | None]:
    verifier = Verifier(workers=2, time_limit_s=10.0)
    found = verifier.verify_many([Item(c.response, c.gold, c.kind, c.args) for c in cases])
    verifier.close()
    return [v.outcome if v.status in JUDGED else None for v in found]


def other(function: Callable[[str, str], float], cases: list[Case]) -> list[float | None]:
    name = f"benchmarks.verifier_agreement:{function.__name__}"
    with WorkerPool(workers=2, time_limit_s=10.0) as pool:
        done = [future.result() for future in [pool.submit(name, [c.response, c.gold]) for c in cases]]
    return [float(d.value > 0) if isinstance(d.value, int | float) else None for d in done]


def judge(case: Case, found: float | None) -> str:
    if found is None:
        return NONE
    if found == case.outcome:
        return RIGHT
    return ACCEPTED if found else REJECTED


def markdown(table: dict[str, dict[str, Counter[str]]], groups: list[str], sizes: Counter[str]) -> str:
    lines = ["| verifier | " + " | ".join(f"{g} ({sizes[g]})" for g in groups) + " |"]
    lines.append("|---" * (len(groups) + 1) + "|")
    for name, by_group in table.items():
        cells = []
        for group in groups:
            c = by_group[group]
            cells.append(f"{c[RIGHT] / sizes[group]:.0%} ({c[ACCEPTED]} / {c[REJECTED]} / {c[NONE]})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(table: dict[str, dict[str, Counter[str]]], total: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {RIGHT: "#2a7f62", REJECTED: "#c98a1b", ACCEPTED: "#b3413b", NONE: "#8d8d8d"}
    names = list(table)[::-1]
    figure, axis = plt.subplots(figsize=(8, 0.45 * len(names) + 1.4))
    left = [0.0] * len(names)
    for verdict, colour in colours.items():
        widths = [sum(c[verdict] for c in table[name].values()) / total for name in names]
        axis.barh(names, widths, left=left, color=colour, label=verdict)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set(xlim=(0, 1), xlabel=f"share of {total} hand-checked cases")
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table, JSON and picture")
    arguments = parser.parse_args()
    cases = [c for c in load() if c.outcome is not None and c.kind not in ("code", "gym")]
    found = {"ours": ours(cases)} | {name: other(function, cases) for name, function in OTHERS.items()}
    groups = [f"{kind} {lang}" for kind in ("math", "choice", "numeric", "text") for lang in ("en", "zh")]
    group_of = [f"{case.kind} {case.lang}" for case in cases]
    sizes = Counter(group_of)
    table: dict[str, dict[str, Counter[str]]] = {}
    for name, outcomes in found.items():
        table[name] = {group: Counter() for group in groups}
        for case, group, outcome in zip(cases, group_of, outcomes, strict=True):
            table[name][group][judge(case, outcome)] += 1
    text = markdown(table, groups, sizes)
    mistakes = [
        {"verifier": name, "case": case.id, "found": outcome, "expected": case.outcome, "why": case.why}
        for name, outcomes in found.items()
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome != case.outcome
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    header = (
        "Right verdicts, and in brackets: wrong answers accepted / correct answers rejected / no verdict. Ours was\n"
        "fixed until it agreed with every case, so its column is not an estimate for unseen data.\n\n"
    )
    (arguments.out / "verifier_agreement.md").write_text(header + text)
    document = {"cases": len(cases), "table": table, "disagreements": mistakes}
    (arguments.out / "verifier_agreement.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    draw(table, len(cases), arguments.out / "verifier_agreement.png")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
