# SPDX-License-Identifier: Apache-2.0
"""Learning curves of agpo, reference and grpo on the quickstart task, on the real stack, at equal generated tokens.

Each run is the quickstart itself (verl, Ray, vLLM on the CPU). Methods take turns, so that changes
of the machine's speed affect all of them. `reference` discards its probe (the first responses of a group), so its steps
need twice the tokens and it gets half of the steps. Curves are compared up to the tokens that every run has generated.
Finished runs are kept: start the command again to continue.

    .venv/bin/python benchmarks/learning_curves.py --steps 60 --seeds 0 1 2

Overrides of verl's or AGPO's settings may follow; use separate folders for such runs (--runs, --out).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import positive, whole
from recipe.agpo.quickstart import run, summary

HERE = Path(__file__).resolve().parent
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % of Student's t for n runs
COST = {"reference": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=60)
    parser.add_argument("--every", type=positive, default=10, help="steps between validations")
    parser.add_argument("--seeds", type=whole, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(run.METHODS), choices=run.METHODS)
    parser.add_argument("--runs", type=Path, default=Path("runs/curves"))
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where table, JSON and picture go")
    parser.add_argument("overrides", nargs="*", help="for every run, as on the trainer's command line")
    arguments = parser.parse_args()
    curves = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            cost = COST.get(method, 1)
            folder = arguments.runs / f"{method}-seed{seed}"
            code = run.main(
                [
                    "--method",
                    method,
                    "--seed",
                    str(seed),
                    "--steps",
                    str(math.ceil(arguments.steps / cost)),
                    "--out",
                    str(folder),
                    f"trainer.test_freq={max(1, arguments.every // cost)}",
                    f"trainer.save_freq={arguments.every}",
                    *arguments.overrides,
                ]
            )
            if code:
                return code
            curves.append({"method": method, "seed": seed, "points": curve(folder)})
            write(curves, arguments.out)
    return 0


def curve(folder: Path) -> list[tuple[int, float]]:
    """(generated tokens so far, greedy held-out accuracy) of one run."""
    records = summary.read(sorted(folder.glob("metrics*.jsonl")))
    tokens = dict(summary.cumulative(summary.tokens_per_step(records, 256)))
    return [(round(tokens.get(step, 0)), value) for step, value in summary.series(records, summary.ACCURACY)]


def at(points: list[tuple[int, float]], tokens: float) -> float:
    """Accuracy at a number of generated tokens, linear between validations."""
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 <= tokens <= x1:
            return y0 + (y1 - y0) * (tokens - x0) / max(1, x1 - x0)
    return points[-1][1]


def write(curves: list[dict[str, Any]], out: Path) -> None:
    """learning_curves.json, .md and .png; called after every run."""
    out.mkdir(parents=True, exist_ok=True)
    budget = min(c["points"][-1][0] for c in curves)
    methods = list(dict.fromkeys(c["method"] for c in curves))
    rows = [
        "| method | runs | accuracy at start | accuracy at the budget, each run | mean | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods:
        ends = [at(c["points"], budget) for c in curves if c["method"] == method]
        starts = [c["points"][0][1] for c in curves if c["method"] == method]
        mean, half = statistics.mean(ends), math.nan
        if len(ends) > 1:
            half = T_95.get(len(ends), 1.96) * statistics.stdev(ends) / math.sqrt(len(ends))
        interval = f"{mean - half:.3f} to {mean + half:.3f}" if math.isfinite(half) else "-"
        each = ", ".join(f"{end:.3f}" for end in ends)
        rows.append(f"| {method} | {len(ends)} | {statistics.mean(starts):.3f} | {each} | {mean:.3f} | {interval} |")
    table = f"Budget: {budget:,} generated tokens, probes included.\n\n" + "\n".join(rows) + "\n"
    (out / "learning_curves.md").write_text(table)
    (out / "learning_curves.json").write_text(json.dumps({"budget": budget, "curves": curves}, indent=1) + "\n")
    draw(curves, methods, budget, out / "learning_curves.png")
    print(table)


def draw(curves: list[dict[str, Any]], methods: list[str], budget: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2))
    grid = [budget * i / 40 for i in range(41)]
    for colour, method in zip(("C0", "C1", "C2"), methods, strict=False):
        own = [c["points"] for c in curves if c["method"] == method]
        for points in own:
            axis.plot(*zip(*points, strict=True), color=colour, alpha=0.3, linewidth=1)
        axis.plot(grid, [statistics.mean(at(p, x) for p in own) for x in grid], color=colour, label=method, linewidth=2)
    axis.axvline(budget, color="grey", linestyle=":", linewidth=1)
    axis.set(xlabel="generated tokens, probes included", ylabel="greedy held-out accuracy")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
