# SPDX-License-Identifier: Apache-2.0
"""Problems from parquet files in verl's schema; a file is a benchmark."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.evaluate.errors import EvaluationError

COLUMNS = ("data_source", "prompt", "reward_model")
SPLIT_NAMES = ("train", "test", "val", "valid", "validation", "eval", "dev")


@dataclass(frozen=True)
class Problem:
    """One row.

    Attributes:
        id: hash of the messages; equal in every file that asks the same. Repetitions in a file get ``-2``, ``-3``.
        index: row in the file.
        data_source: as in the row.
        messages: the conversation to continue.
        gold: reference answer.
        extra_info: as in the row; names the verifier.
    """

    id: str
    index: int
    data_source: str
    messages: tuple[dict[str, str], ...]
    gold: str
    extra_info: dict[str, Any] = field(default_factory=dict)

    @property
    def gold_hash(self) -> str:
        """Hash of everything that a verdict depends on besides the response."""
        return digest([self.data_source, self.gold, self.extra_info])


@dataclass(frozen=True)
class Benchmark:
    """The problems of one file.

    Attributes:
        name: file name, with its folder's where that is needed to tell it from others.
        path: as the user wrote it.
        rows: in the file, before ``--limit``.
        problems: those to be evaluated.
    """

    name: str
    path: str
    rows: int
    problems: tuple[Problem, ...]

    @property
    def prompts_hash(self) -> str:
        return digest([problem.id for problem in self.problems])

    @property
    def golds_hash(self) -> str:
        return digest([problem.gold_hash for problem in self.problems])


def load(files: Sequence[Path], limit: int | None = None) -> list[Benchmark]:
    """Read the files.

    Args:
        files: parquet files in verl's schema.
        limit: problems of each file at most. They are taken at even distances over the file, since files are often
            sorted by subject or difficulty.

    Raises:
        EvaluationError: a file is missing, empty, or has rows that are not of the schema.
    """
    if not files:
        raise EvaluationError("name at least one data file with --data")
    if limit is not None and limit < 1:
        raise EvaluationError(f"limit must be at least 1, got {limit}")
    for path in files:  # all of them before the first is read
        if not path.is_file():
            raise EvaluationError(f"no data file {path}; `agpo data prepare` writes them")
    repeated = [str(path) for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if repeated:
        raise EvaluationError(f"named twice with --data: {', '.join(repeated)}")
    return [
        Benchmark(name, str(path), len(rows), tuple(_spread(rows, limit)))
        for name, path in zip(names(files), files, strict=True)
        for rows in [read(path)]
    ]


def names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with the folder's name in front if the stem is only a split or used twice."""
    stems = Counter(path.stem for path in files)
    found = []
    for path in files:
        folder = path.resolve().parent.name
        found.append(f"{folder}-{path.stem}" if path.stem in SPLIT_NAMES or stems[path.stem] > 1 else path.stem)
    repeated = sorted(name for name, count in Counter(found).items() if count > 1)
    if repeated:
        raise EvaluationError(f"files of the same name {', '.join(repeated)}: rename one, or evaluate them apart")
    return found


def read(path: Path) -> list[Problem]:
    """The rows of one file as problems."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
        rows = table.to_pylist()
    # ValueError: also text that is not UTF-8; OverflowError: dates that Python cannot hold.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise EvaluationError(f"{path} cannot be read as parquet: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise EvaluationError(
            f"{path} has no column {', '.join(missing)}: the format is verl's parquet schema, as `agpo data prepare` "
            f"writes it; found {', '.join(table.column_names)}"
        )
    if table.num_rows == 0:
        raise EvaluationError(f"{path} has no rows")
    seen: Counter[str] = Counter()
    return [_problem(path, index, row, seen) for index, row in enumerate(rows)]


def digest(value: Any) -> str:
    """Short hash of JSON-able content."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _problem(path: Path, index: int, row: dict[str, Any], seen: Counter[str]) -> Problem:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    turns = prompt if isinstance(prompt, list) else []
    if not turns or not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
        raise EvaluationError(f'{path}, row {index}: prompt must be a list of {{"role", "content"}} with plain text')
    reward, info = row["reward_model"], row.get("extra_info") or {}
    gold = reward.get("ground_truth") if isinstance(reward, dict) else None
    if gold is None:
        raise EvaluationError(f"{path}, row {index}: reward_model has no ground_truth")
    if not isinstance(info, dict):
        raise EvaluationError(f"{path}, row {index}: extra_info is {type(info).__name__}, not a structure with names")
    messages = tuple({"role": str(turn.get("role") or "user"), "content": turn["content"]} for turn in turns)
    name = digest(messages)
    seen[name] += 1
    if seen[name] > 1:
        name = f"{name}-{seen[name]}"
    return Problem(name, index, str(row["data_source"]), messages, str(gold), dict(info))


def _spread(problems: Sequence[Problem], limit: int | None) -> Iterable[Problem]:
    if limit is None or limit >= len(problems):
        return problems
    return [problems[i * len(problems) // limit] for i in range(limit)]
