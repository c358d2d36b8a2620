# SPDX-License-Identifier: Apache-2.0
"""Table and picture of a comparison: final accuracy, area, tokens to a target, intervals, paired tests, ranges."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agpo_core.files import write_atomic
from benchmarks.compare import pictures
from benchmarks.compare.cells import CLIP, TASKS
from recipe.agpo.evaluate.metrics import FEWEST_SEEDS, seed_interval

WITHIN = 0.03
EFFORT_RESAMPLES = 1_000  # each is a sum over all runs of a method
EFFORTS = (1, 2, 3, 6)  # numbers of runs that are shown
Record = dict[str, Any]


def final(record: Record) -> float:
    """Mean of the last three evaluations: one alone, of 256 problems, has a standard error of 0.025."""
    return _mean([accuracy for _, accuracy in record["curve"][-3:]])


def area(record: Record) -> float:
    """Mean accuracy over the token budget (trapezoids)."""
    curve = record["curve"]
    steps = zip(curve, curve[1:], strict=False)
    total = sum((t1 - t0) * (a0 + a1) / 2 for (t0, a0), (t1, a1) in steps)
    return float(total / (curve[-1][0] - curve[0][0]))


def tokens_to(record: Record, target: float) -> float | None:
    """Generated tokens at which the accuracy first reaches the target, linear between evaluations; None: never."""
    curve = record["curve"]
    if curve[0][1] >= target:
        return float(curve[0][0])
    for (t0, a0), (t1, a1) in zip(curve, curve[1:], strict=False):
        if a1 >= target:
            return float(t0 + (t1 - t0) * (target - a0) / (a1 - a0))
    return None


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided exact sign-flip test of the mean difference by seed; five seeds cannot go below 1/16."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    observed = abs(sum(differences))
    flips = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(abs(sum(s * d for s, d in zip(f, differences, strict=True))) >= observed - 1e-12 for f in flips) / len(
        flips
    )


def working_range(accuracy: dict[float, float]) -> tuple[float, float]:
    """Lowest and highest setting of the unbroken run around the best whose accuracy is within 3 points of it."""
    settings = sorted(accuracy)
    best = max(settings, key=lambda s: accuracy[s])
    low = high = settings.index(best)
    good = [accuracy[s] >= accuracy[best] - WITHIN for s in settings]
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(settings) and good[high + 1]:
        high += 1
    return settings[low], settings[high]


def by_method(records: Sequence[Record], task: str) -> dict[str, dict[int, Record]]:
    """method -> seed -> run, at the task's own learning rate and clip ratio."""
    found: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        if (record["task"], record["lr"], record["clip"]) == (task, TASKS[task].lr, CLIP):
            found[record["method"]][record["seed"]] = record
    return found


def ahead_of_grpo(methods: dict[str, dict[int, Record]]) -> dict[str, list[float]]:
    """method -> final accuracy minus GRPO's, by seed; without the methods that share no seed with it."""
    pairs = pairs_with_grpo(methods)
    return {method: [final(mine) - final(grpo) for mine, grpo in pair] for method, pair in pairs.items()}


def pairs_with_grpo(methods: dict[str, dict[int, Record]]) -> dict[str, list[tuple[Record, Record]]]:
    """method -> (run, GRPO's run) of each seed that both have; without the methods that share none."""
    grpo = methods.get("grpo", {})
    pairs = {m: [(runs[s], grpo[s]) for s in sorted(set(runs) & set(grpo))] for m, runs in methods.items()}
    return {method: pair for method, pair in pairs.items() if pair}


def expected_best(finals: Mapping[float, Sequence[float]], k: int) -> float:
    """Expected best final accuracy of k runs at different rates of a grid, each with one of that rate's seeds.

    Args:
        finals: rate -> final accuracies of its seeds. Every set of k rates is equally probable, and every seed of a
            rate.
        k: number of runs, at most the number of rates.
    """
    values = sorted({value for found in finals.values() for value in found})
    total, below = 0.0, 0.0
    for value in values:
        # The chance that none of the k runs is above this value: the mean over sets of rates of the product of shares.
        shares = [sum(v <= value for v in found) / len(found) for found in finals.values()]
        reached = _elementary(shares, k) / math.comb(len(shares), k)
        total, below = total + value * (reached - below), reached
    return total


