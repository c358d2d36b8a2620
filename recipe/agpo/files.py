# SPDX-License-Identifier: Apache-2.0
"""Read files that may be damaged, and write files atomically.

Commands and data tools use this module. ``agpo_core.files`` does the same for the controller state; it is a module of
its own because ``agpo_core`` imports nothing of the recipe, and importing ``agpo_core`` needs torch.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any


class FileError(ValueError):
    """A file that cannot be used or written; the message names it and says why."""


class Replacement:
    """Files that are written to temporary files and replaced together.

    ::

        with Replacement() as aside:
            part = aside.add(path)  # write to it with any library
            aside.commit()

    Without `commit` nothing is replaced. A file is first written as ``.<name>.<random>.tmp`` beside its target. Such
    files of a killed process are removed by the next process that writes the same target. Modes follow the umask.
    """

    def __init__(self) -> None:
        self._parts: dict[Path, tuple[Path, int]] = {}  # target -> temporary and its lock
        self._made: list[Path] = []  # folders

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for temporary, lock in self._parts.values():
            temporary.unlink(missing_ok=True)
            os.close(lock)
        self._parts.clear()
        for folder in reversed(self._made):
            with suppress(OSError):  # not empty: something was put there
                folder.rmdir()

    def add(self, path: Path) -> Path:
        """The file to write in place of ``path``; its folder is created if needed, and removed again without `commit`.

        Raises:
            FileError: ``path`` is there and is not a regular file.
            OSError: the folder cannot be created or written.
        """
        target = Path(os.path.realpath(path))  # a symbolic link keeps pointing to the file
        if os.path.lexists(target) and not target.is_file():
            raise FileError(f"{path} is {kind_of(target)}, not a regular file: name another one")
        self._made += [folder for folder in reversed(target.parents) if not folder.exists()]
        make_folder(target.parent)
        remove_leftovers(target)
        temporary, lock = _temporary(target)
        self._parts[target] = temporary, lock
        return temporary

    def commit(self) -> None:
        """Replace all targets, in the order in which they were added."""
        for temporary, _ in self._parts.values():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        for target, (temporary, _) in self._parts.items():
            os.replace(temporary, target)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of ``path``, which it replaces if the block ends without an exception."""
    with Replacement() as aside:
        yield aside.add(path)
        aside.commit()


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, to be renamed to it when it is complete; otherwise it is removed at the end.

    Folders that killed processes left beside ``target`` are removed first.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):  # a living process writes it
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield part
    finally:
        os.close(lock)
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, UTF-8; lone surrogates become question marks."""
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))


def remove_leftovers(target: Path) -> None:
    """Remove temporary files of ``target`` that no living process is writing."""
    for temporary in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(handle)


def make_folder(path: Path) -> Path:
    """The folder, created if needed.

    Raises:
        FileError: something else is there.
        OSError: it cannot be created.
    """
    check_folder(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_folder(path: Path) -> None:
    """Raise FileError if ``path`` is not a folder and cannot become one, or if nothing can be written there."""
    there = next((p for p in (path, *path.parents) if os.path.lexists(p)), path)
    if os.path.lexists(there) and not there.is_dir():
        raise FileError(f"{path} cannot be a folder: {there} is {kind_of(there)}. Name another folder")
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        raise FileError(f"{path}: no permission to write in {there}. Name another folder")


def check_regular(path: Path) -> None:
    """Raise FileError unless ``path`` is a regular file: opening a named pipe would wait for its writer."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    if not path.is_file():
        raise FileError(f"{path} is {kind_of(path)}, not a regular file")


def kind_of(path: Path) -> str:
    """What is there, for a message."""
    if path.is_symlink() and not path.exists():
        return "a symbolic link to nothing"
    kinds = (("a folder", path.is_dir), ("a named pipe", path.is_fifo), ("a file", path.is_file))
    return next((name for name, test in kinds if test()), "a device or socket")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        FileError: no such file, no regular file, not readable, or not UTF-8.
    """
    check_regular(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        FileError: as for `read_text`, or not JSON.
    """
    try:
        return parse_json(read_text(path))
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        FileError: as for `read_json`, or the file holds another value.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise FileError(f"{path} holds {type(found).__name__}, not an object")
    return found


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, with or without a byte order mark.

    Raises:
        ValueError: not UTF-8, not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ValueError("not readable JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _temporary(target: Path) -> tuple[Path, int]:
    """A new file beside ``target`` and a descriptor that holds its lock."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:  # 0: another process removed it before it was locked
            return temporary, lock
        os.close(lock)
