# SPDX-License-Identifier: Apache-2.0
"""What workers are made to do in the tests of the pool."""

from __future__ import annotations

import os
import signal
import sys
import time


def add(a: int, b: int) -> int:
    return a + b


def echo(text: str) -> str:
    return text


def nap(seconds: float) -> None:
    time.sleep(seconds)


def sleep() -> None:
    time.sleep(3600)


def busy() -> None:
    while True:
        pass


def huge_power() -> int:
    """In C, holding the interpreter: no Python signal handler would ever run."""
    return len(str(9 ** (9**8)))


def hang_on(text: str, bad: str) -> str:
    while text == bad:
        pass
    return text


def fail_on(text: str, bad: str) -> str:
    if text == bad:
        raise RecursionError(text)
    return text


def evaluate(text: str) -> object:
    """What no scorer may do: evaluate text as a program, with all names there are."""
    return eval(text)


def exit() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def eat_memory() -> int:
    return len([bytearray(2**24) for _ in range(10**6)])


def fail() -> None:
    raise ValueError("on purpose")


def fail_beyond_exception() -> None:
    raise KeyboardInterrupt


def unserialisable() -> object:
    return object()


def chatty() -> str:
    print('{"value": "loud"}', flush=True)
    print("to stderr", file=sys.stderr)
    os.write(1, b"raw\n")
    return "quiet"


def pid() -> int:
    return os.getpid()


def die(*_: object) -> None:
    os._exit(3)


def pair_or_die(first: str, second: str) -> bool:
    """The pairs with one answer kill their worker; the others are compared."""
    from recipe.agpo.rewards.symbolic import equal_both_ways

    if "deadly" in (first, second):
        os._exit(3)
    return equal_both_ways(first, second)
