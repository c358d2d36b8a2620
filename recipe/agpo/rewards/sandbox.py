# SPDX-License-Identifier: Apache-2.0
"""Run untrusted code: no network, no files but its own, no processes, limits on time, memory, files and output.

Three independent layers, each used where the kernel has it, none of which needs root or a service:

============  ==========================================================================================
namespaces    own user, network, process, mount, IPC and host name: no network, nobody else is visible, a
              read-only file tree of the interpreter and its libraries, a folder in memory that has a size,
              and when the program ends, everything that it started is gone
landlock      files: reads the interpreter and its libraries, writes only its own folder; newer kernels also
              deny TCP and signals to others
seccomp       a list of the system calls that a program needs; all others are refused: sockets, processes,
              changes of owner, mode, times and attributes, ptrace, mounts, shared memory, ...
============  ==========================================================================================

Always: no capabilities, no new privileges, resource limits, nothing of the caller's environment, limits on CPU time and
on time by the clock, an output limit, and nothing that outlives the verdict. What each layer promises, and what is
left when one of them is missing: docs/sandbox.md. Instead of this module any callable like :func:`run` can be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import json
import os
import secrets
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from recipe.agpo.rewards import jail

LAYERS = ("namespaces", "landlock", "seccomp")
# What must be confined, and by which layers it can be: at least one of them must hold.
REQUIRED: dict[str, tuple[str, ...]] = {
    "network": ("namespaces", "seccomp"),
    "files": LAYERS,
    "processes": ("namespaces", "seccomp"),
}
_UNUSABLE: set[str] = set()  # layers that this machine has only in part, found out when they are used
STDERR_BYTES = 8_192
_PREFIX = "agpo-run-"
STALE_S = 3600.0  # after that an unlocked folder is nobody's
GRACE_S = 10.0  # for a supervisor to end what it supervises

OK, ERROR, TIME, MEMORY, OUTPUT, DISK = "ok", "error", "time", "memory", "output", "disk"
LIMITS = (TIME, MEMORY, OUTPUT, DISK)  # the program exceeded what it may use
_STARVED = "starved"


class SandboxUnavailable(RuntimeError):
    """This machine cannot confine a program; the message says what to do."""


class SandboxFailed(RuntimeError):
    """There is no verdict, and it is not the program's doing: no memory for its process, a supervisor killed, ..."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: CPU time of the program as a whole, so that a busy machine changes no verdict.
        memory_mb: address space; with :func:`call`, beyond what the calling process has.
        output_mb: of stdout, and as much of stderr.
        disk_mb: all files of its folder together.
        files: their number, folders included.
        wall_s: time by the clock, for programs that wait; default ``5 * seconds + 5``. Time in which the program could
            have run and was not given a processor does not count.
    """

    seconds: float = 2.0
    memory_mb: int = 256
    output_mb: float = 8.0
    disk_mb: int = 64
    files: int = 1024
    wall_s: float | None = None

    @property
    def wall(self) -> float:
        return 5 * self.seconds + 5 if self.wall_s is None else self.wall_s


@dataclass(frozen=True)
class Ran:
    """What a program did.

    Attributes:
        status: ok (exit code 0), error (another exit code or a signal), or one of ``LIMITS``.
        stdout: its output, cut at the limit.
        detail: end of its stderr.
        seconds: by the clock, start and cleaning up included.
        layers: what held while it ran.
        cpu_s: CPU time of the program, without the start of the interpreter.
    """

    status: str
    stdout: str
    detail: str
    seconds: float
    layers: tuple[str, ...] = ()
    cpu_s: float = 0.0


class Runner(Protocol):
    """What can stand in for :func:`run`: a remote sandbox, for example."""

    def __call__(self, program: str, stdin: str, limits: Limits) -> Ran: ...


def run(
    program: str,
    stdin: str = "",
    limits: Limits | None = None,
    *,
    paths: Sequence[str] = (),
    off: Sequence[str] = (),
    require: dict[str, tuple[str, ...]] | None = None,
) -> Ran:
    """Run a Python program in an interpreter of its own.

    Args:
        program: its source.
        stdin: its whole input.
        limits: see :class:`Limits`.
        paths: folders that it may read and import from, beyond the standard library.
        off: layers not to use (for tests, and for kernels that misbehave).
        require: purposes and the layers of which at least one must hold; default ``REQUIRED``.

    Raises:
        SandboxUnavailable: a required purpose is confined by no layer. The program has not run.
        SandboxFailed: the program was not run to its end, through nothing that it did.
    """
    limits = limits or Limits()

    def start(settings: dict[str, Any], descriptors: list[int]) -> int:
        folder = settings["folder"]
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
        settings |= {"memory": limits.memory_mb << 20, "paths": list(paths)}
        interpreter = os.path.realpath(sys.executable)
        return os.posix_spawn(
            interpreter,
            [interpreter, "-I", "-S", "-B", jail.__file__, json.dumps(settings)],
            # One arena: those that malloc reserves for each thread would use up the address space.
            {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(descriptors)],
        )

    return _run(start, stdin, limits, paths, off, require)


def call(
    function: Callable[[str], str],
    argument: str,
    limits: Limits | None = None,
    *,
    readable: Sequence[str] = (),
    off: Sequence[str] = (),
    require: dict[str, tuple[str, ...]] | None = None,
) -> Ran:
    """Call a function in a confined copy of this process; its result is the ``stdout`` of what is returned.

    Everything that this process has imported is there, at no cost. The copy can read this process's memory as it was,
    so nothing secret may lie there. The process must have a single thread.

    Args:
        function: takes and returns text; what it prints goes nowhere.
        argument: what it is called with.
        limits: see :class:`Limits`.
        readable: folders that it may read (modules that are imported late), beyond the standard library.
        off, require: as for :func:`run`.

    Raises:
        SandboxUnavailable, SandboxFailed: as for :func:`run`.
    """
    limits = limits or Limits()

    def start(settings: dict[str, Any], descriptors: list[int]) -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        settings |= {"memory": used + (limits.memory_mb << 20), "paths": []}
        child = os.fork()
        if child == 0:
            _become(function, settings, descriptors)
        return child

    return _run(start, argument, limits, readable, off, require)


def _become(function: Callable[[str], str], settings: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """The child's side of :func:`call`."""
    code = 1
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        # The objects of the calling process may hold text that it has not written yet.
        sys.stdin, sys.stdout = io.StringIO(), io.StringIO()
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)

        def body() -> None:
            with open(0, encoding="utf-8", errors="replace", closefd=False) as file:
                argument = file.read()
            result = function(argument).encode("utf-8", "replace")
            while result:
                result = result[os.write(1, result) :]

        jail.supervise(settings, body)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


