# SPDX-License-Identifier: Apache-2.0
"""Checks of the prompts: files, columns, lengths, and overlap of training with evaluation data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.agpo.data import check_training_files
from recipe.agpo.settings import RunConfig

MAX_PROMPTS_TOKENISED = 2000
REQUIRED_COLUMNS = ("data_source", "reward_model")


def data(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    for key in ("train_files", "val_files"):
        rows, all_counted = 0, True
        for file in _listed(config, key):
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
            found = list(_parquet_problems(config, key, path))
            yield from found
            if found:
                all_counted = False
                continue
            import pyarrow.parquet

            rows += pyarrow.parquet.ParquetFile(path).metadata.num_rows
        if key == "train_files" and all_counted and 0 < rows < int(config.data.train_batch_size):
            yield (
                f"data.train_files holds {rows} prompts, fewer than data.train_batch_size="
                f"{config.data.train_batch_size}: no batch can be formed. Set data.train_batch_size={rows} or less."
            )


def splits(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Refuse training on evaluation data."""
    files = [path for _, path in parquet_files(config, "train_files")]
    for problem in check_training_files([path for path in files if not list(schema_problems(config, "", path))]):
        yield f"data.train_files: {problem}"


def _listed(config: DictConfig, key: str) -> list[str]:
    """The files of ``data.<key>``, which verl takes as one or as a list."""
    files = config.data[key]
    return [str(file) for file in ([files] if isinstance(files, str) else list(files or []))]


def parquet_files(config: DictConfig, key: str) -> Iterator[tuple[str, Path]]:
    """Those of them that are parquet files here: as they are written in the config, and as paths."""
    for file in _listed(config, key):
        path = Path(os.path.expanduser(file))
        if path.suffix == ".parquet" and path.is_file():
            yield file, path


def _parquet_problems(config: DictConfig, key: str, path: Path) -> Iterator[str]:
    found = list(schema_problems(config, key, path))
    yield from found
    if not found and not config.data.get("filter_overlong_prompts", True):
        import pyarrow.parquet

        yield from _long_prompts(config, key, pyarrow.parquet.ParquetFile(path))


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


def _long_prompts(config: DictConfig, key: str, file: Any) -> Iterator[str]:
    """Prompts over the limit stop verl in the middle of a step unless it filters them."""
    if config.data.get("truncation", "error") != "error":
        return
    try:
        from transformers import AutoTokenizer

        path = config.actor_rollout_ref.model.get("tokenizer_path") or config.actor_rollout_ref.model.path
        # Local files only: a check must not wait for a download, or for retries without a network.
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(str(path)), local_files_only=True)
    except (OSError, ValueError):
        return
    limit, column = int(config.data.max_prompt_length), config.data.get("prompt_key", "prompt")
    batch = next(file.iter_batches(batch_size=MAX_PROMPTS_TOKENISED, columns=[column]), None)
    messages = [] if batch is None else batch.column(0).to_pylist()
    try:
        lengths = [_prompt_length(tokenizer, message) for message in messages]
    except Exception as error:  # whatever a chat template raises
        yield (
            f"data.{key}: the tokenizer of {path} cannot render the prompts ({type(error).__name__}: {error}). Use "
            "a model with a chat template, or set actor_rollout_ref.model.custom_chat_template."
        )
        return
    over = [length for length in lengths if length > limit]
    if over:
        yield (
            f"data.{key}: {len(over)} of the first {len(lengths)} prompts are longer than data.max_prompt_length="
            f"{limit} tokens (the longest has {max(over)}). Set data.max_prompt_length={max(over)}, or "
            "data.filter_overlong_prompts=True to leave them out, or data.truncation=left."
        )


def _prompt_length(tokenizer: Any, messages: Any) -> int:
    if isinstance(messages, str):
        return len(tokenizer(messages)["input_ids"])
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
