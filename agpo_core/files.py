# SPDX-License-Identifier: Apache-2.0
"""Atomic replacement of a text file: after a crash the path holds the old file or the whole new one."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Replace ``path`` by ``text``, UTF-8, durably; the new file's mode follows the umask.

    The text is first written to ``.<name>.<random>.tmp`` in the same folder. Such a file that a killed call left is
    removed by the next call for the same path.

    Raises:
        OSError: the disk does not accept the file; the old file is then unchanged.
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
    """Remove the temporary files of killed `write_atomic` calls in ``folder``; ``name`` is a glob of the targets.

    A temporary file that a living process is writing is locked and is not removed.
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
        if os.fstat(handle).st_nlink:  # 0: another process removed it before it was locked
            return handle, temporary
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
