# SPDX-License-Identifier: Apache-2.0
"""The agent-loop worker with a scripted model: phases, the record of a probe, and what stays behind.

verl's own part (generation, the queue) is a stand-in; tests/realstack runs with verl's.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agpo_core import ControllerState, RunningStat, TokenLedger, resolve
from agpo_core.state import state_to_dict
from recipe.agpo.columns import CONTROL, DISCARDED, PROBE, RECORD, REST, ROLE, TAU, ProbeRecord
from recipe.agpo.rollout import worker as worker_module
from recipe.agpo.rollout.worker import AGPOAgentLoopWorker
from recipe.agpo.settings import RunConfig


class Queue:
    """TransferQueue as far as the worker writes to it: tags by key."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, Any]] = {}

    async def async_kv_put(self, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        self.tags.setdefault(key, {}).update(tag)

    async def async_kv_batch_put(self, keys: list[str], partition_id: str, tags: list[dict[str, Any]]) -> None:
        for key, tag in zip(keys, tags, strict=True):
            await self.async_kv_put(key, partition_id, tag)


class Scripted(AGPOAgentLoopWorker):
    """Response i of a prompt gets reward ``rewards[i]``; an exception in its place breaks the session."""

    def __init__(self, config: RunConfig, rewards: list[Any], group: int = 4) -> None:
        self.agpo = config
        self.settings = resolve(config, temperature=1.0, clip_low=0.2, clip_high=0.2, group_size=group)
        self.rewards, self.stored = rewards, dict[str, dict[str, Any]]()
        self.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: str(ids))
        self._ledger, self._in_flight, self._failures = TokenLedger(), {}, []
        self._reward_failure = self._filter_metric = self._barrier = None

    async def _run_agent_loop(self, params: Any, *, trajectory: Any, session_id: int, **columns: Any) -> None:
        columns.pop("trace")
        await asyncio.sleep(0)
        output = SimpleNamespace(response_mask=[1, 1], response_ids=[session_id], extra_fields={}, reward_score=None)
        await self._agent_loop_postprocess(output, trajectory["validate"], session_id=session_id, **columns)

    async def _compute_score(self, outputs: Any, kwargs: Any) -> None:
        reward = self.rewards[kwargs["session_id"]]
        if isinstance(reward, Exception):
            raise reward
        outputs[-1].reward_score = reward
        outputs[-1].extra_fields["reward_extra_info"] = {"vote_key": str(reward)}

    async def store(self, output: Any, validate: bool, **kwargs: Any) -> None:
        self.stored[f"{kwargs['uid']}_{kwargs['session_id']}_0"] = kwargs


class Barrier:
    """Gives every prompt the same number of further responses."""

    def __init__(self, extra: int) -> None:
        self.submit = SimpleNamespace(remote=lambda *_: self.answer(extra))

    async def answer(self, extra: int) -> int:
        return extra


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(worker_module, "tq", queue)
    return queue


def run(worker: Scripted, config: RunConfig, state: ControllerState | None = None) -> None:
    """As verl calls it, with the state of a first step unless nothing adapts."""
    prompt: dict[str, Any] = {"uid": "p"}
    if config.adaptive:
        prompt[CONTROL] = json.dumps(state_to_dict(state or ControllerState.initial(config)))
    asyncio.run(worker._run_prompt(prompt, {"temperature": 1.0}, {"validate": False}))


def records(queue: Queue) -> dict[str, ProbeRecord]:
    return {key: ProbeRecord.from_json(tag[RECORD]) for key, tag in queue.tags.items() if RECORD in tag}


def test_a_prompt_has_one_record_and_the_rest_its_temperature(queue: Queue) -> None:
    config = RunConfig()
    worker = Scripted(config, [1.0, 0.0, 1.0, 1.0])
    usual = RunningStat.empty(0.1).update([1.0]).update([1.0])
    run(worker, config, replace(ControllerState.initial(config), uncertainty=usual))
    assert queue.tags["p"] == {"status": "finished"}
    ((key, record),) = records(queue).items()
    assert key == "p_0_0" and record.outcomes == [1.0, 0.0] and record.vote_keys == ["1.0", "0.0"]
    assert [row[ROLE] for row in worker.stored.values()] == [PROBE, PROBE, REST, REST]
    assert [float(row[TAU]) for row in worker.stored.values()] == pytest.approx([1.0, 1.0, record.tau, record.tau])
    assert record.tau > 1.0, "less certain than usual"


@pytest.mark.parametrize("extra", [0, 3])
def test_the_record_is_written_whether_or_not_allocation_gives_a_rest(queue: Queue, extra: int) -> None:
    config = RunConfig.from_dict({"allocation": {"enabled": True}})
    worker = Scripted(config, [1.0, 0.0, 1.0, 1.0, 0.0])
    worker._barrier = Barrier(extra)
    run(worker, config)
    assert len(worker.stored) == 2 + extra
    ((key, record),) = records(queue).items()
    assert key == "p_0_0" and record.reason == "warmup" and record.stats["count"] == 2.0


def test_a_probe_that_decides_no_temperature_is_recorded_too(queue: Queue) -> None:
    config = RunConfig.from_dict({"temperature": {"enabled": False}})
    run(Scripted(config, [1.0, 0.0, 1.0, 1.0]), config)
    (record,) = records(queue).values()
    assert (record.reason, record.tau, record.stats["mean"]) == ("off", 1.0, 0.5)


def test_a_discarded_probe_is_recorded_on_a_row_that_trains(queue: Queue) -> None:
    config = RunConfig.from_dict({"probe": {"reuse": False, "size": 2}})
    worker = Scripted(config, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    run(worker, config)
    ((key, record),) = records(queue).items()
    assert key == "p_0_0" and record.discarded and record.outcomes == [1.0, 0.0]
    assert len(worker.stored) == 4 and DISCARDED not in {row[ROLE] for row in worker.stored.values()}


def test_a_probe_without_rewards_is_recorded_and_fails_no_prompt(queue: Queue) -> None:
    config = RunConfig()
    run(Scripted(config, [ValueError("bad"), ValueError("bad"), 1.0, 1.0]), config)
    (record,) = records(queue).values()
    assert record.reason == "no_probe" and record.statuses == ["raised", "raised"]
    assert queue.tags["p"] == {"status": "finished"}


@pytest.mark.parametrize("preset", ["agpo", "grpo", "agpo_l"])
def test_a_finished_prompt_leaves_nothing_behind(queue: Queue, monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    """Presets without a probe run in verl's own ``_run_prompt``, whose sessions end in ours all the same."""
    config = RunConfig.from_preset(preset)
    worker = Scripted(config, [1.0, 0.0, 1.0, 1.0])

    async def verls(self: Any, prompt: Any, params: Any, trajectory: Any, trace: bool) -> None:
        for i in range(4):
            await self._run_agent_loop(params, trajectory=trajectory, trace=trace, session_id=i, **prompt)

    monkeypatch.setattr(AGPOAgentLoopWorker.__mro__[2], "_run_prompt", verls)
    before = set(vars(worker))
    for _ in range(3):
        run(worker, config)
    assert len(worker.stored) == 4
    held = [v for k, v in vars(worker).items() if k not in ("stored", "rewards") and isinstance(v, dict | list | set)]
    assert set(vars(worker)) == before and held and not any(held)
    assert records(queue) if config.adaptive else not records(queue)
