# SPDX-License-Identifier: Apache-2.0
"""What a person sees: the version, completion in the shell, tables on a terminal and plain text on a pipe."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.agpo.cli import main
from recipe.agpo.cli.rows import FAIL, OK, WARN, Row, draw, show

ROOT = Path(__file__).resolve().parents[2]
ROWS = [Row("verl", OK, "0.9.1"), Row("disk", WARN, "[3] GiB", "free it"), Row("plugin", FAIL, "x" * 300)]
SHOW = "from tests.recipe.test_terminal import ROWS, show; show(ROWS)"


def on_a_terminal(*command: str, **environment: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    reader, writer = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    given = kept | {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": str(ROOT)} | environment
    child = subprocess.Popen([sys.executable, *command], stdout=writer, stderr=writer, env=given, cwd=ROOT)
    os.close(writer)
    said = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # the child has closed its end
            break
        if not part:
            break
        said += part
    os.close(reader)
    assert child.wait(timeout=60) == 0, said.decode()
    return said.decode()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith("agpo-verl ") and ", verl " in said and ", Python 3." in said


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok    verl    0.9.1" and lines[1:3] == ["warn  disk    [3] GiB", "              -> free it"]
    assert lines[3] == f"FAIL  plugin  {'x' * 300}", "not wrapped"
    assert draw([("a", "b")]) is False


def test_a_terminal_gets_colours_and_wrapped_cells() -> None:
    said = on_a_terminal("-c", SHOW)
    assert "\x1b[32mok" in said and "[3] GiB" in said
    assert said.count("x" * 60) >= 3, "the long cell is wrapped below itself"
    assert all(len(line) < 200 for line in said.splitlines())
    assert "\x1b[3" not in on_a_terminal("-c", SHOW, NO_COLOR="1")


def test_a_terminal_without_rich_gets_plain_text() -> None:
    without = f"import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None; {SHOW}"
    assert "ok    verl    0.9.1" in on_a_terminal("-c", without)


@pytest.mark.skipif(importlib.util.find_spec("argcomplete") is None, reason="argcomplete is not installed")
@pytest.mark.parametrize(
    ("line", "wanted"), [("agpo pl", "plan "), ("agpo data sh", "show "), ("agpo plan --di", "--diff ")]
)
def test_completion(line: str, wanted: str, tmp_path: Path) -> None:
    out = tmp_path / "words"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from recipe.agpo.cli import main; main([])"],
        env=os.environ | asked,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert out.read_text() == wanted
