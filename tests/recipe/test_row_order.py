# SPDX-License-Identifier: Apache-2.0
"""Mini-batches do not depend on the number of ranks."""

from __future__ import annotations

import random
import zlib
from types import SimpleNamespace

import pytest

from recipe.agpo.verl_api.row_order import order_rows


class Batch(SimpleNamespace):
    """Stands in for TransferQueue's KVBatchMeta: keys, tags and an in-place reorder."""

    def reorder(self, order):
        self.keys = [self.keys[i] for i in order]
        self.tags = [self.tags[i] for i in order]


def shuffled_batch(seed):
    keys = [f"00000001-{p:06d}_{s}_0" for p in range(8) for s in range(12)]
    random.Random(seed).shuffle(keys)
    return Batch(keys=keys, tags=[{"seq_len": 10 + zlib.crc32(k.encode()) % 50} for k in keys])


def mini_batches(batch, rows, ranks):
    share, per_rank = len(batch.keys) // ranks, rows // ranks
    return [
        {batch.keys[r * share + k * per_rank + i] for r in range(ranks) for i in range(per_rank)}
        for k in range(len(batch.keys) // rows)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_same_mini_batches_for_any_order_and_number_of_ranks(ranks):
    one, many = shuffled_batch(0), shuffled_batch(ranks)
    order_rows(one, 24, 1)
    order_rows(many, 24, ranks)
    assert mini_batches(many, 24, ranks) == mini_batches(one, 24, 1)
    assert sorted(many.keys) == sorted(one.keys)


def test_sessions_sort_by_number():
    batch = shuffled_batch(3)
    order_rows(batch, 24, 1)
    assert batch.keys[:12] == [f"00000001-000000_{s}_0" for s in range(12)]
