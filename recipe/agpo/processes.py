# SPDX-License-Identifier: Apache-2.0
"""End every process that a training run has started.

Ray's daemons leave the process group of whoever started them, and a run that crashes or is interrupted can
leave them, their workers and vLLM's servers behind, with their memory. Each run therefore has its own marker in its
environment, `AGPO_RUN_ID`, which all its processes inherit. Exactly the processes of the run have it.
"""

import os
import signal
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

MARKER = "AGPO_RUN_ID"
_PROC = Path("/proc")


def new_run_id() -> str:
    """A unique marker."""
    return uuid.uuid4().hex


def marked(run_id: str) -> list[int]:
    """Ids of the living processes with `run_id` in their environment, without the calling one and without zombies."""
    if not run_id:
        raise ValueError("an empty run id would match by accident")
    entry = f"{MARKER}={run_id}".encode()
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            # A zombie's environment is empty, so it is not found.
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return sorted(found)


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_marked(run_id: str, grace_s: float = 5.0, kill_s: float = 10.0) -> list[int]:
    """End every process with `run_id` in its environment: SIGTERM, after `grace_s` seconds SIGKILL.

    The processes are listed again before each signal, so that new processes are included and a process id that
    another process has taken is not. Returns the ids of the processes that were found, in order.

    Raises RuntimeError when some are still there `kill_s` seconds after the first SIGKILL.
    """
    seen: set[int] = set()
    start = time.monotonic()
    while alive := marked(run_id):
        seen.update(alive)
        waited = time.monotonic() - start
        if waited > grace_s + kill_s:
            raise RuntimeError(f"processes of run {run_id} survive SIGKILL: {alive}")
        _send(alive, signal.SIGTERM if waited < grace_s else signal.SIGKILL)
        time.sleep(0.2)
    return sorted(seen)
