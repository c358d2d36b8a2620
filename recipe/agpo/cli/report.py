# SPDX-License-Identifier: Apache-2.0
"""``agpo report``: one page from the logs of one or several runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipe.agpo.files import FileError, write_text

NAME = "report.html"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("report", help="one HTML page from the logs of runs: is it healthy?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or one metrics*.jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: RUN/{NAME}; of several runs, {NAME}")


def run(arguments: argparse.Namespace) -> int:
    """Write the page. Returns 0, or 2 if a run is not there or the page cannot be written."""
    from recipe.agpo.report.health import findings, overall
    from recipe.agpo.report.page import page
    from recipe.agpo.report.read import read_runs

    try:
        runs = read_runs(arguments.runs)
        out = arguments.out or _default(arguments.runs)
        _check_out(out)
        write_text(out, page(runs))
    except (OSError, FileError) as error:
        print(f"agpo report: {error}", file=sys.stderr)
        return 2
    for each in runs:
        verdict = overall(findings(each)).value if each.training else "no training step yet"
        print(f"{each.name}: {each.steps} steps, {verdict}")
    print(f"page: {out}")
    return 0


def _check_out(out: Path) -> None:
    """Raise FileError if ``out`` is a file of another kind, such as one of the logs."""
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as file:
            if file.read(9).lower() != b"<!doctype":
                raise FileError(f"--out {out} is there and is not a report: name another file, or remove it")


def _default(paths: list[Path]) -> Path:
    if len(paths) > 1:
        return Path(NAME)
    return (paths[0] if paths[0].is_dir() else paths[0].parent) / NAME
