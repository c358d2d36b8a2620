# SPDX-License-Identifier: Apache-2.0
"""Vote keys of one probe, compared with each other once all of them are known.

A verifier gives each answer a cheap canonical key. Two spellings of one answer can still have two keys
(``x:\\sqrt{8}`` and ``x:2\\sqrt{2}``); whether they are equal is decided once per probe, for the whole probe, so
that the result does not depend on which response came first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

logger = logging.getLogger(__name__)
Merge = Callable[[list[str]], Awaitable[list[str]]]


class ProbeKeys:
    """Barrier of the sessions of one probe.

    Args:
        sessions: session ids of the probe.
        merge: from the keys in session order to the same keys with equal answers under one key.
    """

    def __init__(self, sessions: Iterable[int], merge: Merge) -> None:
        self._missing = set(sessions)
        self._keys: dict[int, str] = {}
        self._merge = merge
        self._complete = asyncio.Event()
        self._merged: asyncio.Task[dict[int, str]] | None = None

    async def settle(self, session: int, key: str) -> str:
        """Submit a key, wait for the rest of the probe, and return the key of the vote class."""
        self._keys[session] = key
        self.gone(session)
        await self._complete.wait()
        if self._merged is None:
            self._merged = asyncio.create_task(self._merge_all())
        return (await self._merged)[session]

    def gone(self, session: int) -> None:
        """This session submits no (further) key: it failed, or it is done."""
        self._missing.discard(session)
        if not self._missing:
            self._complete.set()

    async def _merge_all(self) -> dict[int, str]:
        sessions = sorted(self._keys)
        keys = [self._keys[session] for session in sessions]
        try:
            merged = await self._merge(keys)
        except Exception:  # one vote class too many is better than a lost prompt
            logger.exception("vote keys %s not compared", keys)
            merged = keys
        return dict(zip(sessions, merged, strict=True))
