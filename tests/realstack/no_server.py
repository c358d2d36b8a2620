# SPDX-License-Identifier: Apache-2.0
"""verl's two sides of a rollout server, both without one; see ``no_rollout.py``."""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica


class NoServer(RolloutReplica):
    """The driver's side: no server to start, to put to sleep or to wake."""

    async def launch_servers(self) -> None:
        self._server_address = f"no_server:{self.replica_rank}"


class NoClient(BaseRollout):
    """The trainer's side: takes the weights, which gathers them over the ranks, and drops them."""

    async def resume(self, tags: list[str]) -> None:
        return None

    async def release(self) -> None:
        return None

    async def update_weights(self, weights: Any, **_: Any) -> None:
        for _weight in weights:
            pass
