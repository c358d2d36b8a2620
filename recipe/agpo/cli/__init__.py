# SPDX-License-Identifier: Apache-2.0
# PYTHON_ARGCOMPLETE_OK
"""The command ``agpo``: ``doctor``, ``config``, ``plan``, ``model``, ``data``, ``average``, ``eval``, ``report``."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from recipe.agpo.arguments import FAULTY, INTERRUPTED, whole
from recipe.agpo.cli.rows import DISTRIBUTION
from recipe.agpo.files import FileError

PIPE_CLOSED = 141  # what a shell reports after SIGPIPE
TRACEBACK = "AGPO_TRACEBACK"  # set it to print the traceback of an unexpected error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit code. 0: success; 1: the command found a problem (see its own help); 2: bad input or usage, one message
        on stderr; 130 after Ctrl-C, with one line on stderr; 141 if the reader of the output has closed it.
    """
    name = "agpo"
    _no_progress_bars_on_pipes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # file names and texts that the terminal's encoding does not have
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            given = list(sys.argv[1:] if argv is None else argv)
            parser = _parser(given[:1] == ["doctor"])
            if "_ARGCOMPLETE" in os.environ:  # the shell asks how a line could go on
                import argcomplete

                argcomplete.autocomplete(parser)
            arguments = parser.parse_args(given)
            name = " ".join(["agpo", arguments.command, *filter(None, [getattr(arguments, "action", None)])])
            return _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at the end of the process a closed pipe would give a message of Python's own
    except KeyboardInterrupt:
        with suppress(OSError):
            print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except FileError as error:
        message = str(error)
    except OSError as error:
        if any(map(_unread, (sys.stdout, sys.stderr))):
            return PIPE_CLOSED
        place = f"{error.filename}: " if error.filename is not None else ""
        message = f"{place}{error.strerror or error}"
    except Exception as error:  # a user gets a message, not a traceback
        if os.environ.get(TRACEBACK):
            raise
        what = " ".join(str(error).split())[:500]
        message = f"{type(error).__name__}: {what} (unexpected: {TRACEBACK}=1 shows where it comes from)"
    with suppress(OSError):
        print(f"{name}: {message}", file=sys.stderr)
    return FAULTY


def _no_progress_bars_on_pipes() -> None:
    """Libraries redraw their bars hundreds of times, which fills a log. A value that the user has set stays."""
    if sys.stderr is None or not sys.stderr.isatty():
        for variable in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(variable, "1")


def _unread(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe without a reader, or cannot be written; such a stream is silenced."""
    if stream is None:
        return False
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # not a file of the system, as in tests
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    gone = any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    try:
        stream.flush()
    except OSError:
        # Python would write again at exit and report an error.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    return gone


def _run(arguments: argparse.Namespace) -> int:
    # Each command imports its modules when it runs: `agpo config` must not wait for Ray and vLLM.
    if arguments.command == "doctor":
        from recipe.agpo.cli import doctor

        return doctor.run(
            ray=not arguments.no_ray, json_path=arguments.json, ranks=arguments.ranks, folder=arguments.folder
        )
    if arguments.command == "plan":
        from recipe.agpo.cli import plan

        return plan.run(arguments)
    if arguments.command == "model":
        from recipe.agpo.cli import model

        return model.run(arguments)
    if arguments.command == "data":
        from recipe.agpo.cli import data

        return data.run(arguments)
    if arguments.command == "average":
        from recipe.agpo.cli import average

        return average.run(arguments)
    if arguments.command == "eval":
        from recipe.agpo.cli import eval as evaluation

        return evaluation.run(arguments)
    if arguments.command == "report":
        from recipe.agpo.cli import report

        return report.run(arguments)
    from recipe.agpo.cli import config

    return config.run(markdown=arguments.markdown, write=arguments.write, preset=arguments.preset)


def _parser(only_doctor: bool = False) -> argparse.ArgumentParser:
    """``only_doctor``: without the others' modules, which a machine that needs a doctor may not be able to import."""
    parser = argparse.ArgumentParser(prog="agpo", description="AGPO for verl: checks, configuration, data, evaluation.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of agpo-verl and verl")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="could training start on this machine, and why not")
    doctor.add_argument("--no-ray", action="store_true", help="leave out the check in a Ray worker (the slow one)")
    doctor.add_argument(
        "--ranks", type=whole, metavar="N", help="check the Ray cluster at RAY_ADDRESS, or this machine, for N GPUs"
    )
    doctor.add_argument("--folder", type=Path, metavar="OUT", help="with --ranks: a folder that all nodes must share")
    doctor.add_argument("--json", type=Path, metavar="PATH", help="also write the rows to PATH as JSON")
    if only_doctor:
        return parser

    from recipe.agpo.cli import average, data, model, plan, report
    from recipe.agpo.cli import eval as evaluation

    plan.register(commands)
    model.register(commands)
    data.register(commands)
    average.register(commands)
    evaluation.register(commands)
    report.register(commands)
    config = commands.add_parser("config", help="print every key of algorithm.agpo with its meaning")
    form = config.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="as the Hydra file agpo_trainer.yaml (default)")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table for the docs")
    form.add_argument("--preset", metavar="NAME", help="every key with the value that a preset gives it")
    config.add_argument("--write", type=Path, metavar="PATH", help="write it to PATH instead of printing it")
    return parser


class _Version(argparse.Action):
    """``--version``: what is installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in (DISTRIBUTION, "verl", "torch"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed"
        python = ".".join(map(str, sys.version_info[:3]))
        print(*(f"{name} {number}" for name, number in found.items()), f"Python {python}", sep=", ")
        parser.exit()
