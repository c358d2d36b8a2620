# SPDX-License-Identifier: Apache-2.0
"""AGPO's entry point: verl's ``main_ppo`` with a config that lists every AGPO key.

``python -m recipe.agpo.main data.train_files=... algorithm.agpo.temperature.gain=0.2`` (no ``+`` needed).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipe.agpo.arguments import dry_run

INTERRUPTED = 130  # what a shell reports after Ctrl-C
CONFIG_FOLDER = Path(__file__).parent / "config"


def main() -> None:
    """Run verl's entry point with ``recipe/agpo/config/agpo_trainer.yaml``."""
    arguments = sys.argv[1:]
    if dry_run():
        print(*_planned(arguments), sep="\n")
        return
    chosen = {argument.split("=", 1)[0] for argument in arguments}
    if not chosen & {"--config-path", "--config-dir", "-cp", "-cd"}:
        arguments = ["--config-path", str(CONFIG_FOLDER), *arguments]
    if not chosen & {"--config-name", "-cn"}:
        arguments = ["--config-name", "agpo_trainer", *arguments]
    # Hydra takes a search path from the primary config only, and ours are also the base of other configs; its
    # parser wants all overrides side by side.
    first = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
    arguments.insert(first, "hydra.searchpath=[pkg://verl.trainer.config]")
    sys.argv = [sys.argv[0], *arguments]
    from verl.trainer.main_ppo import main as verl_main

    try:
        verl_main()
    except KeyboardInterrupt:
        print("agpo: interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _planned(arguments: list[str]) -> list[str]:
    """The name of the config and the overrides, one per line, as ``agpo plan`` reads them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn", default="agpo_trainer")
    parser.add_argument("--config-path", "--config-dir", "-cp", "-cd")
    given, others = parser.parse_known_args(arguments)
    name = given.config_name
    if given.config_path is not None:
        name = str(Path(given.config_path, name).with_suffix(".yaml").absolute())
    return ["--config-name", name, *(each for each in others if not each.startswith("-"))]


if __name__ == "__main__":
    main()
