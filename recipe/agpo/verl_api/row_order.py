# SPDX-License-Identifier: Apache-2.0
"""Which rows share an optimiser update: the same ones on any number of ranks."""

from __future__ import annotations

from typing import Any

from recipe.agpo.verl_api.agent_loop import session_key


def actor_ranks(worker_group: Any) -> int:
    """Data-parallel size of the actor; known once verl has dispatched to it (its ``_balance_batch`` asks first)."""
    return max(worker_group._dispatch_info["actor"]) + 1


def order_rows(batch: Any, mini_batch: int, ranks: int) -> None:
    """Order a padded ``KVBatchMeta`` in place so that its mini-batches do not depend on the number of ranks.

    verl gives rank r the r-th contiguous share of the batch and takes mini-batches from each share in order. Rows are
    sorted by prompt, session and output, cut into mini-batches, and each mini-batch is dealt to the ranks with equal
    row counts and balanced lengths.

    Args:
        batch: rows with verl's tag ``seq_len``.
        mini_batch: rows of one optimiser update over all ranks; must divide the batch, else only the sorting is done.
        ranks: data-parallel size; divides ``mini_batch``.
    """
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    rows = len(batch.keys)
    order = sorted(range(rows), key=lambda i: session_key(batch.keys[i]))
    if rows % mini_batch == 0 and ranks > 1:
        import torch

        work = calculate_workload(torch.tensor([tag["seq_len"] for tag in batch.tags], dtype=torch.int64))
        shares: list[list[int]] = [[] for _ in range(ranks)]
        for start in range(0, rows, mini_batch):
            members = order[start : start + mini_batch]
            parts = get_seqlen_balanced_partitions(work[members], k_partitions=ranks, equal_size=True)
            for share, part in zip(shares, parts, strict=True):
                share += [members[i] for i in sorted(part)]
        order = [i for share in shares for i in share]
    batch.reorder(order)
