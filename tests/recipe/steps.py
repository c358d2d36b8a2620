# SPDX-License-Identifier: Apache-2.0
"""Hand-made steps: what the trainer reads back from TransferQueue, without TransferQueue."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict

from agpo_core import AGPOConfig, ControllerState, Resolved, resolve
from recipe.agpo.columns import (
    OUTCOME,
    PROBE,
    RECORD,
    REST,
    ROLE,
    SECONDS,
    STATUS,
    TAU,
    TOKENS,
    VOTE_KEY,
    ProbeRecord,
)
from recipe.agpo.rewards.verdict import JUDGED
from recipe.agpo.rollout.outcomes import Scored, failed
from recipe.agpo.rollout.probe import decide
from recipe.agpo.training.batch import StepGroups, collect


@dataclass(frozen=True)
class Row:
    """One batch row with its columns."""

    uid: str
    session: int
    output: int = 0
    outcome: float = 1.0
    role: str = REST
    tau: float = 1.0
    vote_key: str = "5"
    status: str = "ok"
    length: int = 3
    entropy: float = 0.5
    record: dict[str, Any] | None = None
    padding: bool = False
    seconds: float = 0.25

    @property
    def key(self) -> str:
        return f"{self.uid}_{self.session}_{self.output}"


def record(**changes: Any) -> dict[str, Any]:
    """What the probe record of a row's prompt says, beside what its probe rows say."""
    return {"tau": 1.1, "reason": "heated", "uncertainty": 1.5, "centred": 0.6} | changes


def records(rows: list[Row], config: AGPOConfig, state: ControllerState) -> dict[str, ProbeRecord]:
    """As the rollout writes them: one per prompt that had a probe."""
    found = {}
    for uid in {row.uid for row in rows}:
        members = [row for row in rows if row.uid == uid]
        said = next((row.record for row in members if row.record is not None), None)
        probe = {row.session: row for row in sorted(members, key=lambda row: row.output) if row.role == PROBE}
        if said is None and not probe:
            continue
        seen = [(row.outcome, row.vote_key, row.status) for _, row in sorted(probe.items())]
        if said is not None and "outcomes" in said:
            seen = list(zip(said["outcomes"], said["vote_keys"], said["statuses"], strict=True))
        scored = [Scored(o, o, key, status) if status in JUDGED else failed(status, "") for o, key, status in seen]
        found[uid] = replace(decide(scored, state, config, 1.0), **(said or {}))
    return found


def table(rows: list[Row], entropy: bool = True) -> TensorDict:
    """The rows as verl stores them: nested per-token columns, scalars and strings."""
    width = [max(1, r.length) for r in rows]
    columns: dict[str, Any] = {
        "uid": NonTensorStack(*[r.uid for r in rows]),
        "response_mask": _nested([torch.full((w,), int(r.length > 0)) for r, w in zip(rows, width, strict=True)]),
        ROLE: NonTensorStack(*[r.role for r in rows]),
        VOTE_KEY: NonTensorStack(*[r.vote_key for r in rows]),
        STATUS: NonTensorStack(*[r.status for r in rows]),
        TAU: torch.tensor([r.tau for r in rows]),
        OUTCOME: torch.tensor([r.outcome if r.status == "ok" else math.nan for r in rows]),
        SECONDS: torch.tensor([r.seconds for r in rows]),
        TOKENS: torch.tensor([r.length for r in rows]),
    }
    if entropy:
        values = [torch.full((w,), r.entropy) for r, w in zip(rows, width, strict=True)]
        columns["entropy"] = _nested(values)
    return TensorDict(columns, batch_size=len(rows))


def settings(config: AGPOConfig, group: int = 4) -> Resolved:
    return resolve(config, temperature=1.0, clip_low=0.2, clip_high=0.28, group_size=group)


def gather(
    rows: list[Row],
    config: AGPOConfig | None = None,
    state: ControllerState | None = None,
    entropy: bool = True,
) -> StepGroups:
    """``collect`` on these rows."""
    config = config or AGPOConfig()
    state = state or ControllerState.initial(config)
    found = records(rows, config, state)
    tags: list[dict[str, Any]] = []
    for row in rows:
        # verl copies the tags of a row to the padding rows.
        mine = found.get(row.uid) if row.padding else found.pop(row.uid, None)
        tags.append({"is_padding": row.padding} | ({RECORD: mine.to_json()} if mine else {}))
    return collect([r.key for r in rows], tags, table(rows, entropy))


def two_prompts() -> list[Row]:
    """Prompt a: probe 1, 0, rest 1, 1 at 1.1. Prompt b: all right, sampled at 0.9."""
    a, b = Row("a", 0), Row("b", 0, tau=0.9)
    return [
        replace(a, role=PROBE),
        replace(a, session=1, role=PROBE, outcome=0.0, vote_key="6"),
        replace(a, session=2, tau=1.1, record=record()),
        replace(a, session=3, tau=1.1, record=record(), length=5),
        replace(b, role=PROBE, tau=1.0),
        replace(b, session=1, role=PROBE, tau=1.0),
        replace(b, session=2, record=record(tau=0.9, reason="cooled")),
        replace(b, session=3, record=record(tau=0.9, reason="cooled")),
    ]


def _nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)
