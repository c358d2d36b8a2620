# SPDX-License-Identifier: Apache-2.0
"""``agpo plan``: what a run will do and need, before it is started."""

from __future__ import annotations

import argparse
import logging
import sys

from recipe.agpo.arguments import finite
from recipe.agpo.cli.rows import draw

BAD_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("plan", help="what a launch script or config will do and need; no GPU, no Ray")
    parser.add_argument("target", nargs="?", help="scripts/run_<method>_<model>.sh, a config's name, or a YAML file")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, as for training")
    parser.add_argument("--config-name", help="the target, as the training command names it")
    parser.add_argument("--diff", metavar="OTHER", help="print what differs from another script or config")
    parser.add_argument("--gpu-gb", type=finite, default=80.0, help="memory of one GPU (default 80)")
    parser.add_argument(
        "--tokens-per-second-per-gpu",
        type=finite,
        metavar="N",
        help="generated tokens per second and GPU over a whole step, to compute GPU-hours; from a run's own log "
        "(no default: it depends on model, lengths and GPU)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 1 if the run could not start on this machine, or does not fit into --gpu-gb",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, 1 with ``--strict`` and a problem, 2 if there is nothing to plan or the plan cannot be drawn."""
    logging.disable(logging.WARNING)
    from omegaconf.errors import OmegaConfBaseException

    from recipe.agpo.plan import prompts, screen
    from recipe.agpo.plan.compose import PlanError, compose, differences
    from recipe.agpo.preflight import find_problems, find_warnings, numbered
    from recipe.agpo.preflight.algorithm import with_fallbacks

    target, overrides = arguments.target, list(arguments.overrides)
    if arguments.config_name:
        overrides, target = [*([target] if target else []), *overrides], arguments.config_name
    if not target:
        print("agpo plan: name a script or a config, for example scripts/run_agpo_qwen14b.sh", file=sys.stderr)
        return 2
    speed = arguments.tokens_per_second_per_gpu
    for option, number in (("--gpu-gb", arguments.gpu_gb), ("--tokens-per-second-per-gpu", speed)):
        if number is not None and number <= 0:
            print(f"agpo plan: {option} {number:g}: must be above 0", file=sys.stderr)
            return 2
    drawn: list[tuple[str, str]] = []
    shown: list[str] = []
    failure, overfull = "", None
    try:
        config = compose(target, overrides)
        if arguments.diff is not None:
            rows = differences(config, compose(arguments.diff, overrides))
            cells = [(key, str(ours), str(theirs)) for key, ours, theirs in rows]
            if not draw(cells, head=("setting", str(target), arguments.diff)):
                for key, ours, theirs in cells:
                    print(f"{key}: {ours} | {theirs}")
            return 0
        found = find_problems(config)
        try:
            drawn = list(screen.rows(with_fallbacks(config), arguments.gpu_gb, speed))
            shown = list(prompts.lines(config))
            overfull = screen.overfull(config, arguments.gpu_gb)
        # A value of the wrong type fails where it is used first; the problems name it.
        except (OmegaConfBaseException, *BAD_VALUES) as error:
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    except (PlanError, OmegaConfBaseException, *BAD_VALUES) as error:
        kind = "" if isinstance(error, PlanError | ValueError) else f"{type(error).__name__}: "
        print(f"agpo plan: {target}: {kind}{error}", file=sys.stderr)
        return 2
    if failure:
        reasons = f"{len(found)} problem(s):\n{numbered(found)}" if found else failure
        print(f"agpo plan: {target}: no plan can be drawn, {reasons}", file=sys.stderr)
        return 2
    if not draw(drawn, styles=("bold", "")):
        print(*screen.plain(drawn), sep="\n")
    for line in shown:
        print(line)
    for warning in find_warnings(config):
        print(f"WARNING: {warning}")
    if overfull:
        found.append(overfull)
    for problem in found:
        print(f"PROBLEM on this machine: {problem}")
    return int(bool(found) and arguments.strict)
