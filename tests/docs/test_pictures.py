# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/method.md are drawn from the code: the drawing runs, and what lies in docs is what it draws."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs/pictures"


def test_the_pictures_are_those_that_the_code_draws(tmp_path: Path) -> None:
    script = [sys.executable, PICTURES / "draw.py", "--out", tmp_path]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True, timeout=300)
    drawn = (tmp_path / "step.svg").read_text(encoding="utf-8")
    assert drawn == (PICTURES / "step.svg").read_text(encoding="utf-8"), "run: python docs/pictures/draw.py"
    assert xml.etree.ElementTree.fromstring(drawn).tag.endswith("svg")
    # Fonts differ from machine to machine: of the curves only that they were drawn.
    assert (tmp_path / "controllers.png").stat().st_size > 20_000
