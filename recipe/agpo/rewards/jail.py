# SPDX-License-Identifier: Apache-2.0
"""Confines a process of its own before it runs untrusted code. Used by :mod:`recipe.agpo.rewards.sandbox`.

Standard library only, and nothing of this package: it also runs as ``python -I jail.py <settings as JSON>``.

Up to three processes, none of which holds anything worth reading:

* the *outer* process enters the namespaces, builds the file tree, and waits;
* with namespaces, the *init* process is number 1 of the new process namespace: when it ends, the kernel kills all
  that is left in there. It supervises; without namespaces the outer process does;
* the *program* drops its capabilities, takes on Landlock and seccomp, and runs the untrusted code. It never executes
  another binary, so that seccomp can refuse ``execve``.
"""

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x04000000  # user net pid mount ipc uts
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 36, 38, 47
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
POLL_S = 0.05  # how often the supervisor looks at what is used
THREADS = 64
SLACK_BYTES, SLACK_FILES = 1 << 20, 16  # beyond the limit, so that going over it can be seen
UNCONFINED = 126
STATUS = 3  # descriptor on which the supervisor reports

# Landlock: access rights by ABI version (linux/landlock.h).
FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
FS_READ, FS_FILE = 0b1101, 0b111  # execute, read file, read directory; execute, write, read file
FS_OWN = ~(1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 15)  # no devices, sockets, FIFOs, links out, ioctl

