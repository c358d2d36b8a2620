# SPDX-License-Identifier: Apache-2.0
"""Pictures of a comparison: accuracy over generated tokens, and final accuracy over the learning rate.

Methods have the colours of ``recipe.agpo.palette`` and are named where their lines end. A band is the 95 % interval of
the mean over seeds, from four seeds on; fewer seeds are drawn as single points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.agpo import palette
from recipe.agpo.evaluate.metrics import seed_interval

Record = dict[str, Any]
SHOWN = ("grpo", "agpo", "reference", "agpo_d", "agpo_l", "dapo_like")  # with colours; the table has every method


def curves(by_task: Mapping[str, Mapping[str, Mapping[int, Record]]], path: Path) -> bool:
    """Accuracy over tokens, a panel for each task of task -> method -> seed -> run; False without data."""
    shown = {task: {m: runs for m, runs in methods.items() if m in SHOWN} for task, methods in by_task.items()}
    shown = {task: methods for task, methods in shown.items() if methods}
    if not shown:
        return False
    figure, axes = _panels(len(shown))
    for axis, (task, methods) in zip(axes, shown.items(), strict=True):
        ends = []
        for method in sorted(methods, key=SHOWN.index):
            runs = list(methods[method].values())
            length = min(len(run["curve"]) for run in runs)
            tokens = [_mean([run["curve"][i][0] for run in runs]) / 1000 for i in range(length)]
            found = [seed_interval([[run["curve"][i][1] for run in runs]]) for i in range(length)]
            colour = palette.series(palette.METHODS[method])
            means = [each.value for each in found]
            axis.plot(tokens, means, color=colour, linewidth=2.2 if method in SHOWN[:3] else 1.2)
            bounds = [(each.low, each.high) for each in found if each.low is not None]
            if method in SHOWN[:3] and len(bounds) == length:
                axis.fill_between(tokens, *zip(*bounds, strict=True), color=colour, alpha=0.14, linewidth=0)
            ends.append((tokens[-1], means[-1], method, colour))
        axis.set(title=f"{task}, {_seeds(methods)}", xlabel="generated tokens, thousands")
        axis.set_xlim(0, None)
        palette.label_ends(axis, ends)
    axes[0].set_ylabel("held-out accuracy, greedy")
    _save(figure, "Mean over seeds. Band (grpo, agpo, reference): 95 % bootstrap interval of the mean.", path)
    return True


def rates(grids: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], path: Path) -> bool:
    """Final accuracy over the learning rate, a panel for each task of task -> method -> rate -> accuracies by seed."""
    if not grids:
        return False
    figure, axes = _panels(len(grids))
    for axis, (task, methods) in zip(axes, grids.items(), strict=True):
        ends = []
        for method, place in zip(methods, palette.places(list(methods)), strict=True):
            row, colour = methods[method], palette.series(place)
            values = sorted(row)
            found = [seed_interval([row[rate]]) for rate in values]
            means = [each.value for each in found]
            axis.plot(
                values, means, color=colour, linewidth=2.0, linestyle=palette.dash(place), marker="o", markersize=4
            )
            if all(each.low is not None for each in found):
                bounds = [(each.low, each.high) for each in found]
                axis.fill_between(values, *zip(*bounds, strict=True), color=colour, alpha=0.14, linewidth=0)
            elif any(len(row[rate]) > 1 for rate in values):
                points = [(rate, y) for rate in values for y in row[rate]]
                axis.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.5, markersize=4)
            ends.append((values[-1], means[-1], method, colour))
        counts = sorted({len(ys) for row in methods.values() for ys in row.values()})
        seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s'[: counts[0] > 1]}"
        axis.set(title=f"{task}, {seeds}", xscale="log", xlabel="learning rate", ylim=(-0.02, 1))
        palette.label_ends(axis, ends)
    axes[0].set_ylabel("final held-out accuracy")
    words = "Line: mean over the seeds that ran at every rate; small points: each seed; band, from four seeds on: 95 %."
    _save(figure, words, path)
    return True


def _panels(count: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * count, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    figure.subplots_adjust(left=0.75 / (5.4 * count), right=1 - 1.0 / (5.4 * count), bottom=0.2, top=0.91, wspace=0.42)
    for axis in axes:
        palette.plain(axis)
    return figure, axes


def _seeds(methods: Mapping[str, Mapping[int, Record]]) -> str:
    counts = sorted({len(runs) for runs in methods.values()})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _save(figure: Any, caption: str, path: Path) -> None:
    figure.text(0.01, 0.025, caption, fontsize=9, color=palette.SERIES[palette.INK])
    figure.savefig(path, dpi=110)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
