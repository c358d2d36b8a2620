# SPDX-License-Identifier: Apache-2.0
"""Hanging, dying and memory-eating jobs cost themselves and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.agpo.rewards import confined, sandbox
from recipe.agpo.rewards import pool as pool_module
from recipe.agpo.rewards.pool import PoolClosed, WorkerPool
from recipe.agpo.rewards.verdict import CRASHED, LOST, OK, RAISED, TIMEOUT

JOBS = "tests.rewards.jobs:"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(workers=2, time_limit_s=5.0, memory_limit_mb=256) as running:
        yield running


def test_a_result(pool: WorkerPool) -> None:
    done = pool.submit(JOBS + "add", [2, 3]).result()
    assert (done.value, done.status) == (5, OK)
    assert 0 <= done.seconds < 5


@pytest.mark.parametrize("text", ["null \x00 byte", "lone \ud800 surrogate \udfff", "x" * 5_000_000, "新的一行\n"])
def test_any_text_comes_back_as_it_was(pool: WorkerPool, text: str) -> None:
    assert pool.submit(JOBS + "echo", [text]).result().value == text


@pytest.mark.parametrize(
    ("job", "status", "words"),
    [
        ("busy", TIMEOUT, "0.5 s"),
        ("huge_power", TIMEOUT, "0.5 s"),
        ("exit", CRASHED, "exit code 3"),
        ("kill_itself", LOST, "exit code -9"),
        ("eat_memory", CRASHED, "MemoryError"),
        ("fail", RAISED, "ValueError: on purpose"),
        ("fail_beyond_exception", RAISED, "KeyboardInterrupt"),
        ("unserialisable", RAISED, "TypeError"),
        ("missing", RAISED, "AttributeError"),
    ],
)
def test_one_bad_job_costs_one_job(pool: WorkerPool, job: str, status: str, words: str) -> None:
    bad = pool.submit(JOBS + job, [], time_limit_s=0.5 if status == TIMEOUT else 5.0)
    good = [pool.submit(JOBS + "add", [i, 1]) for i in range(4)]
    done = bad.result()
    assert done.status == status and words in done.detail, done
    assert done.value is None
    assert [future.result().value for future in good] == [1, 2, 3, 4]


def test_a_worker_killed_from_outside_is_not_the_jobs_doing() -> None:
    with WorkerPool(workers=1, time_limit_s=60) as single:
        pid = single.submit(JOBS + "pid", []).result().value
        running = single.submit(JOBS + "sleep", [])
        while _state(pid) != "S" or not running.running():
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)
        done = running.result()
        assert (done.status, done.value) == (LOST, None), done
        assert single.submit(JOBS + "add", [1, 1]).result().value == 2


def test_waiting_is_no_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that the machine keeps waiting has its whole limit; one that sleeps for ever still ends."""
    with WorkerPool(workers=1, time_limit_s=0.2) as single:
        assert single.submit(JOBS + "nap", [0.8]).result().status == OK
        monkeypatch.setattr(pool_module, "WALL", 2.0)
        done = single.submit(JOBS + "sleep", []).result()
    assert done.status == LOST and "by the clock" in done.detail


def test_a_missing_module_is_said(pool: WorkerPool) -> None:
    done = pool.submit("no.such.module:name", []).result()
    assert done.status == RAISED and "ModuleNotFoundError" in done.detail


def test_what_a_job_prints_does_not_reach_the_protocol(pool: WorkerPool) -> None:
    assert pool.submit(JOBS + "chatty", []).result().value == "quiet"


def test_waiting_for_a_worker_is_not_charged() -> None:
    with WorkerPool(workers=1, time_limit_s=2.0) as single:
        jobs = [single.submit(JOBS + "nap", [0.5]) for _ in range(6)]
        done = [job.result() for job in jobs]
    assert [d.status for d in done] == [OK] * 6, "3 s in all, 2 s allowed for each"
    assert all(d.seconds < 2.0 for d in done)


def test_import_and_preparation_are_not_charged(pool: WorkerPool) -> None:
    done = pool.submit("tests.rewards.slow_import:ready", [], time_limit_s=0.5).result()
    assert (done.status, done.value) == (OK, "prepared")


def test_many_hanging_jobs_do_not_block_an_event_loop() -> None:
    async def run() -> tuple[int, list[str]]:
        with WorkerPool(workers=2, time_limit_s=0.3) as hanging:
            jobs = [asyncio.wrap_future(hanging.submit(JOBS + "busy", [])) for _ in range(4)]
            ticks = 0
            while not all(job.done() for job in jobs):
                await asyncio.sleep(0.01)
                ticks += 1
            return ticks, [job.result().status for job in jobs]

    ticks, statuses = asyncio.run(run())
    assert statuses == [TIMEOUT] * 4
    assert ticks > 20


