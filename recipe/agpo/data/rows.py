# SPDX-License-Identifier: Apache-2.0
"""Rows in verl's parquet schema: built, hashed, written and read without ever holding a whole set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.agpo.data.example import DataError, Example
from recipe.agpo.data.templates import Template

MAX_ROWS, MAX_BYTES = 1024, 32 * 2**20  # of one row group, the only rows that are held
Row = dict[str, Any]
_ABILITIES = {"code": "code", "gym": "reasoning"}


def schema() -> Any:
    """The columns of every file, as an arrow schema."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                pa.struct([("split", text), ("index", pa.int64()), ("verifier", text), ("verifier_args", text)]),
            ),
        ]
    )


def make_row(name: str, split: str, index: int, example: Example, template: Template) -> Row:
    """One row.

    Args:
        name: the data set, verl's ``data_source``.
        split: where the problem was published.
        index: number of the record in its source, from 0; skipped records leave gaps.
        example, template: what is asked, and how.
    """
    return {
        "data_source": name,
        "prompt": template.messages(example),
        "ability": _ABILITIES.get(example.kind, "math"),
        "reward_model": {"style": "rule", "ground_truth": example.gold},
        "extra_info": {
            "split": split,
            "index": index,
            "verifier": example.kind,
            "verifier_args": json.dumps(dict(example.args), ensure_ascii=False, sort_keys=True),
        },
    }


def row_bytes(row: Row) -> bytes:
    """A row in its one spelling, for hashes; a lone surrogate raises UnicodeEncodeError."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


class RowWriter:
    """Writes rows in row groups of at most ``max_rows`` rows or about ``max_bytes`` bytes.

    Attributes:
        rows: how many have been added.
        peak_rows: the most rows that were held at once.
    """

    def __init__(self, path: Path, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        import pyarrow.parquet as pq

        self._schema = schema()
        self._writer = pq.ParquetWriter(path, self._schema)
        self._limits = (max_rows, max_bytes)
        self._held: list[Row] = []
        self._held_bytes = 0
        self._digest = hashlib.sha256()
        self.rows = 0
        self.peak_rows = 0

    def add(self, row: Row) -> None:
        spelled = row_bytes(row)
        self._digest.update(spelled + b"\n")
        self._held.append(row)
        self._held_bytes += len(spelled)
        self.rows += 1
        self.peak_rows = max(self.peak_rows, len(self._held))
        if len(self._held) >= self._limits[0] or self._held_bytes >= self._limits[1]:
            self._flush()

    def close(self) -> str:
        """Write what is left; returns the sha256 of the rows (not of the file's bytes)."""
        if self._held:
            self._flush()
        self._writer.close()
        return self._digest.hexdigest()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
        self._held, self._held_bytes = [], 0


def iter_rows(path: Path, batch_size: int = 256) -> Iterator[Row]:
    """The rows of a parquet or .jsonl file, in order.

    Raises:
        DataError: no such file, or another kind of file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream if line.strip())
        return
    for batch in _parquet(path).iter_batches(batch_size=batch_size):
        yield from batch.to_pylist()


def count_rows(path: Path) -> int:
    """Rows of a parquet file, from its footer."""
    return int(_parquet(path).metadata.num_rows)


def iter_splits(path: Path) -> Iterator[tuple[str | None, str | None]]:
    """(data_source, extra_info.split) of every row, without reading prompts; None for what a file lacks."""
    if path.suffix == ".jsonl":
        rows = iter_rows(path)
    else:
        file = _parquet(path)
        wanted = ["data_source", "extra_info.split"]
        rows = (row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist())
    for row in rows:
        yield row.get("data_source"), (row.get("extra_info") or {}).get("split")


def prompt_text(row: Row) -> str:
    """What the user says, all messages joined; a prompt that is plain text is itself."""
    prompt = row.get("prompt") or ""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message.get("role") == "user")


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: no parquet file ({error})") from error
