# SPDX-License-Identifier: Apache-2.0
"""AGPO's entry point: verl's ``main_ppo`` with a config that lists every AGPO key.

``python -m recipe.agpo.main data.train_files=... algorithm.agpo.temperature.gain=0.2`` (no ``+`` needed).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from recipe.agpo.arguments import FAULTY, INTERRUPTED, dry_run

CONFIG_FOLDER = Path(__file__).parent / "config"
_FOLDER, _NAME = ("--config-path", "--config-dir", "-cp", "-cd"), ("--config-name", "-cn")


def main() -> None:
    """Run verl's entry point with ``recipe/agpo/config/agpo_trainer.yaml``.

    A setting that cannot work ends the process with one message and exit code 2; any other error has its traceback.
    """
    arguments = sys.argv[1:]
    if dry_run():
        print(*_planned(arguments), sep="\n")
        return
    chosen = {argument.split("=", 1)[0] for argument in arguments}
    if not chosen & {*_FOLDER}:
        arguments = ["--config-path", str(CONFIG_FOLDER), *arguments]
    if not chosen & {*_NAME}:
        arguments = ["--config-name", "agpo_trainer", *arguments]
    # Hydra takes a search path from the primary config only, and ours are also the base of other configs; its
    # parser wants all overrides side by side.
    first = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
    arguments.insert(first, "hydra.searchpath=[pkg://verl.trainer.config]")
    sys.argv = [sys.argv[0], *arguments]
    # Hydra would print the end of a traceback and drop the exception.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    from verl.trainer.main_ppo import main as verl_main

    try:
        verl_main()
    except KeyboardInterrupt:
        print("agpo: interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = _message(error, arguments)
        if message is None:
            raise
        print(f"\n{message}", file=sys.stderr, flush=True)
        raise SystemExit(FAULTY) from None


def _message(error: BaseException, arguments: list[str]) -> str | None:
    """What to tell about an error of the user's; None for any other."""
    from hydra.errors import HydraException

    from recipe.agpo.preflight import numbered, problem_in

    problem = problem_in(error)
    if problem is not None:
        return str(problem)
    # Hydra's own errors; those of code that it calls are chained to an InstantiationException.
    if not isinstance(error, HydraException) or type(error).__name__ == "InstantiationException":
        return None
    unknown = _unknown_keys(arguments)
    if unknown:
        return f"AGPO cannot start, {len(unknown)} key(s) are not in the configuration:\n{numbered(unknown)}"
    return f"AGPO cannot start: {' '.join(str(error).split())[:1000]}"


def _unknown_keys(arguments: list[str]) -> list[str]:
    """The overrides with unknown keys, in words."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    from recipe.agpo.plan.keys import misspelt

    folder, name, overrides = _split(arguments)

    def composed(parts: list[str]) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(Path(folder or CONFIG_FOLDER).absolute()), version_base=None):
            return compose(name, parts)

    return misspelt(composed, overrides)


def _planned(arguments: list[str]) -> list[str]:
    """The name of the config and the overrides, one per line, as ``agpo plan`` reads them."""
    folder, name, overrides = _split(arguments)
    if folder is not None:
        name = str(Path(folder, name).with_suffix(".yaml").absolute())
    return ["--config-name", name, *overrides]


def _split(arguments: list[str]) -> tuple[str | None, str, list[str]]:
    """Folder and name of the config, and the overrides."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*_NAME, dest="name", default="agpo_trainer")
    parser.add_argument(*_FOLDER, dest="folder")
    given, others = parser.parse_known_args(arguments)
    return given.folder, given.name, [each for each in others if not each.startswith("-")]


if __name__ == "__main__":
    main()
