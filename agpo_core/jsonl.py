# SPDX-License-Identifier: Apache-2.0
"""Files with one JSON object per line. A line that a kill cut off does not damage the other lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agpo_core.files import write_atomic


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows in a single write. If a kill cut off the last line, the rows start on a new line."""
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes its JSON escape


def keep_steps(path: Path, first: int, last: int) -> int:
    """Keep the lines whose "step" is from `first` to `last`, and drop the others.

    Returns:
        The number of broken lines: not a whole JSON object, or no whole number as "step". A missing file stays missing.

    Raises:
        ValueError: something other than a regular file is there.
    """
    if not os.path.lexists(path):
        return 0
    if not path.is_file():  # a named pipe would wait for its writer
        raise ValueError(f"{path}: not a regular file: remove it")
    # A kill may have cut a character in two; splitlines() would also split at separators inside a text.
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    steps = [_step_of(line) for line in lines]
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and first <= step <= last]
    write_atomic(path, "".join(f"{line}\n" for line in kept))
    return steps.count(None)


def _step_of(line: str) -> int | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else None
