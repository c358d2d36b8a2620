# SPDX-License-Identifier: Apache-2.0
"""Learning curves of agpo, reference and grpo on the quickstart task, on the real stack, at equal generated tokens.

Each run is the quickstart itself (verl, Ray, vLLM on the CPU). Methods take turns, so that changes
of the machine's speed affect all of them. `reference` discards its probe (the first responses of a group), so its steps
need twice the tokens and it gets half of the steps. Curves are compared up to the tokens that every run has generated.
Finished runs are kept: start the command again to continue. `--draw` only draws again.

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

from recipe.agpo import palette
from recipe.agpo.arguments import positive, whole
from recipe.agpo.evaluate.metrics import FEWEST_SEEDS, seed_interval
from recipe.agpo.quickstart import run, summary

HERE = Path(__file__).resolve().parent
COST = {"reference": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=60)
    parser.add_argument("--every", type=positive, default=10, help="steps between validations")
    parser.add_argument("--seeds", type=whole, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(run.METHODS), choices=run.METHODS)
    parser.add_argument("--runs", type=Path, default=Path("runs/curves"))
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where table, JSON and picture go")
    parser.add_argument("--draw", action="store_true", help="only draw table and picture again, from the JSON in --out")
    parser.add_argument("overrides", nargs="*", help="for every run, as on the trainer's command line")
    arguments = parser.parse_args()
    if arguments.draw:
        write(json.loads((arguments.out / "learning_curves.json").read_text())["curves"], arguments.out)
        return 0
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
        found = seed_interval([ends])
        interval = "-" if found.low is None else f"{found.low:.3f} to {found.high:.3f}"
        each = ", ".join(f"{end:.3f}" for end in ends)
        rows.append(
            f"| {method} | {len(ends)} | {statistics.mean(starts):.3f} | {each} | {found.value:.3f} | {interval} |"
        )
    table = f"Budget: {budget:,} generated tokens, probes included.\n\n" + "\n".join(rows) + "\n"
    (out / "learning_curves.md").write_text(table)
    (out / "learning_curves.json").write_text(json.dumps({"budget": budget, "curves": curves}, indent=1) + "\n")
    draw(curves, methods, budget, out / "learning_curves.png")
    print(table)


def draw(curves: list[dict[str, Any]], methods: list[str], budget: int, path: Path) -> None:
    """Mean of each method up to the budget, named at its end; every run as a thin line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6))
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.86, bottom=0.2, top=0.96)
    palette.plain(axis)
    grid, ends = [budget * i / 40 for i in range(41)], []
    for method, place in zip(methods, palette.places(methods), strict=True):
        own, colour = [c["points"] for c in curves if c["method"] == method], palette.series(place)
        for points in own:
            axis.plot(*zip(*((x / 1000, y) for x, y in points), strict=True), color=colour, alpha=0.35, linewidth=0.9)
        found = [seed_interval([[at(p, x) for p in own]]) for x in grid]
        means, tokens = [each.value for each in found], [x / 1000 for x in grid]
        axis.plot(tokens, means, color=colour, linewidth=2.2)
        if all(each.low is not None for each in found):
            bounds = [(each.low, each.high) for each in found]
            axis.fill_between(tokens, *zip(*bounds, strict=True), color=colour, alpha=0.14, linewidth=0)
        ends.append((max(p[-1][0] for p in own) / 1000, means[-1], method, colour))
    axis.axvline(budget / 1000, color=palette.GREY, linewidth=1)
    axis.text(budget / 1000, axis.get_ylim()[0], "budget ", ha="right", va="bottom", fontsize=8.5)
    axis.set(xlabel="generated tokens, probes included, thousands", ylabel="greedy held-out accuracy")
    edge = max(x for x, _, _, _ in ends)
    palette.label_ends(axis, [(edge, y, name, colour) for _, y, name, colour in ends])
    seeds = len({c["seed"] for c in curves})
    words = "thick: mean; thin: each run" + ("; band: 95 % bootstrap interval" if seeds >= FEWEST_SEEDS else "")
    figure.text(0.01, 0.025, f"{seeds} seed{'s'[: seeds > 1]}. {words}.".replace(". t", ". T"), fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
