# SPDX-License-Identifier: Apache-2.0
"""One step's batch rows as groups: what the controllers read, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from agpo_core import (
    AGPOConfig,
    ProbeStats,
    StepSignals,
    merge_stats,
    probe_statistics,
    vote_classes,
)
from recipe.agpo.columns import OUTCOME, PROBE, RECORD, ROLE, SECONDS, STATUS, TAU, TOKENS, VOTE_KEY, ProbeRecord
from recipe.agpo.rewards.verdict import JUDGED
from recipe.agpo.verl_api.agent_loop import session_key

SIGNIFICANT_DIGITS = 6


@dataclass
class StepGroups:
    """Rows of one step (B, in batch order) and their prompts (P, sorted).

    Attributes:
        prompts: uid of each prompt.
        prompt_of_row: index into ``prompts``; -1 for verl's padding rows.
        sessions, final, valid: as in ``advantages.RowContext``.
        tau: temperature that each row was sampled at, ``[B]``.
        outcomes: outcome of each row, NaN where not valid, ``[B]``.
        roles, statuses, vote_keys: per row.
        tokens: generated tokens of each session, on its final row, ``[B]``.
        row_tokens: tokens of each row that the loss can count, ``[B]``.
        seconds: verifier seconds per row, ``[B]``.
        records: what each prompt's probe decided; None if it decided nothing.
        stats: probe statistics, ``[P]``.
        policy_entropy: token mean of the entropy under the old policy over valid responses, nats; None if verl
            did not compute it.
        policy_entropy_P: the same per prompt, ``[P]``, NaN for prompts without tokens.
        entropy_tokens: tokens behind ``policy_entropy``.
        clip_low, clip_high: clip ratios of each row, ``[B]``; None if the clip does not adapt.
        clip_reason: why, per prompt; empty if the clip does not adapt.
        length: the length reward's part of each row's advantage, ``[B]``.
        masked: whether each row has left the loss because its group has zero variance.
    """

    prompts: list[str]
    prompt_of_row: list[int]
    sessions: list[str]
    final: list[bool]
    valid: list[bool]
    tau: torch.Tensor
    outcomes: torch.Tensor
    roles: list[str]
    statuses: list[str]
    vote_keys: list[str]
    tokens: torch.Tensor
    row_tokens: torch.Tensor
    seconds: torch.Tensor
    records: list[ProbeRecord | None]
    stats: ProbeStats
    policy_entropy: float | None
    policy_entropy_P: torch.Tensor | None
    entropy_tokens: int = 0
    clip_low: torch.Tensor | None = None
    clip_high: torch.Tensor | None = None
    clip_reason: list[str] = field(default_factory=list)
    length: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    masked: list[bool] = field(default_factory=list)

    @property
    def sizes(self) -> torch.Tensor:
        """Responses of each prompt that count, ``[P]``."""
        size = torch.zeros(len(self.prompts), dtype=torch.long)
        for p, valid, final in zip(self.prompt_of_row, self.valid, self.final, strict=True):
            if p >= 0 and valid and final:
                size[p] += 1
        return size

    @property
    def valid_rows(self) -> int:
        return sum(self.valid)

    @property
    def first_failure(self) -> str:
        return next((s for s in self.statuses if s not in JUDGED), "the rollout returned no rows")

    def signals(self, step_kl: float | None = None, step_kl_k3: float | None = None) -> StepSignals:
        """What the controllers read of this step; its drift is known after its updates."""
        return StepSignals(
            policy_entropy=self.policy_entropy,
            step_kl=step_kl,
            step_kl_k3=step_kl_k3,
            policy_entropy_P=self.policy_entropy_P,
        )


def collect(
    keys: Sequence[str],
    tags: Sequence[dict[str, Any]],
    data: Any,
    config: AGPOConfig,
) -> StepGroups:
    """Group the rows of a batch.

    Args:
        keys: ``{uid}_{session}_{output}`` per row.
        tags: verl's tags per row; ``is_padding`` marks rows that verl added.
        data: TensorDict with ``COLUMNS``, ``response_mask`` and, unless verl was told not to, ``entropy``.
    """
    parsed = [session_key(key) for key in keys]
    padding = [bool(tag.get("is_padding", False)) for tag in tags]
    uids = [str(uid) for uid in _column(data, "uid")]
    prompts = sorted({uid for uid, pad in zip(uids, padding, strict=True) if not pad})
    position = {uid: p for p, uid in enumerate(prompts)}
    prompt_of_row = [-1 if pad else position[uid] for uid, pad in zip(uids, padding, strict=True)]
    sessions = [key if pad else f"{u}_{s}" for key, (u, s, _), pad in zip(keys, parsed, padding, strict=True)]
    last: dict[str, int] = {}
    for i, (session, (_, _, output)) in enumerate(zip(sessions, parsed, strict=True)):
        if session not in last or output > parsed[last[session]][2]:
            last[session] = i
    final = [last[session] == i for i, session in enumerate(sessions)]
    statuses = [str(s) for s in _column(data, STATUS)]
    mask = _padded(data["response_mask"]).bool()
    outcomes = data[OUTCOME].double()
    has_tokens = mask.any(dim=-1).tolist()
    valid = [
        status in JUDGED and not pad and tokens
        for status, pad, tokens in zip(statuses, padding, has_tokens, strict=True)
    ]
    roles = [str(r) for r in _column(data, ROLE)]
    vote_keys = [str(k) for k in _column(data, VOTE_KEY)]
    records: list[ProbeRecord | None] = [None] * len(prompts)
    for i, text in enumerate(_column(data, RECORD)):
        if text and prompt_of_row[i] >= 0:
            records[prompt_of_row[i]] = ProbeRecord.from_json(str(text))

    probes: list[list[tuple[float, str]]] = [[] for _ in prompts]
    for i, p in enumerate(prompt_of_row):
        if p >= 0 and roles[i] == PROBE and final[i] and valid[i]:
            probes[p].append((float(outcomes[i]), vote_keys[i]))
    for p, record in enumerate(records):
        if record is not None and record.discarded:
            pairs = zip(record.outcomes, record.vote_keys, strict=True)
            probes[p] = [(o, k) for o, k in pairs if o is not None]

    entropy, entropy_prompts, entropy_tokens = _policy_entropy(data, mask, prompt_of_row, valid, len(prompts))
    return StepGroups(
        prompts=prompts,
        prompt_of_row=prompt_of_row,
        sessions=sessions,
        final=final,
        valid=valid,
        tau=data[TAU].double(),
        outcomes=outcomes,
        roles=roles,
        statuses=["padding" if pad else s for s, pad in zip(statuses, padding, strict=True)],
        vote_keys=vote_keys,
        # Every output of a session carries the session's sum.
        row_tokens=mask.sum(dim=-1),
        tokens=torch.where(torch.tensor(final) & ~torch.tensor(padding), data[TOKENS], 0),
        seconds=data[SECONDS].double(),
        records=records,
        stats=_probe_stats(probes, config),
        policy_entropy=entropy,
        policy_entropy_P=entropy_prompts,
        entropy_tokens=entropy_tokens,
        length=torch.zeros(len(keys)),
        masked=[False] * len(keys),
    )


def merged(parts: Sequence[StepGroups]) -> StepGroups:
    """Batches of different prompts as one, in the order in which they trained."""
    if len(parts) == 1:
        return parts[0]
    offsets = [sum(len(part.prompts) for part in parts[:i]) for i in range(len(parts))]
    tokens = sum(part.entropy_tokens for part in parts)
    entropy = math.fsum((part.policy_entropy or 0.0) * part.entropy_tokens for part in parts)

    def joined(name: str) -> list[Any]:
        return [item for part in parts for item in getattr(part, name)]

    def cat(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    def cat_if_all(name: str) -> torch.Tensor | None:
        return None if any(getattr(part, name) is None for part in parts) else cat(name)

    return StepGroups(
        prompts=joined("prompts"),
        sessions=joined("sessions"),
        final=joined("final"),
        valid=joined("valid"),
        roles=joined("roles"),
        statuses=joined("statuses"),
        vote_keys=joined("vote_keys"),
        records=joined("records"),
        clip_reason=joined("clip_reason"),
        tau=cat("tau"),
        outcomes=cat("outcomes"),
        tokens=cat("tokens"),
        row_tokens=cat("row_tokens"),
        length=cat("length"),
        masked=joined("masked"),
        seconds=cat("seconds"),
        prompt_of_row=[
            p if p < 0 else p + offset
            for part, offset in zip(parts, offsets, strict=True)
            for p in part.prompt_of_row
        ],
        stats=merge_stats([part.stats for part in parts]),
        policy_entropy=_rounded(entropy / tokens) if tokens else None,
        policy_entropy_P=cat_if_all("policy_entropy_P"),
        entropy_tokens=tokens,
        clip_low=cat_if_all("clip_low"),
        clip_high=cat_if_all("clip_high"),
    )


def _probe_stats(probes: list[list[tuple[float, str]]], config: AGPOConfig) -> ProbeStats:
    width = max((len(p) for p in probes), default=0) or 1
    outcomes = torch.full((len(probes), width), math.nan, dtype=torch.float64)
    mask = torch.zeros(len(probes), width, dtype=torch.bool)
    for p, members in enumerate(probes):
        for g, (outcome, _) in enumerate(members):
            outcomes[p, g], mask[p, g] = outcome, True
    classes = torch.full((len(probes), width), -1, dtype=torch.long)
    found = vote_classes([[key for _, key in members] for members in probes])
    classes[:, : found.shape[1]] = found
    return probe_statistics(outcomes, classes, mask, config=config)


def _policy_entropy(
    data: Any, mask: torch.Tensor, prompt_of_row: list[int], valid: list[bool], prompts: int
) -> tuple[float | None, torch.Tensor | None, int]:
    if "entropy" not in data.keys():
        return None, None, 0
    entropy = _padded(data["entropy"]).double()
    counted = mask & torch.tensor(valid).unsqueeze(-1) & torch.isfinite(entropy)
    sums = torch.where(counted, entropy, 0.0).sum(dim=-1).tolist()
    counts = counted.sum(dim=-1).tolist()
    total_tokens = sum(counts)
    if not total_tokens:
        return None, None, 0
    prompt_sums: list[list[float]] = [[] for _ in range(prompts)]
    prompt_tokens = [0] * prompts
    for p, row_sum, row_tokens in zip(prompt_of_row, sums, counts, strict=True):
        if p >= 0:
            prompt_sums[p].append(row_sum)
            prompt_tokens[p] += row_tokens
    # fsum is exact, so the order of rows cannot matter; rounding hides how a row was padded.
    per_prompt = [
        _rounded(math.fsum(values) / tokens) if tokens else math.nan
        for values, tokens in zip(prompt_sums, prompt_tokens, strict=True)
    ]
    return _rounded(math.fsum(sums) / total_tokens), torch.tensor(per_prompt, dtype=torch.float64), total_tokens


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


def _column(data: Any, name: str) -> list[Any]:
    values = data[name]
    return values.tolist() if hasattr(values, "tolist") else list(values)
