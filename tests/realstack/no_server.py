# SPDX-License-Identifier: Apache-2.0
"""verl's two sides of a rollout server, both without one; see ``no_rollout.py``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

SYNCS = "AGPO_TEST_SYNCS"  # environment: a file that gets one line, `digest` of the weights, for each transfer


def digest(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Of names and bits, in any order; float32."""
    parts = sorted((name, weight.detach().float().contiguous().numpy().tobytes()) for name, weight in weights)
    return hashlib.sha256(b"".join(name.encode() + part for name, part in parts)).hexdigest()


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
        path = os.environ.get(SYNCS)
        if path is None:
            for _weight in weights:
                pass
            return
        line = digest(weights)  # takes all of them, on every rank
        if torch.distributed.get_rank() == 0:
            with Path(path).open("a") as file:
                file.write(line + "\n")