# Every system call that a program may use, with its number on x86_64 and aarch64 (- where there is none). All others
# are refused, those of future kernels included.
ALLOWED = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222,
mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21 -, pipe 22 -, select 23 -, sched_yield 24 124,
mremap 25 216, msync 26 227, mincore 27 232, madvise 28 233, dup 32 23, dup2 33 -, pause 34 -, nanosleep 35 101,
getitimer 36 102, alarm 37 -, setitimer 38 103, getpid 39 172, sendfile 40 71, exit 60 93, wait4 61 260, uname 63 160,
fsync 74 82, fdatasync 75 83, ftruncate 77 46, getdents 78 -, getcwd 79 17, chdir 80 49, fchdir 81 50, readlink 89 -,
umask 95 166, gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174,
getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, getpgrp 111 -, getgroups 115 158,
getresuid 118 148, getresgid 120 150, getpgid 121 155, getsid 124 156, capget 125 90, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, statfs 137 43, fstatfs 138 44,
getpriority 140 141, sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, sched_rr_get_interval 148 127, arch_prctl 158 -, setrlimit 160 164, gettid 186 178,
time 201 -, futex 202 98, sched_getaffinity 204 123, epoll_create 213 -, getdents64 217 61, set_tid_address 218 96,
restart_syscall 219 128, fadvise64 221 223, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
exit_group 231 94, epoll_wait 232 -, epoll_ctl 233 21, waitid 247 95, newfstatat 262 79, readlinkat 267 78,
faccessat 269 48, pselect6 270 72, ppoll 271 73, set_robust_list 273 99, splice 275 76, tee 276 77, epoll_pwait 281 22,
timerfd_create 283 85, eventfd 284 -, fallocate 285 47, timerfd_settime 286 86, timerfd_gettime 287 87,
signalfd4 289 74, eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59, preadv 295 69, pwritev 296 70,
getcpu 309 168, getrandom 318 278, membarrier 324 283, copy_file_range 326 285, preadv2 327 286, pwritev2 328 287,
statx 332 291, rseq 334 293, close_range 436 436, faccessat2 439 439, epoll_pwait2 441 441
"""
# Allowed where the files that may be written are confined by another layer.
WRITES = """
creat 85 -, truncate 76 45, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, symlink 88 -, symlinkat 266 36
"""
# Allowed with some arguments only; see seccomp().
CHECKED = """
open 2 -, openat 257 56, clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, prctl 157 167, prlimit64 302 261,
ioctl 16 29, fcntl 72 25
"""
HIGHEST = 472  # of the numbers that were looked at; what is above does not exist for the program
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)  # duplicate, flags, locks, pipe size (reading it)
# PDEATHSIG (reading it), DUMPABLE (reading it), NAME, SECCOMP (reading it), CAPBSET_READ, TIMERSLACK, ...
PRCTLS = (2, 3, 15, 16, 21, 23, 29, 30, 39, 0x53564D41)
CLONE_THREAD, CLONE_NEW = 0x00010000, 0x7E020080
O_TMPFILE = 0o20000000  # the bit of its own; nameless files could not be counted
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | O_TMPFILE
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = 1, 38


def main() -> None:
    settings = json.loads(sys.argv[1])
    sys.path.extend(settings["paths"])
    source = os.path.join(settings["folder"], "program.py")
    with open(source, "rb") as file:
        code = file.read()
    supervise(settings, lambda: run_source(code, source))


def run_source(code: bytes, path: str) -> None:
    """Run Python source as ``python path`` does, in this interpreter."""
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"], sys.argv = module, [path]
    exec(compile(code, path, "exec"), module.__dict__)  # noqa: S102 - this is what a jail is for


def supervise(settings: dict, body: "Callable[[], object]") -> None:
    """Run ``body`` in a confined child, within its limits, and report on the status pipe.

    Returns in the confined child only, when ``body`` has returned; the calling process ends in here.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != settings["parent"]:
        os._exit(125)
    os.setsid()
    os.closerange(STATUS + 1, 1 << 16)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    LIBC.prctl(PR_SET_DUMPABLE, 1)  # else the maps of the user namespace cannot be written
    entered = "namespaces" not in settings["off"] and enter_namespaces()
    rooted = entered and build_root(settings)
    os.chdir(settings["folder"])
    LIBC.prctl(PR_SET_DUMPABLE, 0)
    if entered:
        alive, _ours = os.pipe()
        init = os.fork()
        if init:
            os.close(STATUS)
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            if signal.sigwait([signal.SIGTERM, signal.SIGCHLD]) == signal.SIGTERM:
                os.kill(init, signal.SIGKILL)
            # The kernel lets it be waited for only when everything in its namespace is dead.
            os.waitpid(init, 0)
            os._exit(0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(_ours)
        if select.select([alive], [], [], 0)[0]:
            os._exit(125)  # the outer process died before we could ask to be told
        os.close(alive)
    supervisor = os.getpid()
    report, write_report = os.pipe()
    program = os.fork()
    if program:
        os.close(write_report)
        watch(settings, program, report, rooted)
    if not entered and os.getppid() != supervisor:
        os._exit(125)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGCHLD])
    held = confine(settings, rooted)
    if entered and not rooted and "namespaces" in held:
        held.remove("namespaces")
    missing = [name for name, layers in settings["require"].items() if not set(layers) & set(held)]
    os.write(write_report, json.dumps(held).encode())
    if missing:
        os._exit(UNCONFINED)
    os.closerange(3, 1 << 16)
    try:
        body()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - shown without our own frames
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def watch(settings: dict, program: int, report: int, rooted: bool) -> None:
    """Wait for the program, end it when it exceeds a limit, leave nothing of it alive, report, exit."""
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    held = json.loads(os.read(report, 4096) or b"[]")
    clock = (~program << 3) | 2  # its CPU time, all threads
    deadline = time.monotonic() + settings["wall_s"]
    cpus, end, used, status, stopped = os.cpu_count() or 1, "", 0.0, 0, False
    while True:
        left = min(POLL_S, (settings["cpu_s"] - used) / cpus, deadline - time.monotonic())
        found = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], max(0.002, left))
        stopped = stopped or (found is not None and found.si_signo == signal.SIGTERM)
        try:
            used = time.clock_gettime(clock)
        except OSError:
            pass  # it has ended
        if os.waitid(os.P_PID, program, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        if stopped or used > settings["cpu_s"] or time.monotonic() > deadline:
            end = "time"
        elif too_much(settings, program, rooted):
            end = "disk"
        if end:
            break
    os.kill(program, signal.SIGKILL)
    _, status, usage = os.wait4(program, 0)
    used = max(used, usage.ru_utime + usage.ru_stime)
    if not end and too_much(settings, program, rooted):
        end = "disk"
    bury()
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        end = "time"
    answer = {"layers": held, "end": end or "exit", "code": code, "cpu_s": used}
    os.write(STATUS, json.dumps(answer).encode())
    os._exit(0)


def bury() -> None:
    """End whatever the program left: its orphans are our children. Process namespaces need none of this."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
        except OSError:
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def too_much(settings: dict, program: int, rooted: bool) -> bool:
    """Whether the files of the program exceed their limits."""
    limit, most = settings["disk_mb"] << 20, settings["files"]
    if rooted:
        state = os.statvfs(settings["folder"])
        return (state.f_blocks - state.f_bfree) * state.f_frsize > limit or state.f_files - state.f_ffree > most
    size, count, folders = 0, 0, [settings["folder"]]
    try:  # what is deleted but open; needs a dumpable program, see confine()
        for name in os.listdir(f"/proc/{program}/fd"):
            size += os.stat(f"/proc/{program}/fd/{name}").st_blocks * 512
    except OSError:
        pass
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if size > limit or count > most:
                        return True
        except OSError:
            continue
    return size > limit


def enter_namespaces() -> bool:
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(NAMESPACES) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError:
        pass  # unmapped: the overflow user, which may do even less
    try:  # no user namespaces within, where capabilities could be had again
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        pass
    return True


def build_root(settings: dict) -> bool:
    """A file tree of what may be read, read-only, and the program's folder: a file system in memory with a size."""
    folder = settings["folder"]
    try:
        with open(os.path.join(folder, "program.py"), "rb") as file:
            program: "bytes | None" = file.read()
    except OSError:
        program = None
    size, files = (settings["disk_mb"] << 20) + SLACK_BYTES, settings["files"] + SLACK_FILES
    try:
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4k,mode=0755")
        for path in [*settings["readable"], "/dev/null"]:
            place = folder + path
            if not os.path.exists(path) or os.path.exists(place):
                continue  # it lies within one that is there already
            if os.path.isdir(path):
                os.makedirs(place)
            else:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600))
            mount(path, place, None, MS_BIND | MS_REC)
            if path != "/dev/null":
                read_only(place)
        own = folder + folder
        os.makedirs(own)
        mount("tmpfs", own, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes={files},mode=0700")
        if program is not None:
            with open(os.path.join(own, "program.py"), "wb") as file:
                file.write(program)
        mount(None, folder, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
        os.chdir(folder)
        if LIBC.pivot_root(b".", b".") != 0 or LIBC.umount2(b".", 2) != 0:
            return False
        os.chdir("/")
    except OSError:
        return False
    return True


def mount(source: "str | None", target: str, kind: "str | None", flags: int, data: "str | None" = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) != 0:
        raise OSError(ctypes.get_errno(), "mount", target)


def read_only(place: str) -> None:
    attributes = struct.pack("QQQQ", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    if LIBC.syscall(442, -100, os.fsencode(place), 0x8000, attributes, len(attributes)) == 0:  # mount_setattr, nested
        return
    kept = os.statvfs(place).f_flag
    # Flags that an outer user namespace has set must be repeated; noatime and nodiratime have the same values there.
    flags = kept & (MS_NOEXEC | 1024 | 2048) | (1 << 21 if kept & 4096 else 0)
    mount(None, place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | flags)


def confine(settings: dict, rooted: bool) -> list:
    """Confine this process for good; returns the layers that hold."""
    off, held = settings["off"], ["namespaces"] if rooted else []
    limits(settings)
    drop_capabilities()
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "landlock" not in off and landlock(settings["readable"], settings["folder"]):
        held.append("landlock")
        # Landlock keeps other programs out; the supervisor counts what this one holds open.
        LIBC.prctl(PR_SET_DUMPABLE, 0 if rooted else 1)
    if "seccomp" not in off and seccomp(writes=bool(held)):
        held.append("seccomp")
    return held


def limits(settings: dict) -> None:
    memory = settings["memory"]
    for name, value in (
        ("AS", memory), ("CPU", int(settings["cpu_s"]) + 2), ("FSIZE", (settings["disk_mb"] << 20) + SLACK_BYTES),
        ("NOFILE", 64), ("CORE", 0), ("NPROC", THREADS), ("MEMLOCK", 0), ("MSGQUEUE", 0), ("SIGPENDING", 256),
        ("NICE", 0), ("RTPRIO", 0),
    ):  # fmt: skip
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            try:
                _, hard = resource.getrlimit(kind)
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(kind, (value, value))
            except (ValueError, OSError):
                pass


def drop_capabilities() -> None:
    """All of them, for good. Where this process may not drop them it has none."""
    LIBC.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() == 22:
            break  # the last one of this kernel
    LIBC.prctl(PR_SET_SECUREBITS, 0b101111, 0, 0, 0)  # user 0 is nobody special
    get, put = (125, 126) if os.uname().machine == "x86_64" else (90, 91)  # capget, capset; version 3, this process
    header, data = struct.pack("II", 0x20080522, 0), ctypes.create_string_buffer(24)
    LIBC.syscall(put, header, data)
    if LIBC.syscall(get, header, data) != 0 or any(data.raw):
        os._exit(UNCONFINED)


def landlock(readable: list, own: str) -> bool:
    """Files: read ``readable``, everything in ``own``, nothing else. Newer kernels: no TCP, no signals outside."""
    abi = LIBC.syscall(444, None, 0, 1)
    if abi < 1:
        return False
    rights = FS_ALL[min(abi, 5)]
    attributes = struct.pack("QQQ", rights, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = LIBC.syscall(444, attributes[:size], size, 0)
    if ruleset < 0:
        return False
    for path, access in [(own, rights & FS_OWN), *((path, FS_READ) for path in readable), ("/dev/null", FS_FILE)]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            access &= FS_FILE
        LIBC.syscall(445, ruleset, 1, struct.pack("=QI", access & rights, descriptor), 0)
        os.close(descriptor)
    held = LIBC.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return held


def numbers(table: str) -> dict:
    """Name -> number on this machine, without those that do not exist on it."""
    column = 1 if os.uname().machine == "x86_64" else 2
    rows = [row.split() for row in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def seccomp(writes: bool) -> bool:
    """Only the system calls of the tables above. ``writes``: whether files may be written at all."""
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64") or sys.byteorder != "little":
        return False
    arch = 0xC000003E if machine == "x86_64" else 0xC00000B7
    code: list = []

    def op(kind: int, jump_true: int, jump_false: int, value: int) -> None:
        code.append(struct.pack("HBBI", kind, jump_true, jump_false, value & 0xFFFFFFFF))

    refuse, allow, missing = ((0x06, 0, 0, value) for value in (ERRNO | EPERM, ALLOW, ERRNO | ENOSYS))

    def argument(index: int) -> tuple:
        return (0x20, 0, 0, 16 + 8 * index)  # its lower half: the kernel takes these arguments as 32 bits

    def one_of(index: int, values: tuple) -> list:
        """Allow if the argument is one of the values, else refuse."""
        tests = [(0x15, len(values) - i, 0, value) for i, value in enumerate(values)]
        return [argument(index), *tests, refuse, allow]

    checked = numbers(CHECKED)
    no_write = O_TMPFILE if writes else WRITE_FLAGS
    bodies = {
        # Its flags lie in memory, where they cannot be checked; libc then uses clone.
        "clone3": [missing],
        # Threads only, and no new namespaces.
        "clone": [argument(0), (0x45, 0, 2, CLONE_THREAD), (0x45, 1, 0, CLONE_NEW), allow, refuse],
        "kill": one_of(0, (os.getpid(),)),
        "tgkill": one_of(0, (os.getpid(),)),
        "prlimit64": one_of(0, (0, os.getpid())),
        "prctl": one_of(0, PRCTLS),
        "ioctl": one_of(1, IOCTLS),
        "fcntl": one_of(1, FCNTLS),
        "open": [argument(1), (0x45, 0, 1, no_write), refuse, allow],
        "openat": [argument(2), (0x45, 0, 1, no_write), refuse, allow],
    }
    op(0x20, 0, 0, 4)
    op(0x15, 1, 0, arch)
    op(*refuse)
    op(0x20, 0, 0, 0)
    op(0x35, 0, 1, 0x40000000)  # the x32 numbers of the same calls
    op(*refuse)
    op(0x25, 0, 1, HIGHEST)
    op(*missing)
    for number in [*numbers(ALLOWED).values(), *(numbers(WRITES).values() if writes else ())]:
        op(0x15, 0, 1, number)
        op(*allow)
    for name, body in bodies.items():
        if name in checked:
            op(0x15, 0, len(body), checked[name])
            for instruction in body:
                op(*instruction)
    op(*refuse)
    buffer = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    return bool(LIBC.prctl(PR_SET_SECCOMP, 2, header, 0, 0) == 0)


if __name__ == "__main__":
    main()
