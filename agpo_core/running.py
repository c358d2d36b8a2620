# SPDX-License-Identifier: Apache-2.0
"""Running mean and deviation over steps, bias-corrected, immutable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agpo_core.schema import say_renamed
from agpo_core.stats import LARGEST


@dataclass(frozen=True)
class RunningStat:
    """Exponentially weighted mean and deviation of a signal, one update a step [ours].

    a <- (1-w)*a + w*mean(x), the same for x*x, and weight <- (1-w)*weight + w, w = ema_weight; mean = a/weight.
    `weight` makes the first steps unbiased, `updates` says how many there were: there is no magic zero. Each step's
    mean is exactly rounded, so that the order of a batch cannot change a bit.
    """

    ema_weight: float
    mean_acc: float = 0.0
    square_acc: float = 0.0
    weight: float = 0.0
    updates: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.ema_weight <= 1.0:
            raise ValueError(f"ema_weight={self.ema_weight}: must be within (0, 1]")

    @classmethod
    def empty(cls, ema_weight: float) -> RunningStat:
        """No update yet."""
        return cls(ema_weight)

    @property
    def decay(self) -> float:
        """The old name of `ema_weight`."""
        say_renamed("RunningStat.decay", "ema_weight")
        return self.ema_weight

    @property
    def mean(self) -> float:
        """Bias-corrected mean; 0 before the first update."""
        return self.mean_acc / self.weight if self.updates else 0.0

    @property
    def std(self) -> float:
        """Bias-corrected deviation over members and steps (population form); 0 before the first update."""
        if not self.updates:
            return 0.0
        return math.sqrt(max(0.0, self.square_acc / self.weight - self.mean * self.mean))

    def update(self, values: Sequence[float]) -> RunningStat:
        """The statistic after one step that saw `values`. Non-finite values are dropped; none left:
        unchanged."""
        kept = [value for value in values if -LARGEST <= value <= LARGEST]  # NaN fails both comparisons
        if not kept:
            return self
        mean = math.fsum(kept) / len(kept)
        square = math.fsum(value * value for value in kept) / len(kept)
        keep = 1.0 - self.ema_weight
        return RunningStat(
            self.ema_weight,
            keep * self.mean_acc + self.ema_weight * mean,
            keep * self.square_acc + self.ema_weight * square,
            keep * self.weight + self.ema_weight,
            self.updates + 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunningStat:
        """The inverse of `to_dict`, also of older versions, which say "decay". KeyError names a missing field."""
        return cls(
            float(values["decay"] if "decay" in values else values["ema_weight"]),
            float(values["mean_acc"]),
            float(values["square_acc"]),
            float(values["weight"]),
            int(values["updates"]),
        )
