# SPDX-License-Identifier: Apache-2.0
"""Weights arrive at every rollout worker as they were sent; actor ranks outside the group only walk through them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

from recipe.agpo.cpu.weights import GlooCheckpointEngine

WEIGHTS = {
    "matrix": torch.arange(6.0).view(2, 3).t(),  # not contiguous
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "number": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture(autouse=True)
def this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")


def transfer(actors: int, rollouts: int, weights: dict[str, torch.Tensor]) -> tuple[list[int], list[dict[str, Any]]]:
    """What verl's manager does, with threads as workers: weights walked through per actor, received per rollout."""
    senders = [GlooCheckpointEngine(1 << 20, is_master=rank == 0) for rank in range(actors)]
    receivers = [GlooCheckpointEngine(1 << 20) for _ in range(rollouts)]
    metadata = [engine.prepare() for engine in (*senders, *receivers)]
    for_actors, for_rollouts = GlooCheckpointEngine.build_topology(actors, rollouts, metadata)

    def joined(engine: GlooCheckpointEngine, arguments: dict[str, list[Any]], index: int) -> None:
        engine.init_process_group(**{name: values[index] for name, values in arguments.items()})

    def send(index: int) -> int:
        joined(senders[index], for_actors, index)
        walked = []
        asyncio.run(senders[index].send_weights((walked.append(name), (name, w))[1] for name, w in weights.items()))
        return len(walked)

    def receive(index: int) -> dict[str, Any]:
        joined(receivers[index], for_rollouts, index)

        async def collected() -> dict[str, Any]:
            return {name: weight async for name, weight in receivers[index].receive_weights()}

        return asyncio.run(collected())

    with ThreadPoolExecutor(actors + rollouts) as pool:
        sent = [pool.submit(send, i) for i in range(actors)]
        received = [pool.submit(receive, i) for i in range(rollouts)]
        result = [f.result(timeout=60) for f in sent], [f.result(timeout=60) for f in received]
    for engine in (*senders, *receivers):
        engine.finalize()
    return result


@pytest.mark.parametrize(("actors", "rollouts"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("weights", [WEIGHTS, {}])
def test_weights_arrive(actors: int, rollouts: int, weights: dict[str, torch.Tensor]) -> None:
    walked, received = transfer(actors, rollouts, weights)
    assert walked == [len(weights)] * actors
    for found in received:
        assert list(found) == list(weights)
        for name, weight in weights.items():
            assert found[name].dtype == weight.dtype and torch.equal(found[name], weight), name


def test_verl_finds_it_by_name() -> None:
    assert CheckpointEngineRegistry.get("gloo") is GlooCheckpointEngine
    assert issubclass(GlooCheckpointEngine, CheckpointEngine)
