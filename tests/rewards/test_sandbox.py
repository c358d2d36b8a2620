# SPDX-License-Identifier: Apache-2.0
"""What a model may write, and what it must not reach. Each confinement also with layers taken away."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from recipe.agpo.rewards import sandbox
from recipe.agpo.rewards.sandbox import ERROR, MEMORY, OK, OUTPUT, TIME, Limits, Ran, SandboxUnavailable, run

FAST = Limits(seconds=20.0, memory_mb=256, output_mb=1)  # only what must not hang: a slow machine is no failure
HELD = set(sandbox.layers())
# Which layers are taken away; every purpose is then still held by another one.
WITHOUT = [(), ("namespaces",), ("landlock",), ("namespaces", "landlock"), ("seccomp",), ("landlock", "seccomp")]


def without(*needed_one_of: str):
    """Parametrise over layers taken away, as long as one of the needed ones is left on this machine."""
    possible = [off for off in WITHOUT if (set(needed_one_of) & HELD) - set(off)]
    return pytest.mark.parametrize("off", possible, ids=lambda off: "-".join(off) or "all")


def attempt(program: str, off: tuple[str, ...] = (), stdin: str = "") -> Ran:
    return run(program, stdin, FAST, off=off, require={})


def test_this_machine_confines_programs() -> None:
    assert HELD & set(sandbox.REQUIRED["network"]) and HELD & set(sandbox.REQUIRED["files"])


@without(*sandbox.LAYERS)
def test_an_honest_program_runs(off: tuple[str, ...]) -> None:
    program = "import sys, math, collections\nprint(sum(map(int, sys.stdin.read().split())) + math.floor(0.5))"
    ran = attempt(program, off, "40\n2\n")
    assert (ran.status, ran.stdout.strip()) == (OK, "42"), ran
    assert set(ran.layers) == HELD - set(off)


def test_threads_deep_recursion_and_exit_work() -> None:
    program = (
        "import sys, threading\nsys.setrecursionlimit(10**5)\nthreading.stack_size(2**26)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "def main(): print(depth(20000))\n"
        "t = threading.Thread(target=main); t.start(); t.join(); exit()"
    )
    ran = attempt(program)
    assert (ran.status, ran.stdout.strip()) == (OK, "20000"), ran


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", TIME),
        ("import time\ntime.sleep(60)", TIME),
        ("x = bytearray(10**9)", MEMORY),
        ("x = []\nwhile True: x.append('x' * 10**6)", MEMORY),
        ("while True: print('x' * 1000)", OUTPUT),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", OUTPUT),
        ("raise ValueError('no')", ERROR),
        ("import os\nos.abort()", ERROR),
        ("def f(): f()\nf()", ERROR),
        ("print(", ERROR),
    ],
)
def test_limits(program: str, status: str) -> None:
    seconds = 1.0 if status == TIME else 20.0
    ran = run(program, "", Limits(seconds, memory_mb=256, output_mb=1, wall_s=20.0 if "while" in program else seconds))
    assert ran.status == status, ran
    assert len(ran.stdout) <= 2**20


@without("seccomp")
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import multiprocessing as m\np = m.Process(target=print); p.start(); p.join()",
        "import os\nos.execv('/bin/sh', ['sh', '-c', ':(){ :|:& };:'])\n",
    ],
    ids=["fork bomb", "subprocess", "multiprocessing", "shell"],
)
def test_no_new_processes(program: str, off: tuple[str, ...]) -> None:
    assert attempt(program, off).status != OK


@without(*sandbox.LAYERS)
def test_files_outside_survive(tmp_path: Path, off: tuple[str, ...]) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    os.chmod(tmp_path, 0o777)
    programs = (
        f"import os\nos.remove({str(canary)!r})",
        f"open({str(canary)!r}, 'w').write('dead')",
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"import os\nos.rename({str(canary)!r}, {str(tmp_path / 'moved')!r})",
        f"import shutil\nshutil.rmtree({str(tmp_path)!r})",
        f"import os\nos.truncate({str(canary)!r}, 0)",
    )
    for program in programs:
        assert attempt(program, off).status == ERROR, program
    assert canary.read_text() == "alive" and os.listdir(tmp_path) == ["canary"]


@without(*sandbox.LAYERS)
def test_secrets_cannot_be_read(tmp_path: Path, off: tuple[str, ...]) -> None:
    (tmp_path / "secret").write_text("hunter2")
    os.chmod(tmp_path, 0o777)
    for target in (tmp_path / "secret", "/etc/passwd", Path(__file__), f"/proc/{os.getpid()}/environ"):
        ran = attempt(f"print(open({str(target)!r}).read())", off)
        assert ran.status == ERROR and "hunter2" not in ran.stdout, target


def test_no_environment_and_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2")
    ran = attempt("import os\nprint(sorted(os.environ), os.listdir('.'), os.environ['HOME'] == os.getcwd())")
    assert ran.status == OK and "API_TOKEN" not in ran.stdout
    assert "['program.py'] True" in ran.stdout
    folders = {attempt("import os\nprint(os.getcwd())").stdout.strip() for _ in range(2)}
    assert len(folders) == 2 and not any(Path(folder).exists() for folder in folders)


@without("namespaces", "seccomp")
def test_no_network(off: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, accepted = server.getsockname()[1], []
        server.settimeout(5)
        listener = threading.Thread(target=_accept, args=(server, accepted), daemon=True)
        listener.start()
        ran = attempt(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint('connected')", off)
        assert ran.status == ERROR and "connected" not in ran.stdout
        socket.create_connection(("127.0.0.1", port)).close()
        listener.join(5)
    assert accepted == ["one"], "only our own connection arrived"


@without("namespaces", "seccomp")
def test_others_cannot_be_signalled(off: tuple[str, ...]) -> None:
    ran = attempt(f"import os\nos.kill({os.getpid()}, 0)\nprint('reached')", off)
    assert "reached" not in ran.stdout


def test_a_machine_that_confines_nothing_refuses() -> None:
    with pytest.raises(SandboxUnavailable, match="network and no files.*remote sandbox"):
        run("print('ran')", off=sandbox.LAYERS)


def test_input_that_is_never_read_and_output_without_end_of_line() -> None:
    ran = run("print('done', end='')", "x" * 5_000_000, FAST)
    assert (ran.status, ran.stdout) == (OK, "done")


def _accept(server: socket.socket, accepted: list[str]) -> None:
    server.accept()[0].close()
    accepted.append("one")
