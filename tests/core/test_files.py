# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: mode, leftovers of killed calls, links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agpo_core.files import remove_leftovers, write_atomic

KILLED = """
import os, signal, sys
from agpo_core import files
files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomic(sys.argv[1], "half")
"""


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_next_call_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.json")], timeout=120)
    assert done.returncode == -9
    assert len(os.listdir(tmp_path)) == 2 and (tmp_path / "a.json").read_text() == "old"
    write_atomic(tmp_path / "other.json", "x")
    assert len(os.listdir(tmp_path)) == 3, "another file's leftovers are not this call's"
    write_atomic(tmp_path / "a.json", "new")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "other.json"] and (tmp_path / "a.json").read_text() == "new"


def test_leftovers_of_a_folder_go_and_what_is_being_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".a.json.0123abcd.tmp", ".b[1].x.tmp", "c.tmp", ".hidden"):
        (tmp_path / name).write_text("x")
    replace = os.replace

    def look_first(source: str, target: str) -> None:
        remove_leftovers(tmp_path)
        assert Path(source).exists(), "a file that is being written was removed"
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_first)
    write_atomic(tmp_path / "d", "whole")
    assert sorted(os.listdir(tmp_path)) == [".hidden", "c.tmp", "d"]


def test_a_symbolic_link_keeps_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomic(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "x"
