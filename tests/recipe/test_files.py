# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole or not at all: modes, several at once, leftovers of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.agpo.files import (
    FileError,
    Replacement,
    folder_aside,
    parse_json,
    read_object,
    read_text,
    replacing,
    write_text,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from recipe.agpo.files import folder_aside, replacing
with replacing(Path(sys.argv[1]) / "a") as part, folder_aside(Path(sys.argv[1]) / "b"):
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
        with folder_aside(tmp_path / "b") as part:
            part.rename(tmp_path / "b")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~umask


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), Replacement() as aside:
        for name in ("a", "new/b"):
            aside.add(tmp_path / name).write_text("half")
        1 / 0  # noqa: B018
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
    with Replacement() as aside:
        for name in ("a", "new/b"):
            aside.add(tmp_path / name).write_text("whole")
        aside.commit()
    assert (tmp_path / "a").read_text() == (tmp_path / "new" / "b").read_text() == "whole"
    assert names(tmp_path) == ["a", "new"]


def test_the_next_start_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 2
    with replacing(tmp_path / "a") as part, folder_aside(tmp_path / "b"):
        assert len(names(tmp_path)) == 2, "only those of this process"
        with replacing(tmp_path / "a") as other:
            other.write_text("second")
        assert part.exists(), "a file that is being written stays"
        part.write_text("first")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "first"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for path, words in (
        (tmp_path / "pipe", "named pipe"),
        (tmp_path / "folder", "a folder"),
        (Path("/dev/null"), "device"),
        (tmp_path / "file" / "x", "is a file"),
    ):
        with pytest.raises((FileError, NotADirectoryError), match=words):
            write_text(path, "x")
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_texts_and_json(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfx\r\n")
    assert read_text(tmp_path / "a") == "x\r\n"
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(FileError, match="not UTF-8"):
        read_text(tmp_path / "a")
    assert parse_json(b"\xef\xbb\xbf[1]") == parse_json("\ufeff[1]") == [1]
    for text, words in (("[" * 100_000, "nested too deeply"), (b"\xff", "not UTF-8"), ("9" * 5000, "not JSON")):
        with pytest.raises(ValueError, match=words):
            parse_json(text)


@pytest.mark.parametrize("text", ["[1]", "3", "null", '"a"'])
def test_another_value_is_no_object(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "a.json", text)
    with pytest.raises(FileError, match=r"a\.json holds \w+, not an object"):
        read_object(tmp_path / "a.json")
    write_text(tmp_path / "a.json", '{"b": 1}')
    assert read_object(tmp_path / "a.json") == {"b": 1}
