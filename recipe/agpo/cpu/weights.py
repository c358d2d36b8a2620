# SPDX-License-Identifier: Apache-2.0
"""Transfer of weights from the learner to separate rollout servers (verl's ``separate_async``) without a GPU.

verl ships transports for accelerators only (nccl, nixl, mooncake, ...). This one registers as ``gloo``: actor rank 0
broadcasts each tensor to the rollout workers over torch's gloo, names and shapes are sent through a store.
"""

import pickle
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from typing import Any

import ray
import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

TIMEOUT = timedelta(seconds=300)
LAST = b""
OUTSIDE = -1

Address = tuple[str, int]


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """One broadcast per tensor; a new group for each transfer, so that replicas may start and stop."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.is_master = is_master  # actor rank 0
        self._store: TCPStore | None = None
        self._group: ProcessGroupGloo | None = None
        self._rank = OUTSIDE

    def prepare(self) -> Address | None:
        """Open the store; its address is sent to all ranks."""
        if not self.is_master:
            return None
        host = ray.util.get_node_ip_address().strip("[]")
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        return host, self._store.port

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Address | None]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Actor rank 0 sends to all rollout workers; the other actor ranks are not in the group."""
        size = 1 + rollout_world_size

        def shared(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "size": [size] * len(ranks), "address": [metadata[0]] * len(ranks)}

        return shared([0] + [OUTSIDE] * (actor_wg_world_size - 1)), shared(list(range(1, size)))

    def init_process_group(self, rank: int, size: int, address: Address) -> None:
        self._rank = rank
        if rank == OUTSIDE:
            return
        if self._store is None:
            self._store = TCPStore(*address, is_master=False, timeout=TIMEOUT)
        self._group = ProcessGroupGloo(PrefixStore("weights", self._store), rank, size, TIMEOUT)

    def finalize(self) -> None:
        self._group = self._store = None

    async def send_weights(self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        number = 0
        for name, weight in weights:
            # Gathering a sharded weight needs all actor ranks, so the others iterate over the weights too.
            if self._rank == OUTSIDE:
                continue
            tensor = weight.detach().cpu().contiguous()
            self._announce(number, pickle.dumps((name, tensor.shape, tensor.dtype)))
            self._broadcast(tensor)
            number += 1
        if self._rank != OUTSIDE:
            self._announce(number, LAST)
            # The store closes with the sender: it waits until every receiver has read the end.
            self._broadcast(torch.zeros(1))

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        assert self._store is not None, "verl makes the group first"
        number = 0
        while (header := self._store.get(f"header/{number}")) != LAST:
            name, shape, dtype = pickle.loads(header)
            tensor = torch.empty(shape, dtype=dtype)
            self._broadcast(tensor)
            yield name, tensor
            number += 1
        self._broadcast(torch.zeros(1))

    def _announce(self, number: int, header: bytes) -> None:
        assert self._store is not None, "verl makes the group first"
        self._store.set(f"header/{number}", header)  # type: ignore[arg-type]  # torch takes bytes as well

    def _broadcast(self, tensor: torch.Tensor) -> None:
        assert self._group is not None, "verl makes the group first"
        opts = torch.distributed.BroadcastOptions()
        opts.rootRank, opts.rootTensor = 0, 0
        # As bytes, because gloo supports fewer number types than torch. An empty tensor has none to send.
        if tensor.numel():
            self._group.broadcast([tensor.view(-1).view(torch.uint8)], opts).wait()  # type: ignore[attr-defined]
