# SPDX-License-Identifier: Apache-2.0
"""What a hostile program tries against the sandbox, with all layers and with each of them taken away."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipe.agpo.rewards import sandbox
from recipe.agpo.rewards.sandbox import DISK, ERROR, LIMITS, MEMORY, OK, TIME, Limits, Ran, run
from tests.rewards.test_sandbox import HELD, without

MANY = Limits(seconds=20.0, memory_mb=256, output_mb=1)
SHORT = Limits(seconds=20.0, memory_mb=256, output_mb=1, wall_s=1.0)
# Tools for the programs: raw system calls, so that no library stands between.
TOOLS = """
import ctypes, errno, os, sys, time
_libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    known = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    return _libc.syscall(ctypes.c_long(number), *known), ctypes.get_errno()
def succeeds(function, *arguments, **more):
    try:
        function(*arguments, **more)
    except (OSError, AttributeError, MemoryError) as error:
        return False
    return True
"""


def attack(program: str, off: tuple[str, ...] = (), limits: Limits = MANY, paths: tuple[str, ...] = ()) -> Ran:
    return run(TOOLS + program, "", limits, off=off, require={}, paths=paths)


def leftovers() -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("agpo-run-")]


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sandbox makes its folders: nobody else's are in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# --- what belongs to others ------------------------------------------------------------------------------------------


@without("namespaces", "seccomp")
def test_mode_owner_times_and_attributes_of_others_files(tmp_path: Path, off: tuple[str, ...]) -> None:
    """The file lies where the program may read, and belongs to the user who runs it."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    os.chmod(tmp_path, 0o777)
    os.chmod(canary, 0o666)
    before = _state(canary)
    program = f"""
p, own = {str(canary)!r}, os.getuid()
f = os.open(p, os.O_RDONLY)
at = -100
path = p.encode()
times = (ctypes.c_long * 4)(1, 0, 1, 0)
attributes = (ctypes.c_ulong * 4)()
x86 = os.uname().machine == "x86_64"
attempts = {{
    "chmod": succeeds(os.chmod, p, 0o600), "fchmod": succeeds(os.fchmod, f, 0o600),
    "chown": succeeds(os.chown, p, own, -1), "lchown": succeeds(os.lchown, p, own, -1),
    "fchown": succeeds(os.fchown, f, own, -1), "utime": succeeds(os.utime, p, (1, 1)),
    "futimens": succeeds(os.utime, f, (1, 1)),
    "utime by name": x86 and call(132, path, 0)[0] == 0, "utimes": x86 and call(235, path, 0)[0] == 0,
    "futimesat": x86 and call(261, at, path, 0)[0] == 0,
    "setxattr": succeeds(os.setxattr, p, "user.a", b"b"), "fsetxattr": succeeds(os.setxattr, f, "user.a", b"b"),
    "removexattr": succeeds(os.removexattr, p, "user.kept"),
    "fchmodat2": call(452, at, path, 0o600, 0)[0] == 0,
    "setxattrat": call(463, at, path, 0, b"user.a", (ctypes.c_ulong * 2)(), 16)[0] == 0,
    "removexattrat": call(466, at, path, 0, b"user.kept")[0] == 0,
    "file_setattr": call(469, at, path, attributes, 32, 0)[0] == 0,
}}
import fcntl
for name, request in (("FS_IOC_SETFLAGS", 0x40086602), ("FS_IOC_FSSETXATTR", 0x401C5820)):
    attempts[name] = succeeds(fcntl.ioctl, f, request, bytes(32))
print([name for name, done in attempts.items() if done])
"""
    ran = attack(program, off, paths=(str(tmp_path),))
    assert (ran.status, ran.stdout.strip()) == (OK, "[]"), ran
    assert _state(canary) == before


def _state(path: Path) -> tuple[object, ...]:
    state = os.stat(path)
    return state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, state.st_atime_ns > 10**9, os.listxattr(path)


@without("landlock", "seccomp", "namespaces")
def test_links_out_of_the_folder(tmp_path: Path, off: tuple[str, ...]) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "open").mkdir()
    os.chmod(tmp_path, 0o777)
    program = f"""
s = {str(tmp_path / "secret")!r}
for link in (os.symlink, os.link):
    try:
        link(s, "mine")
        print(open("mine").read())
    except OSError:
        pass
    if os.path.lexists("mine"): os.unlink("mine")
try:
    os.symlink({str(tmp_path)!r}, "folder")
    open("folder/new", "w").write("x")
except OSError:
    pass
for attempt in (lambda: os.open({str(tmp_path / "open")!r}, os.O_TMPFILE | os.O_RDWR), lambda: os.mkfifo(s + "f")):
    print(succeeds(attempt))
"""
    ran = attack(program, off)
    assert (ran.status, ran.stdout.split()) == (OK, ["False", "False"]), ran
    assert sorted(os.listdir(tmp_path)) == ["open", "secret"]


