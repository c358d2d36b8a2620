# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation: settings (``header.json``), responses and verdicts, one line per problem.

Lines are appended and flushed to disk a chunk at a time, so that at most one chunk is lost when the process ends. An
incomplete last line is dropped. The header identifies the evaluation; another evaluation is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.evaluate.data import digest
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.files import check_regular, make_folder, parse_json, read_json, write_text

VERSION = 1
HEADER, RESPONSES, VERDICTS, LOCK = "header.json", "responses.jsonl", "verdicts.jsonl", ".lock"
REPORT = "eval.json"  # written last
Key = tuple[str, str]  # benchmark, problem


@dataclass(frozen=True)
class Header:
    """Identity of an evaluation.

    Attributes:
        model: as the user wrote it; not compared, because a model may be moved to another folder.
        generation: settings that the responses depend on.
        judging: settings that the verdicts depend on, besides the responses.
    """

    model: str
    generation: dict[str, str]
    judging: dict[str, str]

    @property
    def fingerprint(self) -> str:
        return digest([self.generation, self.judging])


class Store:
    """An evaluation's folder, locked for this process.

    Args:
        folder: created if it does not exist.
        header: of this evaluation.
        rejudge: discard the verdicts and keep the responses.

    Raises:
        EvaluationError: the folder belongs to another evaluation, or is in use.
    """

    def __init__(self, folder: Path, header: Header, *, rejudge: bool = False) -> None:
        make_folder(folder)
        self.folder, self.header = folder, header
        self._lock = (folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise EvaluationError(f"{folder} is in use by another `agpo eval`") from error
        try:
            self._claim(rejudge)
            self.responses = read_lines(folder / RESPONSES, trim=True)
            verdicts = read_lines(folder / VERDICTS, trim=True)
        except BaseException:
            self.close()
            raise
        # A verdict whose response is gone would judge the wrong text.
        self.verdicts = {key: line for key, line in verdicts.items() if key in self.responses}

    def add_responses(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append; each line names its ``benchmark`` and ``problem``."""
        self.responses |= _append(self.folder / RESPONSES, lines)

    def add_verdicts(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append, likewise."""
        self.verdicts |= _append(self.folder / VERDICTS, lines)

    def close(self) -> None:
        """Release the lock of the folder."""
        self._lock.close()

    def _claim(self, rejudge: bool) -> None:
        before = read_header(self.folder)
        if before is None:
            if (self.folder / RESPONSES).exists():
                raise EvaluationError(f"{self.folder} holds responses and no {HEADER}: name another folder with --out")
            write_text(self.folder / HEADER, _header_text(self.header))
            return
        if changed := differences(before.generation, self.header.generation):
            raise EvaluationError(
                f"{self.folder} holds responses of another evaluation; name another folder with --out. "
                f"Different:\n{changed}"
            )
        changed = differences(before.judging, self.header.judging)
        if changed and not rejudge:
            raise EvaluationError(
                f"{self.folder} holds verdicts of other settings; judge its responses again with "
                f"--rejudge. Different:\n{changed}"
            )
        if rejudge:  # remove the verdicts first: a header must never be stored with verdicts of another one
            (self.folder / VERDICTS).unlink(missing_ok=True)
        if changed:
            write_text(self.folder / HEADER, _header_text(self.header))


def read_header(folder: Path) -> Header | None:
    """The header of a folder, None if it has none."""
    path = folder / HEADER
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        version = stored["version"]
        if version == VERSION:
            parts = [{str(k): str(value) for k, value in stored[part].items()} for part in ("generation", "judging")]
            return Header(str(stored["model"]), *parts)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EvaluationError(
            f"{path} is no header of an evaluation ({type(error).__name__}: {error}): name another folder with --out"
        ) from error
    raise EvaluationError(f"{path} is of version {version}, this program writes {VERSION}")


def read_lines(path: Path, *, trim: bool = False) -> dict[Key, dict[str, Any]]:
    """Lines by (benchmark, problem); of two with the same key the later counts.

    Args:
        path: a file that need not exist.
        trim: cut an incomplete last line off the file, so that it can be appended to.

    Raises:
        EvaluationError: a line other than the last is broken.
    """
    if not path.exists():
        return {}
    check_regular(path)
    content = path.read_bytes()
    found: dict[Key, dict[str, Any]] = {}
    good = 0
    lines = content.splitlines(keepends=True)
    for number, raw in enumerate(lines, start=1):
        try:
            if not raw.endswith(b"\n"):
                raise ValueError("cut short")
            line = parse_json(raw)
            found[line["benchmark"], line["problem"]] = line
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise EvaluationError(f"{path}, line {number} is broken: {error}. Remove this line") from error
            break
        good += len(raw)
    if trim and good < len(content):
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """One line for each value that differs."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "\n".join(f"    {n}: {before.get(n, 'absent')} there, {now.get(n, 'absent')} here" for n in names)


def _append(path: Path, lines: Iterable[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    lines = list(lines)
    # ASCII: lone surrogates in a response survive. splitlines() on bytes knows only \n and \r, which JSON escapes.
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    with path.open("ab") as file:
        file.write(text.encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    return {(line["benchmark"], line["problem"]): line for line in lines}


def _header_text(header: Header) -> str:
    return json.dumps({"version": VERSION, "fingerprint": header.fingerprint, **asdict(header)}, indent=2) + "\n"
