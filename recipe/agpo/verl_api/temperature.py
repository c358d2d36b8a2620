# SPDX-License-Identifier: Apache-2.0
"""Log-probs at each response's own temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recipe.agpo.verl_api.patching import wrap

PASSES = ("compute_log_prob", "compute_ref_log_prob", "update_actor")


def score_at_own_temperature(trainer: Any) -> None:
    """Let every log-prob pass use the ``temperature`` column of the batch.

    verl writes one number into ``extra_info["temperature"]`` before each pass, which hides the column. It may
    return a new batch object from any put, so the number is removed at each call.
    """
    groups = {id(trainer.actor_rollout_wg): trainer.actor_rollout_wg}
    reference = getattr(trainer, "ref_policy_wg", None)
    if reference is not None:
        groups[id(reference)] = reference
    for group in groups.values():
        for name in PASSES:
            if hasattr(group, name):
                # verl's worker groups make their methods, which take anything and pass it on to the workers.
                wrap(group, name, ("args", "kwargs"), _without_scalar_temperature)


def _without_scalar_temperature(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(batch: Any) -> Any:
        batch.extra_info.pop("temperature", None)
        return method(batch)

    return call
