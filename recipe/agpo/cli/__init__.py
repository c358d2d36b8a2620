# SPDX-License-Identifier: Apache-2.0
"""The command ``agpo``: ``doctor``, ``config``, ``plan``, ``data``, ``eval`` and ``report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code (0: fine, 1: training could not start, 2: wrong usage)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    # Each command imports what it needs when it runs: `agpo config` must not wait for Ray and vLLM.
    if arguments.command == "doctor":
        from recipe.agpo.cli import doctor

        return doctor.run(
            ray=not arguments.no_ray, json_path=arguments.json, ranks=arguments.ranks, folder=arguments.folder
        )
    if arguments.command == "plan":
        from recipe.agpo.cli import plan

        return plan.run(arguments)
    if arguments.command == "data":
        from recipe.agpo.cli import data

        return data.run(arguments)
    if arguments.command == "eval":
        from recipe.agpo.cli import eval as evaluation

        return evaluation.run(arguments)
    if arguments.command == "report":
        from recipe.agpo.cli import report

        return report.run(arguments)
    from recipe.agpo.cli import config

    return config.run(markdown=arguments.markdown, write=arguments.write, preset=arguments.preset)


def _parser() -> argparse.ArgumentParser:
    from agpo_core.config import PRESETS
    from recipe.agpo.cli import data, plan, report
    from recipe.agpo.cli import eval as evaluation

    parser = argparse.ArgumentParser(prog="agpo", description="AGPO for verl: checks, configuration, data, evaluation.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="could training start on this machine, and why not")
    doctor.add_argument("--no-ray", action="store_true", help="leave out the check in a Ray worker (the slow one)")
    doctor.add_argument(
        "--ranks", type=int, metavar="N", help="check the Ray cluster at RAY_ADDRESS, or this machine, for N GPUs"
    )
    doctor.add_argument("--folder", type=Path, metavar="OUT", help="with --ranks: a folder that all nodes must share")
    doctor.add_argument("--json", type=Path, metavar="PATH", help="also write the rows to PATH as JSON")
    plan.register(commands)
    data.register(commands)
    evaluation.register(commands)
    report.register(commands)
    config = commands.add_parser("config", help="print every key of algorithm.agpo with its meaning")
    form = config.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="as the Hydra file agpo_trainer.yaml (default)")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table for the docs")
    form.add_argument("--preset", choices=sorted(PRESETS), help="every key with the value that a preset gives it")
    config.add_argument("--write", type=Path, metavar="PATH", help="write it to PATH instead of printing it")
    return parser