def _elementary(values: Sequence[float], k: int) -> float:
    """Sum over all sets of k values of their product."""
    sums = [1.0] + [0.0] * k
    for value in values:
        for size in range(k, 0, -1):
            sums[size] += value * sums[size - 1]
    return sums[k]


def best_interval(finals: Mapping[float, Mapping[int, float]], k: int) -> tuple[float, float] | None:
    """95 % bootstrap of `expected_best` over seeds and rates; None with fewer than four seeds.

    Args:
        finals: rate -> seed -> final accuracy; the same seeds at every rate. A seed is drawn for all rates at once,
            because its warm-started model is the same at each.
        k: as in `expected_best`.
    """
    rates = sorted(finals)
    seeds = sorted(finals[rates[0]])
    if len(seeds) < FEWEST_SEEDS:
        return None
    drawn = random.Random(0)
    means = []
    for _ in range(EFFORT_RESAMPLES):
        of_seeds = drawn.choices(seeds, k=len(seeds))
        of_rates = drawn.choices(rates, k=len(rates))
        means.append(
            expected_best({i: [finals[rate][seed] for seed in of_seeds] for i, rate in enumerate(of_rates)}, k)
        )
    means.sort()
    return means[int(0.025 * EFFORT_RESAMPLES)], means[int(0.975 * EFFORT_RESAMPLES) - 1]


