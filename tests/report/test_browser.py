# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser engine: Chromium, which comes with the wheels of PySide6-WebEngine.

Without the engine the tests skip. ``AGPO_BROWSER_PYTHON`` names another Python that has it; ``AGPO_SCREENSHOTS`` a
folder to keep the pictures in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.report.page import page
from recipe.agpo.report.read import read_runs
from tests.report import runs
from tests.report.test_page import EVIL, evil_run

DRIVER = Path(__file__).parent / "browser.py"
PYTHON = os.environ.get("AGPO_BROWSER_PYTHON", sys.executable)
PROBE = "import PySide6.QtWebEngineWidgets"
SEEN = "phone", "desktop"
FAULTS = "clipped", "outside", "squeezed", "svg_text_outside", "overlapping"
LIMIT_S = 120


def engine_missing() -> str:
    """Why there is no engine; empty if there is one."""
    done = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


MISSING = engine_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no browser engine (PySide6-WebEngine): {MISSING}")


def look(html: str, folder: Path, scheme: str, keep: str) -> dict[str, Any]:
    """What the engine saw of a page, by screen."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{keep}.html"
    path.write_text(html, encoding="utf-8")
    out = Path(os.environ["AGPO_SCREENSHOTS"]) / keep if "AGPO_SCREENSHOTS" in os.environ else folder
    done = subprocess.run(
        [PYTHON, DRIVER, path, out, scheme], capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for screen in SEEN:
        assert (out / f"{screen}-{scheme}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / f"{scheme}.json").read_text())


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three runs: one healthy, one hostile and in trouble, one baseline."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / name for name in ("agpo-seed0", "hostile", "a-baseline-with-a-rather-long-name-of-its-own")]
    for folder in folders:
        folder.mkdir()
    runs.agpo_run(folders[0], 60)
    runs.dump(folders[0] / "rollouts", 60, [("7+9-4=", "7+9=16\n16-4=12\n#12\n" * 20, 1.0), ("1+1=", "x" * 3000, 0.0)])
    evil_run(folders[1])
    runs.grpo_run(folders[2], 40)
    return page(read_runs(folders))


@pytest.fixture(scope="module")
def light(several: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return look(several, tmp_path_factory.mktemp("light"), "light", "several")


@pytest.mark.parametrize("screen", SEEN)
def test_page_fits_the_screen(screen: str, light: dict[str, Any]) -> None:
    seen = light[screen]
    assert seen["loaded"] and seen["inner"] == seen["screen"]
    assert seen["scroll_width"] <= seen["screen"][0], "no sideways scrolling"
    assert {fault: seen[fault] for fault in FAULTS} == {fault: [] for fault in FAULTS}
    assert seen["smallest_text"] >= 10.5, "pixels, on the screen"
    assert seen["painted"]


@pytest.mark.parametrize("screen", SEEN)
def test_curves_are_drawn(screen: str, light: dict[str, Any]) -> None:
    charts = light[screen]["charts"]
    assert len(charts) > (25 if screen == "desktop" else 8) and all(chart["drawn"] for chart in charts)
    reward = next(chart for chart in charts if chart["label"].startswith("Reward"))
    assert len(set(reward["colours"])) == 3, "one colour a run"


def test_what_needs_no_look_is_folded_on_a_phone(light: dict[str, Any]) -> None:
    assert light["desktop"]["folded"] == 0 and light["phone"]["folded"] > 4
    assert light["phone"]["height"] < 11_000, "pixels, of three runs"
    assert 0 < light["phone"]["checks"] < light["desktop"]["checks"]


def test_the_keyboard_reads_the_curves(light: dict[str, Any]) -> None:
    """Two steps to the right from the start, then one back: the first point; the value is announced."""
    assert light["desktop"]["keyboard"]["at"] == ["step 1", "step 2", "step 1"]
    assert light["desktop"]["keyboard"]["live"] == "polite"


@pytest.mark.parametrize("screen", SEEN)
def test_console_is_silent_and_nothing_is_fetched(screen: str, light: dict[str, Any]) -> None:
    assert light[screen]["console"] == [] and light[screen]["requests"] == []


@pytest.mark.parametrize("screen", SEEN)
def test_cursor_reads_the_curves(screen: str, light: dict[str, Any]) -> None:
    reading = light[screen]["reading"]
    assert reading and all(text.startswith("tokens ") for text in reading), "the first panel is over tokens"


def test_hostile_text_is_text(light: dict[str, Any]) -> None:
    assert light["phone"]["injected"] is None
    assert set(EVIL[:4]) <= set(light["phone"]["samples"])


def test_the_harness_sees_what_is_wrong(several: str, tmp_path: Path) -> None:
    """The checks above can fail: a page with each fault is found out."""
    faults = (
        '<div class="wide" style="width:3000px">wide</div>'
        '<div style="width:60px;height:14px;overflow:hidden;white-space:nowrap">this text is cut off here</div>'
        '<figure class="panel"><svg viewBox="0 0 340 164" aria-label="faulty">'
        '<text class="tick" x="330" y="50">outside</text><text class="tick" x="40" y="90">one</text>'
        '<text class="tick" x="42" y="90">two</text></svg></figure>'
        '<p style="width:9px;overflow-wrap:anywhere">downwards</p>'
        '<img src="x.png"><script>window.injected = 4</script>'
    )
    seen = look(several.replace("<main>", f"<main>{faults}"), tmp_path, "light", "faults")["phone"]
    assert seen["scroll_width"] > 390 and any("wide" in name for name in seen["outside"])
    assert any("cut off" in name for name in seen["clipped"])
    assert any("outside" in name for name in seen["svg_text_outside"]) and seen["overlapping"]
    assert any("downwards" in name for name in seen["squeezed"])
    assert not next(chart for chart in seen["charts"] if chart["label"] == "faulty")["drawn"]
    assert any("Content Security Policy" in words for words in seen["console"]) and seen["injected"] is None


def test_dark_scheme(several: str, light: dict[str, Any], tmp_path: Path) -> None:
    dark = look(several, tmp_path, "dark", "several")
    assert dark["phone"]["background"] == "rgb(17, 20, 23)" != light["phone"]["background"]
    assert dark["desktop"]["console"] == [] and dark["desktop"]["outside"] == []


def test_one_run_and_an_empty_one(tmp_path: Path) -> None:
    one, empty = tmp_path / "one", tmp_path / "empty"
    one.mkdir()
    empty.mkdir()
    for name, folder in (("one", runs.agpo_run(one, 30)), ("empty", empty)):
        for seen in look(page(read_runs([folder])), tmp_path / "pages", "light", name).values():
            assert seen["scroll_width"] <= seen["screen"][0]
            assert not any(seen[fault] for fault in FAULTS) and seen["console"] == []
