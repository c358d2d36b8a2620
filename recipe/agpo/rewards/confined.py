# SPDX-License-Identifier: Apache-2.0
"""One call in a confined copy of this process, for functions that evaluate text which a model wrote.

The copy is confined by all layers of the sandbox before it sees the text, makes one call and ends, so nothing that the
text did to it can reach another verdict. Its result counts only if it carries a secret made for this call; while the
text is evaluated, the descriptor of the result has a number drawn for this call, and the usual ones lead nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import secrets
import site
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recipe.agpo.rewards import sandbox
from recipe.agpo.rewards.verdict import CRASHED, LOST, OK, RAISED, TIMEOUT

RESULT_MB = 1.0
WALL = 10.0  # by the clock, times the limit on processor time; below that of the pool


def run(
    function: Callable[..., Any], arguments: Sequence[Any], limit_s: float, memory_mb: int, off: Sequence[str] = ()
) -> dict[str, Any]:
    """Call ``function``; fields of a worker's answer: status, value if it is ok, detail.

    Args:
        function: returns what JSON can hold.
        arguments: what it is called with.
        limit_s: processor time.
        memory_mb: address space beyond what this process has; 0: no limit.
        off: layers of the sandbox not to use, for tests.
    """
    secret = secrets.token_hex(16)

    def call(text: str) -> str:
        with _hidden_result():
            return secret + _result(function, json.loads(text))

    limits = sandbox.Limits(
        seconds=limit_s, memory_mb=memory_mb or 1 << 20, output_mb=RESULT_MB, disk_mb=1, files=16, wall_s=limit_s * WALL
    )
    try:
        ran = sandbox.call(call, json.dumps(arguments), limits, readable=_packages(), off=off)
    except (sandbox.SandboxUnavailable, sandbox.SandboxFailed, OSError) as error:  # no process, no room for a folder
        return {"status": LOST, "detail": f"{type(error).__name__}: {error}"[:500]}
    if ran.status == sandbox.TIME:
        words = f"no result after {limit_s:g} s of processor time, or {limit_s * WALL:g} s in which it slept"
        return {"status": TIMEOUT, "detail": words}
    if ran.status != sandbox.OK or not ran.stdout.startswith(secret):
        return {"status": CRASHED, "detail": f"no result ({ran.status}): {ran.detail}"[:500]}
    try:
        return dict(json.loads(ran.stdout[len(secret) :]))
    except ValueError:
        return {"status": CRASHED, "detail": "no result that can be read"}


def _result(function: Callable[..., Any], arguments: Sequence[Any]) -> str:
    try:
        return json.dumps({"status": OK, "value": function(*arguments)})
    except MemoryError:
        return json.dumps({"status": CRASHED, "detail": "MemoryError"})
    except BaseException as error:  # also what libraries derive from BaseException
        return json.dumps({"status": RAISED, "detail": f"{type(error).__name__}: {error}"[:500]})


@contextlib.contextmanager
def _hidden_result() -> Iterator[None]:
    """Descriptors 0 to 2 lead nowhere inside; the one of the result has an unknown number."""
    result = fcntl.fcntl(1, fcntl.F_DUPFD, random.SystemRandom().randrange(8, 60))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    yield
    os.dup2(result, 1)


def _packages() -> list[str]:
    """Where the installed packages lie: libraries import parts of themselves late."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()})
