# SPDX-License-Identifier: Apache-2.0
"""Confines a process of its own before it runs untrusted code. Used by :mod:`recipe.agpo.rewards.sandbox`.

Standard library only, and nothing of this package: it also runs as ``python -I jail.py <settings as JSON>``.

Up to three processes, none of which holds anything worth reading:

* the *outer* process enters the namespaces and waits;
* with namespaces, the *init* process is number 1 of the new process namespace: when it ends, the kernel kills all
  that is left in there. It builds the file tree and supervises; without namespaces the outer process supervises;
* the *program* drops its capabilities, takes on Landlock and seccomp, and runs the untrusted code. It never executes
  another binary, so that seccomp can refuse ``execve``.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import resource
import select
import signal
import site
import struct
import sys
import time
import types
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x04000000  # user net pid mount ipc uts
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 21, 24
PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 36, 38, 47
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
POLL_S = 0.05  # how often the supervisor looks at what is used
THREADS = 64
STARVED = 10  # times the limit by the clock: after that, a program that waits for a processor is given up
DEPTH = 100  # of folders, where they must be counted
NOBODY = 65534
SLACK_BYTES, SLACK_FILES = 1 << 20, 16  # beyond the limit, so that going over it can be seen
UNCONFINED, BROKEN = 126, 124  # exit codes: nothing ran; the supervisor broke off while the program ran
NO_TREE = "no tree"  # namespaces, but no mounts in them: to be tried again without
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
fsync 74 82, fdatasync 75 83, ftruncate 77 46, getdents 78 -, getcwd 79 17, chdir 80 49, fchdir 81 50,
umask 95 166, gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174,
getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, getpgrp 111 -, getgroups 115 158,
getresuid 118 148, getresgid 120 150, getpgid 121 155, getsid 124 156, capget 125 90, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, statfs 137 43, fstatfs 138 44,
getpriority 140 141, sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, sched_rr_get_interval 148 127, arch_prctl 158 -, setrlimit 160 164, gettid 186 178,
time 201 -, futex 202 98, sched_getaffinity 204 123, epoll_create 213 -, getdents64 217 61, set_tid_address 218 96,
restart_syscall 219 128, fadvise64 221 223, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
exit_group 231 94, epoll_wait 232 -, epoll_ctl 233 21, waitid 247 95, newfstatat 262 79,
faccessat 269 48, pselect6 270 72, ppoll 271 73, set_robust_list 273 99, splice 275 76, tee 276 77, epoll_pwait 281 22,
timerfd_create 283 85, eventfd 284 -, timerfd_settime 286 86, timerfd_gettime 287 87,
signalfd4 289 74, eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59, preadv 295 69, pwritev 296 70,
getcpu 309 168, getrandom 318 278, preadv2 327 286, pwritev2 328 287,
statx 332 291, rseq 334 293, close_range 436 436, faccessat2 439 439, epoll_pwait2 441 441
"""
# Allowed where files are confined by another layer. The links of /proc name what others have open.
WRITES = """
creat 85 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, symlink 88 -, symlinkat 266 36,
readlink 89 -, readlinkat 267 78
"""
# Allowed with some arguments only; see seccomp().
CHECKED = """
open 2 -, openat 257 56, clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, prctl 157 167, prlimit64 302 261,
ioctl 16 29, fcntl 72 25, truncate 76 45
"""
HIGHEST = 472  # of the numbers that were looked at; what is above does not exist for the program
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)  # duplicate, flags, locks, pipe size (reading it)
# PDEATHSIG (reading it), DUMPABLE (reading it), NAME, SECCOMP (reading it), CAPBSET_READ, TIMERSLACK, ...
PRCTLS = (2, 3, 15, 16, 21, 23, 29, 30, 39, 0x53564D41)
CLONE_OF_THREADS = 0x00010F00  # VM FS FILES SIGHAND THREAD: what one thread has, all have, so that it can be counted
CLONE_NOT = 0x7E026080  # new namespaces, VFORK, PTRACE
O_TMPFILE = 0o20000000  # the bit of its own; nameless files could not be counted
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | O_TMPFILE
ALLOW, ERRNO, ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
SECCOMP, PIDFD_GETFD = {"x86_64": 317, "aarch64": 277}, 438
NOTIF_RECV, NOTIF_SEND, NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40182103


