# SPDX-License-Identifier: Apache-2.0
"""The meeting point of a step's prompts as a Ray actor: more prompts than Ray lets into an actor by default."""

from __future__ import annotations

import ray

from agpo_core import AllocationConfig
from recipe.agpo.rollout.allocation_barrier import BarrierActor

PROMPTS = 2000


def test_thousands_of_prompts_meet(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        barrier = BarrierActor.remote(4, 8, AllocationConfig(enabled=True))
        names = [f"p{i:05d}" for i in range(PROMPTS)]
        ray.get(barrier.open.remote("round", names))
        waiting = [barrier.submit.remote(name, float(i % 5), 4) for i, name in enumerate(names)]
        extra = ray.get(waiting, timeout=120)
    finally:
        ray.shutdown()
    assert sum(extra) == 4 * PROMPTS
