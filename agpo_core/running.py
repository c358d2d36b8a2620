# SPDX-License-Identifier: Apache-2.0
"""Running mean and standard deviation over steps: bias-corrected, immutable."""

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
    """Exponentially weighted mean and standard deviation of a signal, updated once per step [ours].

    a <- (1-w)*a + w*mean(x), the same for x*x, and weight <- (1-w)*weight + w, with w = ema_weight; mean = a/weight.
    Dividing by `weight` makes the first steps unbiased. `updates` counts the updates, so that "no update yet" is not
    confused with a mean of 0. Sums are exactly rounded, so the order of a batch does not change a bit.

    Raises:
        ValueError: ema_weight is not within (0, 1].
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
        """The statistic before the first update."""
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
        """Bias-corrected standard deviation over members and steps (population form); 0 before the first update."""
        if not self.updates:
            return 0.0
        return math.sqrt(max(0.0, self.square_acc / self.weight - self.mean * self.mean))

    def update(self, values: Sequence[float]) -> RunningStat:
        """The statistic after a step with `values`. Non-finite values are left out; with none left it is unchanged."""
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
        """The inverse of `to_dict`; older versions say "decay" for ema_weight. Raises KeyError for a missing field."""
        return cls(
            float(values["decay"] if "decay" in values else values["ema_weight"]),
            float(values["mean_acc"]),
            float(values["square_acc"]),
            float(values["weight"]),
            int(values["updates"]),
        )
