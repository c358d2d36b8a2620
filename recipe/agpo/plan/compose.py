# SPDX-License-Identifier: Apache-2.0
"""The final configuration of a launch script or a config, without starting anything."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recipe.agpo.arguments import DRY_RUN
from recipe.agpo.files import FileError, read_text
from recipe.agpo.plan.keys import misspelt

SCRIPT_S = 60.0
# Outside comments; what calls the training command itself is safe too, since that looks at AGPO_DRY_RUN.
_HONOURS_DRY_RUN = re.compile(
    rb"^[^#\n]*(AGPO_DRY_RUN|lib/(train|cpu_run)\.sh|run_(agpo|grpo|ppo)_\w+\.sh|recipe\.agpo\.main)", re.MULTILINE
)
CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "config"


class PlanError(ValueError):
    """The plan cannot be computed; the message says what to change."""


def compose(target: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration that ``target`` would run with.

    Args:
        target: a launch script (``scripts/run_agpo_qwen14b.sh``, read with its environment variables), the name of a
            config of this package (``qwen14b``), or the path of a YAML file.
        overrides: Hydra overrides; they take precedence.

    Raises:
        PlanError: no such target, or an override that does not fit.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    name, given = _arguments(target)
    folder = CONFIG_FOLDER
    if name.endswith((".yaml", ".yml")):
        path = Path(name).absolute()
        try:
            read_text(path)
        except FileError as error:
            raise PlanError(str(error)) from None
        folder, name = path.parent, path.stem
    elif not (CONFIG_FOLDER / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml")))
        raise PlanError(f"neither a script nor a config. Configs of this package: {known}")
    search = f"hydra.searchpath=[pkg://verl.trainer.config,'file://{_escaped(CONFIG_FOLDER)}']"
    asked = [*given, *overrides]

    def composed(parts: list[str]) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(folder), version_base=None):
            return hydra_compose(name, [*parts, search])

    try:
        return composed(asked)
    # OSError: a config that cannot be opened; RecursionError: one nested too deeply.
    except (HydraException, YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError, TypeError) as error:
        if unknown := misspelt(composed, asked):
            raise PlanError(" ".join(unknown)) from None
        raise PlanError(" ".join(f"{type(error).__name__}: {error}".split())[:1000]) from error


def differences(left: DictConfig, right: DictConfig) -> list[tuple[str, Any, Any]]:
    """(key, left, right) of every leaf that differs, sorted by key; absent leaves are None."""
    ours, theirs = dict(_leaves(left)), dict(_leaves(right))
    keys = sorted(set(ours) | set(theirs))
    return [(key, ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)]


def _escaped(path: Path) -> str:
    return str(path).replace("'", "\\'")


def _arguments(target: str) -> tuple[str, list[str]]:
    """Config name and overrides of a target."""
    if not target.endswith(".sh"):
        return target, []
    if not Path(target).is_file():
        raise PlanError("no such script")
    # Any other script would not print its command: it would run.
    if not _HONOURS_DRY_RUN.search(Path(target).read_bytes()):
        raise PlanError(
            f"not a launch script: it neither looks at {DRY_RUN} nor calls a command that does, such as `python -m "
            "recipe.agpo.main` and the scripts of scripts/. Name one of those, or a config"
        )
    environment = {"AGPO_PYTHON": sys.executable, **os.environ, DRY_RUN: "1"}
    process = subprocess.Popen(
        ["bash", "--", target],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(timeout=SCRIPT_S)
    except subprocess.TimeoutExpired:
        raise PlanError(f"its dry run did not end in {SCRIPT_S:.0f} s: is it a launch script?") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what the script has started
        process.wait()
    lines = said.splitlines()
    if process.returncode or len(lines) < 2 or lines[0] != "--config-name":
        raise PlanError(f"its dry run failed: {(complained or said).strip()[-500:]}")
    return lines[1], lines[2:]


def _leaves(config: DictConfig) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            found.append((prefix, node))

    walk("", OmegaConf.to_container(config, resolve=True))
    return found
