# SPDX-License-Identifier: Apache-2.0
"""Adaptive allocation [ours]: where the rest of a step's responses go once every prompt has its probe."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from agpo_core.sections import AllocationConfig


def expected_variance(right: float, count: int, prior: float) -> float:
    """E[p(1-p)] of a prompt's success probability p after its probe.

    p has a Beta(prior, prior) prior; right: sum of the probe's outcomes, scaled to [0, 1] (fractions count as that
    much of a success); count: its valid responses. Between 0 and 1/4, never 0.
    """
    if not 0.0 <= right <= count:
        raise ValueError(f"right={right}: must be within [0, {count}], the number of outcomes")
    a, b = prior + right, prior + count - right
    return a * b / ((a + b) * (a + b + 1.0))


def allocate(
    right: Sequence[float],
    count: Sequence[int],
    *,
    probe_size: int,
    group_size: int,
    config: AllocationConfig,
) -> list[int]:
    """How many more responses each of P prompts gets.

    right, count: as for `expected_variance`, per prompt; a prompt whose probe failed has count 0 and its prior.
    group_size: GRPO's responses per prompt. Returns P numbers >= 0 that add up to P*(group_size - probe_size) exactly:
    never more than plain GRPO, and nothing of it unspent.

    The variance of a policy-gradient estimate that counts all prompts alike is proportional to the sum of v_p/n_p over
    prompts, v_p their outcome variance and n_p their responses, so each further response goes to where it lowers that
    sum most (Neyman's allocation in whole numbers). Ties go to the earlier prompt: pass prompts in a fixed order.
    No prompt gets more than max_factor*group_size in all. Raises ValueError for sizes that do not fit.
    """
    if len(right) != len(count):
        raise ValueError(f"{len(right)} sums of outcomes for {len(count)} counts")
    if not 1 <= probe_size <= group_size:
        raise ValueError(f"probe_size={probe_size}: must be within [1, {group_size}], the group size")
    most = int(config.max_factor * group_size)
    variance = [expected_variance(r, n, config.prior) for r, n in zip(right, count, strict=True)]
    size = [probe_size] * len(variance)

    def gain(p: int) -> float:
        return variance[p] / size[p] - variance[p] / (size[p] + 1)

    queue = [(-gain(p), p) for p in range(len(size)) if size[p] < most]
    heapq.heapify(queue)
    for _ in range(len(size) * (group_size - probe_size)):
        _, p = heapq.heappop(queue)  # max_factor >= 1 leaves room for all of them
        size[p] += 1
        if size[p] < most:
            heapq.heappush(queue, (-gain(p), p))
    return [n - probe_size for n in size]
