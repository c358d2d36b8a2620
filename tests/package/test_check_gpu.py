# SPDX-License-Identifier: Apache-2.0
"""`scripts/check_gpu.sh`: the report it writes, with a stand-in for Python; the rehearsal itself nightly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plan.test_plan import alive

ROOT = Path(__file__).resolve().parents[2]
# A Python that fails where the test says so, knows only the packages that the test names, and leaks what a report must
# not hold.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
    *find_spec*) for name in $PRESENT; do case "$*" in *"'$name'"*) exit 0 ;; esac; done; exit 1 ;;
    *"$FAILS"*) echo "broken in $HOME/secret and $PWD/file on $(uname -n) by $*"; exit 3 ;;
    *"$SLEEPS"*) echo $$ >"$OUT/pid"; exec sleep 600 ;;
esac
echo "called with $*"
"""
TITLES = ["Versions", "GPU", "Doctor", "CUDA tests of agpo_core", "Kernel timings", "Two steps of training"]


def environment(folder: Path, present: str = "pytest hypothesis verl", **given: str) -> dict[str, str]:
    stand_in = folder / "venv/bin/python"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    never = "no command has this text"
    defaults = {"PRESENT": present, "FAILS": never, "SLEEPS": never, "HOME": str(folder / "home"), "CPU": "1"}
    # With CPU=1 the launch script takes the Python of AGPO_VENV.
    ours = {"AGPO_PYTHON": str(stand_in), "AGPO_VENV": str(folder / "venv"), "AGPO_NO_SETUP": "1"}
    return os.environ | defaults | ours | {"OUT": str(folder / "out")} | given


def check(folder: Path, **given: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "scripts/check_gpu.sh"],
        cwd=ROOT,
        env=environment(folder, **given),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    report = folder / "out/report.md"
    return done.returncode, done.stdout + done.stderr, report.read_text() if report.exists() else ""


def test_a_part_that_fails_is_reported_and_the_others_run(tmp_path: Path) -> None:
    code, said, report = check(tmp_path, FAILS="core_speed", CPU="0")
    assert re.findall(r"^## (.+)$", report, flags=re.M) == TITLES
    assert code == 1 and "FAILED: exit code 3" in report and report.endswith("\n1 part(s) failed.\n")
    assert "broken in ~/secret and ./file on HOST" in report
    assert str(tmp_path) not in report and str(ROOT) not in report, "it is made to be attached to an issue"
    assert str(tmp_path / "out/report.md") in said
    # The stand-in knows every command, so the real model is fetched and trained on, with the settings of one GPU.
    training = (tmp_path / "out/6.log").read_text()
    assert "model get smollm2-135m" in training and "trainer.total_training_steps=2" in training
    assert "trainer.n_gpus_per_node=1" in training and "rollout.tensor_model_parallel_size=1" in training
    assert "--device cuda" in (tmp_path / "out/5.log").read_text()


@pytest.mark.parametrize(("present", "skipped"), [("pytest hypothesis", TITLES[4:]), ("verl", TITLES[3:4])])
def test_what_is_missing_is_left_out_with_a_line(present: str, skipped: list[str], tmp_path: Path) -> None:
    code, _, report = check(tmp_path, present=present)
    parts = re.split(r"^## ", report, flags=re.M)[1:]
    assert [part.splitlines()[0] for part in parts if "\nskipped: " in part] == skipped
    assert code == 0 and "pip install" in report


def test_without_the_command_for_models_training_is_left_out(tmp_path: Path) -> None:
    code, _, report = check(tmp_path, FAILS="model --help", CPU="0")
    assert code == 0 and "skipped: this version has no command agpo model" in report


def test_a_part_that_hangs_is_ended(tmp_path: Path) -> None:
    code, _, report = check(tmp_path, SLEEPS="core_speed", LIMIT="1")
    assert code == 1 and "FAILED: longer than 1 s" in report and "## Two steps of training" in report


@pytest.mark.parametrize("limit", ["0", "x", "-1", ""])
def test_a_limit_that_makes_no_sense(limit: str, tmp_path: Path) -> None:
    code, said, _ = check(tmp_path, LIMIT=limit or " ")
    assert code == 2 and "LIMIT=" in said


def test_ctrl_c(tmp_path: Path) -> None:
    child = subprocess.Popen(
        ["bash", "scripts/check_gpu.sh"],
        cwd=ROOT,
        env=environment(tmp_path, SLEEPS="cli doctor"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    pid = tmp_path / "out/pid"
    while not (pid.exists() and pid.read_text().strip()):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 130 and said.count("\n") == 1 and "interrupted" in said
    assert (tmp_path / "out/report.md").read_text().endswith("interrupted\n")
    deadline = time.monotonic() + 60  # against hanging: a process that was ended may have to wait for a core
    while alive(pid.read_text().strip()):
        assert time.monotonic() < deadline, "what it started goes on"
        time.sleep(0.02)


@pytest.mark.realstack
@pytest.mark.nightly
def test_the_rehearsal_with_the_real_stack(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/check_gpu.sh"],
        cwd=ROOT,
        env=os.environ | {"CPU": "1", "OUT": str(tmp_path), "AGPO_NO_SETUP": "1", "AGPO_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    report = (tmp_path / "report.md").read_text()
    assert done.returncode == 0, report[-6000:]
    assert re.findall(r"^## (.+)$", report, flags=re.M) == [*TITLES, "What the steps logged"]
    assert "step 2\n" in report and "agpo/step_size/scale" in report
