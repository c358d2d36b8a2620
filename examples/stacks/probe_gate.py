# SPDX-License-Identifier: Apache-2.0
"""Probe, decision and the rest of the group, for stacks that generate each response in its own coroutine.

The probe is the first responses of a group. The rest of the group waits until the probe is scored; prompts do not wait
for each other. All coroutines of a group must
run on one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from agpo_core import Controller, ProbeStats, StepSignals


@dataclass
class _Group:
    outcomes: dict[int, float] = field(default_factory=dict)
    keys: dict[int, str | None] = field(default_factory=dict)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    stats: ProbeStats | None = None
    tau: float = 0.0


class ProbeGate(Controller):
    """A `Controller` with the groups of one step; its settings have ``probe.reuse``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: dict[Hashable, _Group] = {}

    async def run(
        self,
        group: Hashable,
        member: int,
        generate: Callable[[float], Awaitable[Any]],
        judge: Callable[[Any], tuple[float, str | None]],
    ) -> Any:
        """Generate one response at its temperature and return it.

        group: the prompt's id within the step; member: 0 to group_size - 1; generate: temperature to response;
        judge: response to (verifier's outcome, NaN for none; vote key). A probe response that raises counts as
        one without an outcome, so that the others do not wait for it.
        """
        entry = self._groups.setdefault(group, _Group())
        if member >= self.settings.probe_size:
            await entry.decided.wait()
            return await generate(entry.tau)
        outcome: tuple[float, str | None] = (math.nan, None)
        try:
            response = await generate(self.settings.tau_base)
            outcome = judge(response)
        finally:
            entry.outcomes[member], entry.keys[member] = outcome
            if len(entry.outcomes) == self.settings.probe_size:
                self._decide(entry)
        return response

    def temperature(self, group: Hashable, member: int) -> float:
        """Sampling temperature of a response; available after its group's probe is scored."""
        return self.settings.tau_base if member < self.settings.probe_size else self._groups[group].tau

    def clip_ratios(self, group: Hashable, signals: StepSignals | None = None) -> tuple[float, float]:
        """Clip ratios of a group's responses; signals: measurements of the old policy."""
        stats = self._groups[group].stats
        assert stats is not None, "the probe is scored first"
        decision = self.decide_clip(stats, signals or StepSignals())
        return float(decision.low[0]), float(decision.high[0])

    def close_step(self, signals: StepSignals | None = None) -> None:
        """Update the state once, with all decided groups, and remove them. Call it between two steps."""
        parts = [entry.stats for entry in self._groups.values() if entry.stats is not None]
        self.update(parts, signals or StepSignals())
        self._groups = {group: entry for group, entry in self._groups.items() if entry.stats is None}

    def _decide(self, entry: _Group) -> None:
        members = range(self.settings.probe_size)
        outcomes = torch.tensor([[entry.outcomes[member] for member in members]], dtype=torch.float64)
        entry.stats = self.probe(outcomes, [[entry.keys[member] for member in members]])
        entry.tau = float(self.decide_temperature(entry.stats).tau[0])
        entry.decided.set()
