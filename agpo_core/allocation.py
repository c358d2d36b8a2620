# SPDX-License-Identifier: Apache-2.0
"""Adaptive allocation [ours]: how the responses after the probe are divided among the prompts of a step."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from agpo_core.sections import AllocationConfig


def expected_variance(right: float, count: int, prior: float) -> float:
    """Expected outcome variance E[p(1-p)] of a prompt after its probe [ours].

    p, the success probability, has a Beta(prior, prior) prior. With a = prior + right and b = prior + count - right:
    v = ab/((a + b)(a + b + 1)).

    Args:
        right: sum of the probe's outcomes, scaled to [0, 1]; an outcome between 0 and 1 is a partial success.
        count: valid responses of the probe.
        prior: pseudo-count of each kind of outcome, > 0.

    Returns:
        A number above 0 and at most 1/4. count = 0 gives the value of the prior.

    Raises:
        ValueError: `right` is not within [0, count].
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
    """Number of further responses for each of P prompts [ours].

    The variance of a policy-gradient estimate that weighs all prompts equally is proportional to the sum of v_p/n_p
    over prompts, with v_p the outcome variance (`expected_variance`) and n_p the number of responses. Each further
    response goes to the prompt where it reduces that sum most (Neyman allocation in whole numbers). On a tie the
    earlier prompt gets it, so pass prompts in a fixed order.

    Args:
        right, count: [P] each, as in `expected_variance`. A prompt whose probe failed has count 0.
        probe_size: probe responses per prompt.
        group_size: GRPO's responses per prompt.
        config: prior, and max_factor: no prompt gets more than max_factor*group_size responses in all.

    Returns:
        P integers >= 0 whose sum is exactly P*(group_size - probe_size): the same total as plain GRPO.

    Raises:
        ValueError: lengths differ, or probe_size is not within [1, group_size].
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
