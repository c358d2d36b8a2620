# SPDX-License-Identifier: Apache-2.0
"""verl's losses, its GRPO advantage and its metrics; looked up on first use, because importing them takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

HOMES = {
    "ppo_loss": "verl.workers.utils.losses",
    "no_padding_2_padding": "verl.workers.utils.losses",
    "agg_loss": "verl.trainer.ppo.core_algos",
    "get_policy_loss_fn": "verl.trainer.ppo.core_algos",
    "compute_grpo_outcome_advantage": "verl.trainer.ppo.core_algos",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def summed(values: list[Any]) -> Any:
    """A metric of verl that adds up over micro-batches and ranks; a plain one is averaged."""
    from verl.utils.metric import AggregationType, Metric

    metric = Metric(AggregationType.SUM)
    metric.extend(values)
    return metric
