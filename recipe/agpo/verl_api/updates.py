# SPDX-License-Identifier: Apache-2.0
"""Around one optimiser update of verl's engines: step size, schedule over tokens, group losses, average of weights.

The trainer writes two numbers into verl's ``extra_info`` of an update; the engine of each rank reads them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from recipe.agpo.verl_api.patching import wrap

MODULE = "verl.workers.engine.base"
SCHEDULE_POSITION = "agpo_schedule_position"
LR_SCALE = "agpo_lr_scale"
AFTER_UPDATE = "agpo_after_update"  # attribute of an engine: a function that is called after each of its updates


def around_updates(base: ModuleType) -> None:
    """Wrap ``BaseEngine.train_batch``, which performs one optimiser update."""
    wrap(base, "BaseEngine.train_batch", ("self", "data", "loss_function"), _around)


def _around(original: Callable[..., Any]) -> Callable[..., Any]:
    def train_batch(self: Any, data: Any, loss_function: Any) -> Any:
        prepare = getattr(loss_function, "before_update", None)
        if prepare is not None:
            prepare(self, data)
        with _scaled_lr(self, _number(data, LR_SCALE)):
            outputs = original(self, data, loss_function)
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


@contextmanager
def _scaled_lr(engine: Any, scale: float | None) -> Iterator[None]:
    """The learning rates times ``scale`` for one update; schedules and logs see them without it."""
    groups = [] if scale is None else engine.optimizer.param_groups
    usual = [group["lr"] for group in groups]
    for group, rate in zip(groups, usual, strict=True):
        group["lr"] = rate * scale
    try:
        yield
    finally:
        for group, rate in zip(groups, usual, strict=True):
            group["lr"] = rate
