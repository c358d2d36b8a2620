# SPDX-License-Identifier: Apache-2.0
"""The meeting point of a step's prompts: each brings its probe, and learns how many more responses it gets.

The total is one for the whole step, so nobody can be told before the last probe is in: allocation costs that wait. The
numbers depend on the probes alone, taken in the order of prompt ids, and not on who came first or on the number of
workers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import ray

from agpo_core import AllocationConfig, allocate


@dataclass
class Round:
    """The prompts that were submitted together.

    Attributes:
        expected: their ids.
        probes: (sum of outcomes in [0, 1], valid responses) of those that came.
        extra: the answer, by id, once everybody is there.
    """

    expected: frozenset[str]
    probes: dict[str, tuple[float, int]] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class AllocationBarrier:
    """All rounds that are under way; one Ray actor a run. Use ``BarrierActor``."""

    def __init__(self, probe_size: int, group_size: int, config: AllocationConfig) -> None:
        self._sizes = {"probe_size": probe_size, "group_size": group_size}
        self._config = config
        self._rounds: dict[str, Round] = {}
        self._round_of: dict[str, str] = {}

    async def open(self, name: str, prompts: list[str]) -> None:
        """Announce the prompts of a round, before any of them is generated."""
        self._rounds[name] = Round(frozenset(prompts))
        self._round_of |= dict.fromkeys(prompts, name)

    async def submit(self, prompt: str, right: float, count: int) -> int:
        """Bring a probe; returns how many more responses the prompt gets, when all of its round have come."""
        current = self._rounds[self._round_of[prompt]]
        self._take(current, prompt, right, count)
        await current.complete.wait()
        extra = current.extra.pop(prompt)
        if not current.extra:
            self._close(current)
        return extra

    async def withdraw(self, prompt: str) -> None:
        """A prompt failed before its probe was complete: the others do not wait for it. Harmless after `submit`."""
        current = self._rounds.get(self._round_of.get(prompt, ""))
        if current is None or prompt in current.probes:
            return
        self._take(current, prompt, 0.0, 0)
        # It will not come for its answer.
        await current.complete.wait()
        current.extra.pop(prompt, None)
        if not current.extra:
            self._close(current)

    def _take(self, current: Round, prompt: str, right: float, count: int) -> None:
        current.probes[prompt] = (right, count)
        if set(current.probes) < current.expected:
            return
        order = sorted(current.expected)
        extra = allocate(
            [current.probes[p][0] for p in order], [current.probes[p][1] for p in order], config=self._config,
            **self._sizes,
        )  # fmt: skip
        current.extra = dict(zip(order, extra, strict=True))
        current.complete.set()

    def _close(self, current: Round) -> None:
        for prompt in current.expected:
            self._rounds.pop(self._round_of.pop(prompt, ""), None)


# Every prompt of a step waits inside a call. Ray lets 1,000 calls into an asynchronous actor unless told otherwise, and
# the next one, for which all others wait, would never get in.
BarrierActor = ray.remote(num_cpus=0, max_concurrency=1_000_000)(AllocationBarrier)
