# SPDX-License-Identifier: Apache-2.0
"""The batch of a step as rows and prompts, for the controllers and the log."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from agpo_core import ProbeStats, Reason, StepSignals
from recipe.agpo.columns import OUTCOME, RECORD, ROLE, SECONDS, STATUS, TAU, TOKENS, VOTE_KEY, ProbeRecord
from recipe.agpo.rewards.verdict import JUDGED
from recipe.agpo.verl_api.agent_loop import session_key

SIGNIFICANT_DIGITS = 6
PADDING = ""  # prompt of the rows that verl adds to fill a batch


@dataclass
class Row:
    """One row: one output of one session.

    Attributes:
        prompt: uid of its prompt, ``PADDING`` for a padding row.
        session: the rows of one session share one reward (multi-output agent loops).
        final: whether it is the last output of its session: the one that counts in the group.
        valid: whether it has a valid reward, and tokens to train on.
        role, status, vote_key, tau, outcome, seconds: its columns; the outcome is NaN where there is no reward.
        tokens: generated tokens of its session, on the final row; 0 on the others.
        loss_tokens: its tokens that the loss can count.
        entropy_sum, entropy_tokens: old policy's entropy summed over its tokens, nats, and their number; 0 where the
            row is not valid or verl computed none.
        length: the length reward's part of its advantage.
        masked: whether it is left out of the loss because its group has zero variance.
        clip_low, clip_high: its clip ratios; None if the clip controller is off.
    """

    prompt: str
    session: str
    final: bool
    valid: bool
    role: str
    status: str
    vote_key: str
    tau: float
    outcome: float
    seconds: float
    tokens: int
    loss_tokens: int
    entropy_sum: float
    entropy_tokens: int
    length: float = 0.0
    masked: bool = False
    clip_low: float | None = None
    clip_high: float | None = None


@dataclass
class Prompt:
    """Measurements and decisions of one prompt.

    Attributes:
        uid: its id.
        record: measurements and decision of its probe; None in a run without a probe.
        clip_reason: reason of its clip decision.
    """

    uid: str
    record: ProbeRecord | None
    clip_reason: str = Reason.OFF.label

    @property
    def tau_reason(self) -> str:
        return self.record.reason if self.record else Reason.OFF.label


@dataclass
class StepGroups:
    """The rows of one step, in batch order, and their prompts, sorted within each batch."""

    rows: list[Row]
    prompts: list[Prompt]

    def __add__(self, other: StepGroups) -> StepGroups:
        return StepGroups(self.rows + other.rows, self.prompts + other.prompts)

    def column(self, name: str) -> list[Any]:
        """A field of every row."""
        return [getattr(row, name) for row in self.rows]

    def tensor(self, name: str) -> torch.Tensor:
        """A field of every row, float64 for numbers, ``[B]``."""
        values = self.column(name)
        return torch.tensor(values, dtype=None if values and isinstance(values[0], bool | int) else torch.float64)

    @property
    def prompt_of_row(self) -> list[int]:
        """Index into ``prompts`` of each row; -1 for padding rows."""
        position = {prompt.uid: p for p, prompt in enumerate(self.prompts)}
        return [position.get(row.prompt, -1) for row in self.rows]

    @property
    def real(self) -> Iterator[Row]:
        """The rows without padding."""
        return (row for row in self.rows if row.prompt != PADDING)

    @property
    def members(self) -> list[list[Row]]:
        """The final rows of each prompt."""
        found: list[list[Row]] = [[] for _ in self.prompts]
        for p, row in zip(self.prompt_of_row, self.rows, strict=True):
            if p >= 0 and row.final:
                found[p].append(row)
        return found

    @property
    def sizes(self) -> torch.Tensor:
        """Responses of each prompt that count, ``[P]``."""
        return torch.tensor([sum(row.valid for row in group) for group in self.members], dtype=torch.long)

    @property
    def stats(self) -> ProbeStats:
        """Probe statistics as the rollout measured them, ``[P]``; those of an empty probe where there is no record."""
        found = [prompt.record.stats if prompt.record else {} for prompt in self.prompts]
        columns = {
            field.name: torch.tensor([stats.get(field.name, 0.0) for stats in found], dtype=torch.float64)
            for field in fields(ProbeStats)
        }
        return ProbeStats(**columns | {"count": columns["count"].long()})

    @property
    def policy_entropy(self) -> float | None:
        """Token mean of the old policy's entropy over valid rows, nats; None if verl did not compute it."""
        entropy = _mean_entropy(self.rows)
        return None if math.isnan(entropy) else entropy

    def signals(
        self,
        step_kl: float | None = None,
        step_kl_k3: float | None = None,
        schedule: float = 1.0,
        informative: bool = True,
    ) -> StepSignals:
        """Signals of this step for the controllers; the arguments are known after its updates."""
        entropy, by_prompt = self.policy_entropy, None
        if entropy is not None:
            groups: dict[str, list[Row]] = {prompt.uid: [] for prompt in self.prompts}
            for row in self.real:
                groups[row.prompt].append(row)
            by_prompt = torch.tensor([_mean_entropy(rows) for rows in groups.values()], dtype=torch.float64)
        return StepSignals(
            policy_entropy=entropy,
            step_kl=step_kl,
            policy_entropy_P=by_prompt,
            step_kl_k3=step_kl_k3,
            schedule=schedule,
            informative=informative,
        )

    @property
    def valid_rows(self) -> int:
        return sum(row.valid for row in self.rows)

    @property
    def first_failure(self) -> str:
        return next((row.status for row in self.rows if row.status not in JUDGED), "the rollout returned no rows")


