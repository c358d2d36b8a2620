# SPDX-License-Identifier: Apache-2.0
"""Inputs that several test files share."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st
from torch import Tensor

from agpo_core import (
    AGPOConfig,
    ControllerState,
    ProbeStats,
    RunningStat,
    StepSignals,
    probe_statistics,
    update_state,
    vote_classes,
)

NAN = float("nan")
INF = float("inf")

outcomes = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, -0.0]),
    st.floats(0.0, 1.0, allow_subnormal=False),
    st.sampled_from([NAN, INF, -INF]),
)
answers = st.sampled_from(["a", "b", "c", None, ""])


@st.composite
def probes(draw: st.DrawFn, max_prompts: int = 6) -> list[list[tuple[float, str | None]]]:
    """Ragged groups of (outcome, vote key); prompts and groups may be empty."""
    member = st.tuples(outcomes, answers)
    return draw(st.lists(st.lists(member, max_size=9), min_size=1, max_size=max_prompts))


def padded(groups: list[list[tuple[float, str | None]]], width: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(outcomes_PG, classes_PG, mask_PG) of ragged groups, padding filled with NaN."""
    width = max([len(group) for group in groups] + [1]) if width is None else width
    values = torch.full((len(groups), width), NAN)
    mask = torch.zeros(len(groups), width, dtype=torch.bool)
    for row, group in enumerate(groups):
        values[row, : len(group)] = torch.tensor([outcome for outcome, _ in group], dtype=torch.float32)
        mask[row, : len(group)] = True
    keys = [[key for _, key in group] + [None] * (width - len(group)) for group in groups]
    return values, vote_classes(keys), mask


def statistics(
    groups: list[list[tuple[float, str | None]]], config: AGPOConfig, width: int | None = None
) -> ProbeStats:
    values, classes, mask = padded(groups, width)
    return probe_statistics(values, classes, mask, config=config)


def binary(right: int, size: int = 8) -> list[tuple[float, str | None]]:
    """A group with `right` right answers, all wrong ones alike."""
    return [(1.0, "r")] * right + [(0.0, "w")] * (size - right)


def stats_of(config: AGPOConfig, dispersion: list[float], votes: list[float], skewness: list[float]) -> ProbeStats:
    """Statistics with given normalised signals."""
    d, e, k = (torch.tensor(values, dtype=torch.float64) for values in (dispersion, votes, skewness))
    count = torch.full((len(d),), 8)
    return ProbeStats(count, torch.full_like(d, 0.5), d, k / (1 - k), e, d, k, e)


def trained_state(config: AGPOConfig) -> ControllerState:
    """A state that has seen one step of mixed prompts, entropy 1 and KL at half the target."""
    stats = statistics([binary(right) for right in range(9)], config)
    return update_state(
        stats,
        StepSignals(policy_entropy=1.0, step_kl=config.clip.kl_target / 2, step_kl_k3=config.clip.kl_target / 2),
        ControllerState.initial(config),
        config,
    )


def with_kl(state: ControllerState, value: float) -> ControllerState:
    """The state with the given running KL."""
    return dataclasses.replace(state, step_kl=RunningStat.empty(0.1).update([value]))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal type, shape and bits (NaN equals itself)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.is_floating_point():
        whole = {torch.float64: torch.int64, torch.float32: torch.int32}[left.dtype]
        return torch.equal(left.contiguous().view(whole), right.contiguous().view(whole))
    return torch.equal(left, right)
