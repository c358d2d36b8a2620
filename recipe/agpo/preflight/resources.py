# SPDX-License-Identifier: Apache-2.0
"""Checks of the machine: the model, checkpoints of an earlier start, and free disk space."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from recipe.agpo.plan.estimate import cost, shape_of
from recipe.agpo.settings import RunConfig, is_agpo
from recipe.agpo.training import checkpoint


def model(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    given = config.actor_rollout_ref.model.path
    if not isinstance(given, str) or not given.strip():
        yield (
            f"actor_rollout_ref.model.path={'null' if given is None else given}: names no model. Set "
            "actor_rollout_ref.model.path to a folder with a Hugging Face checkpoint, or to a hub id."
        )
        return
    path = given
    local = Path(os.path.expanduser(path))
    looks_local = path.startswith(("/", "./", "../", "~"))
    if looks_local and not (local / "config.json").is_file():
        yield (
            f"actor_rollout_ref.model.path={path}: there is no config.json in that folder. Point it at a folder "
            "with a Hugging Face checkpoint, or at a hub id."
        )
    elif (local / "config.json").is_file():
        try:
            json.loads((local / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield (
                f"actor_rollout_ref.model.path={path}: its config.json cannot be read ({error}). Copy the checkpoint "
                "again."
            )


def resume(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    try:
        folder = checkpoint.checkpoint_to_resume(config)
        if folder is not None:
            if is_agpo(config):
                checkpoint.read_state(folder, agpo)
            checkpoint.read_ledger(folder)
            if agpo.average.enabled:
                checkpoint.read_average(folder)
    except checkpoint.ResumeError as error:
        yield str(error)


def disk(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Check the free disk space: otherwise a full disk stops the run hours later."""
    shape = shape_of(config)
    if shape is None or int(config.trainer.save_freq) <= 0:
        return
    folder = Path(os.path.expanduser(str(config.trainer.default_local_dir))).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    each = cost(config, shape, 0, True).checkpoint_gib
    kept = int(config.trainer.max_actor_ckpt_to_keep or 1)
    needed, free = (kept + 1) * each, shutil.disk_usage(existing).free / 2**30
    # verl deletes the oldest checkpoint only after the newest is written.
    if needed > free:
        yield (
            f"trainer.default_local_dir={folder}: {free:,.0f} GiB are free there, and {kept} checkpoint(s) kept while "
            f"another is written take about {needed:,.0f} GiB ({each:,.1f} each). Set another "
            "trainer.default_local_dir, a lower trainer.max_actor_ckpt_to_keep, or trainer.save_freq=-1."
        )
