# SPDX-License-Identifier: Apache-2.0
"""Packed responses: several in one row. An integer per token says which response the token belongs to.

Shapes: _N responses, _B rows, _T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sequence_ids(lengths: Tensor | Sequence[int], width: int | None = None) -> Tensor:
    """The response of each token of one packed row.

    From cumulative lengths: `sequence_ids(cu_seqlens.diff())`.

    Args:
        lengths: tokens of each response, in the order of the row.
        width: T, at least their sum; None: their sum.

    Returns:
        int64 [1, T]. Tokens after the last response have -1.

    Raises:
        ValueError: a negative length, or `width` is less than their sum.
    """
    length_N = torch.as_tensor(lengths).long()
    if length_N.dim() != 1 or bool((length_N < 0).any()):
        raise ValueError(f"lengths={length_N.tolist()}: must be a list of whole numbers >= 0")
    ids = torch.arange(len(length_N), device=length_N.device).repeat_interleave(length_N)
    if width is None:
        return ids.unsqueeze(0)
    if width < len(ids):
        raise ValueError(f"width={width}: must be at least {len(ids)}, the sum of the lengths")
    return torch.nn.functional.pad(ids, (0, width - len(ids)), value=-1).unsqueeze(0)


def per_token(values_N: Tensor, sequence_BT: Tensor) -> Tensor:
    """Repeat values of responses (advantages, clip ratios, temperatures) for each of their tokens.

    Args:
        values_N: [N].
        sequence_BT: int [B, T], the response of each token; negative: padding.

    Returns:
        [B, T]. Padding takes the first response's value, or 0 if there is no response.
    """
    if len(values_N) == 0:
        return values_N.new_zeros(sequence_BT.shape)
    return values_N[sequence_BT.clamp(min=0).to(values_N.device)]


def sequence_sums(values_BT: Tensor, sequence_BT: Tensor) -> Tensor:
    """Sum over the tokens of each response: [N], N = largest number + 1. Tokens of no response do not count."""
    sequence = sequence_BT.to(values_BT.device).flatten()
    count = int(sequence.max()) + 1 if sequence.numel() else 0
    sums = values_BT.new_zeros(max(count, 0) + 1)  # the last one takes the tokens of no response
    return sums.index_add(0, torch.where(sequence >= 0, sequence, max(count, 0)), values_BT.flatten())[:-1]
