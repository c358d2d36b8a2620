# SPDX-License-Identifier: Apache-2.0
"""An average of the weights over the optimiser's updates (Polyak-Ruppert averaging with polynomial decay).

Sampling and training use the raw weights; validation and export may use the average. Averaging iterates is Polyak's and
Ruppert's idea. The weighting that decays polynomially is that of Shamir and Zhang, "Stochastic Gradient Descent for
Non-smooth Optimization" (ICML 2013, arXiv 1212.1824). The optional horizon is a plain exponential moving average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor

from agpo_core.sections import AverageConfig

STATE_VERSION = 1
_LARGEST_COUNT = 10**15


class AverageError(ValueError):
    """Tensors or a state that an average cannot use; the message names the tensor and the reason."""


def averaging_rate(update: int, gamma: float = 4.0, horizon: int | None = None) -> float:
    """How far the average moves towards the weights after an update.

    rate = max((gamma + 1) / (update + gamma), 1 / horizon)

    With gamma g, the weights after update i of k have a share that is proportional to i (i + 1) ... (i + g - 1) for a
    whole g: gamma 0 is the mean of all updates, and a larger gamma forgets early updates sooner.

    Args:
        update: number of the update, from 1. The rate of the first one is 1, so the average starts as a copy.
        gamma: at least 0.
        horizon: None, or a number of updates: from then on the average is an exponential one over about that many.

    Raises:
        ValueError: an argument outside its range.
    """
    if update < 1:
        raise ValueError(f"update={update!r}: must be at least 1")
    if not (math.isfinite(gamma) and gamma >= 0.0):
        raise ValueError(f"gamma={gamma!r}: must be a finite number >= 0")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon={horizon!r}: must be at least 1, or None")
    rate = (gamma + 1.0) / (update + gamma)
    return rate if horizon is None else max(rate, 1.0 / horizon)


class WeightAverage:
    """The average of tensors over updates.

    average <- average + rate (weights - average), with `averaging_rate`. It is kept in float32, or in float64 for such
    weights: in bfloat16 a change below one part in 256 would be lost. The weights are never changed, except by
    `copy_to` and between `swap_in` and `swap_out`.

    Attributes:
        gamma, horizon: see `averaging_rate`.
        device: where the average is kept; None: where the weights are at the first update.
        count: number of updates so far.
    """

    def __init__(
        self, gamma: float = 4.0, horizon: int | None = None, device: torch.device | str | None = None
    ) -> None:
        averaging_rate(1, gamma, horizon)  # checks them
        self.gamma, self.horizon = gamma, horizon
        self.device = None if device is None else torch.device(device)
        self.count = 0
        self._average: list[Tensor] = []
        self._aside: list[Tensor | None] | None = None  # while swapped: the weights that are not in the average's place

    @classmethod
    def from_config(cls, config: AverageConfig, device: torch.device | str | None = None) -> Self:
        """The average that the section `average` describes. ``average.offload=true`` keeps it in CPU memory."""
        return cls(config.gamma, config.horizon, "cpu" if config.offload else device)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The average itself, in the order of the weights; empty before the first update. Not to be changed."""
        self._refuse_swapped()
        return tuple(self._average)

    @torch.no_grad()
    def update(self, weights: Iterable[Tensor]) -> None:
        """Take in the weights after one update of the optimiser. The first call copies them exactly.

        Args:
            weights: always the same tensors in the same order, of any floating-point type and on any device.

        Raises:
            AverageError: another number of tensors, another shape, or a tensor that is not of floating point.
        """
        self._refuse_swapped()
        given = list(weights)
        self._check(given, first=self.count == 0)
        rate = averaging_rate(self.count + 1, self.gamma, self.horizon)
        if self.count == 0:
            self._average = [self._copy_of(weight) for weight in given]
        else:
            for average, weight in zip(self._average, given, strict=True):
                new = weight.detach().to(average.device, average.dtype)
                average.copy_(new) if rate == 1.0 else average.add_(new - average, alpha=rate)
        self.count += 1

    @torch.no_grad()
    def copy_to(self, weights: Iterable[Tensor]) -> None:
        """Overwrite `weights` with the average, rounded to their type. Before the first update: nothing happens."""
        self._refuse_swapped()
        given = list(weights)
        if self.count == 0:
            return
        self._check(given)
        for average, weight in zip(self._average, given, strict=True):
            weight.detach().copy_(average)

    @torch.no_grad()
    def swap_in(self, weights: Iterable[Tensor]) -> None:
        """Put the average in the place of `weights`, until `swap_out`. Before the first update nothing is changed.

        Weights of the average's own type are exchanged with it, one tensor at a time, so that no second copy is needed.
        Weights of another type are kept in CPU memory.

        Raises:
            AverageError: the tensors are others than those of the updates.
        """
        self._refuse_swapped()
        given = list(weights)
        if self.count:
            self._check(given)
        self._aside = []
        try:
            for average, weight in zip(self._average, given, strict=False):
                own = weight.detach().to("cpu" if weight.dtype != average.dtype else average.device, copy=True)
                weight.detach().copy_(average)
                if weight.dtype == average.dtype:
                    average.copy_(own)
                self._aside.append(None if weight.dtype == average.dtype else own)
        except BaseException:
            self.swap_out(given)
            raise

    @torch.no_grad()
    def swap_out(self, weights: Iterable[Tensor]) -> None:
        """Undo `swap_in`: `weights` get their own values back, bit for bit, even if they moved to another device."""
        if self._aside is None:
            raise RuntimeError("average of weights: it is not in the place of the weights; call `swap_in` first")
        # Backwards, so that a tensor that was passed twice ends with its own values.
        done = list(zip(self._average, weights, self._aside, strict=False))
        for average, weight, own in reversed(done):
            if own is not None:
                weight.detach().copy_(own)
                continue
            held = weight.detach().to(average.device, copy=True)
            weight.detach().copy_(average)
            average.copy_(held)
        self._aside = None

    @contextmanager
    def swapped(self, weights: Iterable[Tensor]) -> Iterator[None]:
        """Inside the block `weights` hold the average; afterwards, their own values again. See `swap_in`."""
        given = list(weights)
        self.swap_in(given)
        try:
            yield
        finally:
            self.swap_out(given)

    def state_dict(self) -> dict[str, Any]:
        """Version, count, and copies of the tensors, for `torch.save`. `load_state_dict` continues bit for bit."""
        self._refuse_swapped()
        return {
            "version": STATE_VERSION,
            "count": self.count,
            "tensors": [average.clone() for average in self._average],
        }

    def load_state_dict(self, state: Mapping[str, Any], like: Sequence[Tensor] | None = None) -> None:
        """Continue from `state_dict`. The present gamma and horizon apply from here on.

        Args:
            state: from `state_dict`, of this or an older version.
            like: the weights, whose shapes the state must have and on whose devices it is kept.

        Raises:
            AverageError: another version, a field that is missing or malformed, or tensors of other shapes.
        """
        self._refuse_swapped()
        version, count, tensors = (state.get(name) for name in ("version", "count", "tensors"))
        if version != STATE_VERSION:
            raise AverageError(f"average of weights: version={version!r}, this package reads {STATE_VERSION}")
        if type(count) is not int or not 0 <= count <= _LARGEST_COUNT:
            raise AverageError(f"average of weights: count={count!r} must be a whole number from 0 to {_LARGEST_COUNT}")
        if not isinstance(tensors, list) or not all(isinstance(t, Tensor) for t in tensors):
            raise AverageError(f"average of weights: tensors={type(tensors).__name__} must be a list of tensors")
        for i, tensor in enumerate(tensors):
            _check_type(i, tensor)
            if tensor.dtype != _kept_as(tensor.dtype):
                raise AverageError(f"average of weights: tensor {i} is {tensor.dtype}: must be float32 or float64")
        if count == 0 and tensors:
            raise AverageError(f"average of weights: count=0 with {len(tensors)} tensors: must have none")
        before = self.count, self._average
        places = [None] * len(tensors) if like is None else [weight.device for weight in like]
        self.count, self._average = count, tensors
        try:
            if like is not None and count:
                self._check(list(like))
        except AverageError:
            self.count, self._average = before
            raise
        devices = [self.device or place for place in places]
        self._average = [t.clone() if d is None else t.to(d, copy=True) for t, d in zip(tensors, devices, strict=False)]

    def _copy_of(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.device or weight.device, _kept_as(weight.dtype), copy=True)

    def _check(self, given: list[Tensor], first: bool = False) -> None:
        for i, weight in enumerate(given):
            _check_type(i, weight)
        if first:
            return
        if len(given) != len(self._average):
            raise AverageError(
                f"average of weights: {len(given)} tensors, and it was begun with {len(self._average)}; pass the same "
                "tensors in the same order every time"
            )
        for i, (weight, average) in enumerate(zip(given, self._average, strict=True)):
            if weight.shape != average.shape:
                raise AverageError(
                    f"average of weights: tensor {i} has shape {list(weight.shape)}, and the average has "
                    f"{list(average.shape)}; pass the same tensors in the same order every time"
                )

    def _refuse_swapped(self) -> None:
        if self._aside is not None:
            raise RuntimeError("average of weights: it is in the place of the weights until `swap_out`")


def _kept_as(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_type(i: int, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise AverageError(f"average of weights: item {i} is {type(tensor).__name__}: must be a tensor")
    if not tensor.is_floating_point():
        raise AverageError(
            f"average of weights: tensor {i} is {tensor.dtype}: only floating-point tensors have an average; leave it "
            "out, or copy it from the newest weights"
        )
