# SPDX-License-Identifier: Apache-2.0
"""Confines its own process and then becomes an untrusted program. Started by :mod:`recipe.agpo.rewards.sandbox`.

Standard library only, and nothing of this package: it runs as ``python -I jail.py <settings as JSON>``. Each layer
that takes hold is named on the status pipe; the program starts only after all of them were tried.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x04000000  # user net pid mount ipc uts
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38

# Landlock: access rights by ABI version (linux/landlock.h).
FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
FS_READ, FS_FILE = 0b1101, 0b111  # execute, read file, read directory; execute, write, read file

# Denied system calls: name -> number on (x86_64, aarch64); None where it does not exist.
DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "perf_event_open": (298, 241), "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "userfaultfd": (323, 282), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "tkill": (200, 130), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "open_by_handle_at": (304, 265), "setpriority": (141, 140),
}  # fmt: skip
# Without Landlock nothing at all may be written.
WRITES = {
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33), "creat": (85, None), "utimensat": (280, 88),
    "openat2": (437, 437),
}  # fmt: skip
OPEN, OPENAT, CLONE, CLONE3, KILL, TGKILL = (2, None), (257, 56), (56, 220), (435, 435), (62, 129), (234, 131)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = 1, 38


def main() -> None:
    settings = json.loads(sys.argv[1])
    off, held = set(settings["off"]), []
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(125)
    status = settings["status"]
    if "namespaces" not in off and namespaces():
        held.append("namespaces")
        # The new process namespace begins with a child; when it ends, the kernel kills all that is left in it.
        child = os.fork()
        if child:
            os.close(status)
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            _, code = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(code) if os.WIFEXITED(code) else 128 + os.WTERMSIG(code))
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    limits(settings)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "landlock" not in off and landlock(settings["readable"], os.getcwd()):
        held.append("landlock")
    if "seccomp" not in off and seccomp(no_writes="landlock" not in held):
        held.append("seccomp")
    os.write(status, json.dumps(held).encode())
    missing = [name for name, layers in settings["require"].items() if not set(layers) & set(held)]
    os.close(status)
    if missing:
        os._exit(126)
    os.execve(settings["command"][0], settings["command"], settings["environment"])


def namespaces() -> bool:
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(NAMESPACES) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError:
        pass  # unmapped: the overflow user, which may do even less
    return True


def limits(settings: dict) -> None:
    memory = settings["memory_mb"] * 2**20
    for name, value in (
        ("AS", memory), ("CPU", settings["cpu_s"]), ("FSIZE", settings["file_mb"] * 2**20), ("NOFILE", 64),
        ("CORE", 0), ("NPROC", 64), ("MEMLOCK", 0), ("MSGQUEUE", 0),
    ):  # fmt: skip
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            try:
                resource.setrlimit(kind, (value, value + (name == "CPU")))
            except (ValueError, OSError):
                pass  # a lower hard limit is already there


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
    for path, access in [(own, rights), *((path, FS_READ) for path in readable), ("/dev/null", FS_FILE)]:
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


def seccomp(no_writes: bool) -> bool:
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64") or sys.byteorder != "little":
        return False
    column, arch = (0, 0xC000003E) if machine == "x86_64" else (1, 0xC00000B7)
    code = []

    def op(kind: int, jump_true: int, jump_false: int, value: int) -> None:
        code.append(struct.pack("HBBI", kind, jump_true, jump_false, value & 0xFFFFFFFF))

    def load(offset: int) -> None:
        op(0x20, 0, 0, offset)

    def give(result: int) -> None:
        op(0x06, 0, 0, result)

    def when(number: "int | None", body: list) -> None:
        """If the system call is ``number``: the instructions of ``body``."""
        if number is not None:
            op(0x15, 0, len(body), number)
            for instruction in body:
                op(*instruction)

    refuse = (0x06, 0, 0, ERRNO | EPERM)
    load(4)
    op(0x15, 1, 0, arch)
    give(ERRNO | EPERM)
    load(0)
    op(0x35, 0, 1, 0x40000000)  # the x32 numbers of the same calls
    give(ERRNO | EPERM)
    for numbers in [*DENIED.values(), *(WRITES.values() if no_writes else ())]:
        when(numbers[column], [refuse])
    when(CLONE3[column], [(0x06, 0, 0, ERRNO | ENOSYS)])  # its flags lie in memory; libc then uses clone
    # clone: threads only (CLONE_THREAD in the first argument).
    when(CLONE[column], [(0x20, 0, 0, 16), (0x45, 1, 0, 0x10000), refuse, (0x06, 0, 0, ALLOW)])
    for numbers in (KILL, TGKILL):  # signals to itself only
        own = [(0x20, 0, 0, 16), (0x15, 1, 0, os.getpid()), refuse, (0x06, 0, 0, ALLOW)]
        when(numbers[column], own)
    if no_writes:
        for numbers, flags in ((OPEN, 24), (OPENAT, 32)):
            opened = [(0x20, 0, 0, flags), (0x45, 0, 1, WRITE_FLAGS), refuse, (0x06, 0, 0, ALLOW)]
            when(numbers[column], opened)
    give(ALLOW)
    program = b"".join(code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    return LIBC.prctl(PR_SET_SECCOMP, 2, header, 0, 0) == 0


main()
