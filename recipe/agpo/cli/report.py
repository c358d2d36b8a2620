# SPDX-License-Identifier: Apache-2.0
"""``agpo report``: one page from the logs of one or several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "report.html"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("report", help="one HTML page from the logs of runs: is it healthy?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or one metrics*.jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: RUN/{NAME}; of several runs, {NAME}")


def run(arguments: argparse.Namespace) -> int:
    """Write the page. Returns 0, or 2 if a run is not there or the page cannot be written."""
    from agpo_core.files import write_atomic
    from recipe.agpo.report.health import findings, overall
    from recipe.agpo.report.page import page
    from recipe.agpo.report.read import read_runs

    try:
        runs = read_runs(arguments.runs)
        out = arguments.out or _default(arguments.runs)
        write_atomic(out, page(runs))
    except OSError as error:
        print(f"agpo report: {error}")
        return 2
    for each in runs:
        verdict = overall(findings(each)).value if each.training else "no training step yet"
        print(f"{each.name}: {each.steps} steps, {verdict}")
    print(f"page: {out}")
    return 0


def _default(paths: list[Path]) -> Path:
    if len(paths) > 1:
        return Path(NAME)
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / NAME
