# SPDX-License-Identifier: Apache-2.0
"""Checks of the reward function: it can be loaded; our verifiers know every row and work on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.preflight.prompts import parquet_files
from recipe.agpo.rewards import UnknownKind, kind_of
from recipe.agpo.rewards.self_test import confinement, self_test
from recipe.agpo.settings import RunConfig
from recipe.agpo.verl_api.configs import load_function

VERIFIERS = "pkg://recipe.agpo.rewards"


def reward(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    path = OmegaConf.select(config, "reward.custom_reward_function.path")
    if not path:
        return
    name = config.reward.custom_reward_function.name
    try:
        load_function(path, name)
    except Exception as error:  # a user's module may raise anything
        cause = error.__cause__ or error
        yield (
            f"reward.custom_reward_function.path={path}, name={name}: could not be loaded ({type(cause).__name__}: "
            f"{cause}). Every reward would fail. Try it in a Python shell; a module of a package is named "
            "pkg://package.module."
        )
        return
    if str(path) == VERIFIERS and name in ("compute_score", "compute_score_sync"):
        yield from _verifiers(config)


def _verifiers(config: DictConfig) -> Iterator[str]:
    """Our own verifiers: every row has one, and each of them works on this machine."""
    settings = OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs") or {}
    kinds: set[str] = set()
    for key in ("train_files", "val_files"):
        for file, path in parquet_files(config, key):
            for source, named in _sources(path):
                try:
                    kinds.add(kind_of(source, {"verifier": named}, settings.get("kind")))
                except UnknownKind as error:
                    yield f"data.{key}={file}: {error}"
                    break
    if line := confinement(kinds, settings.get("runner")):
        print(f"[agpo] {line}")
    for problem in self_test(kinds, settings.get("runner")) if kinds else ():
        yield f"reward.custom_reward_function.path={VERIFIERS}: {problem}. Run: agpo doctor"


def _sources(path: Path) -> set[tuple[str, str | None]]:
    """The distinct (data_source, extra_info.verifier) of a file; read in pieces."""
    import pyarrow.parquet

    found: set[tuple[str, str | None]] = set()
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = [name for name in ("data_source", "extra_info") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=10_000, columns=names):
            columns = batch.to_pydict()
            infos = columns.get("extra_info") or [None] * len(batch)
            for source, info in zip(columns.get("data_source", []), infos, strict=True):
                found.add((str(source), (info or {}).get("verifier") if isinstance(info, dict) else None))
    except (pyarrow.ArrowInvalid, OSError):
        return set()  # reported by the check of the data
    return found
