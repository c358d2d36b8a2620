# SPDX-License-Identifier: Apache-2.0
"""Summary of a run: ``summary.json``, ``curves.png`` and one line, from the metrics that verl's file logger wrote.

The logger writes one ``{"step": ..., "data": {...}}`` per line and starts a new file at every start, so a run that was
resumed has several files; for a step that was run twice the later file counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipe.agpo import palette
from recipe.agpo.files import parse_json, replacing, write_text
from recipe.agpo.quickstart.task import DATA_SOURCE

ACCURACY = f"val-core/{DATA_SOURCE}/acc/mean@1"  # of the quickstart's own task
_ACCURACY = re.compile(r"val-core/.*/acc/mean@\d+")
REWARD = "critic/score/mean"
RATE, STEP_SIZE = "actor/lr", "agpo/step_size/scale"
TOKENS = "agpo/tokens/generated"
RESPONSE_LENGTH = "response_length/mean"
LARGEST = 1e300  # a larger value is damage
Record = tuple[int, Mapping[str, Any]]
Series = list[tuple[int, float]]


@dataclass(frozen=True)
class Summary:
    """A run in figures; accuracy is the greedy one on the held-out problems, None where it was not measured."""

    method: str
    seed: int
    steps: int
    accuracy_first: float | None
    accuracy_last: float | None
    accuracy_best: float | None
    generated_tokens: int
    wall_seconds: float
    line: str


def write(
    folder: str | os.PathLike[str],
    *,
    wall_seconds: float,
    method: str = "",
    seed: int = 0,
    responses_per_step: int = 256,
    name: str = "quickstart",
) -> Summary:
    """Read ``folder/metrics*.jsonl``, write ``summary.json`` and ``curves.png`` beside them, print the line.

    Args:
        folder: run folder.
        wall_seconds: from start to end, as measured by the caller.
        method, seed: only recorded.
        responses_per_step: for runs that do not log their generated tokens (plain GRPO): a step's tokens are then
            mean response length times this number.
        name: what the line begins with.

    Raises:
        ValueError: no metrics file, or none with a complete line.
    """
    folder = Path(folder)
    files = sorted(folder.glob("metrics*.jsonl"))
    records = read(files)
    if not records:
        raise ValueError(f"no metrics in {folder}: expected metrics*.jsonl with one record a step")
    result = summarise(
        records, wall_seconds=wall_seconds, method=method, seed=seed, responses_per_step=responses_per_step, name=name
    )
    draw(records, folder / "curves.png", title=f"{method or 'run'}, seed {seed}", responses=responses_per_step)
    # Last: its presence says that the run is finished.
    write_text(folder / "summary.json", json.dumps(asdict(result), indent=2) + "\n")
    print(result.line)
    return result


def read(files: Iterable[Path]) -> list[Record]:
    """Records in order of step; a line cut short by a crash is left out.

    The last value of a key of a step counts. A resumed run validates at the step that it continues from, so that
    step has two records: its training and the validation.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for file in files:
        if not file.is_file():  # a named pipe would wait for its writer
            continue
        for line in file.read_bytes().split(b"\n"):
            try:
                record = parse_json(line)
                step, data = int(record["step"]), dict(record["data"])
            except (ValueError, KeyError, TypeError, OverflowError):
                continue
            by_step[step] = by_step.get(step, {}) | data
    return sorted(by_step.items())


def series(records: Sequence[Record], key: str) -> Series:
    """The finite numbers logged under ``key``: [(step, value), ...]."""
    points = []
    for step, data in records:
        value = data.get(key)
        # The bound also keeps out whole numbers that no float can hold.
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST:
            points.append((step, float(value)))
    return points


def accuracy_key(records: Sequence[Record]) -> str:
    """The key of the validation accuracy, by the data source that was validated on."""
    return next((key for _, data in records for key in data if _ACCURACY.fullmatch(key)), ACCURACY)


def tokens_per_step(records: Sequence[Record], responses_per_step: int) -> Series:
    """Generated tokens of each step, probes included; from the mean response length where they are not logged."""
    logged = dict(series(records, TOKENS))
    estimated = {s: length * responses_per_step for s, length in series(records, RESPONSE_LENGTH)}
    return sorted((estimated | logged).items())


