# SPDX-License-Identifier: Apache-2.0
"""JSON documents with a format, a version and a checksum, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agpo_core.files import write_atomic

_HEAD = ("format", "version", "checksum")


def checksum(payload: Mapping[str, Any]) -> str:
    """sha256 of the payload's canonical JSON text."""
    # NaN is accepted here, so that the reader's error names the field that holds it instead of the checksum.
    return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_sealed(path: str | os.PathLike[str], kind: str, version: int, payload: Mapping[str, Any]) -> None:
    """Write `payload` so that `path` holds either the old file or the whole new one, even after a crash.

    Raises:
        ValueError: a value is not JSON (NaN and infinities are not).
        OSError: the disk does not accept the file.
    """
    document = {"format": kind, "version": version, "checksum": checksum(payload), **payload}
    write_atomic(path, json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_sealed(
    path: str | os.PathLike[str],
    kind: str,
    versions: Sequence[int],
    fields: Sequence[str],
    *,
    unsealed: Sequence[int] = (),
) -> tuple[int, dict[str, Any]]:
    """Read a file of `write_sealed`.

    Args:
        path: the file.
        kind: name of the format.
        versions: versions that the caller can read.
        fields: names that the payload must have.
        unsealed: those of the versions that had no checksum.

    Returns:
        (version, payload).

    Raises:
        ValueError: missing, damaged, edited, or of another format or version; the message names the file.
    """
    words = kind.removeprefix("agpo-").replace("-", " ")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would wait for its writer
            raise OSError("not a regular file")
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no {words} file (missing)") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:  # also a UnicodeDecodeError
        raise ValueError(f"{path}: not JSON, truncated or damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != kind:
        raise ValueError(f"{path}: not a {words} file (format is not {kind!r})")
    version = document.get("version")
    if type(version) is not int or version not in versions:
        raise ValueError(f"{path}: unknown version {version!r:.80}, this package reads {tuple(versions)}")
    sealed = version not in unsealed
    for name in [*fields, "checksum"] if sealed else fields:
        if name not in document:
            raise ValueError(f"{path}: missing field {name!r}")
    payload = {name: value for name, value in document.items() if name not in _HEAD}
    if sealed and checksum(payload) != document["checksum"]:
        raise ValueError(f"{path}: wrong checksum, the file was damaged or edited")
    return version, payload
