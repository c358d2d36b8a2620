# SPDX-License-Identifier: Apache-2.0
"""Statistics of groups with masks and different sizes.

Values are sorted within their group and summed column by column in float64. The result is therefore bit-identical for
every order of a group's members and for every batch that contains the group. Shapes: _P prompts, _G members, _N
responses.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

DispersionKind = Literal["std", "mad", "iqr"]
SkewnessKind = Literal["adjusted", "reference"]

MAD_TO_STD = 1.4826  # factor from the median absolute deviation to the standard deviation, for normal data
IQR_TO_STD = 1.349  # divisor from the interquartile range to the same
LARGEST = 1e150  # the square of a larger value overflows, so it counts as infinite


def usable(values: Tensor) -> Tensor:
    """Whether each value can be computed with: not NaN, and within +-1e150."""
    return values.abs() <= LARGEST


def _check_shape(values: Tensor, mask: Tensor) -> None:
    if values.dim() != 2 or mask.shape != values.shape:
        raise ValueError(f"expected values and mask [P, G], got {tuple(values.shape)} and {tuple(mask.shape)}")


def root(values_P: Tensor) -> Tensor:
    """Square root of [P] float64, exactly rounded.

    On a CPU it does not use torch: torch's `sqrt` calls a vector library that may not round exactly, and that
    synchronises all threads even for very short tensors.
    """
    if values_P.device.type != "cpu":
        return values_P.sqrt()
    return torch.tensor([math.sqrt(value) for value in values_P.tolist()], dtype=torch.float64)


def column_sum(columns_GP: Tensor) -> Tensor:
    """Sum of [G, P] over G, column after column, so that the order of additions is the same for every P."""
    total = columns_GP.new_zeros(columns_GP.shape[1])
    for column in columns_GP:
        total = total + column
    return total


class SortedGroups:
    """A batch of groups, sorted within each group, invalid members last. All fields are float64 or int64.

    Attributes:
        columns_GP: sorted values, 0 where invalid.
        valid_GP: bool, valid members.
        count_P, size_P: number of valid members, int64 and float64.
        lowest_P, highest_P: smallest and largest value; 0 for an empty group.
        mean_P: mean; 0 for an empty group.
    """

    def __init__(self, values_PG: Tensor, mask_PG: Tensor) -> None:
        _check_shape(values_PG, mask_PG)
        values = values_PG.detach().to(torch.float64)
        valid = mask_PG.bool() & usable(values)
        infinite = torch.full_like(values, torch.inf)
        # + 0.0 turns -0.0 into 0.0: the two compare equal, so a sort may leave them in either order
        ordered = torch.where(valid, values + 0.0, infinite).sort(dim=1).values.T.contiguous()
        members = torch.arange(values.shape[1], device=values.device).unsqueeze(1)
        self.count_P = valid.sum(dim=1)
        self.valid_GP = members < self.count_P
        self.columns_GP = torch.where(self.valid_GP, ordered, torch.zeros_like(ordered))
        self.size_P = self.count_P.to(torch.float64)
        self.lowest_P = self.at(torch.zeros_like(self.count_P))
        self.highest_P = self.at(self.count_P - 1)
        self.mean_P = column_sum(self.columns_GP) / self.size_P.clamp(min=1.0)
        # the mean of equal values is exactly that value, without rounding
        self.mean_P = torch.where(self.equal_P, self.lowest_P, self.mean_P)

    @property
    def equal_P(self) -> Tensor:
        """Whether all valid members of a group are equal (also true for 0 or 1 members)."""
        return self.lowest_P == self.highest_P

    def at(self, rank_P: Tensor) -> Tensor:
        """The value of the given rank in each group; 0 for an empty group."""
        if self.columns_GP.shape[0] == 0:
            return self.columns_GP.new_zeros(rank_P.shape)
        return self.columns_GP.gather(0, rank_P.clamp(min=0).unsqueeze(0)).squeeze(0)

    def quantile(self, q: float) -> Tensor:
        """The q-quantile with linear interpolation between ranks; 0 for an empty group."""
        position = (self.size_P - 1.0).clamp(min=0.0) * q
        below = position.floor()
        low, high = self.at(below.long()), self.at(position.ceil().long())
        return low + (high - low) * (position - below)

    def central_moment(self, power: int) -> Tensor:
        """mean((x - mean)**power) over the valid members; exactly 0 where all are equal."""
        centred = torch.where(self.valid_GP, self.columns_GP - self.mean_P, torch.zeros_like(self.columns_GP))
        raised = centred
        for _ in range(power - 1):
            raised = raised * centred
        return column_sum(raised) / self.size_P.clamp(min=1.0)

    def std(self) -> Tensor:
        """Sample standard deviation (n-1); 0 for fewer than two members."""
        n = self.size_P
        return root(self.central_moment(2) * n / (n - 1.0).clamp(min=1.0))

    def dispersion(self, kind: DispersionKind = "std") -> Tensor:
        """See the function `dispersion`."""
        if kind == "std":
            value = self.std()
        elif kind == "mad":
            deviation = (self.columns_GP - self.quantile(0.5)).abs()
            value = MAD_TO_STD * SortedGroups(deviation.T, self.valid_GP.T).quantile(0.5)
        elif kind == "iqr":
            value = (self.quantile(0.75) - self.quantile(0.25)) / IQR_TO_STD
        else:
            raise ValueError(f"dispersion kind {kind!r}: must be std, mad or iqr")
        return torch.where(self.equal_P, torch.zeros_like(value), value)

    def skewness(self, kind: SkewnessKind = "adjusted") -> Tensor:
        """See the function `skewness`."""
        n, third = self.size_P, self.central_moment(3)
        factor = root((n * (n - 1.0)).clamp(min=0.0)) / (n - 2.0).clamp(min=1.0)
        if kind == "adjusted":
            second = self.central_moment(2)
            value = factor * (third / (second * root(second)))
            usable = (n >= 3.0) & ~self.equal_P & value.isfinite()
        elif kind == "reference":
            std = self.std()
            value = third / (std * std * std)
            value = (torch.where(n > 2.0, factor, torch.ones_like(n)) * value).clamp(-10.0, 10.0)
            usable = (std >= 1e-6) & value.isfinite()
        else:
            raise ValueError(f"skewness kind {kind!r}: must be adjusted or reference")
        return torch.where(usable, value, torch.zeros_like(value))


def dispersion(values_PG: Tensor, mask_PG: Tensor, kind: DispersionKind = "std") -> Tensor:
    """Spread of each group's values [code].

    std: sample standard deviation (n-1). mad: 1.4826*median|x - median|. iqr: (Q3 - Q1)/1.349, with linear
    interpolation.

    Args:
        values_PG: [P, G], in any unit.
        mask_PG: bool [P, G]; masked and non-finite members do not count.
        kind: which of the three.

    Returns:
        [P] float64, in the unit of the values; 0 for fewer than two members or equal values.

    Raises:
        ValueError: unknown kind, or shapes that differ.
    """
    return SortedGroups(values_PG, mask_PG).dispersion(kind)


def skewness(values_PG: Tensor, mask_PG: Tensor, kind: SkewnessKind = "adjusted") -> Tensor:
    """Skewness of each group's values, without unit.

    adjusted (the standard G1): sqrt(n(n-1))/(n-2) * m3/m2**1.5 with moments over n; 0 for n < 3 or without variance.
    reference [code]: the same factor times mean(((x - mean)/std)**3) with the sample deviation, limited to +-10; no
    factor for n <= 2; 0 if the deviation is below 1e-6.

    Args:
        values_PG, mask_PG: as in `dispersion`.
        kind: which of the two.

    Returns:
        [P] float64, signed.

    Raises:
        ValueError: unknown kind, or shapes that differ.
    """
    return SortedGroups(values_PG, mask_PG).skewness(kind)


def max_dispersion(count_P: Tensor, kind: DispersionKind = "std") -> Tensor:
    """Largest dispersion that `count_P` outcomes within [0, 1] can have [ours].

    std: sqrt(floor(n/2)*ceil(n/2)/(n(n-1))), the value of a group in which half of the outcomes are 1. mad: 1.4826/2.
    iqr: 0.5/1.349 for n = 2 and 3, 1/1.349 above.

    Args:
        count_P: int [P], members of each group.
        kind: as in `dispersion`.

    Returns:
        [P] float64; 0 for n < 2.

    Raises:
        ValueError: unknown kind.
    """
    n = count_P.to(torch.float64)
    if kind == "std":
        value = root((n / 2).floor() * (n / 2).ceil() / (n * (n - 1.0)).clamp(min=1.0))
    elif kind == "mad":
        value = torch.full_like(n, MAD_TO_STD * 0.5)
    elif kind == "iqr":
        value = torch.where(n < 4.0, 0.5, 1.0).to(torch.float64) / IQR_TO_STD
    else:
        raise ValueError(f"dispersion kind {kind!r}: must be std, mad or iqr")
    return torch.where(n < 2.0, torch.zeros_like(value), value)


def group_rows(index_N: Tensor | Sequence[Hashable]) -> Tensor:
    """Number the groups in the order of their first member: int64 [N], from 0."""
    if isinstance(index_N, Tensor):
        if index_N.dim() != 1:
            raise ValueError(f"expected index [N], got {tuple(index_N.shape)}")
        if index_N.numel() == 0:
            return index_N.long()
        labels, inverse = torch.unique(index_N, return_inverse=True)
        place = torch.arange(len(index_N), device=index_N.device)
        first = place.new_full((len(labels),), len(index_N)).scatter_reduce(0, inverse, place, "amin")
        rank = torch.empty_like(first)
        rank[first.argsort()] = torch.arange(len(labels), device=index_N.device)
        return rank[inverse]
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in index_N], dtype=torch.int64)


def pad_groups(values_N: Tensor, index_N: Tensor | Sequence[Hashable]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Gather the responses of each group into one row.

    Args:
        values_N: [N].
        index_N: the group of each response, an integer tensor or hashable labels.

    Returns:
        values_PG (0 where there is no member), mask_PG (bool), and (row_N, column_N): `x_PG[row_N, column_N]` maps a
        [P, G] result back to the responses. Groups are in the order of their first member, members in their own order.

    Raises:
        ValueError: the lengths differ.
    """
    if values_N.dim() != 1 or len(index_N) != len(values_N):
        raise ValueError(f"expected values and index [N], got {tuple(values_N.shape)} and {len(index_N)} labels")
    row = group_rows(index_N).to(values_N.device)
    if row.numel() == 0:
        empty = values_N.new_zeros(0, 0)
        return empty, empty.bool(), (row, row.clone())
    count = torch.bincount(row)
    order = row.argsort(stable=True)
    start = count.cumsum(0) - count
    column = torch.empty_like(row)
    column[order] = torch.arange(len(row), device=row.device) - start[row[order]]
    values = values_N.new_zeros(len(count), int(count.max()))
    mask = torch.zeros_like(values, dtype=torch.bool)
    values[row, column] = values_N
    mask[row, column] = True
    return values, mask, (row, column)
