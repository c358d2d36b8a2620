# SPDX-License-Identifier: Apache-2.0
"""Ending a run ends all that it started, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from recipe.agpo.processes import MARKER, end_marked, marked, memory_gib, new_run_id, run_marked

# Starts a grandchild in a session of its own, as Ray starts its daemons, and leaves it behind.
DETACH = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {sleeper!r}], start_new_session=True)
"""
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def wait_until(condition, seconds: float = 120.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another run."""
    other = new_run_id()
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], env={**os.environ, MARKER: other})
    assert wait_until(lambda: process.pid in marked(other))
    yield process
    process.kill()
    process.wait()


def test_a_detached_grandchild_is_ended_and_a_bystander_is_not(bystander: subprocess.Popen[bytes]) -> None:
    run_id = new_run_id()
    env = {**os.environ, MARKER: run_id}
    subprocess.run([sys.executable, "-c", DETACH.format(sleeper=SLEEPER)], env=env, check=True)
    (grandchild,) = marked(run_id)
    assert end_marked(run_id) == [grandchild]
    assert marked(run_id) == []
    assert bystander.poll() is None


def test_sigkill_follows_when_sigterm_is_ignored() -> None:
    run_id = new_run_id()
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], env={**os.environ, MARKER: run_id})
    assert wait_until(lambda: _ignores_sigterm(process.pid))
    end_marked(run_id, grace_s=0.3)
    assert process.wait(timeout=5) == -signal.SIGKILL


def _ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_run_marked_returns_the_status_and_leaves_nothing() -> None:
    run_id = new_run_id()
    command = DETACH.format(sleeper=SLEEPER) + "sys.exit(3)"
    assert run_marked([sys.executable, "-c", command], run_id=run_id) == 3
    assert marked(run_id) == []


def test_an_interrupted_launcher_takes_its_run_along() -> None:
    run_id = new_run_id()
    command = DETACH.format(sleeper=SLEEPER) + "import time; time.sleep(600)"
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from recipe.agpo.processes import run_marked;"
            f"sys.exit(run_marked([sys.executable, '-c', {command!r}], run_id={run_id!r}))",
        ],
        cwd=Path(__file__).resolve().parents[2],
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_until(lambda: len(marked(run_id)) == 2)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) != 0
        assert marked(run_id) == []
    finally:
        with suppress(ProcessLookupError):
            launcher.kill()
        end_marked(run_id, grace_s=0.0)


def test_memory_of_a_run_is_counted() -> None:
    run_id = new_run_id()
    hold = "block = bytearray(64 << 20); print('up', flush=True); import time; time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", hold], env={**os.environ, MARKER: run_id}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    assert 64 / 1024 <= memory_gib(run_id) < 256 / 1024
    end_marked(run_id)
    process.wait()
    assert memory_gib(run_id) == 0.0


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="empty run id"):
        end_marked("")
