# SPDX-License-Identifier: Apache-2.0
"""Killable worker processes for judging that may hang, crash or eat memory.

Limits count processor time, so that a busy machine loses no verdicts. A limit by the clock, far above it, ends what
sleeps.

Why not a signal: SIGALRM works in the main thread only, and reward functions run in threads; the exception is then
swallowed and every reward is 0. Why not multiprocessing: it imports ``__main__`` again, which inside a Ray worker is
Ray, and forking a process with threads can deadlock.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.rewards.verdict import CRASHED, LOST, TIMEOUT

START_LIMIT_S = 180.0
MAX_JOBS = 2_000  # a worker is replaced after as many: symbolic caches grow
OVERDUE = 0.25  # share of its time limit after which a job is suspected to need a kill
STARTS = 3  # a worker that cannot even start is not started for ever
WALL = 20.0  # a job may take its time limit times this by the clock
# Signals that others send; what a job does to its own process ends it by other signals or by an exit code.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class Done:
    """Result of one job.

    Attributes:
        value: what the function returned; None unless ``status`` is ok.
        status: ok; timeout, crashed or raised by the job's own doing; lost: through no fault of the job.
        seconds: by the clock from the start of the work, without waiting for a worker.
        detail: one line for a person.
    """

    value: Any
    status: str
    seconds: float
    detail: str = ""


class PoolClosed(RuntimeError):
    """The pool was closed, or belongs to another process."""


class WorkerPool:
    """Runs functions by name in child processes that are killed when they exceed their limits.

    Args:
        workers: child processes, each started when it is first needed.
        time_limit_s: processor time per job, from the moment at which a worker starts on it.
        memory_limit_mb: address space per worker beyond what its imports take; 0: no limit.
    """

    def __init__(self, workers: int = 2, time_limit_s: float = 5.0, memory_limit_mb: int = 1024) -> None:
        if workers < 1 or time_limit_s <= 0 or memory_limit_mb < 0:
            raise ValueError(
                f"workers={workers} (>= 1), time_limit_s={time_limit_s} (> 0), memory_limit_mb={memory_limit_mb} (>= 0)"
            )
        self.workers, self.time_limit_s, self.memory_limit_mb = workers, time_limit_s, memory_limit_mb
        self._jobs: queue.SimpleQueue[tuple[Future[Done], str, float] | None] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closed = False
        self._waiting = 0
        atexit.register(self.close)

    def submit(
        self, function: str, arguments: list[Any], time_limit_s: float | None = None, *, confined: bool = False
    ) -> Future[Done]:
        """Queue ``module:name`` with JSON-able arguments. The future never raises; wrap it to await it.

        confined: the function evaluates text that a model wrote. It runs in a child of the worker that is confined as
        programs are and that does nothing else (:mod:`recipe.agpo.rewards.confined`).

        Raises:
            PoolClosed: after ``close``, or in a forked child of the owner.
            TypeError: arguments that are not JSON.
        """
        if self._closed or os.getpid() != self._owner:
            raise PoolClosed("this pool was closed" if self._closed else "this pool belongs to another process")
        limit = time_limit_s or self.time_limit_s
        request = json.dumps({"function": function, "arguments": arguments, "confined": confined, "limit": limit})
        future: Future[Done] = Future()
        self._jobs.put((future, request, limit))
        with self._lock:
            idle = sum(not slot.busy for slot in self._slots)
            if len(self._slots) < self.workers and idle <= self._jobs.qsize():
                self._slots.append(_Slot(self._jobs, self.memory_limit_mb))
        return future

    def close(self) -> None:
        """Kill the workers; jobs that are still waiting end as lost. Idempotent."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        atexit.unregister(self.close)
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None and job[0].set_running_or_notify_cancel():
                job[0].set_result(Done(None, LOST, 0.0, "the pool was closed"))
        for slot in self._slots:
            slot.stop()
        for _ in self._slots:
            self._jobs.put(None)
        for slot in self._slots:
            slot.thread.join(10)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Slot:
    """One thread that feeds one child process."""

    def __init__(self, jobs: queue.SimpleQueue[tuple[Future[Done], str, float] | None], memory: int) -> None:
        self.busy = False
        self._jobs, self._memory = jobs, memory
        self._child: subprocess.Popen[bytes] | None = None
        # Started while a job is overdue, so that a kill costs no more than the job's own time.
        self._spare: subprocess.Popen[bytes] | None = None
        self._modules: dict[str, None] = {}  # what the jobs so far needed, for the next child to import
        self._buffer = b""
        self._served = 0
        self._stopping = False
        self._log = tempfile.TemporaryFile()  # lives as long as the slot
        # The child dies with this thread, so it must not end before the pool is closed.
        self.thread = threading.Thread(target=self._serve, name="agpo-verifier", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self._stopping = True
        for child in (self._child, self._spare):
            if child is not None:
                _kill(child)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, request, limit = job
            self.busy = True
            if future.set_running_or_notify_cancel():
                try:
                    done = self._run(request, limit)
                except Exception as error:  # a job must always end
                    self._end()
                    done = Done(None, LOST, 0.0, f"{type(error).__name__}: {error}")
                future.set_result(done)
            self.busy = False
        self._end()
        if self._spare is not None:
            _bury(self._spare)

    def _run(self, request: str, limit: float) -> Done:
        problem = self._ensure_child()
        if problem:
            return Done(None, LOST, 0.0, problem)
        child = self._child
        assert child is not None and child.stdin is not None
        self._served += 1
        started = time.monotonic()
        try:
            child.stdin.write(request.encode("utf-8") + b"\n")
            child.stdin.flush()
            message = self._read(started + START_LIMIT_S)
            if message is None:
                self._end()
                return Done(None, LOST, time.monotonic() - started, f"the job did not start in {START_LIMIT_S:g} s")
            if message.get("started"):
                self._modules[json.loads(request)["function"].partition(":")[0]] = None
                started = time.monotonic()
                message = self._result(child.pid, started, limit)
        except (BrokenPipeError, EOFError, ValueError):
            seconds = time.monotonic() - started
            code = self._end()
            lost = self._stopping or (code is not None and -code in _FROM_OUTSIDE)
            words = f"the worker died (exit code {code}): {self._last_words()}"
            return Done(None, LOST if lost else CRASHED, seconds, words)
        seconds = time.monotonic() - started
        if message.get("last"):
            self._end()
        return Done(message.get("value"), message["status"], seconds, message.get("detail", ""))

    def _result(self, pid: int, started: float, limit: float) -> dict[str, Any]:
        """The job's result, or the word on the limit that it exceeded."""
        before = _processor_seconds(pid)
        while True:
            used, waited = _processor_seconds(pid) - before, time.monotonic() - started
            if used >= limit:
                return {"status": TIMEOUT, "detail": f"no result after {limit:g} s of processor time", "last": True}
            if waited >= WALL * limit:
                words = f"no result after {waited:.0f} s by the clock, {used:.1f} s of them processor time"
                return {"status": LOST, "detail": words, "last": True}
            overdue = used >= OVERDUE * limit
            if overdue and self._spare is None and not self._stopping:
                self._spare = self._start()
            # One thread cannot use processor time faster than the clock runs, so nothing is due before this.
            due = min((limit if overdue else OVERDUE * limit) - used, WALL * limit - waited)
            message = self._read(time.monotonic() + max(due, 0.01))
            if message is not None:
                return message

    def _ensure_child(self) -> str:
        """Have a worker that is ready; returns the problem in words if there is none."""
        if self._child is not None and self._served >= MAX_JOBS:
            self._end()
        for _ in range(STARTS):
            if self._child is not None and self._child.poll() is None:
                return ""
            self._end()
            if self._stopping:
                return "the pool was closed"
            self._child, self._spare = self._spare or self._start(), None
            try:
                if self._read(time.monotonic() + START_LIMIT_S) is not None:
                    self._served = 0
                    return ""
            except (EOFError, ValueError):
                pass
            self._end()
        return f"no worker could be started with {sys.executable}: {self._last_words()}"

    def _start(self) -> subprocess.Popen[bytes]:
        self._log.seek(0)
        self._log.truncate()
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        worker = ["-m", "recipe.agpo.rewards.worker", str(os.getpid()), str(self._memory), *self._modules]
        return subprocess.Popen(
            [sys.executable, *worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None at the deadline. Raises EOFError if the worker is gone."""
        child = self._child
        assert child is not None and child.stdout is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(child.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _end(self) -> int | None:
        child, self._child, self._buffer = self._child, None, b""
        return None if child is None else _bury(child)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def _processor_seconds(pid: int) -> float:
    """Processor time of a process of ours, user and system, all threads."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the clock of a process, as clock_getcpuclockid computes it
    except OSError:
        return 0.0  # it has just ended, which its closed pipe says as well


def _bury(child: subprocess.Popen[bytes]) -> int:
    """Kill a child and its group, and forget it; returns its exit code."""
    _kill(child)
    code = child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what it had not read is lost with it
    return code


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.returncode is not None:
        return  # waited for: its number may be somebody else's by now
    try:
        os.killpg(child.pid, 9)
    except ProcessLookupError:
        pass
