# SPDX-License-Identifier: Apache-2.0
"""The vote keys of a probe are compared once, all together, and nobody waits for a session that is gone."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from recipe.agpo.rollout.vote_keys import ProbeKeys

ROOTS = {"x:\\sqrt{8}": "x:2\\sqrt{2}", "x:2\\sqrt{2}": "x:2\\sqrt{2}"}


async def merge(keys: list[str]) -> list[str]:
    return [ROOTS.get(key, key) for key in keys]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_of_arrival_gives_the_same_classes(order: tuple[int, ...]) -> None:
    keys = {0: "x:\\sqrt{8}", 1: "n:3", 2: "x:2\\sqrt{2}"}

    async def run() -> dict[int, str]:
        meeting = ProbeKeys(keys, merge)
        tasks = {}
        for session in order:
            tasks[session] = asyncio.create_task(meeting.settle(session, keys[session]))
            await asyncio.sleep(0)
        return {session: await task for session, task in tasks.items()}

    assert asyncio.run(run()) == {0: "x:2\\sqrt{2}", 1: "n:3", 2: "x:2\\sqrt{2}"}


def test_asked_once_and_in_session_order() -> None:
    asked = []

    async def remember(keys: list[str]) -> list[str]:
        asked.append(keys)
        return keys

    async def run() -> None:
        meeting = ProbeKeys(range(3), remember)
        await asyncio.gather(*(meeting.settle(session, f"t:{session}") for session in (2, 0, 1)))

    asyncio.run(run())
    assert asked == [["t:0", "t:1", "t:2"]]


def test_nobody_waits_for_a_session_that_failed() -> None:
    async def run() -> str:
        meeting = ProbeKeys(range(2), merge)
        waiting = asyncio.create_task(meeting.settle(0, "n:3"))
        await asyncio.sleep(0)
        assert not waiting.done()
        meeting.gone(1)
        return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(run()) == "n:3"


def test_a_comparison_that_breaks_leaves_the_keys_as_they_are() -> None:
    async def breaks(keys: list[str]) -> list[str]:
        raise RuntimeError("no worker")

    async def run() -> list[str]:
        meeting = ProbeKeys(range(2), breaks)
        return await asyncio.gather(meeting.settle(0, "n:3"), meeting.settle(1, "n:4"))

    assert asyncio.run(run()) == ["n:3", "n:4"]
