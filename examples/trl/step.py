# SPDX-License-Identifier: Apache-2.0
"""One generation batch as groups: probe rows, their statistics, and the decisions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agpo_core import (
    AGPOConfig,
    ClipDecision,
    ProbeStats,
    Reason,
    Resolved,
    StepSignals,
    TemperatureDecision,
    probe_statistics,
    vote_classes,
)
from agpo_core.jsonl import append_lines, keep_steps


class GroupStep:
    """N rows, prompt after prompt, of which the first ``probe_size`` of each group are its probe.

    Attributes:
        probe, rest: row numbers; ``order`` takes probe rows followed by rest rows back to the batch's order.
        tau: temperature of each row, ``[N]`` float32.
        probe_rewards: ``[probe rows, reward functions]``, None until they are scored.
        temperature: decisions ``[P]``, None while every row is sampled at the base.
    """

    def __init__(
        self,
        inputs: Sequence[dict[str, Any]],
        settings: Resolved,
        outcome: int,
        vote_key: Callable[[Any], str | None] | None,
    ) -> None:
        self.inputs = inputs
        self._group, self._probe_size = settings.group_size, settings.probe_size
        self._outcome, self._vote_key = outcome, vote_key
        is_probe = [i % settings.group_size < settings.probe_size for i in range(len(inputs))]
        self.probe = [i for i, probe in enumerate(is_probe) if probe]
        self.rest = [i for i, probe in enumerate(is_probe) if not probe]
        place = {row: i for i, row in enumerate(self.probe + self.rest)}
        self.order = [place[row] for row in range(len(inputs))]
        self.tau = torch.full((len(inputs),), settings.tau_base, dtype=torch.float32)
        self.probe_rewards: Tensor | None = None
        self.temperature: TemperatureDecision | None = None
        self._completions: list[Any] = []
        self._entropy: Tensor | None = None  # [P, 2]: sum over tokens, tokens
        self.informative = False  # whether any response has an advantage
        self._drift = torch.zeros(3, dtype=torch.float64)  # sums of k1 and of k3 over tokens, tokens

    def take_probe(self, rewards: Tensor, completions: list[Any]) -> None:
        self.probe_rewards, self._completions = rewards, completions

    def measure(self, config: AGPOConfig) -> ProbeStats:
        """Statistics of the probes, ``[P]``. An outcome that is NaN (TRL's word for None) does not count."""
        assert self.probe_rewards is not None, "the probe is scored first"
        outcomes = self.probe_rewards[:, self._outcome].double().cpu().view(-1, self._probe_size)
        votes = None
        if self._vote_key is not None:
            keys = [self._vote_key(completion) for completion in self._completions]
            votes = vote_classes([keys[i : i + self._probe_size] for i in range(0, len(keys), self._probe_size)])
        return probe_statistics(outcomes, votes, config=config)

    def decide(self, decision: TemperatureDecision) -> None:
        self.temperature = decision
        self.tau[self.rest] = self.per_row(decision.tau)[self.rest]

    def per_row(self, values_P: Tensor) -> Tensor:
        """[P] to [N] float32."""
        return values_P.float().repeat_interleave(self._group)

    def read_entropy(self, entropy_NT: Tensor, mask_NT: Tensor) -> None:
        self._entropy = torch.stack(_sums(entropy_NT, mask_NT), dim=1).view(-1, self._group, 2).sum(dim=1)

    def add_drift(self, old_BT: Tensor, new_BT: Tensor, mask_BT: Tensor) -> None:
        k1 = old_BT.detach().double() - new_BT.detach().double()
        total, tokens = _sums(k1, mask_BT)
        k3, _ = _sums(torch.expm1(-k1) + k1, mask_BT)
        self._drift += torch.stack([total.sum(), k3.sum(), tokens.sum()])

    def signals(self, schedule: float = 1.0) -> StepSignals:
        """Policy entropy and step KL so far; None where TRL computed no old log-probs."""
        k1, k3, tokens = self._drift.tolist()
        step_kl, step_kl_k3 = (k1 / tokens, k3 / tokens) if tokens else (None, None)
        known = StepSignals(step_kl=step_kl, step_kl_k3=step_kl_k3, schedule=schedule, informative=self.informative)
        if self._entropy is None:
            return known
        total, count = self._entropy.sum(dim=0).tolist()
        of_prompts = self._entropy[:, 0] / self._entropy[:, 1]
        mean = total / count if count else None
        return dataclasses.replace(known, policy_entropy=mean, policy_entropy_P=of_prompts)


def _sums(values_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Per row: sum over the tokens of the mask, and how many they are, float64 on the CPU."""
    mask = mask_BT.bool()
    values = torch.where(mask, values_BT.detach(), torch.zeros_like(values_BT)).double()
    return values.sum(dim=1).cpu(), mask.sum(dim=1).double().cpu()


def merged(first: tuple[Any, ...], second: tuple[Any, ...], order: list[int]) -> tuple[Any, ...]:
    """Two results of TRL's ``_generate`` as one, rows in ``order``; what is empty or None (tools, images) stays."""

    def join(a: Any, b: Any) -> Any:
        both = [*a, *b] if a else None
        return [both[i] for i in order] if both else a

    return tuple(join(a, b) for a, b in zip(first, second, strict=True))


def decision_rows(step: GroupStep, clip: ClipDecision, number: int) -> list[dict[str, Any]]:
    """One JSON-ready object per prompt."""
    assert step.probe_rewards is not None
    prompts = len(clip.low)
    tau, chosen = step.tau.view(prompts, -1)[:, -1].tolist(), step.temperature
    outcomes = step.probe_rewards[:, step._outcome].view(prompts, -1).tolist()
    return [
        {
            "step": number,
            "prompt": p,
            "tau": float(chosen.tau[p]) if chosen else tau[p],
            "tau_reason": Reason(int(chosen.reason[p]) if chosen else Reason.OFF).label,
            "eps_low": float(clip.low[p]),
            "eps_high": float(clip.high[p]),
            "eps_reason": Reason(int(clip.reason[p])).label,
            "probe_outcomes": [None if math.isnan(value) else value for value in outcomes[p]],
        }
        for p in range(prompts)
    ]


def write_decisions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append; the first step of a run starts the file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not rows[0]["step"]:
        path.unlink(missing_ok=True)
    append_lines(path, rows)


def drop_decisions(path: Path, step: int) -> None:
    """Remove the lines of this step and later ones: a resumed run takes those decisions again."""
    if broken := keep_steps(path, 0, step - 1):
        print(f"{path}: dropped lines that are not whole (a process was killed while writing): {broken}")