def summarise(
    records: Sequence[Record],
    *,
    wall_seconds: float,
    method: str = "",
    seed: int = 0,
    responses_per_step: int = 256,
    name: str = "quickstart",
) -> Summary:
    """The figures of a run from its records."""
    accuracy = [value for _, value in series(records, accuracy_key(records))]
    tokens = round(sum(value for _, value in tokens_per_step(records, responses_per_step)))
    steps = max((step for step, _ in records), default=0)
    first, last = (accuracy[0], accuracy[-1]) if accuracy else (None, None)
    line = (
        f"{name}: val accuracy {_show(first)} -> {_show(last)} | steps {steps} | "
        f"generated tokens {tokens} | wall {wall_seconds:.0f} s"
    )
    best = max(accuracy, default=None)
    return Summary(method, seed, steps, first, last, best, tokens, round(wall_seconds, 1), line)


def newest(data: Mapping[str, Any]) -> dict[str, str]:
    """What the progress bar shows of a step; lr is the effective learning rate, rate × step size."""
    step = [(0, data)]
    known = {"reward": series(step, REWARD), "tau": series(step, "agpo/tau/mean"), "eps": series(step, "agpo/eps/mean")}
    shown = {name: f"{points[0][1]:.3f}" for name, points in known.items() if points}
    if rate := effective_rate(step):
        shown["lr"] = f"{rate[0][1]:.1e}"
    return shown


def effective_rate(records: Sequence[Record]) -> Series:
    """Learning rate times step size; the rate alone where there is no step size."""
    scales = dict(series(records, STEP_SIZE))
    return [(step, rate * scales.get(step, 1.0)) for step, rate in series(records, RATE)]


def draw(records: Sequence[Record], path: Path, *, title: str, responses: int) -> None:
    """Six panels over steps; a panel without data has a note. Lines are means, bands go from lowest to highest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 3).flat
    # name, unit of the y axis, line, band
    panels: list[tuple[str, str, Series, tuple[Series, Series]]] = [
        ("Validation accuracy", "share of held-out problems", series(records, accuracy_key(records)), ([], [])),
        ("Reward", "mean of a step's responses", series(records, REWARD), ([], [])),
        ("Effective learning rate", "rate × step size", effective_rate(records), ([], [])),
        ("Temperature tau", "mean; band: lowest to highest", *_spread(records, "agpo/tau")),
        ("Clip ratio eps, lower", "mean; band: lowest to highest", *_spread(records, "agpo/eps")),
        ("Generated tokens", "since the start", cumulative(tokens_per_step(records, responses)), ([], [])),
    ]
    colour = palette.series(palette.METHODS.get(title.partition(",")[0], palette.BLUE))
    for axis, (name, unit, line, (low, high)) in zip(axes, panels, strict=True):
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
        palette.plain(axis)
        if line:
            steps = [step for step, _ in line]
            axis.plot(*zip(*line, strict=True), color=colour, marker="o" if len(line) <= 12 else None)
            if low and high and len(low) == len(high) == len(steps):
                axis.fill_between(steps, [y for _, y in low], [y for _, y in high], color=colour, alpha=0.15, lw=0)
        else:
            axis.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axis.transAxes)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _spread(records: Sequence[Record], key: str) -> tuple[Series, tuple[Series, Series]]:
    return series(records, f"{key}/mean"), (series(records, f"{key}/min"), series(records, f"{key}/max"))


def cumulative(points: Series) -> Series:
    """Running sum of a series."""
    total, summed = 0.0, []
    for step, value in points:
        total += value
        summed.append((step, total))
    return summed


def _show(accuracy: float | None) -> str:
    return "?" if accuracy is None else f"{accuracy:.3f}"


def main() -> int:
    """``python -m recipe.agpo.quickstart.summary FOLDER``: summarise a run again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wall-seconds", type=float, default=0.0)
    given = parser.parse_args()
    try:
        write(given.folder, wall_seconds=given.wall_seconds)
    except (ValueError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
