# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old one or the whole new one, even after a crash."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Replace ``path`` by ``text``, UTF-8, durably; the new file's mode follows the umask.

    The text is written to ``.<name>.<random>.tmp`` in the same folder first. What a killed call left of this kind is
    removed by the next call for the same path. Raises OSError if the disk refuses; the old file then stays.
    """
    target = Path(os.path.realpath(path))  # a symbolic link keeps pointing to the file
    remove_leftovers(target.parent, glob.escape(target.name))
    handle, temporary = _temporary(target)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of killed calls of `write_atomic` in ``folder``; ``name`` is a glob of the targets.

    A temporary file that a living process is writing is locked, and stays.
    """
    for temporary in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
            finally:
                os.close(handle)


def _temporary(target: Path) -> tuple[int, Path]:
    """A new file beside ``target``, open for writing and locked."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else another process took it for a leftover before it was locked
            return handle, temporary
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