def main() -> None:
    settings = json.loads(sys.argv[1])
    sys.path.extend([*settings["paths"], *filter(os.path.isdir, site.getsitepackages())])
    source = os.path.join(settings["folder"], "program.py")
    with open(source, "rb") as file:
        code = file.read()
    supervise(settings, lambda: run_source(code, source))


def run_source(code: bytes, path: str) -> None:
    """Run Python source as ``python path`` does, in this interpreter."""
    # The start without "site" spares its .pth files, which run code; what it gives to programs is here.
    site.setquit()
    site.setcopyright()
    site.sethelper()
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"], sys.argv = module, [path]
    exec(compile(code, path, "exec"), module.__dict__)


def supervise(settings: dict, body: "Callable[[], object]") -> None:
    """Run ``body`` in a confined child, within its limits, and report on the status pipe.

    Returns in the confined child only, when ``body`` has returned; the calling process ends in here.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != settings["parent"]:
        os._exit(125)
    os.setsid()
    close_from(STATUS + 1)
    for number in (signal.SIGTERM, signal.SIGCHLD):  # a caller may ignore or block them, and that is inherited
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGCHLD])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    LIBC.prctl(PR_SET_DUMPABLE, 1)  # else the maps of the user namespace cannot be written
    settings["identity"], settings["superuser"] = None, os.geteuid() == 0
    settings["proc"] = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)  # our own file tree will have none
    entered = "namespaces" not in settings["off"] and enter_namespaces(settings)
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
            os._exit(BROKEN if os.waitpid(init, 0)[1] else 0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(_ours)
        if select.select([alive], [], [], 0)[0]:
            os._exit(125)  # the outer process died before we could ask to be told
        os.close(alive)
    if entered and not build_root(settings):
        os.write(STATUS, json.dumps({"end": NO_TREE}).encode())
        os._exit(0)
    os.chdir(settings["folder"])
    supervisor = os.getpid()
    report, write_report = os.pipe()
    go, write_go = os.pipe()
    program = os.fork()
    if program:
        for descriptor in (0, 1, 2, write_report, go):
            os.close(descriptor)
        try:
            Supervisor(settings, program, entered).watch(report, write_go)
        finally:
            os._exit(BROKEN)
    os.close(write_go)
    if not entered and os.getppid() != supervisor:
        os._exit(125)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    held, listener = confine(settings, entered)
    os.write(write_report, json.dumps([held, listener]).encode())
    if not os.read(go, 1):
        os._exit(UNCONFINED)
    close_from(3)
    try:
        body()
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def close_from(lowest: int) -> None:
    if LIBC.syscall(436, lowest, 0xFFFFFFFF, 0) != 0:  # close_range
        os.closerange(lowest, 1 << 16)


class Supervisor:
    """Watches over a program: its limits and, where nothing else confines files, what it opens."""

    def __init__(self, settings: dict, program: int, spaces: bool) -> None:
        self.settings, self.program, self.spaces = settings, program, spaces
        self.held: list = []
        self.started = False
        self.listener = -1
        self.pidfd, self.proc = -1, -1
        self.folder_device = os.stat(settings["folder"]).st_dev  # counted on its own
        with contextlib.suppress(OSError):  # its source is not its doing
            settings["disk"] += os.stat(os.path.join(settings["folder"], "program.py")).st_blocks * 512

    def watch(self, report: int, go: int) -> None:
        """Wait for the program, end it when it exceeds a limit, leave nothing of it alive, report, exit."""
        self.start(report, go)
        settings, program = self.settings, self.program
        clock = (~program << 3) | 2  # its CPU time, all threads
        began = time.monotonic()
        deadline = began + settings["wall_s"]
        poll, cpus = POLL_S if "seccomp" in self.held else POLL_S / 5, os.cpu_count() or 1
        end, used, stopped = "", 0.0, False
        while not end:
            left = min(poll, (settings["cpu_s"] - used) / cpus, deadline - time.monotonic())
            stopped = self.wait(max(0.002, left)) or stopped
            try:
                used = time.clock_gettime(clock)
            except OSError:
                pass  # it has ended
            if os.waitid(os.P_PID, program, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            if stopped or used > settings["cpu_s"]:
                end = "time"
            elif (now := time.monotonic()) > deadline:
                # What it spent waiting for a processor is not its doing.
                allowed = settings["wall_s"] + self.starved()
                if now - began > allowed:
                    end = "time"
                elif now - began > settings["wall_s"] * STARVED:
                    end = "starved"
                deadline = min(began + allowed, now + settings["wall_s"])
            end = end or self.exceeded()
        os.kill(program, signal.SIGKILL)
        _, status, usage = os.wait4(program, 0)
        used = max(used, usage.ru_utime + usage.ru_stime)
        end = end or self.exceeded()
        if os.getpid() != 1:
            bury()  # as process 1 of a namespace we need only end
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGXCPU or used > settings["cpu_s"]:
            end = "time"
        self.tell(end=end or "exit", code=code, cpu_s=used)
        os._exit(0)

    def start(self, report: int, go: int) -> None:
        """Let the program begin if it is confined as required."""
        text = os.read(report, 4096)
        self.held, listener = json.loads(text or b"[[], -1]")
        with contextlib.suppress(OSError):
            self.pidfd = os.pidfd_open(self.program)
            self.proc = self.folder_of_program()
        if listener >= 0:
            self.listener = LIBC.syscall(PIDFD_GETFD, self.pidfd, listener, 0)
            if self.listener < 0:
                self.held.remove("seccomp")
        require = self.settings["require"]
        self.started = bool(text) and all(set(layers) & set(self.held) for layers in require.values())
        self.tell()
        if self.started:
            os.write(go, b"1")
        os.close(go)

    def tell(self, **result: object) -> None:
        """One line: whether the program began, and in the end what became of it."""
        line = json.dumps({"layers": self.held, "started": self.started, **result})
        os.write(STATUS, line.encode() + b"\n")

    def folder_of_program(self) -> int:
        """Descriptor of the program's folder in the machine's /proc, where its process has another number."""
        with open(os.open(f"self/fdinfo/{self.pidfd}", os.O_RDONLY, dir_fd=self.settings["proc"])) as file:
            number = next(line.split()[1] for line in file if line.startswith("Pid:"))
        return os.open(number, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.settings["proc"])

    def threads(self) -> list:
        try:
            folder = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
        except OSError:
            return []
        try:
            return os.listdir(folder)
        finally:
            os.close(folder)

    def starved(self) -> float:
        """Seconds that the program's threads could have run and were not given a processor."""
        waited = 0
        for thread in self.threads():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(os.open(f"task/{thread}/schedstat", os.O_RDONLY, dir_fd=self.proc)) as file:
                    waited += int(file.read().split()[1])
        return waited / 1e9

    def wait(self, seconds: float) -> bool:
        """Until something happens; whether we were told to stop."""
        if self.listener < 0:
            found = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], seconds)
        else:
            ready = select.select([self.listener, self.pidfd], [], [], seconds)[0]
            if self.listener in ready:
                self.answer_request()
            found = signal.sigtimedwait([signal.SIGTERM], 0)
        return found is not None and found.si_signo == signal.SIGTERM

    def answer_request(self) -> None:
        """Let a thread be started if there are not too many; open a file on the program's behalf."""
        request = bytearray(80)
        try:
            fcntl.ioctl(self.listener, NOTIF_RECV, request)
        except OSError:
            return  # the program is gone
        identity, thread, _, number, _, _, *arguments = struct.unpack("=QIIiIQ6Q", request)
        if number == numbers(CHECKED)["clone"]:
            self.reply(identity, 0 if len(self.threads()) < THREADS else errno.EAGAIN)
        else:
            self.open_for_it(identity, thread, number, arguments)

    def reply(self, identity: int, error: int) -> None:
        """Let a call go on, or fail."""
        with contextlib.suppress(OSError):  # it no longer waits
            fcntl.ioctl(self.listener, NOTIF_SEND, struct.pack("=QqiI", identity, 0, -error, 0 if error else 1))

    def open_for_it(self, identity: int, thread: int, number: int, arguments: list) -> None:
        """Answer a request to open a file: we open it, so that what was checked is what it gets."""
        at = [-100, *arguments[:2]] if number == numbers(CHECKED).get("open") else arguments[:3]
        folder, (place, flags) = struct.unpack("=i", struct.pack("=I", at[0] & 0xFFFFFFFF))[0], at[1:]
        descriptor, error = -1, 0
        try:
            with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
                memory.seek(place)
                path = os.fsdecode(memory.read(4096 - place % 4096))
                if "\0" not in path:
                    path += os.fsdecode(memory.read(4096))
            path = path.split("\0", 1)[0]
            if not path:
                raise FileNotFoundError(errno.ENOENT, "no name")
            base = f"/proc/{thread}/cwd" if folder == -100 else f"/proc/{thread}/fd/{folder}"
            descriptor = self.open_allowed(path if path.startswith("/") else f"{base}/{path}", flags & 0xFFFFFFFF)
            self.give(identity, descriptor, flags & os.O_CLOEXEC)
        except OSError as failure:
            error = failure.errno or errno.EPERM
        except (ValueError, OverflowError):  # an address that no process has
            error = errno.EFAULT
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if error:
            self.reply(identity, error)

    def give(self, identity: int, descriptor: int, flags: int) -> None:
        """Put a descriptor into the program, and let its call return it."""
        try:
            fcntl.ioctl(self.listener, NOTIF_ADDFD, struct.pack("=QIIII", identity, 2, descriptor, 0, flags))
        except OSError as failure:
            if failure.errno != 22:
                raise
            # Kernels before 5.14 need a second call for the answer.
            number = fcntl.ioctl(self.listener, NOTIF_ADDFD, struct.pack("=QIIII", identity, 0, descriptor, 0, flags))
            fcntl.ioctl(self.listener, NOTIF_SEND, struct.pack("=QqiI", identity, number, 0, 0))

    def open_allowed(self, path: str, flags: int) -> int:
        """Open a file for reading if it is one that may be read."""
        found = os.open(path, os.O_PATH | os.O_CLOEXEC | flags & (os.O_NOFOLLOW | os.O_DIRECTORY))
        try:
            name = os.readlink(f"/proc/self/fd/{found}")
            allowed = [os.path.realpath(place) for place in (*self.settings["readable"], self.settings["folder"])]
            if not any(name == place or name.startswith(place + "/") for place in [*allowed, "/dev/null"]):
                raise PermissionError(13, "outside", path)
            return os.open(f"/proc/self/fd/{found}", flags & ~(os.O_NOFOLLOW | WRITE_FLAGS) | os.O_NONBLOCK)
        finally:
            os.close(found)

    def exceeded(self) -> str:
        """Which limit the program exceeds as a whole, if any."""
        if self.spaces:
            state, settings = os.statvfs(self.settings["folder"]), self.settings
            used, files = (state.f_blocks - state.f_bfree) * state.f_frsize, state.f_files - state.f_ffree
            if used > settings["disk"] or files > settings["files"]:
                return "disk"
        elif self.too_much():
            return "disk"
        # With seccomp the program is one process, and its address space is all the memory that it can have.
        return "" if "seccomp" in self.held else self.exceeded_together()

    def too_much(self) -> bool:
        """Whether the files of the program exceed their limits, where they lie on the disk of the machine."""
        left = [self.settings["disk"], self.settings["files"]]
        deleted = nameless_files(f"/proc/{self.program}", self.settings["folder"], "seccomp" in self.held)
        left[0] -= sum(size for (device, _), size in deleted.items() if device == self.folder_device)
        with contextlib.suppress(OSError):
            folder = os.open(self.settings["folder"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            return not subtract(folder, left)
        return False

    def exceeded_together(self) -> str:
        """Count the processes of the namespace, their time and their memory, files in memory included."""
        ours, memory, ticks, count = str(os.getpid()), 0, 0, 0
        nameless: dict = {}  # files in memory, and shared memory: one object may be used by several
        for process in os.listdir("/proc") if self.spaces and os.path.isdir("/proc/self") else [str(self.program)]:
            if not process.isdigit():
                continue
            try:
                with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
                # Of ourselves only what our dead children have used.
                ticks += sum(map(int, fields[13:15] if process == ours else fields[11:15]))
                if process == ours:
                    continue
                count += int(fields[17])  # threads
                with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as file:
                    sizes = dict(re.findall(r"^(VmRSS|RssShmem):\s*(\d+) kB", file.read(), re.MULTILINE))
                memory += (int(sizes.get("VmRSS", 0)) - int(sizes.get("RssShmem", 0))) << 10
            except OSError:
                continue  # it has ended
            for key, size in nameless_files(f"/proc/{process}", self.settings["folder"], False).items():
                nameless[key] = max(size, nameless.get(key, 0))
        memory += sum(size for (device, _), size in nameless.items() if device != self.folder_device)
        if ticks / os.sysconf("SC_CLK_TCK") > self.settings["cpu_s"] + 1:
            return "time"
        return "memory" if count > THREADS or memory > self.settings["memory"] else ""


def nameless_files(process: str, folder: str, shared: bool) -> dict:
    """(device, inode) -> bytes of the files in memory or of the folder that a process uses and that have no name.

    shared: its threads share their descriptors, so that those of one of them are enough. The first thread may have
    ended.
    """
    found: dict = {}
    kinds = ("/memfd:", "/dev/zero ", "/SYSV", folder + "/")
    mapped = False
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"{process}/task"):
            with contextlib.suppress(OSError):
                names = os.listdir(f"{process}/task/{thread}/fd")
                for name in names:
                    with contextlib.suppress(OSError):
                        state = os.stat(f"{process}/task/{thread}/fd/{name}")
                        if state.st_nlink == 0:
                            found[state.st_dev, state.st_ino] = state.st_blocks * 512
                if not mapped:
                    with open(f"{process}/task/{thread}/maps", encoding="utf-8", errors="replace") as file:
                        for line in file:
                            place, _, _, device, inode, *path = line.split(None, 5)
                            if path and path[0].startswith(kinds) and path[0].endswith(" (deleted)\n"):
                                start, stop = (int(end, 16) for end in place.split("-"))
                                key = os.makedev(*(int(part, 16) for part in device.split(":"))), int(inode)
                                found[key] = max(stop - start, found.get(key, 0))
                            mapped = True
                if shared and names:
                    break
    return found


def bury() -> None:
    """End whatever the program left: its orphans are our children."""
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


def subtract(folder: int, left: list, depth: int = 0) -> bool:
    """Take what lies in a folder from the bytes and entries that are left; whether it was enough. Closes the folder."""
    try:
        for name in os.listdir(folder):
            try:
                state = os.stat(name, dir_fd=folder, follow_symlinks=False)
                left[0] -= state.st_blocks * 512
                left[1] -= 1
                if min(left) < 0 or depth > DEPTH:
                    return False
                # Through a descriptor, since the program may put a link in its place meanwhile.
                inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:
                continue  # no folder, or gone
            try:
                if not state.st_mode & 0o400:
                    os.chmod(f"/proc/self/fd/{inner}", 0o700)
                if not subtract(os.open(f"/proc/self/fd/{inner}", os.O_RDONLY | os.O_DIRECTORY), left, depth + 1):
                    return False
            finally:
                os.close(inner)
        return left[0] >= 0
    finally:
        os.close(folder)


def enter_namespaces(settings: dict) -> bool:
    user, group = os.geteuid(), os.getegid()
    # The kernel's limit on processes does not count for the superuser: there the program is another user.
    changes = user == 0 and open_to_all(settings["readable"])
    if changes:
        with_both = f"0 {{}} 1\n{NOBODY} {NOBODY} 1"
        told, tell = os.pipe()
        outer, helper = os.getpid(), os.fork()  # maps with two users must be written from outside
        if helper == 0:
            os.close(tell)
            mapped = os.read(told, 1) and write_maps(outer, with_both.format(user), with_both.format(group))
            os._exit(0 if mapped else 1)
        os.close(told)
    entered = LIBC.unshare(NAMESPACES) == 0
    if changes:
        os.write(tell, b"1" if entered else b"")
        os.close(tell)
        changes = os.waitpid(helper, 0)[1] == 0
        signal.sigtimedwait([signal.SIGCHLD], 0)
    if not entered:
        return False
    if changes:
        settings["identity"] = NOBODY
    else:  # without a map: the overflow user, which may do even less
        write_maps(os.getpid(), f"0 {user} 1", f"0 {group} 1")
    # No user namespaces within, where capabilities could be had again. Without seccomp: no System V memory, messages
    # or semaphores, which belong to no process and have no size limit.
    for name, text in (
        ("user/max_user_namespaces", "0"),
        ("kernel/shmmni", "0"),
        ("kernel/msgmni", "0"),
        ("kernel/sem", "0 0 0 0"),
    ):
        with contextlib.suppress(OSError), open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return True


def write_maps(process: int, users: str, groups: str) -> bool:
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
            if name != "setgroups" or "\n" not in groups:  # only those who may not change groups must say so
                with open(f"/proc/{process}/{name}", "w", encoding="ascii") as file:
                    file.write(text)
    except OSError:
        return False
    return True


def open_to_all(paths: list) -> bool:
    """Whether every user may read what lies there; how one gets there does not matter in a file tree of our own."""
    return all(os.stat(path).st_mode & 0o4 for path in [*paths, os.__file__] if os.path.exists(path))


def build_root(settings: dict) -> bool:
    """A file tree of what may be read, read-only, and the program's folder: a file system in memory with a size."""
    folder = settings["folder"]
    try:
        with open(os.path.join(folder, "program.py"), "rb") as file:
            program = file.read()
    except OSError:
        program = None
    owner = "" if settings["identity"] is None else f",uid={NOBODY},gid={NOBODY}"
    size = settings["disk"] + SLACK_BYTES + len(program or b"")
    files = settings["files"] + SLACK_FILES
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
            if not path.startswith("/dev/"):
                read_only(place)
        own = folder + folder
        os.makedirs(own)
        mount("tmpfs", own, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes={files},mode=0700{owner}")
        if program is not None:
            with open(os.path.join(own, "program.py"), "wb") as file:
                file.write(program)
                if owner:
                    os.fchown(file.fileno(), NOBODY, NOBODY)
        if not seccomp_possible(settings):
            os.mkdir(folder + "/proc")
            with contextlib.suppress(OSError):  # refused where the machine's own one is masked
                mount("proc", folder + "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
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


def confine(settings: dict, spaces: bool) -> tuple:
    """Confine this process for good; returns the layers that hold and a descriptor that the supervisor must take."""
    off, held = settings["off"], ["namespaces"] if spaces else []
    # Kernels before 5.14 count the user's processes outside as well.
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    counted = spaces and release >= (5, 14)
    limits(settings, counted)
    drop_capabilities(settings["identity"])
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it back
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The supervisor looks at what this process has open. Other programs cannot: each layer keeps them out.
    LIBC.prctl(PR_SET_DUMPABLE, 1)
    if "landlock" not in off and landlock(settings["readable"], settings["folder"]):
        held.append("landlock")
    # The superuser's own processes are never limited.
    counted = counted and (settings["identity"] is not None or not settings["superuser"])
    listener = seccomp(bool(held), counted, truncates=spaces) if seccomp_possible(settings) else None
    if listener is not None:
        held.append("seccomp")
    return held, -1 if listener is None else listener


def limits(settings: dict, processes: bool) -> None:
    wanted = {
        "AS": settings["memory"],
        "CPU": int(settings["cpu_s"]) + 2,
        "FSIZE": settings["disk"] + SLACK_BYTES,
        "NOFILE": 64,
        "CORE": 1,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "SIGPENDING": 256,
        "NICE": 0,
        "RTPRIO": 0,
    }
    if processes:
        wanted["NPROC"] = THREADS
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


def drop_capabilities(identity: "int | None") -> None:
    """All of them, for good, and become another user if so told. Where this may not be done there are none."""
    LIBC.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() == 22:
            break  # the last one of this kernel
    LIBC.prctl(PR_SET_SECUREBITS, 0b101111, 0, 0, 0)  # user 0 is nobody special
    if identity is not None:
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    get, put = (125, 126) if os.uname().machine == "x86_64" else (90, 91)  # capget, capset; version 3, this process
    header, data = struct.pack("II", 0x20080522, 0), ctypes.create_string_buffer(24)
    LIBC.syscall(put, header, data)
    if LIBC.syscall(get, header, data) != 0 or any(data.raw):
        os._exit(UNCONFINED)


def landlock(readable: list, own: str) -> bool:
    """Files: read ``readable``, everything in ``own``, nothing else. Newer kernels: no TCP, no signals outside."""
    abi = landlock_version()
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


def landlock_version() -> int:
    return int(LIBC.syscall(444, None, 0, 1))


def numbers(table: str) -> dict:
    """Name -> number on this machine, without those that do not exist on it."""
    column = 1 if os.uname().machine == "x86_64" else 2
    rows = [row.split() for row in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def seccomp_possible(settings: dict) -> bool:
    return "seccomp" not in settings["off"] and os.uname().machine in SECCOMP and LIBC.prctl(PR_GET_SECCOMP) >= 0


def seccomp(confined: bool, counted: bool, truncates: bool) -> "int | None":
    """Only the system calls of the tables above; None if they cannot be confined.

    confined: whether another layer confines files. If none does, no file may be written, and to open one the
    supervisor is asked. counted: whether the kernel limits the number of threads. If not, the supervisor is asked.
    truncates: whether files may be emptied without being open for writing, which Landlock did not see before Linux 6.2.

    Returns the descriptor on which the supervisor is asked, else -1.
    """
    machine = os.uname().machine
    arch = 0xC000003E if machine == "x86_64" else 0xC00000B7
    code: list = []

    def op(kind: int, jump_true: int, jump_false: int, value: int) -> None:
        code.append(struct.pack("HBBI", kind, jump_true, jump_false, value & 0xFFFFFFFF))

    results = (ERRNO | errno.EPERM, ALLOW, ERRNO | errno.ENOSYS, ASK)
    refuse, allow, missing, ask = ((0x06, 0, 0, value) for value in results)

    def argument(index: int) -> tuple:
        return (0x20, 0, 0, 16 + 8 * index)  # its lower half: the kernel takes these arguments as 32 bits

    def one_of(index: int, values: tuple) -> list:
        """Allow if the argument is one of the values, else refuse."""
        tests = [(0x15, len(values) - i, 0, value) for i, value in enumerate(values)]
        return [argument(index), *tests, refuse, allow]

    def opening(index: int) -> list:
        emptied = [
            (0x54, 0, 0, os.O_TRUNC | os.O_ACCMODE),
            (0x15, 1, 0, os.O_TRUNC),
            (0x15, 0, 1, os.O_TRUNC | 3),
            refuse,
        ]
        return [argument(index), (0x45, 0, 1, no_write), refuse, *([] if truncates else emptied), opened]

    checked = numbers(CHECKED)
    no_write = O_TMPFILE if confined else WRITE_FLAGS
    opened = allow if confined else ask
    bodies = {
        # Its flags lie in memory, where they cannot be checked; libc then uses clone.
        "clone3": [missing],
        # Threads only, of the usual kind.
        "clone": [
            argument(0),
            (0x54, 0, 0, CLONE_OF_THREADS | CLONE_NOT),
            (0x15, 1, 0, CLONE_OF_THREADS),
            refuse,
            allow if counted else ask,
        ],
        "truncate": [allow if confined and truncates else refuse],
        "kill": one_of(0, (os.getpid(),)),
        "tgkill": one_of(0, (os.getpid(),)),
        "prlimit64": one_of(0, (0, os.getpid())),
        "prctl": one_of(0, PRCTLS),
        "ioctl": one_of(1, IOCTLS),
        "fcntl": one_of(1, FCNTLS),
        "open": opening(1),
        "openat": opening(2),
    }
    op(0x20, 0, 0, 4)
    op(0x15, 1, 0, arch)
    op(*refuse)
    op(0x20, 0, 0, 0)
    op(0x35, 0, 1, 0x40000000)  # the x32 numbers of the same calls
    op(*refuse)
    op(0x25, 0, 1, HIGHEST)
    op(*missing)
    for number in [*numbers(ALLOWED).values(), *(numbers(WRITES).values() if confined else ())]:
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
    asks = not (confined and counted)
    listener = LIBC.syscall(SECCOMP[machine], 1, 8 if asks else 0, header)  # 8: with a listener
    if listener < 0:
        return None
    return int(listener) if asks else -1


if __name__ == "__main__":
    main()
