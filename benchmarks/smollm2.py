# SPDX-License-Identifier: Apache-2.0
"""A pretrained language model (SmolLM2-135M-Instruct, 135 million parameters): agpo and grpo at equal generated tokens.

    python -m benchmarks.smollm2 loop --grid              # GRPO's best learning rate, in the in-process loop
    python -m benchmarks.smollm2 loop --rate 1e-5         # both methods at that rate and at ten times it, three seeds
    python -m benchmarks.smollm2 stack --rate 1e-5        # the same on verl, Ray and vLLM, one seed
    python -m benchmarks.smollm2 report                   # table and picture from what is there

Every finished run is one line of benchmarks/results/smollm2.jsonl, and is not run again: start a command again to go
on. A run on the stack that was stopped continues from its checkpoint; one in the loop starts again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.run import append
from recipe.agpo.arguments import finite, positive, whole
from recipe.agpo.quickstart import run, smollm2, summary

RESULTS = Path(__file__).resolve().parent / "results" / "smollm2.jsonl"
CACHE = Path(".cache/smollm2")
METHODS: dict[str, dict[str, Any]] = {"agpo": {}, "grpo": {"preset": "grpo"}}
GRID = (3e-6, 1e-5, 3e-5, 1e-4)
HIGHER = 10  # times the rate
ENDLESS = 10_000  # steps; the token budget ends a run
NAMES = ("where", "method", "rate", "seed", "budget")


@dataclass(frozen=True)
class Cell:
    """One run. ``budget``: generated tokens."""

    where: str
    method: str
    rate: float
    seed: int
    budget: int


def finished(path: Path) -> list[dict[str, Any]]:
    """The records so far; a line that a kill cut off does not count."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def cell_of(record: dict[str, Any]) -> Cell:
    return Cell(*(record[name] for name in NAMES))


def cells(where: str, rates: Sequence[float], methods: Sequence[str], seeds: Sequence[int], budget: int) -> list[Cell]:
    """Seeds are the outermost loop, so that partial results cover all methods and rates."""
    return [Cell(where, method, rate, seed, budget) for seed in seeds for rate in rates for method in methods]


