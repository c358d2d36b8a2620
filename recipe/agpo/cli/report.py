# SPDX-License-Identifier: Apache-2.0
"""``agpo report``: one page from the logs of one or several runs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from recipe.agpo.arguments import positive
from recipe.agpo.files import FileError, write_text

NAME = "report.html"
WATCH_S = 10


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("report", help="one HTML page from the logs of runs: is it healthy?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or one metrics*.jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: RUN/{NAME}; of several runs, {NAME}")
    parser.add_argument(
        "--watch",
        type=positive,
        nargs="?",
        const=WATCH_S,
        metavar="SECONDS",
        help=f"write the page again every SECONDS (default {WATCH_S}), until Ctrl-C; an open page reloads itself",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page. Returns 0, or 2 if a run is not there or the page cannot be written."""
    from recipe.agpo.report.read import shown

    out = arguments.out or _default(arguments.runs)
    try:
        said = ""
        while True:
            lines = _write(arguments.runs, out, arguments.watch)
            if lines != said:
                print(f"{lines}\npage: {shown(out)}", flush=True)
            if arguments.watch is None:
                return 0
            said = lines
            time.sleep(arguments.watch)
    except (OSError, FileError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"agpo report: {shown(message)}", file=sys.stderr)
        return 2


def _write(paths: list[Path], out: Path, refresh: int | None) -> str:
    """Write the page once; returns a line for each run."""
    from recipe.agpo.report.health import findings, in_words, overall
    from recipe.agpo.report.page import page
    from recipe.agpo.report.read import read_runs

    runs = read_runs(paths)
    _check_out(out)
    write_text(out, page(runs, refresh))
    lines = []
    for each in runs:
        found = findings(each)
        verdict = f"{overall(found).value} ({in_words(each, found)})" if each.training else "no training step yet"
        lines.append(f"{each.name}: {each.steps} steps, {verdict}")
    return "\n".join(lines)


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
