# SPDX-License-Identifier: Apache-2.0
"""The manifest beside every parquet file, and whether files may be trained on."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.agpo.data.benchmarks import BENCHMARKS
from recipe.agpo.data.example import DataError
from recipe.agpo.data.rows import count_rows, iter_splits
from recipe.agpo.data.sources import split_named
from recipe.agpo.files import read_json

FORMAT = "agpo-data-1"


def manifest_path(path: Path) -> Path:
    """``train.manifest.json`` for ``train.parquet``."""
    return path.with_name(path.stem + ".manifest.json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a parquet file; None if it has none.

    Raises:
        DataError: it is no manifest, or does not belong to this file (another number of rows).
    """
    file = manifest_path(path)
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = read_json(file)
        wanted = found["rows"]
        if found["format"] != FORMAT:
            raise DataError(f"{file}: format {found['format']!r}, this version reads {FORMAT!r}: prepare it again")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: no manifest of this package ({type(error).__name__}: {error})") from None
    there = count_rows(path)
    if there != wanted:
        raise DataError(f"{path} has {there} rows, its manifest says {wanted}: prepare it again")
    return found


def dump(manifest: dict[str, Any]) -> str:
    """A manifest's text: same content, same bytes. A file name that is not UTF-8 is written with JSON's escapes."""
    text = json.dumps(manifest, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def package_version() -> str:
    try:
        return importlib.metadata.version("agpo-verl")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def check_training_files(paths: Sequence[str | Path], allow_test: bool = False) -> list[str]:
    """Why these files should not be trained on, one sentence each; empty if they may.

    A file is refused if any of its rows was published as test or validation data: the rows' own ``extra_info.split``
    says so, or their ``data_source`` is a benchmark that has no training split. It is not refused if its manifest was
    made with ``--allow-test-for-training``. Rows that say neither are taken for training data: files of other tools
    cannot be told.

    Args:
        paths: parquet or .jsonl files, as in verl's ``data.train_files``.
        allow_test: train on test data nevertheless; then only missing and unreadable files are named.

    Returns:
        The problems, in the order of the files.
    """
    problems: list[str] = []
    for path in map(Path, paths):
        try:
            manifest = read_manifest(path)
            found = Counter(_evaluation(source, split) for source, split in iter_splits(path))
        except (DataError, OSError, ValueError) as error:
            problems.append(f"{path}: {error}" if str(path) not in str(error) else str(error))
            continue
        del found[""]
        if found and not allow_test and not (manifest or {}).get("training_allowed"):
            what = ", ".join(f"{count} rows of {name}" for name, count in sorted(found.items()))
            problems.append(f"{path}: {what}; this is evaluation data and would be trained on")
    return problems


def _evaluation(data_source: str | None, split: str | None) -> str:
    """The name of the evaluation split that a row is from, ``""`` if it is training data or cannot be told."""
    name = data_source or "an unnamed source"
    told = split_named(split) if split else None
    if told in ("test", "validation"):
        return f"{name}/{split}"
    known = BENCHMARKS.get(data_source or "")
    return f"{name}, which has no training split" if known and "train" not in known.splits else ""