def run_loop(cell: Cell, threads: int, prompts: int) -> dict[str, Any]:
    """One run in the in-process loop: the same model, task and prompts as on the stack."""
    import torch

    from agpo_core import AGPOConfig
    from examples.inprocess_grpo import LoopConfig, load, train
    from recipe.agpo.plan.compose import compose

    torch.set_num_threads(threads)
    torch.manual_seed(cell.seed)
    folder = CACHE / "benchmark"
    smollm2.prepare(folder, CACHE)
    data, _, model_folder = smollm2.places(folder, CACHE)
    config = compose("smollm2")
    model, task = load(model_folder, data.parent, config.data.max_response_length)
    loop = LoopConfig(
        prompts=prompts,
        group=config.actor_rollout_ref.rollout.n,
        updates=2,
        lr=cell.rate,
        seed=cell.seed,
        budget=cell.budget,
        eval_every=max(1, cell.budget // 5),
        eval_problems=smollm2.SIZES["test"],
        train_problems=smollm2.SIZES["train"],
    )
    records: list[dict[str, Any]] = []
    began = time.monotonic()

    def log(record: dict[str, Any]) -> None:
        records.append(record)
        shown = {name: round(record[name], 4) for name in ("outcome", "length", "accuracy", "kl") if name in record}
        print(
            f"  step {record['step']}, {record['tokens']} tokens, {time.monotonic() - began:.0f} s: {shown}", flush=True
        )

    train(model, task, AGPOConfig.from_dict(METHODS[cell.method]), loop, log)
    steps = [record for record in records if record["step"]]
    return {
        **asdict(cell),
        "measure": "greedy",
        "curve": [[r["tokens"], r["accuracy"]] for r in records if "accuracy" in r],
        "reward": [[r["tokens"], r["outcome"]] for r in steps],
        "steps": len(steps),
        "seconds": round(time.monotonic() - began, 1),
    }


def run_stack(cell: Cell, runs: Path) -> dict[str, Any] | None:
    """One run of the script; None if it was stopped."""
    folder = runs / f"{cell.method}-{cell.rate:g}-seed{cell.seed}"
    arguments = ["--method", cell.method, "--seed", str(cell.seed), "--steps", str(ENDLESS), "--out", str(folder)]
    given = [f"actor_rollout_ref.actor.optim.lr={cell.rate:g}", f"algorithm.agpo.token_budget={cell.budget}"]
    began = time.monotonic()
    if run.main([*arguments, "--cache", str(CACHE), *given], launch=smollm2.SMOLLM2):
        return None
    return {**asdict(cell), **read_run(folder), "seconds": round(time.monotonic() - began, 1)}


def read_run(folder: Path) -> dict[str, Any]:
    """Curves of a run folder of the script."""
    records = summary.read(sorted(folder.glob("metrics*.jsonl")))
    tokens = dict(summary.cumulative(summary.tokens_per_step(records, 1)))
    accuracy, reward = (summary.series(records, key) for key in (summary.accuracy_key(records), summary.REWARD))
    return {
        "measure": "sampled",
        "curve": [[round(tokens.get(step, 0)), value] for step, value in accuracy],
        "reward": [[round(tokens.get(step, 0)), value] for step, value in reward],
        "steps": max(step for step, _ in records),
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Mean of the runs of each place, method, rate and budget: accuracy at the start and at the end."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in ("where", "method", "rate", "budget"))].append(record)
    lines = [
        "| where | method | learning rate | tokens | seeds | held-out accuracy | start | end | each run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (where, method, rate, budget), found in sorted(groups.items()):
        start, end = ([record["curve"][i][1] for record in found] for i in (0, -1))
        each = ", ".join(f"{value:.3f}" for value in end)
        lines.append(
            f"| {where} | {method} | {rate:g} | {budget:,} | {len(found)} | {found[0]['measure']} | "
            f"{statistics.mean(start):.3f} | {statistics.mean(end):.3f} | {each} |"
        )
    return "\n".join(lines) + "\n"


def report(path: Path) -> None:
    """The table on the screen and as Markdown, and the picture, beside the results."""
    records = finished(path)
    if not records:
        print(f"no finished run in {path}")
        return
    path.with_suffix(".md").write_text(table(records), encoding="utf-8")
    draw(records, path.with_suffix(".png"))
    print(table(records))


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = sorted({record["where"] for record in records})
    rates = sorted({record["rate"] for record in records})
    figure, axes = pyplot.subplots(1, len(places), figsize=(6.5 * len(places), 4.2), squeeze=False)
    for axis, place in zip(axes[0], places, strict=True):
        labelled = set()
        for record in (record for record in records if record["where"] == place):
            name = f"{record['method']}, {record['rate']:g}"
            style = {"agpo": "-", "grpo": "--"}[record["method"]]
            colour = f"C{rates.index(record['rate'])}"
            axis.plot(
                *zip(*record["curve"], strict=True), style, color=colour, label=None if name in labelled else name
            )
            labelled.add(name)
        measure = ", ".join(sorted({record["measure"] for record in records if record["where"] == place}))
        axis.set(title=place, xlabel="generated tokens, probes included", ylabel=f"held-out accuracy ({measure})")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loop", "stack", "report"])
    parser.add_argument("--grid", action="store_true", help="grpo alone, at every rate of the grid, seed 0")
    parser.add_argument("--rate", type=finite, default=1e-5, help="GRPO's best rate; the other is ten times it")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=whole, help="default: 0 1 2 in the loop, 0 on the stack")
    parser.add_argument("--budget", type=positive, default=40_000, help="generated tokens of a run")
    parser.add_argument("--prompts", type=positive, default=8, help="loop: prompts of a step")
    parser.add_argument("--threads", type=positive, default=2, help="loop: threads of the process")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/smollm2"), help="stack: run folders")
    given = parser.parse_args()
    if given.what != "report":
        if given.grid:
            todo = cells(given.what, GRID, ["grpo"], [0], given.budget)
        else:
            seeds = given.seeds or ([0, 1, 2] if given.what == "loop" else [0])
            todo = cells(given.what, [given.rate, HIGHER * given.rate], given.methods, seeds, given.budget)
        before = {cell_of(record) for record in finished(given.results)}
        for cell in [cell for cell in todo if cell not in before]:
            print(cell, flush=True)
            if cell.where == "loop":
                record = run_loop(cell, given.threads, given.prompts)
            else:
                found = run_stack(cell, given.runs)
                if found is None:
                    return 1
                record = found
            append(given.results, record)
    report(given.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
