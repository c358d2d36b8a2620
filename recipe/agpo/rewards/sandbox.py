# SPDX-License-Identifier: Apache-2.0
"""Run an untrusted program: no network, no files but its own, no processes, limits on time, memory and output.

Three independent layers, each used where the kernel has it, none of which needs root or a service:

============  ==========================================================================================
namespaces    own user, network, process, mount, IPC and host name: no network, nobody else is visible,
              and when the program ends, everything that it started is gone
landlock      files: reads the interpreter and system libraries, writes only its own temporary folder;
              newer kernels also deny TCP and signals to others
seccomp       no sockets, no fork, no ptrace, mount, bpf, io_uring, ...; without Landlock nothing may be
              written at all, but files that the user may read can then be read
============  ==========================================================================================

Always: resource limits, no new privileges, an empty environment, a time limit by the clock, an output limit, and a
kill of the whole group.

It protects against what a model writes: loops, allocation, fork bombs, deleting and reading files, sockets. It does
not protect against somebody who attacks the kernel, against side channels, nor the machine's speed against programs
that use their full limits. Against those run it elsewhere: any callable like :func:`run` can take its place.
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LAYERS = ("namespaces", "landlock", "seccomp")
# What must be confined, and by which layers it can be: at least one of them must hold.
REQUIRED: dict[str, tuple[str, ...]] = {"network": ("namespaces", "seccomp"), "files": ("landlock", "seccomp")}
JAIL = Path(__file__).with_name("jail.py")
STDERR_BYTES = 8_192

OK, ERROR, TIME, MEMORY, OUTPUT = "ok", "error", "time", "memory", "output"


class SandboxUnavailable(RuntimeError):
    """This machine cannot confine a program; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. seconds: by the clock; memory_mb: address space; output_mb: of stdout."""

    seconds: float = 2.0
    memory_mb: int = 256
    output_mb: float = 8.0
    file_mb: int = 16


@dataclass(frozen=True)
class Ran:
    """What a program did.

    Attributes:
        status: ok (exit code 0), error (another exit code or a signal), time, memory or output.
        stdout: its output, cut at the limit.
        detail: end of its stderr.
        seconds: by the clock.
        layers: what held while it ran.
    """

    status: str
    stdout: str
    detail: str
    seconds: float
    layers: tuple[str, ...] = ()


class Runner(Protocol):
    """What can stand in for :func:`run`: a remote sandbox, for example."""

    def __call__(self, program: str, stdin: str, limits: Limits) -> Ran: ...


def run(
    program: str,
    stdin: str = "",
    limits: Limits | None = None,
    *,
    off: Sequence[str] = (),
    require: dict[str, tuple[str, ...]] | None = None,
) -> Ran:
    """Run a Python program.

    Args:
        program: its source.
        stdin: its whole input.
        limits: see :class:`Limits`.
        off: layers not to use (for tests, and for kernels that misbehave).
        require: purposes and the layers of which at least one must hold; default ``REQUIRED``.

    Raises:
        SandboxUnavailable: a required purpose is confined by no layer. The program has not run.
    """
    limits = limits or Limits()
    folder = Path(tempfile.mkdtemp(prefix="agpo-run-"))
    reader, writer = os.pipe()
    try:
        (folder / "program.py").write_text(program, encoding="utf-8", errors="replace")
        interpreter = os.path.realpath(sys.executable)
        needed = REQUIRED if require is None else require
        settings = {
            "off": list(off),
            "require": needed,
            "readable": _readable(interpreter),
            "memory_mb": limits.memory_mb,
            "cpu_s": max(1, int(limits.seconds) + 1),
            "file_mb": limits.file_mb,
            "status": writer,
            "command": [interpreter, "-I", "-B", str(folder / "program.py")],
            "environment": {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8",
                            "PYTHONIOENCODING": "utf-8"},
        }  # fmt: skip
        child = subprocess.Popen(
            [interpreter, "-I", "-S", "-B", str(JAIL), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={},
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        writer = -1
        status, stdout, stderr, seconds = _converse(child, stdin.encode("utf-8", "replace"), limits)
        held = tuple(json.loads(os.read(reader, 4096) or b"[]"))
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
        shutil.rmtree(folder, ignore_errors=True)
    if child.returncode == 126 and (missing := _unconfined(held, needed)):
        raise SandboxUnavailable(
            f"this machine confines no {' and no '.join(missing)} of a program (layers that hold: "
            f"{', '.join(held) or 'none'}). Use a Linux kernel with seccomp or Landlock, or a remote sandbox "
            "(reward_kwargs runner=package.module:function)."
        )
    text = stderr.decode("utf-8", "replace")
    if status == OK and child.returncode != 0:
        status = ERROR
        if child.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            status = TIME
        elif "MemoryError" in text or child.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
            status = MEMORY
    return Ran(status, stdout.decode("utf-8", "replace"), text.strip()[-500:], seconds, held)


@functools.cache
def layers() -> tuple[str, ...]:
    """The layers that hold on this machine, found out by running an empty program."""
    return run("", require={}).layers


def _unconfined(held: Sequence[str], require: dict[str, tuple[str, ...]]) -> list[str]:
    return [purpose for purpose, names in require.items() if not set(names) & set(held)]


def _readable(interpreter: str) -> list[str]:
    """Where the interpreter and its libraries lie."""
    paths = {
        sys.base_prefix, sys.base_exec_prefix, str(Path(interpreter).parent), "/usr/lib", "/usr/lib64", "/lib",
        "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero",
    }  # fmt: skip
    # A whole system prefix would make every program's files readable.
    return sorted(path for path in paths if path not in ("/", "/usr")) + (
        [f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"] if sys.base_prefix == "/usr" else []
    )


def _converse(child: subprocess.Popen[bytes], stdin: bytes, limits: Limits) -> tuple[str, bytes, bytes, float]:
    """Feed and read a child within its limits; it and its group are gone afterwards."""
    assert child.stdin and child.stdout and child.stderr
    started = time.monotonic()
    deadline, most = started + limits.seconds + 0.25, int(limits.output_mb * 2**20)  # 0.25 s to start the interpreter
    out, errors, status = bytearray(), bytearray(), OK
    with selectors.DefaultSelector() as selector:
        for stream in (child.stdin, child.stdout, child.stderr):
            os.set_blocking(stream.fileno(), False)
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        if stdin:
            selector.register(child.stdin, selectors.EVENT_WRITE)
        else:
            child.stdin.close()
        view = memoryview(stdin)
        while child.stdout in [key.fileobj for key in selector.get_map().values()]:
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events and time.monotonic() >= deadline:
                status = TIME
                break
            for key, _ in events:
                if key.fileobj is child.stdin:
                    try:
                        view = view[os.write(child.stdin.fileno(), view[: 1 << 16]) :]
                    except (BrokenPipeError, BlockingIOError) as error:
                        view = view if isinstance(error, BlockingIOError) else memoryview(b"")
                    if not view:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    out += chunk
                else:
                    errors = (errors + chunk)[-STDERR_BYTES:]
            if len(out) > most:
                status = OUTPUT
                break
    if status == OK:
        try:
            child.wait(max(0.05, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = TIME
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        stream.close()
    return status, bytes(out[:most]), bytes(errors), time.monotonic() - started