def test_closing_ends_what_waits_and_what_runs() -> None:
    pool = WorkerPool(workers=1, time_limit_s=60)
    running, waiting = pool.submit(JOBS + "sleep", []), pool.submit(JOBS + "add", [1, 1])
    time.sleep(0.2)
    pool.close()
    pool.close()
    assert running.result(10).status == LOST and waiting.result(10).status == LOST
    with pytest.raises(PoolClosed, match="closed"):
        pool.submit(JOBS + "add", [1, 1])


def test_a_worker_is_replaced_after_its_share_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_JOBS", 2)
    with WorkerPool(workers=1) as single:
        pids = [single.submit(JOBS + "pid", []).result().value for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_workers_that_cannot_start_are_not_started_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module.sys, "executable", "/bin/false")
    with WorkerPool(workers=1) as broken:
        done = broken.submit(JOBS + "add", [1, 1]).result(20)
    assert done.status == LOST and "/bin/false" in done.detail


@pytest.mark.parametrize("bad", [{"workers": 0}, {"time_limit_s": 0}, {"memory_limit_mb": -1}])
def test_settings_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        WorkerPool(**bad)  # type: ignore[arg-type]


def test_a_killed_owner_leaves_no_worker_behind() -> None:
    """Also none that is deep in C code and would never look at a signal handler or a closed pipe."""
    program = (
        "from recipe.agpo.rewards.pool import WorkerPool\n"
        "pool = WorkerPool(workers=2, time_limit_s=600)\n"
        "print(pool.submit('tests.rewards.jobs:pid', []).result().value, flush=True)\n"
        "pool.submit('tests.rewards.jobs:huge_power', []); pool.submit('tests.rewards.jobs:sleep', [])\n"
        "import time; time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    time.sleep(0.5)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 10
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)
    owner.stdout.close()


# ---- confined jobs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ("busy", TIMEOUT),
        ("sleep", TIMEOUT),
        ("exit", CRASHED),
        ("kill_itself", CRASHED),
        ("eat_memory", CRASHED),
        ("fail", RAISED),
        ("fail_beyond_exception", RAISED),
        ("unserialisable", RAISED),
    ],
)
def test_a_confined_job_costs_its_worker_nothing(pool: WorkerPool, job: str, status: str) -> None:
    limit = 0.1 if status == TIMEOUT else 5.0
    before = {pool.submit(JOBS + "pid", []).result().value for _ in range(8)}
    done = pool.submit(JOBS + job, [], limit, confined=True).result()
    assert (done.status, done.value) == (status, None), done
    assert pool.submit(JOBS + "pid", []).result().value in before


@pytest.mark.parametrize("error", ["SandboxFailed", "SandboxUnavailable", "OSError"])
def test_a_confined_job_that_could_not_be_run_is_lost(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process could be started, there was no room for its folder, it was given no processor: not its doing."""

    def fails(*_: object, **__: object) -> None:
        raise {"OSError": OSError}.get(error) or getattr(sandbox, error)("on purpose")

    monkeypatch.setattr(sandbox, "call", fails)
    assert confined.run(len, ["a"], 1.0, 64)["status"] == LOST


def test_a_confined_job_gives_its_value(pool: WorkerPool) -> None:
    assert pool.submit(JOBS + "add", [2, 3], confined=True).result().value == 5
    assert pool.submit(JOBS + "chatty", [], confined=True).result().value == "quiet"
    assert pool.submit(JOBS + "echo", ["新的\n" * 1000], confined=True).result().value == "新的\n" * 1000


def test_evaluated_text_changes_nothing(tmp_path: Path) -> None:
    """What a grammar should have refused: even evaluated, it writes no file, no verdict and no later verdict."""
    target = tmp_path / "written"
    message = '{"status": "ok", "value": 1.0, "started": true, "ready": true}'
    attacks = [
        f"open({str(target)!r}, 'w').write('x')",
        f"__import__('os').system('touch {target}')",
        f"__import__('subprocess').run(['touch', {str(target)!r}])",
        f"[__import__('os').write(fd, {message.encode() + bytes([10])!r}) for fd in (0, 1, 2)]",
        "setattr(__import__('tests.rewards.jobs', fromlist=['add']), 'add', lambda a, b: 1.0)",
        "setattr(__import__('json'), 'dumps', lambda *a, **k: '1')",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('socket').socket()",
        "__import__('os').fork()",
    ]
    # Every descriptor there is: the right one too, but without the secret.
    attacks += [f"[__import__('os').write({fd}, {message.encode() + bytes([10])!r})]" for fd in range(3, 64)]
    with WorkerPool(workers=1) as single:
        before = single.submit(JOBS + "pid", []).result().value
        for attack in attacks:
            done = single.submit(JOBS + "evaluate", [attack], confined=True).result()
            assert done.value != 1.0, attack
            assert single.submit(JOBS + "add", [2, 3]).result().value == 5, attack
        assert single.submit(JOBS + "pid", []).result().value == before
    assert list(tmp_path.iterdir()) == []


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
