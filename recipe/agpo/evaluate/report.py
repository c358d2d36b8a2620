# SPDX-License-Identifier: Apache-2.0
"""The report files: ``eval.json``, ``eval.md``, ``eval.png``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.agpo import palette
from recipe.agpo.evaluate.store import REPORT
from recipe.agpo.files import replacing, write_text

Result = Mapping[str, Any]
LISTED = 20  # rows named in a note


def write(out: Path, result: Result, *, picture: bool = True) -> None:
    """Write the files into ``out``; JSON last, since its presence says that the evaluation is finished."""
    if picture:
        draw(result, out / "eval.png")
    write_text(out / "eval.md", markdown(result))
    write_text(out / REPORT, json.dumps(result, indent=2, allow_nan=False) + "\n")


def markdown(result: Result) -> str:
    """Protocol, table, comparison, notes."""
    protocol, generation = result["protocol"], result["generation"]
    lines = [
        f"# Evaluation of {result['model']}",
        "",
        f"Protocol {generation['protocol']}; template {generation['template'].split()[0]}; "
        f"{generation.get('engine', 'unknown engine')}, {generation.get('platform', 'unknown platform')}, "
        f"{generation.get('dtype', 'unknown dtype')}. Fingerprint {result['fingerprint']}.",
        "",
        *_table(result["benchmarks"], protocol["samples"]),
        "",
    ]
    if len(result["benchmarks"]) > 1:
        lines += [f"Average accuracy over the benchmarks, each with equal weight: {_show(result['average_accuracy'])}."]
    if protocol["samples"] > 1:
        lines += ["", *_curves(result["benchmarks"]), ""]
    if result.get("comparison"):
        lines += ["", *_comparison(result["comparison"]), ""]
    lines += ["", *_notes(result)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def draw(result: Result, path: Path) -> None:
    """Accuracy with its interval for each benchmark; beside it, for several samples, pass@k and maj@k over k."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, sampled = result["benchmarks"], result["protocol"]["samples"] > 1
    figure = Figure(figsize=(11 if sampled else 6.5, 1.8 + 0.45 * max(len(rows), 4)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{Path(result['model']).name or result['model']}: {result['protocol']['name']}")
    axes = figure.subplots(1, 2 if sampled else 1, squeeze=False)[0]

    for place, row in enumerate(rows):
        estimate = row["accuracy"]
        below, above = estimate["value"] - estimate["low"], estimate["high"] - estimate["value"]
        axes[0].errorbar(
            estimate["value"], place, xerr=[[below], [above]], fmt="o", color=palette.series(place), capsize=3
        )
    axes[0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    axes[0].set_xlim(0, 1)
    palette.plain(axes[0])
    axes[0].set_xlabel("accuracy, 95 % interval")

    if sampled:
        for place, row in enumerate(rows):
            for figures, style, name in ((row["pass_at"], "o-", "pass@k"), (row["maj_at"], "s:", "maj@k")):
                points = [(int(k), value["value"]) for k, value in figures.items()]
                if points:
                    label = f"{row['name']} {name}" if len(rows) <= 5 else None
                    axes[1].plot(*zip(*points, strict=True), style, color=palette.series(place), label=label)
        axes[1].set_xscale("log", base=2)
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[1].set_ylim(0, 1)
        palette.plain(axes[1])
        axes[1].set_xlabel("k")
        axes[1].set_ylabel("pass@k (line), maj@k (dotted)")
        if len(rows) <= 5:
            axes[1].legend(fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120, metadata={"Software": None})


def _table(rows: Sequence[Result], samples: int) -> list[str]:
    heads = ["benchmark", "problems", "accuracy [95 %]"]
    if samples > 1:
        heads += [f"pass@{samples}", f"maj@{samples}"]
    heads += ["tokens mean", "p90", "cut off", "format", "no answer", "not judged", "too long"]
    body = []
    for row in rows:
        cells = [row["name"], str(row["problems"]), _interval(row["accuracy"])]
        if samples > 1:
            cells += [_at(row["pass_at"], samples), _at(row["maj_at"], samples)]
        tokens = row["tokens"]
        cells += [
            f"{tokens['mean']:.1f}" if tokens else "-",
            f"{tokens['p90']:.0f}" if tokens else "-",
            *(_percent(row[name]) for name in ("truncated", "format", "no_answer")),
            str(row["unjudged"]),
            str(row["prompts_too_long"]),
        ]
        body.append(cells)
    return _grid(heads, body)


def _curves(rows: Sequence[Result]) -> list[str]:
    """pass@k and maj@k with their intervals."""
    ks = sorted({int(k) for row in rows for k in (*row["pass_at"], *row["maj_at"])})
    body = [
        [f"{row['name']}, {name}", *(_interval(row[figures][str(k)]) if str(k) in row[figures] else "-" for k in ks)]
        for row in rows
        for figures, name in (("pass_at", "pass@k"), ("maj_at", "maj@k"))
        if row[figures]
    ]
    return _grid(["benchmark", *(f"k = {k}" for k in ks)], body)


def _comparison(comparison: Result) -> list[str]:
    body = [
        [
            row["name"],
            str(row["problems"]),
            _interval(row["difference"], signed=True),
            str(row["wins"]),
            str(row["losses"]),
            str(row["ties"]),
            f"{row['p_value']:.2g}",
            f"{row['only_here']} / {row['only_there']}",
        ]
        for row in comparison["benchmarks"]
    ]
    lines = [
        f"## Against {comparison['other_model']} ({comparison['other']})",
        "",
        "Difference of accuracy on the problems of both runs, this one minus the other; interval by bootstrap over "
        "problems, p by the exact sign test.",
        "",
        *_grid(
            ["benchmark", "problems", "difference [95 %]", "better", "worse", "equal", "p", "only here / there"], body
        ),
    ]
    if not comparison["same_protocol"]:
        lines += ["", f"**The protocols differ**: the other run's is {comparison['other_protocol']}."]
    if not comparison["same_judging"]:
        lines += ["", "**The verifiers differ**: judge one of the runs again with --rejudge."]
    if comparison["not_compared"]:
        lines += ["", f"In one run only: {', '.join(comparison['not_compared'])}."]
    return lines


def _notes(result: Result) -> list[str]:
    notes = []
    for row in result["benchmarks"]:
        problems = [item for item, count in row["statuses"].items() if count and item != "ok"]
        if problems:
            notes.append(f"{row['name']}: verdicts {', '.join(f'{k} {v}' for k, v in row['statuses'].items())}.")
        if row["unjudged"]:
            notes.append(
                f"{row['name']}: {row['unjudged']} responses could not be judged and count as wrong above; without "
                f"them the accuracy is {_interval(row['accuracy_judged'])}. {_rows(row['rows_unjudged'])}"
            )
        if row["prompts_too_long"]:
            notes.append(
                f"{row['name']}: {row['prompts_too_long']} prompts do not fit into the model's context and count as "
                f"wrong. {_rows(row['rows_too_long'])}"
            )
        if row["responses_limited_by_context"]:
            notes.append(
                f"{row['name']}: for {row['responses_limited_by_context']} responses the context left less room than "
                "the protocol allows."
            )
    return [f"- {note}" for note in notes]


def _rows(rows: Sequence[Result]) -> str:
    shown = ", ".join(str(row["row"]) for row in rows[:LISTED])
    return f"Rows {shown}{', ...' if len(rows) > LISTED else ''}."


def _grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [heads, ["---"] * len(heads), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _at(figures: Result, k: int) -> str:
    return _show(figures[str(k)]["value"]) if str(k) in figures else "-"


def _interval(estimate: Result, signed: bool = False) -> str:
    if estimate["value"] is None:
        return "-"
    form = "{:+.3f}" if signed else "{:.3f}"
    return "{} [{}, {}]".format(*(form.format(estimate[name]) for name in ("value", "low", "high")))


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
