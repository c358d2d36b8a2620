# SPDX-License-Identifier: Apache-2.0
"""Barrier of a step's prompts: each submits its probe and gets its number of further responses.

The number of responses is fixed for the whole step, so every prompt waits for the last probe. The result depends only
on the probes, in the order of prompt ids, and not on the order of arrival or the number of workers.
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
        probes: (sum of outcomes in [0, 1], valid responses) of the prompts that have submitted.
        extra: number of further responses by id, after the last prompt has submitted.
    """

    expected: frozenset[str]
    probes: dict[str, tuple[float, int]] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class AllocationBarrier:
    """All active rounds; one Ray actor per run. Use ``BarrierActor``."""

    def __init__(self, probe_size: int, group_size: int, config: AllocationConfig) -> None:
        self._sizes = {"probe_size": probe_size, "group_size": group_size}
        self._config = config
        self._rounds: dict[str, Round] = {}
        self._round_of: dict[str, str] = {}

    async def open(self, name: str, prompts: list[str]) -> None:
        """Register the prompts of a round, before any of them is generated."""
        self._rounds[name] = Round(frozenset(prompts))
        self._round_of |= dict.fromkeys(prompts, name)

    async def submit(self, prompt: str, right: float, count: int) -> int:
        """Submit a probe, wait for the others of the round, and return the prompt's number of further responses."""
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
        # It will not ask for its number.
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
            [current.probes[p][0] for p in order],
            [current.probes[p][1] for p in order],
            config=self._config,
            **self._sizes,
        )
        current.extra = dict(zip(order, extra, strict=True))
        current.complete.set()

    def _close(self, current: Round) -> None:
        for prompt in current.expected:
            self._rounds.pop(self._round_of.pop(prompt, ""), None)


# Every prompt of a step waits inside a call. By default Ray runs at most 1,000 calls of an asynchronous actor at a
# time; with more prompts, they would wait forever for a call that is never started.
BarrierActor = ray.remote(num_cpus=0, max_concurrency=1_000_000)(AllocationBarrier)
