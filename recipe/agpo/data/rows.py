# SPDX-License-Identifier: Apache-2.0
"""Rows in verl's parquet schema: built, hashed, written and read without ever holding a whole set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe.agpo.data.example import DataError, Example
from recipe.agpo.data.templates import Template
from recipe.agpo.files import FileError, check_regular, parse_json

BLANK = b"\xef\xbb\xbf \t\r\n"  # also a byte order mark alone
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


def make_row(
    name: str, split: str, index: int, example: Example, template: Template, before: Sequence[dict[str, str]] = ()
) -> Row:
    """One row.

    Args:
        name: the data set, verl's ``data_source``.
        split: where the problem was published.
        index: number of the record in its source, from 0; skipped records leave gaps.
        example, template: what is asked, and how.
        before: messages before the question.
    """
    return {
        "data_source": name,
        "prompt": [*before, *template.messages(example)],
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
        try:
            self._writer = pq.ParquetWriter(path, self._schema)
        except UnicodeEncodeError:
            raise DataError(f"{path}: arrow takes only paths that are UTF-8: name another folder") from None
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


def iter_rows(path: Path, batch_size: int = 256, columns: list[str] | None = None) -> Iterator[Row]:
    """The rows of a parquet or .jsonl file, in order; of a parquet file with ``columns`` only those that it has.

    Raises:
        DataError: no such file, another kind of file, or a damaged one.
    """
    if path.suffix != ".jsonl":
        yield from parquet_rows(path, batch_size, columns)
        return
    for number, value, problem in json_lines(path):
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: {problem or f'{type(value).__name__}, not an object'}")
        yield value


def parquet_rows(path: Path, batch_size: int = 256, columns: list[str] | None = None) -> Iterator[Row]:
    """The rows of a parquet file, in order; with ``columns`` only these.

    Raises:
        DataError: no such file, or a damaged one.
    """
    file = open_parquet(path)
    with reading(path):
        for batch in file.iter_batches(batch_size=batch_size, columns=columns):
            yield from batch.to_pylist()


def json_lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    """(line number, value, what is wrong with it) of every line with content.

    Raises:
        DataError: no such file, or it cannot be read.
    """
    _check_file(path)
    with reading(path), path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip(BLANK):
                try:
                    yield number, parse_json(line), ""
                except ValueError as error:
                    yield number, None, str(error)


def count_rows(path: Path) -> int:
    """Rows of a parquet file, from its footer."""
    return int(open_parquet(path).metadata.num_rows)


def iter_splits(path: Path) -> Iterator[tuple[str | None, str | None]]:
    """(data_source, extra_info.split) of every row, without reading prompts; None for what a file lacks."""
    if path.suffix == ".jsonl":
        rows = iter_rows(path)
    else:
        rows = parquet_rows(path, columns=["data_source", "extra_info.split"])
    for row in rows:
        info = row.get("extra_info")
        yield _text(row.get("data_source")), _text(info.get("split")) if isinstance(info, dict) else None


def prompt_text(row: Row) -> str:
    """What the user says, all messages joined; a prompt that is plain text is itself.

    Raises:
        DataError: the row has no prompt, or one of another form.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        text = prompt
    elif isinstance(prompt, list) and all(_is_message(message) for message in prompt):
        text = "\n".join(message["content"] for message in prompt if message.get("role") == "user")
    else:
        state = "no prompt" if prompt is None else f"a prompt of type {type(prompt).__name__}"
        raise DataError(f'has {state}: it must be text or a list of {{"role", "content"}}, as in verl\'s data files')
    if not text.strip():
        raise DataError("has a prompt without any text of a user")
    return text


def open_parquet(path: Path) -> Any:
    """The file, with its footer read.

    Raises:
        DataError: no such file, or no parquet file.
    """
    import pyarrow.parquet as pq

    _check_file(path)
    with reading(path):
        return pq.ParquetFile(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading ``path`` becomes a DataError that names it."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    # ValueError: also text that is not UTF-8; OverflowError: dates that Python cannot hold.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        kind = "file" if path.suffix == ".jsonl" else "parquet file"
        raise DataError(f"{path}: no {kind} that can be read ({first}): write or download it again") from error


def _check_file(path: Path) -> None:
    try:
        check_regular(path)
    except FileError as error:
        raise DataError(str(error)) from None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
