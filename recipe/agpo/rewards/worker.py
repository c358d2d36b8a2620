# SPDX-License-Identifier: Apache-2.0
"""A worker process of the pool: reads one job a line, answers with "started" and then its result.

A job that evaluates text runs in a confined child, so that no text is ever evaluated in the worker itself.

Started by :mod:`recipe.agpo.rewards.pool`, never by hand. It dies with the thread that started it, also in the
middle of a computation that never returns.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from types import ModuleType
from typing import Any

from recipe.agpo.rewards import confined
from recipe.agpo.rewards.verdict import CRASHED, OK, RAISED

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, memory, preload = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before we could ask to be told
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a grader prints must not end up in the protocol.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    prepared: set[str] = set()

    def prepare(module_name: str) -> ModuleType:
        module = importlib.import_module(module_name)
        if module_name not in prepared:
            getattr(module, "prepare", lambda: None)()
            prepared.add(module_name)
            _limit_memory(memory)
        return module

    for module_name in preload:
        prepare(module_name)
    answer(ready=True)
    for line in requests:
        job = json.loads(line)
        module_name, _, name = job["function"].partition(":")
        try:
            # Imports are not the answer's fault: they happen before its time starts.
            function = getattr(prepare(module_name), name)
        except BaseException as error:  # also what libraries derive from BaseException
            answer(status=RAISED, detail=_words(error))
            continue
        answer(started=True)
        if job["confined"]:
            answer(**confined.run(function, job["arguments"], job["limit"], memory))
            continue
        try:
            value = function(*job["arguments"])
            json.dumps(value)
        except MemoryError:
            answer(status=CRASHED, detail=f"MemoryError: more than {memory} MiB", last=True)
            return
        except BaseException as error:
            answer(status=RAISED, detail=_words(error))
        else:
            answer(status=OK, value=value)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _limit_memory(mebibytes: int) -> None:
    """Address space: what the process has now, plus ``mebibytes``."""
    if mebibytes <= 0:
        return
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + mebibytes * 2**20
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


if __name__ == "__main__":
    main()
