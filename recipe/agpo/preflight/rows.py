# SPDX-License-Identifier: Apache-2.0
"""Checks of the rows: files that are not named, columns that collide with verl's or ours, rows without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.agpo import columns as ours
from recipe.agpo.preflight.prompts import parquet_files
from recipe.agpo.preflight.words import shown
from recipe.agpo.settings import RunConfig
from recipe.agpo.verl_api.names import BATCH_COLUMNS

OUR_COLUMNS = frozenset(
    (
        *ours.COLUMNS,
        ours.CONTROL,
        ours.RECORD,
        ours.TEMPERATURE,
        ours.CLIP_LOW,
        ours.CLIP_HIGH,
        ours.ROW_WEIGHT,
        ours.GROUP,
        ours.GROUP_WEIGHT,
    )
)


def named(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """verl loads both sets, also where it never validates."""
    for key in ("train_files", "val_files"):
        files = OmegaConf.select(config, f"data.{key}")
        listed = [files] if isinstance(files, str) else list(files or []) if not isinstance(files, int | float) else []
        if listed and all(isinstance(file, str) and file.strip() for file in listed):
            continue
        other = OmegaConf.select(config, "data.train_files" if key == "val_files" else "data.val_files")
        other = list(other)[0] if other and not isinstance(other, str) else other
        fix = f"Set data.{key} to a parquet file in verl's schema"
        if key == "val_files" and other:
            fix += (
                f", or data.val_files={other} and trainer.test_freq=-1 and trainer.val_before_train=False to train "
                "without validation"
            )
        yield f"data.{key}={shown(files)}: names no file, and verl loads it before the first step. {fix}."


def column_names(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Columns whose names verl's batches or ours use for something else."""
    import pyarrow
    import pyarrow.parquet

    prompt = config.data.get("prompt_key", "prompt")
    for key in ("train_files", "val_files"):
        for file, path in parquet_files(config, key):
            try:
                names = pyarrow.parquet.ParquetFile(path).schema_arrow.names
            except (pyarrow.ArrowInvalid, OSError):
                continue  # reported by the check of the data
            taken = [name for name in names if name in BATCH_COLUMNS | OUR_COLUMNS and name != prompt]
            if taken:
                free = {name: f"data_{name.strip('_')}" for name in taken}
                yield (
                    f"data.{key}={file}: {_whose(taken)} use columns of the name(s) {', '.join(taken)} for something "
                    f"else. Rename them, for example: python -c \"import pandas as pd; pd.read_parquet('{path}')"
                    f".rename(columns={free}).to_parquet('{path}')\""
                )


def _whose(names: list[str]) -> str:
    owners = [owner for owner, taken in (("verl", BATCH_COLUMNS), ("AGPO", OUR_COLUMNS)) if set(names) & taken]
    return " and ".join(owners)


def ground_truths(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Rows that verl's reward managers cannot look up an answer in, or that have none.

    A reward function of the user's own may need no answer: for it, only a key that is missing altogether is a problem.
    """
    if OmegaConf.select(config, "reward.reward_model.enable"):
        return
    function = str(OmegaConf.select(config, "reward.custom_reward_function.path") or "")
    own = bool(function) and not function.startswith("pkg://recipe.agpo")
    for key in ("train_files", "val_files"):
        for file, path in parquet_files(config, key):
            counted = _answers(path)
            if counted is None:
                continue
            rows, unkeyed, empty, first = counted
            bad = unkeyed if own else unkeyed + empty
            if bad:
                yield (
                    f"data.{key}={file}: {bad} of {rows} rows have no ground truth (reward_model.ground_truth), the "
                    f"first is row {first}. Their rewards would fail. Write the file again with an answer in every row "
                    "(agpo data prepare does), or leave those rows out."
                )


def _answers(path: Path) -> tuple[int, int, int, int] | None:
    """Rows, rows without the key, rows whose answer is null or blank, and the first of both."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        if "reward_model" not in file.schema_arrow.names:
            return None  # reported by the check of the columns
        kind = file.schema_arrow.field("reward_model").type
        keyed = not pyarrow.types.is_struct(kind) or "ground_truth" in [kind.field(i).name for i in range(len(kind))]
        rows = unkeyed = empty = 0
        first = -1
        for batch in file.iter_batches(batch_size=10_000, columns=["reward_model"]):
            for value in batch.column(0).to_pylist():
                answer: Any = value.get("ground_truth") if isinstance(value, dict) else None
                missing = not keyed or not isinstance(value, dict)
                blank = answer is None or (isinstance(answer, str) and not answer.strip())
                unkeyed, empty = unkeyed + missing, empty + (not missing and blank)
                first = rows if first < 0 and (missing or blank) else first
                rows += 1
        return rows, unkeyed, empty, first
    except (pyarrow.ArrowInvalid, OSError):
        return None
