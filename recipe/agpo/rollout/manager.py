# SPDX-License-Identifier: Apache-2.0
"""Subclasses of verl's agent-loop managers: token counts for every run, and the controller state for AGPO's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ray
from tensordict.tensorclass import NonTensorData

from agpo_core import ControllerState, TokenLedger
from agpo_core.state import state_to_dict
from recipe.agpo.columns import CONTROL
from recipe.agpo.rollout.allocation_barrier import BarrierActor
from recipe.agpo.rollout.worker import AGPOAgentLoopWorker, CountingWorker
from recipe.agpo.settings import agpo_config, resolved
from recipe.agpo.verl_api.agent_loop import AgentLoopManagerTQ


class CountingManager(AgentLoopManagerTQ):
    """verl's agent-loop manager over counting workers."""

    worker_class: type = CountingWorker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)

    def drain_tokens(self) -> TokenLedger:
        """Counts of all workers since the last call."""
        drained = ray.get([worker.drain_tokens.remote() for worker in self.agent_loop_workers])
        return sum((TokenLedger.from_dict(counts) for counts in drained), TokenLedger())


class AGPOAgentLoopManager(CountingManager):
    """verl's agent-loop manager; passes each step's controller state to the workers."""

    worker_class = AGPOAgentLoopWorker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._current_state: Callable[[], ControllerState] | None = None
        self._barrier: Any = None

    def attach(self, current_state: Callable[[], ControllerState]) -> None:
        """Called by the trainer: where to read the controller state from."""
        self._current_state = current_state

    def _open_round(self, prompts: Any) -> None:
        agpo = agpo_config(self.config)
        if not agpo.allocation.enabled:
            return
        if self._barrier is None:
            settings = resolved(self.config, agpo)
            self._barrier = BarrierActor.remote(settings.probe_size, settings.group_size, agpo.allocation)
            ray.get([worker.attach_barrier.remote(self._barrier) for worker in self.agent_loop_workers])
        uids = [str(uid) for uid in prompts["uid"]]
        # Waits until it is open: a prompt may be faster than this call otherwise.
        ray.get(self._barrier.open.remote(min(uids), uids))

    def generate_sequences(self, prompts: Any) -> None:
        validate = "validate" in prompts.keys() and bool(prompts["validate"])
        if self._current_state is not None and not validate:
            control = json.dumps(state_to_dict(self._current_state()))
            prompts[CONTROL] = NonTensorData(control)
            self._open_round(prompts)
        super().generate_sequences(prompts)

    def drain_failures(self) -> tuple[list[dict[str, Any]], str | None]:
        """Failed sessions of all workers since the last call, and the first reward failure if there was one."""
        drained = ray.get([worker.drain_failures.remote() for worker in self.agent_loop_workers])
        reward = next((reward for _, reward in drained if reward), None)
        return [failure for failures, _ in drained for failure in failures], reward