@without(*sandbox.LAYERS)
def test_memory_environment_and_descriptors_of_others(
    off: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The expected output lies in the memory of the process that compares: it must not be readable."""
    monkeypatch.setenv("API_TOKEN", "hunter2")
    (tmp_path / "secret").write_text("hunter2")
    inherited = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    program = f"""
found = [number for number in range(3, 256) if succeeds(os.fstat, number)]
for parent in (os.getppid(), {os.getpid()}, {os.getppid()}, 1):
    for name in ("mem", "environ", "maps", "fd", "root", f"task/{{parent}}/mem"):
        path = f"/proc/{{parent}}/{{name}}"
        if succeeds(lambda: open(path, "rb", 0).read(1)) or succeeds(os.listdir, path): found.append(path)
remote = (ctypes.c_ulong * 2)(id(found), 8)
local = (ctypes.c_ulong * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
x86 = os.uname().machine == "x86_64"
if call(310 if x86 else 270, {os.getpid()}, local, 1, remote, 1, 0)[0] > 0: found.append("process_vm_readv")
if call(101 if x86 else 117, 16, {os.getpid()}, 0, 0)[0] == 0: found.append("ptrace")
descriptor = call(434, {os.getpid()}, 0)[0]
if descriptor >= 0 and call(438, descriptor, 0, 0)[0] >= 0: found.append("pidfd_getfd")
print(found, dict(os.environ))
"""
    try:
        ran = attack(program, off)
    finally:
        os.close(inherited)
    assert ran.status == OK and ran.stdout.startswith("[] ") and "hunter2" not in ran.stdout, ran


@without("namespaces", "seccomp")
def test_limits_priorities_and_names_of_others(off: tuple[str, ...]) -> None:
    import resource

    here = (
        os.sched_getaffinity(0),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        os.uname().nodename,
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        Path("/proc/sysvipc/shm").read_text(),
    )
    program = f"""
import resource
x86 = os.uname().machine == "x86_64"
for process in (os.getppid(), {os.getpid()}, 1):
    print(
        succeeds(resource.prlimit, process, resource.RLIMIT_NOFILE, (64, 64)),
        succeeds(os.sched_setaffinity, process, {{0}}),
        succeeds(os.sched_setscheduler, process, os.SCHED_BATCH, os.sched_param(0)),
        succeeds(os.setpriority, os.PRIO_PROCESS, process, 19),
        succeeds(os.kill, process, 0) and process != 1,
        call(251 if x86 else 30, 1, process, 3 << 13)[0] == 0,  # ioprio_set
    )
print(
    call(170 if x86 else 161, b"evil", 4)[0] == 0, call(171 if x86 else 162, b"evil", 4)[0] == 0,
    call(29 if x86 else 194, 0, 1 << 20, 0o1600)[0] >= 0,  # shmget
    call(68 if x86 else 186, 0, 0o1600)[0] >= 0, call(64 if x86 else 190, 0, 1, 0o1600)[0] >= 0,  # msgget, semget
)
"""
    ran = attack(program, off)
    after = (
        os.sched_getaffinity(0),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        os.uname().nodename,
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        Path("/proc/sysvipc/shm").read_text(),
    )
    assert ran.status == OK and here == after, ran
    if "seccomp" not in off:
        assert "True" not in ran.stdout, ran.stdout


# Name -> numbers on x86_64 and aarch64. Each would reach something outside, or what no limit bounds.
REFUSED = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "chown": (92, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "swapon": (167, 224),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "capset": (126, 91),
    "setuid": (105, 146),
    "setgroups": (116, 159),
    "personality": (135, 92),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "tkill": (200, 130),
    "kcmp": (312, 272),
    "mlock": (149, 228),
    "mlockall": (151, 230),
    "linkat": (265, 37),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "flock": (73, 32),
    "sync": (162, 81),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "openat2": (437, 437),
    "fallocate": (285, 47),
    "unknown to us": (472, 472),
    "of the future": (900, 900),
    "x32": (0x40000000 + 39, 0x40000000 + 39),
}


@without("seccomp")
def test_system_calls_that_no_program_needs(off: tuple[str, ...]) -> None:
    column = 0 if os.uname().machine == "x86_64" else 1
    numbers = {name: pair[column] for name, pair in REFUSED.items() if pair[column] is not None}
    program = f"""
results = {{name: call(number, 0, 0, 0, 0, 0, 0) for name, number in {numbers}.items()}}
print([f"{{name}}: {{result}}" for name, result in results.items() if result[0] != -1 or result[1] not in (1, 38)])
"""
    ran = attack(program, off)
    assert (ran.status, ran.stdout.strip()) == (OK, "[]"), ran


@without("seccomp")
def test_arguments_that_no_program_needs(off: tuple[str, ...]) -> None:
    """Calls that are needed, but not with these arguments."""
    program = """
import fcntl, signal
x86 = os.uname().machine == "x86_64"
prctl, clone, prlimit = (157, 56, 302) if x86 else (167, 220, 261)
new = (ctypes.c_ulong * 2)(1, 1)
r, w = os.pipe()
attempts = {
    "PR_SET_PDEATHSIG": call(prctl, 1, 0, 0, 0, 0), "PR_SET_DUMPABLE": call(prctl, 4, 0, 0, 0, 0),
    "PR_SET_CHILD_SUBREAPER": call(prctl, 36, 1, 0, 0, 0), "PR_SET_SECCOMP": call(prctl, 22, 1, 0, 0, 0),
    "PR_SET_PTRACER": call(prctl, 0x59616D61, -1, 0, 0, 0), "PR_SET_MM": call(prctl, 35, 1, 0, 0, 0),
    "clone without thread": call(clone, 17, 0, 0, 0, 0),
    "thread with descriptors of its own": call(clone, 0x10900, 0, 0, 0, 0),
    "thread that is traced": call(clone, 0x12F00, 0, 0, 0, 0),
    "thread in a new namespace": call(clone, 0x10F00 | 0x20000, 0, 0, 0, 0),
    "CLONE_NEWUSER": call(clone, 0x10000000 | 17, 0, 0, 0, 0),
    "prlimit of the parent": call(prlimit, os.getppid(), 7, new, 0),
    "TIOCSTI": call(16 if x86 else 29, 0, 0x5412, b"x"),
    "F_SETPIPE_SZ": call(72 if x86 else 25, w, 1031, 1 << 20), "F_SETOWN": call(72 if x86 else 25, r, 8, os.getppid()),
    "F_NOTIFY": call(72 if x86 else 25, r, 1026, 1), "kill all": call(62 if x86 else 129, -1, 0),
    "kill the group": call(62 if x86 else 129, 0, 0), "kill the parent": call(62 if x86 else 129, os.getppid(), 0),
}
print([f"{name}: {result}" for name, result in attempts.items() if result != (-1, 1)])
"""
    ran = attack(program, off)
    assert (ran.status, ran.stdout.strip()) == (OK, "[]"), ran


@without(*sandbox.LAYERS)
def test_no_capabilities(off: tuple[str, ...]) -> None:
    program = """
header, data = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)()
print(call(125 if os.uname().machine == "x86_64" else 90, header, data)[0], any(data), _libc.prctl(23, 21, 0, 0, 0))
"""
    ran = attack(program, off)
    assert ran.status == OK and ran.stdout.split()[:2] == ["0", "False"], ran
    if os.geteuid() == 0:
        assert ran.stdout.split()[2] == "0", "the bounding set is empty"


@without("namespaces", "seccomp")
def test_no_user_namespace_gives_capabilities_back(off: tuple[str, ...]) -> None:
    program = """
x86 = os.uname().machine == "x86_64"
print(call(272 if x86 else 97, 0x10000000)[0], call(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)[0])
"""
    ran = attack(program, off)
    assert (ran.status, ran.stdout.split()) == (OK, ["-1", "-1"]), ran


# --- what outlives its verdict ---------------------------------------------------------------------------------------


def running(marker: str) -> list[str]:
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += [process] * (marker in Path(f"/proc/{process}/comm").read_text())
        except OSError:
            continue
    return found


HIDE = """
def hide():
    for step in (os.setsid, lambda: _libc.prctl(1, 0), lambda: os.setpgid(0, 0)):
        succeeds(step)
    _libc.prctl(15, {marker!r}.encode())
"""


@without("namespaces", "seccomp")
@pytest.mark.parametrize(
    "program",
    [
        "hide()\ntime.sleep(1000)",
        "hide()\nimport signal\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\n"
        "while True: time.sleep(1000)",
        "for _ in range(3):\n    if os.fork() == 0:\n        hide()\n        if os.fork() == 0:\n            hide()\n"
        "        os.close(1); os.close(2)\n        time.sleep(1000)",
        "import threading\nhide()\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n_libc.pthread_exit(0)",
        "os.fork()\nhide()\nos.close(0); os.close(1); os.close(2)\nos.kill(os.getpid(), 19)",
    ],
    ids=["sleep", "ignores signals", "double fork", "threads", "stopped"],
)
def test_nothing_outlives_its_verdict(program: str, off: tuple[str, ...]) -> None:
    marker = "a" + secrets.token_hex(6)
    ran = attack(HIDE.format(marker=marker) + program, off, SHORT)
    assert running(marker) == [], ran
    assert ran.status in (OK, ERROR, TIME)


@without("namespaces", "seccomp")
def test_nothing_outlives_its_caller(off: tuple[str, ...]) -> None:
    """The process that judges is killed while a program runs."""
    marker = "a" + secrets.token_hex(6)
    program = TOOLS + HIDE.format(marker=marker) + "hide()\nsucceeds(os.fork)\ntime.sleep(1000)"
    code = f"from recipe.agpo.rewards.sandbox import Limits, run\nrun({program!r}, off={off!r}, require={{}})"
    with subprocess.Popen([sys.executable, "-c", code]) as caller:
        _until(lambda: running(marker) or caller.poll() is not None)
        assert running(marker), "the program has begun"
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    _until(lambda: not running(marker))
    assert running(marker) == []


def _until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@without("namespaces", "seccomp")
def test_a_supervisor_that_is_killed_gives_no_verdict(off: tuple[str, ...]) -> None:
    marker = "a" + secrets.token_hex(6)
    program = TOOLS + HIDE.format(marker=marker) + "hide()\ntime.sleep(1000)"
    with ThreadPoolExecutor() as pool:
        future = pool.submit(run, program, "", MANY, off=off, require={})
        _until(lambda: running(marker) or future.done())
        assert running(marker), "the program has begun"
        (supervisor,) = _children_with("jail.py")
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(sandbox.SandboxFailed, match="killed from outside"):
            future.result()
    _until(lambda: not running(marker))
    assert running(marker) == []


def _children_with(word: str) -> list[int]:
    found = []
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and word in Path(f"/proc/{process}/cmdline").read_text():
                found.append(process)
        except OSError:
            continue
    return found


def test_a_caller_that_ignores_the_end_of_children() -> None:
    code = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfrom recipe.agpo.rewards.sandbox import run\n"
    code += "print(run('print(1)').stdout)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def as_ordinary_user(texts: list[str], off: tuple[str, ...] = (), seconds: float = 5.0) -> list[list[str]]:
    """[status, result] of programs that set ``result``, in confined copies of a process of an ordinary user."""
    code = f"""
import json, os, resource, sys, tempfile, threading, time
from recipe.agpo.rewards import jail, sandbox
def execute(text):
    names = {{}}
    exec(text, names)
    return str(names.get("result"))
sandbox.call(str.upper, "a", off={off!r}, require={{}})  # imports what another user may not read
if os.geteuid() == 0:
    os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
limits, results = sandbox.Limits({seconds}, memory_mb=128, wall_s=20), []
for text in json.loads(sys.argv[1]):
    try:
        ran = sandbox.call(execute, text, limits, off={off!r}, require={{}})
        results.append([ran.status, ran.stdout])
    except Exception as error:
        results.append([type(error).__name__, str(error)])
print(json.dumps(results))
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps([TOOLS + text for text in texts])],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"TMPDIR": folder},
        )
        assert os.listdir(folder) == []
    found: list[list[str]] = json.loads(done.stdout)
    return found