@functools.cache
def layers() -> tuple[str, ...]:
    """The layers that hold on this machine, found out by running an empty program."""
    return run("", require={}).layers


def describe(held: Sequence[str]) -> str:
    """One line for a person: what holds, and what does not."""
    missing = ", ".join(layer for layer in LAYERS if layer not in held)
    text = ", ".join(held) or "no layer"
    return f"{text}; not on this machine: {missing} (docs/sandbox.md says what that leaves open)" if missing else text


def _run(
    start: Callable[[dict[str, Any], list[int]], int],
    stdin: str,
    limits: Limits,
    readable: Sequence[str],
    off: Sequence[str],
    require: dict[str, tuple[str, ...]] | None,
) -> Ran:
    """Start a supervisor with the four descriptors stdin, stdout, stderr and status, and talk with its program."""
    began, needed = time.monotonic(), REQUIRED if require is None else require
    _sweep()
    folder = os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ours, theirs = _pipes()
    try:
        settings = {
            "parent": os.getpid(),
            "folder": folder,
            "off": [*off, *_UNUSABLE],
            "require": needed,
            "readable": _readable(readable),
            "cpu_s": limits.seconds,
            "wall_s": limits.wall,
            "disk": limits.disk_mb << 20,
            "files": limits.files,
        }
        child = start(settings, theirs)
        while theirs:
            os.close(theirs.pop())
        status, stdout, stderr, answer, broken = _converse(child, ours, stdin.encode("utf-8", "replace"), limits, began)
    finally:
        for descriptor in [*ours, *theirs, lock]:
            os.close(descriptor)
        _remove(folder)
    lines = answer.splitlines()  # the first says whether the program began, the last what became of it
    report: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if report.get("end") == jail.NO_TREE:
        _UNUSABLE.add("namespaces")
        return _run(start, stdin, limits, readable, off, require)
    held = tuple(report.get("layers", ()))
    text = stderr.decode("utf-8", "replace").strip()
    if report and not report["started"] and (missing := _unconfined(held, needed)):
        raise SandboxUnavailable(
            f"this machine confines no {' and no '.join(missing)} of a program (layers that hold: "
            f"{', '.join(held) or 'none'}). Use a Linux kernel with seccomp or Landlock, or a remote sandbox "
            "(reward_kwargs runner=package.module:function)."
        )
    if status == OK and not (report.get("started") and (broken or "end" in report)):
        raise SandboxFailed(f"the program was not run, or its supervisor was killed from outside: {text[-500:]}")
    if report.get("end") == "starved" or status == _STARVED:
        raise SandboxFailed(f"the program was hardly given a processor in {time.monotonic() - began:.0f} s")
    if status == OK:
        status = _status(report, text) if "end" in report else ERROR
    return Ran(
        status, stdout.decode("utf-8", "replace"), text[-500:], time.monotonic() - began, held, report.get("cpu_s", 0.0)
    )


def _status(report: dict[str, Any], stderr: str) -> str:
    end, code = report["end"], report["code"]
    if end in LIMITS:
        return str(end)
    if code == 0:
        return OK
    if "No space left on device" in stderr:
        return DISK
    # The kernel's own killer of what uses too much memory sends SIGKILL as well.
    return MEMORY if "MemoryError" in stderr or code == -signal.SIGKILL else ERROR


