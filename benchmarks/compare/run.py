# SPDX-License-Identifier: Apache-2.0
"""Methods compared at equal generated tokens, several seeds and tasks, on one machine. Resumes where it was stopped.

    python -m benchmarks.compare.run --jobs 2                              # every method, task and seed
    python -m benchmarks.compare.run --grid lr --methods grpo agpo         # the width of the range that works
    python -m benchmarks.compare.run --report                              # table and picture from the results so far

Every finished cell is one line of the results file; a cell that was stopped half-way starts again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.compare import summary
from benchmarks.compare.cells import CLIP, METHODS, TASKS, Cell, run_cell
from recipe.agpo.arguments import above_0, positive, whole

RESULTS = Path("benchmarks/results/compare.jsonl")
PAGE = Path("docs/comparison.md")
LRS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CLIPS = (0.05, 0.1, 0.2, 0.4)


def cells(
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    grid: str | None,
    rates: Sequence[float] = LRS,
) -> list[Cell]:
    """Seeds are the outermost loop, so that partial results cover all methods."""

    def settings(task: str) -> list[tuple[float, float]]:
        lrs = rates if grid == "lr" else (TASKS[task].lr,)
        clips = CLIPS if grid == "clip" else (CLIP,)
        return list(itertools.product(lrs, clips))

    return [
        Cell(task, method, seed, lr, clip)
        for seed in seeds
        for task in tasks
        for lr, clip in settings(task)
        for method in methods
    ]


def done(path: Path) -> dict[str, dict[str, Any]]:
    """Finished cells by key; a line that a kill cut off does not count."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[Cell(*(record[name] for name in ("task", "method", "seed", "lr", "clip"))).key] = record
    return found


def check_start(record: dict[str, Any], before: Iterable[dict[str, Any]]) -> None:
    """Refuse a cell whose warm-started model is not that of the results' other cells of its task and seed.

    The same seed gives another model on another processor, and methods are compared by seed.

    Raises:
        ValueError: the accuracies at the start differ.
    """
    own = record["curve"][0][1]
    for other in before:
        if (other["task"], other["seed"]) == (record["task"], record["seed"]) and other["curve"][0][1] != own:
            raise ValueError(
                f"{record['task']}, seed {record['seed']}: starts at {own:.4f} here and at "
                f"{other['curve'][0][1]:.4f} in the results, which another machine made. "
                "Take other --seeds, or another file for --results"
            )


def append(path: Path, record: dict[str, Any]) -> None:
    """One write a line; behind a line that a kill cut off it starts a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write((json.dumps(record, sort_keys=True) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=whole, default=[0, 1, 2, 3, 4])
    parser.add_argument("--grid", choices=["lr", "clip"], help="every learning rate, or every base clip ratio")
    parser.add_argument("--lrs", nargs="+", type=above_0, default=LRS, help="the learning rates of --grid lr")
    parser.add_argument("--jobs", type=positive, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    parser.add_argument("--cache", type=Path, default=Path(".cache/compare"), help="warm-started models")
    parser.add_argument("--report", action="store_true", help="only write table and picture")
    given = parser.parse_args()
    if not given.report:
        before = done(given.results)
        todo = [c for c in cells(given.methods, given.tasks, given.seeds, given.grid, given.lrs) if c.key not in before]
        print(f"{len(todo)} cells to run, {len(before)} finished before", flush=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
            running = {pool.submit(run_cell, cell, given.cache, given.device): cell for cell in todo}
            for number, future in enumerate(as_completed(running), 1):
                record = future.result()
                check_start(record, before.values())
                append(given.results, record)
                accuracy = f"{record['curve'][0][1]:.3f} -> {record['curve'][-1][1]:.3f}"
                cell = running[future]
                print(
                    f"[{number}/{len(todo)}] {cell.task} {cell.method} seed {cell.seed} lr {cell.lr:g} clip "
                    f"{cell.clip:g}: {accuracy}, {record['steps']} steps, {record['seconds']:.0f} s",
                    flush=True,
                )
    summary.write(list(done(given.results).values()), given.results, given.page)


if __name__ == "__main__":
    main()
