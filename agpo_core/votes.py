# SPDX-License-Identifier: Apache-2.0
"""Votes: which responses of a group gave the same answer, and the entropy of the votes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agpo_core.stats import column_sum

PADDING = -1


def vote_classes(keys_PG: Sequence[Sequence[str | None]]) -> Tensor:
    """Number the distinct answers of each group.

    Args:
        keys_PG: one canonical key per response; equal keys are equal answers. None and "" mean that no answer could be
            read; they form one class together. Groups may differ in size.

    Returns:
        int64 [P, G]: classes from 0 in the order of their first member, -1 where a group has no such member.
    """
    width = max((len(keys) for keys in keys_PG), default=0)
    flat: list[int] = []
    for keys in keys_PG:
        read = [key or None for key in keys] if "" in keys else keys
        number = {key: place for place, key in enumerate(dict.fromkeys(read))}
        flat.extend(map(number.__getitem__, read))
        flat.extend([PADDING] * (width - len(keys)))
    return torch.tensor(flat, dtype=torch.int64).reshape(len(keys_PG), width)


def vote_entropy(classes_PG: Tensor, mask_PG: Tensor) -> Tensor:
    """Entropy of the votes of each group [code].

    E = -sum_a p_a ln p_a = ln n - (1/n) sum_a c_a ln c_a, with c_a the number of votes for answer a.

    Args:
        classes_PG: int [P, G] of `vote_classes`; negative: no vote.
        mask_PG: bool [P, G], responses that count.

    Returns:
        [P] float64 in nats, within [0, ln n]; 0 for n <= 1.

    Raises:
        ValueError: the shapes differ.
    """
    if classes_PG.dim() != 2 or mask_PG.shape != classes_PG.shape:
        raise ValueError(f"expected classes and mask [P, G], got {tuple(classes_PG.shape)} and {tuple(mask_PG.shape)}")
    prompts, members = classes_PG.shape
    if members == 0:
        return torch.zeros(prompts, dtype=torch.float64, device=classes_PG.device)
    valid = mask_PG.bool() & (classes_PG >= 0)
    ordered = torch.where(valid, classes_PG.long(), PADDING).sort(dim=1).values
    run = torch.zeros_like(ordered)
    run[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=1)
    votes = torch.zeros_like(ordered).scatter_add(1, run, (ordered >= 0).long()).sort(dim=1).values
    # tables from math.log: a vectorised log may round differently in another batch size
    logs = [math.log(count) if count else 0.0 for count in range(members + 1)]
    log_count = torch.tensor(logs, dtype=torch.float64, device=ordered.device)
    count_log = torch.tensor([c * logs[c] for c in range(members + 1)], dtype=torch.float64, device=ordered.device)
    count = valid.sum(dim=1)
    # not count_log[votes]: indexing synchronises all threads, even for so few numbers
    terms = count_log.index_select(0, votes.T.reshape(-1)).reshape(members, prompts)
    total = column_sum(terms)
    entropy = (log_count[count] - total / count.clamp(min=1)).clamp(min=0.0)
    single = votes[:, -1] == count  # one class only: exactly 0, without rounding of the division
    return torch.where((count <= 1) | single, torch.zeros_like(entropy), entropy)