def _pipes() -> tuple[list[int], list[int]]:
    """Our and the child's ends of stdin, stdout, stderr and status; the child's lie above the numbers it will have."""
    pairs = [os.pipe() for _ in range(4)]
    ours, theirs = [], []
    for number, pair in enumerate(pairs):
        own, other = pair[::-1] if number == 0 else pair
        ours.append(own)
        theirs.append(fcntl.fcntl(other, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(other)
        os.set_blocking(own, False)
    return ours, theirs


def _unconfined(held: Sequence[str], require: dict[str, tuple[str, ...]]) -> list[str]:
    return [purpose for purpose, names in require.items() if not set(names) & set(held)]


def _readable(more: Sequence[str]) -> list[str]:
    """Where the interpreter and its libraries lie, and ``more``."""
    interpreter = os.path.realpath(sys.executable)
    paths = {
        sys.base_prefix,
        sys.base_exec_prefix,
        str(Path(interpreter).parent),
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/usr/share/zoneinfo",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/dev/urandom",
        "/dev/zero",
        *(os.path.abspath(path) for path in more),
    }
    # A whole system prefix would make every program's files readable.
    whole = {"/", "/usr", "/usr/local"}
    paths |= {f"{prefix}/{name}" for prefix in paths & whole for name in ("lib", "lib64")}
    return sorted(paths - whole)


def _converse(
    child: int, ours: list[int], stdin: bytes, limits: Limits, began: float
) -> tuple[str, bytes, bytes, bytes, bool]:
    """Feed and read a program until its supervisor has ended; then nothing of it is left.

    Returns the status, if it is known here, stdout, stderr, the supervisor's lines, and whether the supervisor broke
    off by itself: what it was made to do by the program, it was not killed from outside.
    """
    feed, out_end, error_end, status_end = ours
    most, view = int(limits.output_mb * 2**20), memoryview(stdin)
    texts: dict[int, bytearray] = {out_end: bytearray(), error_end: bytearray(), status_end: bytearray()}
    status, deadline, told = OK, began + jail.STARVED * limits.wall + GRACE_S, False
    taken = {out_end: 0, error_end: 0, status_end: 0}  # bytes

    def read(descriptor: int) -> bool:
        """Take what is there; False at the end."""
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        texts[descriptor] += chunk
        taken[descriptor] += len(chunk)
        if descriptor == error_end:
            del texts[descriptor][:-STDERR_BYTES]
        return bool(chunk)

    def too_much() -> bool:
        return max(taken[out_end], taken[error_end]) > most

    def stop_feeding() -> None:
        selector.unregister(feed)
        os.close(feed)
        ours.remove(feed)

    try:
        with selectors.DefaultSelector() as selector:
            selector.register(feed, selectors.EVENT_WRITE)
            for descriptor in texts:
                selector.register(descriptor, selectors.EVENT_READ)
            while status_end in selector.get_map():
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not told and (too_much() or time.monotonic() > deadline):
                    status, told = OUTPUT if too_much() else _STARVED, True
                    os.kill(child, signal.SIGTERM)
                    deadline = time.monotonic() + GRACE_S
                elif told and time.monotonic() > deadline:
                    break
                for key, _ in events:
                    if key.fd != feed:
                        if told and key.fd != status_end or not read(key.fd):
                            selector.unregister(key.fd)
                        continue
                    try:
                        view = view[os.write(feed, view[: 1 << 16]) :]
                    except BrokenPipeError:
                        view = memoryview(b"")
                    if not view:
                        stop_feeding()
    except BaseException:
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        code = _wait(child)
    for descriptor in (out_end, error_end):
        while not too_much() and read(descriptor):
            pass
    if too_much():
        status = OUTPUT
    answer, broken = bytes(texts[status_end]), code == jail.BROKEN
    return status, bytes(texts[out_end][:most]), bytes(texts[error_end]), answer, broken


def _wait(child: int) -> int | None:
    """Until the supervisor has ended; it is killed, and its program with it, if it does not end by itself.

    Returns its exit code, if it is known.
    """
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ChildProcessError):  # the kernel waits for it where the caller ignores SIGCHLD
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.001)
    return None


@functools.cache
def _sweep() -> None:
    """Once a process: remove the folders of processes that were killed while a program ran. Those in use are locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_mtime > time.time() - STALE_S:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(str(folder))
            finally:
                os.close(lock)


def _remove(folder: str) -> None:
    """Remove a folder whatever is in it: nested beyond the longest path, without permissions, with odd names."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # Folders within folders are moved up, so that nothing recurs and no path grows.
            while names := os.listdir(top):
                for name in names:
                    if _unlinked(name, top):
                        continue
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                    try:
                        for nested in os.listdir(inner):
                            if not _unlinked(nested, inner):
                                os.rename(nested, secrets.token_hex(16), src_dir_fd=inner, dst_dir_fd=top)
                    finally:
                        os.close(inner)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(folder)


def _unlinked(name: str, folder: int) -> bool:
    """Remove what is no folder; a folder is made accessible."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        os.chmod(name, 0o700, dir_fd=folder)
        return False
    return True