def collect(keys: Sequence[str], tags: Sequence[dict[str, Any]], data: Any) -> StepGroups:
    """Read the rows of a batch.

    Args:
        keys: ``{uid}_{session}_{output}`` per row.
        tags: verl's tags per row; ``is_padding`` marks rows that verl added, ``RECORD`` is on one row of each prompt
            that had a probe.
        data: TensorDict with ``COLUMNS``, ``uid``, ``response_mask`` and, unless verl was told not to, ``entropy``.
    """
    parsed = [session_key(key) for key in keys]
    padding = [bool(tag.get("is_padding", False)) for tag in tags]
    sessions = [key if pad else f"{u}_{s}" for key, (u, s, _), pad in zip(keys, parsed, padding, strict=True)]
    last: dict[str, int] = {}
    for i, (session, (_, _, output)) in enumerate(zip(sessions, parsed, strict=True)):
        if session not in last or output > parsed[last[session]][2]:
            last[session] = i

    columns = {name: _values(data, name) for name in ("uid", ROLE, STATUS, VOTE_KEY, TAU, OUTCOME, SECONDS, TOKENS)}
    mask = _padded(data["response_mask"]).bool()
    loss_tokens = mask.sum(dim=-1).tolist()
    entropy_sums, entropy_tokens = _entropy(data, mask)
    rows, records = [], dict[str, ProbeRecord | None]()
    for i, pad in enumerate(padding):
        status = "padding" if pad else str(columns[STATUS][i])
        final = last[sessions[i]] == i
        valid = not pad and status in JUDGED and loss_tokens[i] > 0
        uid = PADDING if pad else str(columns["uid"][i])
        rows.append(
            Row(
                prompt=uid,
                session=sessions[i],
                final=final,
                valid=valid,
                role=str(columns[ROLE][i]),
                status=status,
                vote_key=str(columns[VOTE_KEY][i]),
                tau=columns[TAU][i],
                outcome=columns[OUTCOME][i],
                seconds=columns[SECONDS][i],
                # Every output of a session carries the session's sum.
                tokens=int(columns[TOKENS][i]) if final and not pad else 0,
                loss_tokens=loss_tokens[i],
                entropy_sum=entropy_sums[i] if valid else 0.0,
                entropy_tokens=entropy_tokens[i] if valid else 0,
            )
        )
        if not pad:
            record = tags[i].get(RECORD)
            records[uid] = ProbeRecord.from_json(record) if record else records.get(uid)
    return StepGroups(rows, [Prompt(uid, records[uid]) for uid in sorted(records)])


def merged(parts: Sequence[StepGroups]) -> StepGroups:
    """Batches of different prompts as one, in the order in which they were trained on."""
    return sum(parts, StepGroups([], []))


def _mean_entropy(rows: Sequence[Row]) -> float:
    """Token mean, NaN without tokens. fsum is exact, so row order has no effect; rounding removes that of padding."""
    tokens = sum(row.entropy_tokens for row in rows)
    if not tokens:
        return math.nan
    return float(f"{math.fsum(row.entropy_sum for row in rows) / tokens:.{SIGNIFICANT_DIGITS}g}")


def _entropy(data: Any, mask: torch.Tensor) -> tuple[list[float], list[int]]:
    """Sum and number of each row's finite token entropies."""
    if "entropy" not in data.keys():
        return [0.0] * len(mask), [0] * len(mask)
    entropy = _padded(data["entropy"]).double()
    counted = mask & torch.isfinite(entropy)
    return torch.where(counted, entropy, 0.0).sum(dim=-1).tolist(), counted.sum(dim=-1).tolist()


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


def _values(data: Any, name: str) -> list[Any]:
    values = data[name]
    return values.tolist() if hasattr(values, "tolist") else list(values)
