# SPDX-License-Identifier: Apache-2.0
"""Around one optimiser update of verl's engines: step size, schedule over tokens, group losses, average of weights.

The trainer writes numbers into verl's ``extra_info`` of an update; the engine of each rank reads them here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from recipe.agpo.verl_api.losses import summed
from recipe.agpo.verl_api.patching import wrap

MODULE = "verl.workers.engine.base"
SCHEDULE_POSITION = "agpo_schedule_position"
LR_SCALE = "agpo_lr_scale"
AFTER_UPDATE = "agpo_after_update"  # attribute of an engine: a function that is called after each of its updates
LR = "agpo_lr"  # the configured one
ENTROPY = "agpo_policy_entropy"
ONE_UPDATE = "agpo_one_update"  # 1 if it is the only one of its batch


def around_updates(base: ModuleType) -> None:
    """Wrap ``BaseEngine.train_batch``, which performs one optimiser update."""
    wrap(base, "BaseEngine.train_batch", ("self", "data", "loss_function"), _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def train_batch(self: Any, data: Any, loss_function: Any) -> Any:
        prepare = getattr(loss_function, "before_update", None)
        if prepare is not None:
            prepare(self, data)
        scale = _number(data, LR_SCALE)
        if scale is None:
            outputs = original(self, data, loss_function)
        else:
            outputs = _scaled_update(original, self, data, loss_function, scale)
        after = getattr(self, AFTER_UPDATE, None)
        if after is not None:
            after()
        position = _number(data, SCHEDULE_POSITION)
        if position is not None:
            # verl advances the schedule by one after the last update of a batch, to the position that we want.
            before = position - 1.0
            scheduler = self.lr_scheduler
            # torch's schedulers count in last_epoch, Megatron's in num_steps; both take fractions.
            setattr(scheduler, "num_steps" if hasattr(scheduler, "num_steps") else "last_epoch", before)
        return outputs

    return train_batch


def _number(data: Any, key: str) -> float | None:
    value = data.get(key, None)
    return None if value is None else float(getattr(value, "data", value))


def _scaled_update(
    original: Callable[..., Any], engine: Any, data: Any, loss_function: Any, scale: float
) -> dict[str, Any]:
    """One update at the learning rates times ``scale``; its outputs with our sums among the metrics."""
    scheduled, configured = engine.optimizer.param_groups[0]["lr"], _number(data, LR)
    schedule = scheduled / configured if configured else 1.0
    stopped = []

    def stop() -> bool:
        stopped.append(loss_function.stops(engine, _number(data, ENTROPY), schedule))
        return stopped[-1]

    with _scaled_lr(engine, scale), _before_step(engine, stop if hasattr(loss_function, "stops") else None):
        outputs = original(engine, data, loss_function)
    sums = {"lr_sum": scheduled, "stopped": float(any(stopped)), "updates": 1.0}
    if _number(data, ONE_UPDATE):
        sums |= loss_function.after_update(engine, data)
    if engine.is_mp_src_rank_with_outputs():
        outputs["metrics"] |= {f"{loss_function.metric_prefix}{name}": summed([value]) for name, value in sums.items()}
    return outputs


@contextmanager
def _scaled_lr(engine: Any, scale: float) -> Iterator[None]:
    """The learning rates times ``scale`` for one update; schedules and logs see them without it."""
    groups = engine.optimizer.param_groups
    usual = [group["lr"] for group in groups]
    for group, rate in zip(groups, usual, strict=True):
        group["lr"] = rate * scale
    try:
        yield
    finally:
        for group, rate in zip(groups, usual, strict=True):
            group["lr"] = rate


@contextmanager
def _before_step(engine: Any, stop: Callable[[], bool] | None) -> Iterator[None]:
    """Between gradients and optimiser step: learning rates of 0 if ``stop`` says so. The optimiser's averages move."""
    if stop is None:
        yield
        return
    step = engine.optimizer_step

    def optimizer_step() -> Any:
        if stop():
            for group in engine.optimizer.param_groups:
                group["lr"] = 0.0
        return step()

    engine.optimizer_step = optimizer_step
    try:
        yield
    finally:
        del engine.optimizer_step


def rows_of(data: Any, share: float, least: int) -> Any:
    """About ``share`` of a rank's rows and at least ``least``, evenly spread, in whole micro-batches."""
    tu = importlib.import_module("verl.utils.tensordict_utils")
    micro = 1
    if not tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
        group = tu.get_non_tensor_data(data=data, key="force_group_size", default=1)
        micro = int(data["micro_batch_size_per_gpu"]) * int(group)
    count = micro * math.ceil(max(len(data) * share, min(least, len(data))) / micro)
    return tu.index_select_tensor_dict(data, [i * len(data) // count for i in range(count)])
