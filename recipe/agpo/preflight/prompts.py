# SPDX-License-Identifier: Apache-2.0
"""Checks of the data files: there, readable, with verl's columns, enough rows, and no evaluation data to train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from recipe.agpo.data import check_training_files
from recipe.agpo.plan.prompts import listed
from recipe.agpo.settings import RunConfig

REQUIRED_COLUMNS = ("data_source", "reward_model")


def data(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    for key in ("train_files", "val_files"):
        rows, all_counted = 0, True
        for file in listed(config, key):
            path = Path(os.path.expanduser(file))
            if "://" in file:
                all_counted = False
                continue
            if not path.is_file():
                all_counted = False
                yield f"data.{key}={file}: no such file. Set data.{key} to a parquet file in verl's schema."
                continue
            if path.suffix != ".parquet":
                all_counted = False
                continue
            found = list(schema_problems(config, key, path))
            yield from found
            if found:
                all_counted = False
                continue
            import pyarrow.parquet

            rows += pyarrow.parquet.ParquetFile(path).metadata.num_rows
        samples = config.data.get("train_max_samples", -1)
        cut = isinstance(samples, int) and 0 < samples < rows
        rows, used = (samples, " (data.train_max_samples)") if cut else (rows, "")
        if key == "train_files" and all_counted and 0 < rows < int(config.data.train_batch_size):
            yield (
                f"data.train_files holds {rows} prompts{used}, fewer than data.train_batch_size="
                f"{config.data.train_batch_size}: no batch can be formed. Set data.train_batch_size={rows} or less."
            )


def splits(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Refuse training on evaluation data."""
    files = [path for _, path in parquet_files(config, "train_files")]
    for problem in check_training_files([path for path in files if not list(schema_problems(config, "", path))]):
        yield f"data.train_files: {problem}"


def parquet_files(config: DictConfig, key: str) -> Iterator[tuple[str, Path]]:
    """The parquet files of ``data.<key>`` that are here: as they are written in the config, and as paths."""
    for file in listed(config, key):
        path = Path(os.path.expanduser(file))
        if path.suffix == ".parquet" and path.is_file():
            yield file, path


def schema_problems(config: DictConfig, key: str, path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        yield f"data.{key}={path}: not a readable parquet file ({error}). Write it again."
        return
    names = file.schema_arrow.names
    needed = (config.data.get("prompt_key", "prompt"), *REQUIRED_COLUMNS)
    missing = [name for name in needed if name not in names]
    if missing:
        yield (
            f"data.{key}={path}: column(s) {', '.join(missing)} missing (found: {', '.join(names)}). verl's schema "
            "needs prompt, data_source and reward_model; data.prompt_key names the prompt column."
        )
    elif file.metadata.num_rows == 0:
        yield f"data.{key}={path}: the data set is empty. Write at least data.train_batch_size rows."
