# SPDX-License-Identifier: Apache-2.0
"""The step size in transformers' training loop: learning rates scaled during one optimiser step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class ScaledSteps(TrainerCallback):
    """Multiplies the learning rates by ``scale()`` while the optimiser steps; schedules see them without it."""

    def __init__(self, scale: Callable[[], float]) -> None:
        self._scale = scale
        self._usual: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self._usual = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self._scale()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for group, rate in zip(kwargs["optimizer"].param_groups, self._usual, strict=True):
            group["lr"] = rate