def effort(records: Sequence[Record], task: str) -> dict[str, dict[float, dict[int, Record]]]:
    """method -> rate -> seed -> run, at three or more of GRPO's rates; of the seeds that ran at all of these."""
    found: dict[str, dict[float, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["task"] == task and record["clip"] == CLIP:
            found[record["method"]][record["lr"]][record["seed"]] = record
    grid, methods = set(found.get("grpo", {})), {}
    for method, row in found.items():
        rates = sorted(grid & set(row))
        seeds = sorted(set.intersection(*(set(row[rate]) for rate in rates))) if rates else []
        if len(rates) > 2 and seeds:
            methods[method] = {rate: {seed: row[rate][seed] for seed in seeds} for rate in rates}
    return methods


def effort_table(records: Sequence[Record], tasks: Sequence[str]) -> list[str]:
    """Expected best final accuracy of k runs at random rates, and the tokens to what GRPO reaches with all of them."""
    rows = []
    for task in tasks:
        methods = effort(records, task)
        if "grpo" not in methods:
            continue
        best = {method: _best_by_runs(row) for method, row in methods.items()}
        goal, runs = best["grpo"][-1], len(best["grpo"])
        budget = runs * _tokens_of_a_run(methods["grpo"])
        for method in sorted(best, key=lambda m: (-best[m][0], m)):
            row = methods[method]
            finals = {rate: {seed: final(run) for seed, run in of_rate.items()} for rate, of_rate in row.items()}
            shown = []
            for k in EFFORTS:
                if k > len(row):
                    shown.append("")
                    continue
                span = best_interval(finals, k)
                words = "" if span is None else f" ({span[0]:.3f} to {span[1]:.3f})"
                shown.append(f"{best[method][k - 1]:.3f}{words}")
            needed = next((k for k, value in enumerate(best[method], 1) if value >= goal), None)
            spent = "never" if needed is None else f"{needed * _tokens_of_a_run(row) / budget:.2f}"
            seeds = len(next(iter(row.values())))
            rows.append(f"| {task} | `{method}` | {len(row)} | {seeds} | {' | '.join(shown)} | {spent} |")
    if not rows:
        return []
    return [
        "## Effort: the best of k runs at random learning rates",
        "",
        "Expected best final accuracy of k runs, each at another rate of the grid that GRPO ran, every rate equally "
        "probable, over the seeds that ran at every rate. In brackets: 95 % bootstrap over seeds and rates, from "
        f"{FEWEST_SEEDS} seeds on. Last column: generated tokens, those of the tuning runs included, at which a method "
        "reaches what GRPO reaches with a run at every rate, over GRPO's. One run is the least that counts.",
        "",
        f"| task | method | rates | seeds | {' | '.join(f'best of {k}' for k in EFFORTS)} | tokens to GRPO's best |",
        "|---|---|---|---|" + "---|" * (len(EFFORTS) + 1),
        *rows,
        "",
    ]


def _best_by_runs(row: Mapping[float, Mapping[int, Record]]) -> list[float]:
    finals = {rate: [final(run) for run in runs.values()] for rate, runs in row.items()}
    return [expected_best(finals, k) for k in range(1, len(finals) + 1)]


def _tokens_of_a_run(row: Mapping[float, Mapping[int, Record]]) -> float:
    return _mean([run["curve"][-1][0] for runs in row.values() for run in runs.values()])


def task_table(records: Sequence[Record], task: str) -> list[str]:
    """One row a method at the base setting, against GRPO on the seeds that both have."""
    methods = by_method(records, task)
    if "grpo" not in methods:
        return []
    grpo = methods["grpo"]
    start = _mean([record["curve"][0][1] for record in grpo.values()])
    budget = max(record["curve"][-1][0] for record in grpo.values())
    lines = [
        f"## {task}",
        "",
        f"From {start:.3f}, about {budget:,} generated tokens, learning rate {TASKS[task].lr:g}. Ordered by the "
        "difference from GRPO on the seeds that both have. Target: the final accuracy of GRPO with the same seed.",
        "",
        "| method | seeds | final accuracy | 95 % | minus GRPO | 95 % | p | area | tokens to target / GRPO's | length "
        "| entropy | groups of equal outcomes | clipped | gradient cosine |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    pairs, ahead = pairs_with_grpo(methods), ahead_of_grpo(methods)
    for method in sorted(ahead, key=lambda m: (-_mean(ahead[m]), m)):
        runs, pair = methods[method], pairs[method]
        values = [final(runs[s]) for s in sorted(runs)]
        p = "" if method == "grpo" else f"{paired_p([final(a) for a, _ in pair], [final(b) for _, b in pair]):.2f}"
        last = [r["last"] for r in runs.values()]
        cosine = _mean([r["means"]["gradient_cosine"] for r in runs.values()])
        lines.append(
            f"| `{method}` | {len(runs)} | {_mean(values):.3f} | {_span(values, '.3f')} | "
            f"{_mean(ahead[method]):+.3f} | {_span(ahead[method], '+.3f')} | {p} | "
            f"{_mean([area(r) for r in runs.values()]):.3f} | {_cost(pair)} | "
            f"{_mean([m['length'] for m in last]):.1f} | "
            f"{_mean([m['entropy'] for m in last]):.3f} | {_mean([m['zero_variance'] for m in last]):.2f} | "
            f"{_mean([m['clipped'] for m in last]):.4f} | {cosine:.3f} |"
        )
    return [*lines, ""]


def pooled_table(records: Sequence[Record], tasks: Sequence[str]) -> list[str]:
    """Each method over all tasks and seeds, of the methods that ran on every task with the seeds of GRPO."""
    by_task = [by_method(records, task) for task in tasks]
    ahead = [ahead_of_grpo(methods) for methods in by_task]
    everywhere = sorted(set.intersection(*map(set, ahead)) - {"grpo"})
    if not everywhere:
        return []
    rows = []
    for method in everywhere:
        strata = [found[method] for found in ahead]
        own = [[final(mine) for mine, _ in pairs_with_grpo(methods)[method]] for methods in by_task]
        base = [[final(grpo) for _, grpo in pairs_with_grpo(methods)[method]] for methods in by_task]
        difference = seed_interval(strata)
        middle, of_grpo = seed_interval(own, "iqm"), seed_interval(base, "iqm")
        pooled = [d for found in strata for d in found]
        line = (
            f"| `{method}` | {len(pooled)} | {difference.value:+.3f} | {_bounds(difference, '+.3f')} | "
            f"{sum(d > 0 for d in pooled)} of {len(pooled)} | {middle.value:.3f} | {_bounds(middle, '.3f')} | "
            f"{of_grpo.value:.3f} |"
        )
        rows.append((difference.value, line))
    return [
        "## All tasks",
        "",
        "Final accuracy over every task and seed that a method and GRPO both have; methods that ran on every "
        "task. IQM: interquartile mean. Intervals: bootstrap, stratified by task; none where a task has fewer than "
        "four seeds.",
        "",
        "| method | pairs | minus GRPO | 95 % | ahead of GRPO in | IQM | 95 % | GRPO's IQM |",
        "|---|---|---|---|---|---|---|---|",
        *(line for _, line in sorted(rows, key=lambda row: -row[0])),
        "",
    ]


def _bounds(found: Any, shape: str) -> str:
    return "-" if found.low is None else f"{found.low:{shape}} to {found.high:{shape}}"


def rate_table(records: Sequence[Record]) -> list[str]:
    """Where the learning rate ended, of the methods that adapt it: configured rate times step size."""
    rates: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["clip"] == CLIP and record["last"].get("lr_scale", 1.0) != 1.0:
            rates[record["task"], record["method"]][record["lr"]].append(record["lr"] * record["last"]["lr_scale"])
    rates = {key: row for key, row in rates.items() if len(row) > 2}
    if not rates:
        return []
    values = sorted({value for row in rates.values() for value in row})
    lines = [
        "## Where the learning rate ended",
        "",
        "Configured rate times step size in the last fifth of the steps, mean over seeds.",
        "",
        f"| task | method | {' | '.join(f'{value:g}' for value in values)} |",
        "|---|---|" + "---|" * len(values),
    ]
    for (task, method), row in sorted(rates.items()):
        shown = " | ".join(f"{_mean(row[v]):.1e}" if v in row else "" for v in values)
        lines.append(f"| {task} | `{method}` | {shown} |")
    return [*lines, ""]


def drift_table(records: Sequence[Record]) -> list[str]:
    """Step KL and entropy over the learning rates, of the methods that ran at three or more of them."""
    rows: dict[tuple[str, str], dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["clip"] == CLIP and "kl_k3" in record["means"]:
            rows[record["task"], record["method"]][record["lr"]].append(record)
    rows = {key: row for key, row in rows.items() if len(row) > 2}
    if not rows:
        return []
    lines = [
        "## Which drift",
        "",
        "Means over a run, then over seeds: step KL by k1 and by k3 in 1e-5 nats per token, policy entropy in nats, "
        "and k3 over the entropy, which the step size keeps at its target.",
        "",
        "| task | method | learning rate | seeds | final accuracy | k1 | k3 | entropy | k3 / entropy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, method), row in sorted(rows.items()):
        for rate, runs in sorted(row.items()):
            k1, k3, entropy = (_mean([run["means"][name] for run in runs]) for name in ("kl", "kl_k3", "entropy"))
            over = _mean([run["means"]["kl_k3"] / run["means"]["entropy"] for run in runs])
            lines.append(
                f"| {task} | `{method}` | {rate:g} | {len(runs)} | {_mean([final(run) for run in runs]):.3f} | "
                f"{1e5 * k1:.3g} | {1e5 * k3:.3g} | {entropy:.3f} | {over:.2g} |"
            )
    return [*lines, ""]


def _span(values: Sequence[float], shape: str) -> str:
    return _bounds(seed_interval([values]), shape)


def _cost(pairs: Sequence[tuple[Record, Record]]) -> str:
    """Tokens to what GRPO ended at with the same seed, over GRPO's own; mean of the pairs that got there."""
    shares = []
    for mine, theirs in pairs:
        reached, base = tokens_to(mine, final(theirs)), tokens_to(theirs, final(theirs))
        if reached is not None and base:
            shares.append(reached / base)
    never = len(pairs) - len(shares)
    words = f"never on {never} of {len(pairs)}" if never else ""
    return ", ".join(filter(None, (f"{_mean(shares):.2f}" if shares else "", words)))


def range_table(records: Sequence[Record], setting: str) -> list[str]:
    """Mean final accuracy of each method over a grid, and the width of the range that works."""
    grid = _grid(records, setting)
    if not grid:
        return []
    values = sorted({value for row in grid.values() for value in row})
    words = {"lr": "learning rate", "clip": "base clip ratio"}[setting]
    lines = [
        f"## Final accuracy over the {words}",
        "",
        f"Mean over the seeds that ran at every setting (their number in brackets). The range has the settings within "
        f"{WITHIN:g} of the method's own best.",
        "",
        f"| task | method | {' | '.join(f'{value:g}' for value in values)} | range | high / low |",
        "|---|---|" + "---|" * (len(values) + 2),
    ]
    for (task, method), row in grid.items():
        means = {value: _mean(found) for value, found in row.items()}
        low, high = working_range(means)
        shown = " | ".join(f"{means[v]:.3f} ({len(row[v])})" if v in means else "" for v in values)
        lines.append(f"| {task} | `{method}` | {shown} | {low:g} to {high:g} | {high / low:.1f} |")
    return [*lines, ""]


def write(records: Sequence[Record], results: Path, page: Path) -> None:
    """The page with all tables, and the pictures beside the results file."""
    tasks = sorted({record["task"] for record in records})
    curves, ranges = results.with_suffix(".png"), results.with_name(f"{results.stem}_lr.png")
    beside = os.path.relpath(results.parent, page.parent)
    lines = [
        "# Methods compared at equal generated tokens",
        "",
        f"Written by `python -m benchmarks.compare.run --report` from [{results.name}]({beside}/{results.name}). The "
        "loop is `examples/inprocess_grpo.py`: one process, tiny warm-started models, reasoning-gym tasks. "
        "`benchmarks/compare/cells.py` defines the names; `agpo-x` is `agpo` without x. Final accuracy: greedy, held "
        "out, mean of the last three of twelve evaluations. p: exact sign-flip test of the difference by seed; n seeds "
        "cannot go below 2/2^n. Last columns: means over the last fifth of the steps. Runs keep the defaults "
        "of the version that made them; [evidence.md](evidence.md) says which have changed since.",
        "",
        f"![Accuracy over generated tokens]({beside}/{curves.name})",
        "",
    ]
    lines += effort_table(records, tasks)
    for task in tasks:
        lines += task_table(records, task)
    lines += pooled_table(records, tasks)
    lines += range_table(records, "lr")
    by_rate: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(dict)
    for (task, method), row in _grid(records, "lr").items():
        by_rate[task][method] = row
    if pictures.rates(by_rate, ranges):
        lines += [f"![Final accuracy over the learning rate]({beside}/{ranges.name})", ""]
    lines += rate_table(records)
    lines += drift_table(records)
    lines += range_table(records, "clip")
    write_atomic(page, "\n".join(lines))
    pictures.curves({task: _on_the_same_seeds(found) for task in tasks if (found := by_method(records, task))}, curves)
    print("\n".join(lines))


def _grid(records: Sequence[Record], setting: str) -> dict[tuple[str, str], dict[float, list[float]]]:
    """(task, method) -> setting -> final accuracies, of the seeds that tried every setting, at least three of them."""
    tried: dict[tuple[str, str], dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        usual = record["clip"] == CLIP if setting == "lr" else record["lr"] == TASKS[record["task"]].lr
        if usual:
            tried[record["task"], record["method"]][record[setting]][record["seed"]] = final(record)
    grid = {}
    for key, row in sorted(tried.items()):
        seeds = set.intersection(*map(set, row.values()))
        if len(row) > 2 and seeds:
            grid[key] = {value: [found[s] for s in sorted(seeds)] for value, found in row.items()}
    return grid


def _on_the_same_seeds(methods: dict[str, dict[int, Record]]) -> dict[str, dict[int, Record]]:
    """The methods with five seeds (or with most, if none has five), on the seeds that all of those ran."""
    enough = min(5, max(map(len, methods.values())))
    chosen = {method: runs for method, runs in methods.items() if len(runs) >= enough}
    seeds = set.intersection(*map(set, chosen.values()))
    return {method: {s: runs[s] for s in seeds} for method, runs in chosen.items()} if seeds else methods


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