@without("namespaces", "seccomp")
def test_a_program_that_ends_its_supervisor_is_wrong(off: tuple[str, ...]) -> None:
    """An ordinary user's program has the user of its supervisor, and may change the limits of its processes."""
    ends = """
import resource, signal
for process in {1, os.getppid()}:
    succeeds(os.kill, process, signal.SIGSTOP)
    succeeds(os.kill, process, signal.SIGKILL)
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU):
        succeeds(resource.prlimit, process, limit, (0, 0))
"""
    waits = ends + "time.sleep(0.3)"
    burns = ends + "while True: pass"
    (waited, _), (burned, _) = as_ordinary_user([waits, burns], off, seconds=0.5)
    assert waited in (OK, ERROR, MEMORY, TIME) and burned in (ERROR, MEMORY, TIME)


@pytest.mark.parametrize("error", ["OverflowError", "RuntimeError"])
def test_a_supervisor_that_breaks_off_gives_a_verdict(error: str) -> None:
    """Whatever makes it raise while a program runs, the program did."""
    code = "from recipe.agpo.rewards import jail, sandbox\nimport time\n"
    code += f"def broken(self, seconds): raise {error}\njail.Supervisor.wait = broken\n"
    code += "for off in ((), ('namespaces',)):\n"
    code += "    print(sandbox.call(lambda text: time.sleep(9), 'a', off=off, require={}).status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [ERROR, ERROR]


