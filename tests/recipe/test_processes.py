# SPDX-License-Identifier: Apache-2.0
"""Ending a run ends all that it started, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipe.agpo.processes import MARKER, end_marked, marked, new_run_id

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


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="empty run id"):
        end_marked("")
