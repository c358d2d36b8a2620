# SPDX-License-Identifier: Apache-2.0
"""verl's agent loop: the base classes of our rollout, and the keys that it gives to rows.

``AgentLoopWorker``, ``AgentLoopManagerTQ`` and ``settle_sessions`` are imported on first use: importing this module
must stay cheap.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("AgentLoopWorker", "AgentLoopManagerTQ", "settle_sessions"):
        from verl.trainer.ppo.v1 import agent_loop_tq

        if name == "AgentLoopManagerTQ":
            return agent_loop_tq.AgentLoopManagerTQ
        if name == "settle_sessions":
            return agent_loop_tq._settle_session_tasks
        # The module holds a Ray actor class; Python can only subclass the plain class inside it.
        return agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def row_key(uid: str, session: int, output: int) -> str:
    """The key of one output of a session of a prompt."""
    return f"{uid}_{session}_{output}"


def session_key(key: str) -> tuple[str, int, int]:
    """``{uid}_{session}_{output}`` as a tuple that sorts in numeric order."""
    parts = key.rsplit("_", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        # Padding rows of verl have keys of their own.
        return (key, 0, 0)
    return (parts[0], int(parts[1]), int(parts[2]))