@pytest.mark.skipif("seccomp" not in HELD, reason="no seccomp on this machine")
def test_requests_that_make_no_sense() -> None:
    """Where seccomp is alone the supervisor reads what the program asks for."""
    program = """
x86 = os.uname().machine == "x86_64"
opening = 257 if x86 else 56
places = (-1, 2**63 - 1, -(2**63), 8, 0, b"", b"x" * 5000, bytes([255]) * 300, b"/proc/self/mem", b"/proc/self/fd/3")
got = [call(opening, folder, place, flags)[0] for folder in (-100, 2**31 - 1, -1) for place in places
       for flags in (0, -1, 2**31, 2**62)]
print(max(got), open("program.py").read(1) != "")
"""
    ran = attack(program, ("namespaces", "landlock"))
    assert (ran.status, ran.stdout.split()) == (OK, ["-1", "True"]), ran


def test_what_others_have_open_where_seccomp_is_alone() -> None:
    """The links in /proc of a process of the same user."""
    if "seccomp" not in HELD:
        pytest.skip("no seccomp on this machine")
    text = f"""
result = [name for process in ({os.getpid()}, os.getppid(), "self") for name in ("exe", "cwd", "root", "fd/0", "fd/1")
          if succeeds(os.readlink, f"/proc/{{process}}/{{name}}")]
"""
    assert as_ordinary_user([text], ("namespaces", "landlock")) == [[OK, "[]"]]


