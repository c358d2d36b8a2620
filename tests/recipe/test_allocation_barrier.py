# SPDX-License-Identifier: Apache-2.0
"""The meeting point of a step's prompts, without Ray around it: who comes when changes nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from agpo_core import AllocationConfig, allocate
from recipe.agpo.rollout.allocation_barrier import AllocationBarrier

CONFIG = AllocationConfig(enabled=True)
PROBES = {"a": (0.0, 4), "b": (2.0, 4), "c": (4.0, 4), "d": (1.0, 3)}


def expected(probes: dict[str, tuple[float, int]]) -> dict[str, int]:
    names = sorted(probes)
    right, count = zip(*(probes[name] for name in names), strict=True)
    return dict(zip(names, allocate(right, count, probe_size=4, group_size=8, config=CONFIG), strict=True))


async def meet(barrier: AllocationBarrier, order: list[str]) -> dict[str, int]:
    await barrier.open("round", list(PROBES))
    answers = {}
    for name in order:
        answers[name] = asyncio.create_task(barrier.submit(name, *PROBES[name]))
        await asyncio.sleep(0)
        if name != order[-1]:
            assert not any(task.done() for task in answers.values()), "nobody knows before everybody is there"
    return {name: await asyncio.wait_for(task, 5) for name, task in answers.items()}


@pytest.mark.parametrize("seed", range(5))
def test_the_answer_does_not_depend_on_who_comes_first(seed: int) -> None:
    order = list(PROBES)
    random.Random(seed).shuffle(order)
    barrier = AllocationBarrier(4, 8, CONFIG)
    assert asyncio.run(meet(barrier, order)) == expected(PROBES)
    assert not barrier._rounds and not barrier._round_of, "a finished round is forgotten"


def test_nobody_waits_for_a_prompt_that_failed() -> None:
    async def scenario() -> tuple[dict[str, int], AllocationBarrier]:
        barrier = AllocationBarrier(4, 8, CONFIG)
        await barrier.open("round", list(PROBES))
        waiting = {name: asyncio.create_task(barrier.submit(name, *PROBES[name])) for name in ("a", "b", "c")}
        await asyncio.sleep(0)
        await asyncio.wait_for(barrier.withdraw("d"), 5)
        await barrier.withdraw("unknown")
        answers = {name: await asyncio.wait_for(task, 5) for name, task in waiting.items()}
        await barrier.withdraw("a")
        return answers, barrier

    answers, barrier = asyncio.run(scenario())
    whole = expected(PROBES | {"d": (0.0, 0)})
    assert answers == {name: whole[name] for name in "abc"}
    assert not barrier._rounds


def test_rounds_do_not_mix() -> None:
    async def scenario() -> list[int]:
        barrier = AllocationBarrier(4, 8, CONFIG)
        await barrier.open("first", ["a", "b"])
        await barrier.open("second", ["c"])
        alone = await asyncio.wait_for(barrier.submit("c", 0.0, 4), 5)
        both = await asyncio.gather(barrier.submit("a", 0.0, 4), barrier.submit("b", 2.0, 4))
        return [alone, *both]

    alone, decided, open_ = asyncio.run(scenario())
    assert alone == 4 and decided + open_ == 8 and open_ > decided
