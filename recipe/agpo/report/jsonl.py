# SPDX-License-Identifier: Apache-2.0
"""Read JSON lines from files that a crash may have cut off, and numbers from them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.files import kind_of

LARGEST = 1e300  # beyond it a sum or a difference may overflow; such a value is treated as damage
MOST_STEPS = 10**12  # no run takes so many; a larger number is damage


@dataclass
class FileNote:
    """Result of reading one file: number of lines, numbers of the lines that could not be used, and any error."""

    name: str
    lines: int = 0
    bad: list[int] = field(default_factory=list)
    error: str = ""


def read_lines(path: Path, note: FileNote) -> Iterator[tuple[int, dict[str, object]]]:
    """(line number, object) of every line that holds a JSON object; the others are noted.

    Only a newline ends a line: a response may hold characters that ``str.splitlines`` would split at.
    """
    if not path.is_file():  # a named pipe would wait for its writer
        note.error = kind_of(path)
        return
    try:
        # Some files of the system wait for data that never comes; without waiting they are empty.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip(b"\xef\xbb\xbf \t\r\n"):  # also a byte order mark alone
                    continue
                note.lines += 1
                value = _parsed(raw)
                if isinstance(value, dict):
                    yield number, value
                else:
                    note.bad.append(number)
    except OSError as error:
        note.error = error.strerror or type(error).__name__


def finite(value: Any) -> float | None:
    """A logged value as a number; None for anything else, NaN and infinities included."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < LARGEST and math.isfinite(value) else None


def step_of(value: Any) -> int | None:
    """A step number; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_STEPS else None


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None
