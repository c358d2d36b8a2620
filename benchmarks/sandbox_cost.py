# SPDX-License-Identifier: Apache-2.0
"""Cost of one run of an empty program in the sandbox, beside the bare interpreter.

The median CPU time of many runs; other load on the machine changes CPU time only a little.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from recipe.agpo.arguments import positive
from recipe.agpo.rewards import sandbox


def cost(function: Callable[[], object], runs: int) -> str:
    function()
    spent, waited = [], []
    for _ in range(runs):
        before, began = _cpu(), time.perf_counter()
        function()
        spent.append(_cpu() - before)
        waited.append(time.perf_counter() - began)
    return f"{1e3 * statistics.median(spent):.0f} ms of CPU time, {1e3 * statistics.median(waited):.0f} ms by the clock"


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=positive, default=100)
    runs = parser.parse_args().runs
    print("layers:", sandbox.describe(sandbox.layers()))
    print("interpreter alone:", cost(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True), runs))
    print("run an empty program:", cost(lambda: sandbox.run(""), runs))
    print("call an empty function:", cost(lambda: sandbox.call(str, ""), runs))


if __name__ == "__main__":
    main()