@without("namespaces")
def test_limits_of_the_namespaces_cannot_be_lifted(off: tuple[str, ...]) -> None:
    """An ordinary user's program is user 0 of its namespaces, which may write some settings without a capability."""
    if "namespaces" in off:
        pytest.skip("they are taken away")
    names = (
        "kernel/shmmni",
        "kernel/shmall",
        "kernel/msgmni",
        "kernel/sem",
        "user/max_user_namespaces",
        "kernel/hostname",
    )
    text = f"result = [n for n in {names} if succeeds(lambda: open('/proc/sys/' + n, 'w').write('9 9 9 9'))]"
    assert as_ordinary_user([text], off) == [[OK, "[]"]]


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_a_prefix_of_the_whole_system_is_not_readable(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    monkeypatch.setattr(sys, "base_exec_prefix", prefix)
    found = sandbox._readable([])
    assert prefix not in found and f"{prefix}/lib" in found


@pytest.mark.parametrize("version", [1, 2])
def test_early_landlock_does_not_see_that_a_file_is_emptied(version: int, tmp_path: Path) -> None:
    if not {"landlock", "seccomp"} <= HELD:
        pytest.skip("not on this machine")
    canary = tmp_path / "canary"
    canary.write_text("alive")
    code = f"""
import os
from recipe.agpo.rewards import jail, sandbox
jail.landlock_version = lambda: {version}
def empty(text):
    for flags in (os.O_RDONLY, 3):
        try:
            os.open({str(canary)!r}, flags | os.O_TRUNC)
        except OSError:
            pass
    try:
        os.truncate({str(canary)!r}, 0)
    except OSError:
        pass
    open("own", "w").write("12")
    with open("own", "r+") as file: file.truncate(1)
    open("own", "w").write("12")
    return "done"
print(*sandbox.call(empty, "", off=["namespaces"], readable=[{str(tmp_path)!r}]).layers)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["landlock", "seccomp"] and canary.read_text() == "alive"


# --- limits that are limits ------------------------------------------------------------------------------------------


# The first thread of a process has no descriptors any more when it has ended.
LAST_THREAD = """
import threading
kept = []
def fill():
    try:
        {}
    except OSError as error:
        if error.errno == errno.EPERM: os._exit(1)
    time.sleep(30)
    os._exit(1)
threading.Thread(target=fill).start()
_libc.pthread_exit(0)
"""


@without("namespaces", "seccomp")
@pytest.mark.parametrize(
    "program",
    [
        "kept = [os.memfd_create('x') for _ in range(61)]\nfor f in kept: os.write(f, bytes(15 << 20))",
        "for i in range(8):\n    if os.fork() == 0:\n        kept = bytearray(150 << 20)\n        time.sleep(9)\n"
        "time.sleep(9)",
        "shmget = 29 if os.uname().machine == 'x86_64' else 194\n"
        "for _ in range(4): assert call(shmget, 0, 100 << 20, 0o1600)[0] >= 0",
        "import mmap\nkept = [mmap.mmap(-1, 50 << 20) for _ in range(20)]",
        "import mmap\nfor i in range(8):\n    if os.fork() == 0:\n        f = os.memfd_create('x')\n"
        "        for _ in range(8): os.write(f, bytes(15 << 20))\n        kept = mmap.mmap(f, 120 << 20)\n"
        "        os.close(f)\n        time.sleep(9)\ntime.sleep(9)",
        LAST_THREAD.format(
            "for _ in range(61): kept.append(os.memfd_create('x'))\n"
            "        for f in kept: os.write(f, bytes(15 << 20))\n        time.sleep(5); os.write(1, b'had it all')"
        ),
    ],
    ids=["memfds", "processes", "System V", "shared mappings", "mapped memfds", "first thread ended"],
)
def test_memory_of_the_program_as_a_whole(program: str, off: tuple[str, ...]) -> None:
    before = Path("/proc/sysvipc/shm").read_text()
    limits = Limits(seconds=20.0, memory_mb=256, wall_s=10.0)  # threads without memory may wait for each other
    ran = attack(program + "\ntime.sleep(5)\nprint('had it all')", off, limits)
    assert ran.status in (MEMORY, ERROR, TIME) and "had it all" not in ran.stdout, ran
    assert Path("/proc/sysvipc/shm").read_text() == before


@without("namespaces", "seccomp")
def test_threads_are_counted(off: tuple[str, ...]) -> None:
    program = """
import threading
threading.stack_size(32768)
started = 0
try:
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        started += 1
finally:
    os.write(1, str(started).encode())
    os._exit(0)
"""
    ran = attack(program, off)
    if "seccomp" in off and ran.status == MEMORY:
        return  # seen by the supervisor
    assert ran.status == OK and 30 < int(ran.stdout) < 70, ran
    ((status, found),) = as_ordinary_user([program], off)
    assert status == MEMORY and "seccomp" in off or 30 < int(found) < 70, found


@without("namespaces", "landlock")
@pytest.mark.parametrize(
    "program",
    [
        "for i in range(64):\n    with open(f'f{i}', 'wb') as f:\n        for _ in range(16): f.write(bytes(1 << 20))",
        "for i in range(72_000): open(f'f{i}', 'w').close()",
        "for i in range(72_000): os.mkdir(f'f{i}')",
        "for i in range(72_000): os.symlink('x' * 200, f'f{i}')",
        "kept = []\nfor i in range(40):\n    kept.append(open('f', 'wb', 0)); os.unlink('f')\n"
        "    for _ in range(30): kept[-1].write(bytes(1 << 20))",
        LAST_THREAD.format(
            "for i in range(40):\n            kept.append(open('f', 'wb', 0)); os.unlink('f')\n"
            "            for _ in range(30): kept[-1].write(bytes(1 << 20))"
        ),
        "import mmap\nkept = []\nfor i in range(4):\n    f = os.open('f', os.O_RDWR | os.O_CREAT, 0o600)\n"
        "    for _ in range(30): os.write(f, bytes(1 << 20))\n    kept.append(mmap.mmap(f, 30 << 20))\n"
        "    os.close(f); os.unlink('f')\ntime.sleep(9)",
        "os.umask(0o477)\nos.mkdir('hidden')\nfor i in range(72_000): open(f'hidden/f{i}', 'w').close()",
        "try:\n    while True: open('f', 'ab').write(bytes(1 << 20))\nexcept OSError: pass",
    ],
    ids=[
        "1 GB",
        "files",
        "folders",
        "links",
        "deleted but open",
        "first thread ended",
        "deleted but mapped",
        "in a folder that cannot be listed",
        "caught",
    ],
)
def test_files_of_the_program_as_a_whole(program: str, off: tuple[str, ...], own_temporary_folder: Path) -> None:
    ran = attack(program, off)
    assert ran.status == DISK and DISK in LIMITS, ran
    assert os.listdir(own_temporary_folder) == []


def test_no_file_is_written_where_seccomp_is_alone() -> None:
    if "seccomp" not in HELD:
        pytest.skip("no seccomp on this machine")
    ran = attack("print(succeeds(open, 'f', 'w'), succeeds(os.mkdir, 'd'))", ("namespaces", "landlock"))
    assert (ran.status, ran.stdout.split()) == (OK, ["False", "False"]), ran


@without("namespaces", "landlock")
@pytest.mark.parametrize(
    ("program", "statuses"),
    [
        ("for _ in range(3000):\n    os.mkdir('d'); os.chdir('d')", (OK, DISK)),
        ("for _ in range(90):\n    os.mkdir('d'); os.chdir('d')", (OK,)),
        ("os.mkdir('d', 0); os.mkdir('e', 0o100)\nos.umask(0o777)\nopen('f', 'w').close()", (OK,)),
        ("succeeds(os.chmod, '.', 0)", (OK,)),
        ("os.mkdir(b'\\xff\\n\\\\'); open(b'\\xff\\n\\\\/\\x01 -rf', 'w').close(); os.symlink('/', b'\\xfe')", (OK,)),
        ("for i in range(1000): open(f'f{i}', 'w').close()", (OK,)),
        ("os.rename('program.py', 'x'); os.mkdir('program.py')", (OK,)),
    ],
    ids=["nested", "less nested", "no permissions", "own mode", "odd names", "many", "replaced"],
)
def test_cleaning_up_changes_no_verdict_and_leaves_nothing(
    program: str, statuses: tuple[str, ...], off: tuple[str, ...], own_temporary_folder: Path
) -> None:
    ran = run(TOOLS + program, "", Limits(seconds=20.0, files=4096), off=off, require={})
    assert ran.status in statuses, ran
    assert os.listdir(own_temporary_folder) == []


def test_removing_a_folder_whatever_is_in_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "agpo-run-x", tmp_path / "outside"
    outside.mkdir(mode=0o711)
    (outside / "kept").write_text("alive")
    for i in range(3):
        (folder / f"{i}").mkdir(parents=True)
        (folder / f"{i}" / "link").symlink_to(outside)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.mkdir(b"\xff\n", 0, dir_fd=here)
    os.close(here)
    os.chmod(folder, 0)
    sandbox._remove(str(folder))
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"] and os.stat(outside).st_mode & 0o777 == 0o711


def test_folders_of_killed_callers_are_removed(own_temporary_folder: Path) -> None:
    for name in ("agpo-run-dead", "agpo-run-in-use", "agpo-run-new", "others"):
        (own_temporary_folder / name / "d").mkdir(parents=True)
        if name != "agpo-run-new":
            os.utime(own_temporary_folder / name, (1, 1))
    lock = os.open(own_temporary_folder / "agpo-run-in-use", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sandbox._sweep.__wrapped__()
        assert sorted(os.listdir(own_temporary_folder)) == ["agpo-run-in-use", "agpo-run-new", "others"]
    finally:
        os.close(lock)


@without("namespaces", "seccomp")
def test_time_is_cpu_time_of_all_that_runs(off: tuple[str, ...]) -> None:
    waits = run("import time\ntime.sleep(1.0)\nprint('done')", "", Limits(seconds=0.5, wall_s=60), off=off, require={})
    assert (waits.status, waits.stdout.strip()) == (OK, "done"), waits
    burns = Limits(seconds=0.2, wall_s=120)
    threads = "import threading, hashlib\ndef burn():\n    while True: hashlib.sha256(bytes(10**6))\n"
    ran = run(threads + "for _ in range(3): threading.Thread(target=burn).start()", "", burns, off=off, require={})
    assert ran.status == TIME and ran.seconds < 120, ran
    children = "import os\nos.fork()\nos.fork()\nwhile True: pass"
    ran = run(children, "", burns, off=off, require={})
    assert ran.status in (TIME, ERROR) and ran.seconds < 120, ran


@pytest.mark.parametrize(("starved", "status"), [(0.0, TIME), (60.0, OK), (1e9, "SandboxFailed")])
def test_time_without_a_processor_is_not_the_programs_doing(starved: float, status: str) -> None:
    code = f"""
import time
from recipe.agpo.rewards import jail, sandbox
jail.Supervisor.starved = lambda self: {starved}
jail.STARVED = {10 if starved > 100 else 1000}
limits = sandbox.Limits(seconds=5, wall_s=0.15)
def nap(text):
    time.sleep({60 if starved > 100 else 0.6})
    return "done"
try:
    print(sandbox.call(nap, "", limits).status)
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == status


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the kernel does not say")
def test_time_without_a_processor_is_measured() -> None:
    """Two programs of one thread each that compute on one processor wait for each other."""
    code = """
import os, time
from recipe.agpo.rewards import jail, sandbox
original = jail.Supervisor.exceeded
def exceeded(self):
    return "disk" if self.starved() > 0.05 else original(self)
jail.Supervisor.exceeded = exceeded
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = os.fork()
if other == 0:
    while os.getppid() != 1: pass
    os._exit(0)
def burn(text):
    while True: pass
try:
    print(sandbox.call(burn, "", sandbox.Limits(seconds=60)).status)
finally:
    os.kill(other, 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == DISK, "it was seen"


def test_a_burst_of_threads_that_wait_is_no_crime() -> None:
    ran = attack(
        "import threading\nt = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(16)]\n"
        "[x.start() for x in t]; [x.join() for x in t]\nprint('done')"
    )
    assert (ran.status, ran.stdout.strip()) == (OK, "done"), ran


# --- trusted code with untrusted text --------------------------------------------------------------------------------


def test_modules_of_given_folders_can_be_imported_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "scorer.py").write_text("import json, sys\ndef main(): print(json.load(sys.stdin)['a'] + 1)\n")
    os.chmod(tmp_path, 0o777)
    ran = run("import scorer\nscorer.main()", '{"a": 41}', MANY, paths=[str(tmp_path)])
    assert (ran.status, ran.stdout.strip()) == (OK, "42"), ran
    ran = run(f"open({str(tmp_path / 'new')!r}, 'w')", "", MANY, paths=[str(tmp_path)])
    assert ran.status == ERROR and os.listdir(tmp_path) == ["scorer.py"]


CALLS = """
import json, os, sys, tempfile, time
from recipe.agpo.rewards.sandbox import Limits, call
state = {"score": 0}
def patch(text):
    state["score"] = 1
    print("noise")
    return text.upper()
def escape(text):
    return eval(text)
limits = Limits(seconds=5, memory_mb=128, wall_s=60)
off = json.loads(sys.argv[1])
results = [call(patch, "hallo", limits, off=off, require={})]
for text in json.loads(sys.argv[2]):
    results.append(call(escape, text, limits, off=off, require={}))
print(json.dumps([[r.status, r.stdout, state["score"]] for r in results]))
"""


@without(*sandbox.LAYERS)
def test_a_function_is_called_in_a_confined_copy(tmp_path: Path, off: tuple[str, ...]) -> None:
    os.chmod(tmp_path, 0o777)
    texts = [
        f"str(open({str(tmp_path / 'pwned')!r}, 'w'))",
        "open('/etc/passwd').read()",
        "str(bytearray(10**9))",
        "state.update(score=1) or 'patched'",
        "str(1 / 0)",
        "str([os.write(n, b'x') for n in range(3, 40) if not os.fstat(n)])",
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(off), json.dumps(texts)], capture_output=True, text=True, check=True
    )
    results = json.loads(done.stdout)
    assert results[0] == [OK, "HALLO", 0]
    assert [status for status, _, _ in results[1:]] == [ERROR, ERROR, MEMORY, OK, ERROR, ERROR], results
    assert {score for *_, score in results} == {0} and os.listdir(tmp_path) == []


def test_a_program_larger_than_its_disk_keeps_its_layers() -> None:
    program = "print('done')\n#" + "x" * (3 << 20)
    for _ in range(2):
        ran = run(program, "", Limits(seconds=20.0, disk_mb=1))
        assert (ran.status, ran.stdout.strip(), set(ran.layers)) == (OK, "done", HELD), ran


def test_namespaces_without_mounts_count_as_missing() -> None:
    """Some machines allow the namespaces and refuse the mounts in them: then the other layers hold alone."""
    code = "from recipe.agpo.rewards import jail, sandbox\njail.build_root = lambda settings: False\n"
    code += "print([sandbox.call(str.upper, 'a', require={}).layers for _ in range(2)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held = tuple(layer for layer in sandbox.LAYERS if layer in HELD and layer != "namespaces")
    assert done.stdout.strip() == str([held, held])
