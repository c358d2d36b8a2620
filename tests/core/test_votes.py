# SPDX-License-Identifier: Apache-2.0
"""Vote classes and their entropy."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given

from agpo_core import vote_classes, vote_entropy
from tests.core.strategies import padded, probes, same_bits


def entropy(keys: list[list[str | None]]) -> list[float]:
    classes = vote_classes(keys)
    return vote_entropy(classes, torch.ones_like(classes, dtype=torch.bool)).tolist()


def test_classes() -> None:
    keys = [["x", "y", "x"], [None, "", "z", None], []]
    assert vote_classes(keys).tolist() == [[0, 1, 0, -1], [0, 0, 1, 0], [-1] * 4]
    assert vote_classes([]).shape == (0, 0)
    assert vote_classes([["1"], ["1.0"]]).tolist() == [[0], [0]]  # classes are per group


def test_closed_form() -> None:
    got = entropy([["a"] * 4 + ["b"] * 4, list("abcdefgh"), ["a"] * 8, ["a"] * 6 + ["b", None], ["a"], []])
    six = -(0.75 * math.log(0.75) + 2 * 0.125 * math.log(0.125))
    assert got == pytest.approx([math.log(2), math.log(8), 0, six, 0, 0], abs=1e-15)
    assert got[2] == got[4] == got[5] == 0.0


def test_masked_votes_do_not_count() -> None:
    classes = torch.tensor([[5, 5, 3, 900, -1]])
    mask = torch.tensor([[True, True, True, False, True]])
    assert vote_entropy(classes, mask).item() == pytest.approx(math.log(3) - 2 / 3 * math.log(2), abs=1e-15)
    assert vote_entropy(classes, torch.zeros_like(mask)).item() == 0.0


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="expected classes and mask"):
        vote_entropy(torch.zeros(2, 3).long(), torch.ones(2, 2).bool())


@given(probes())
def test_bounds(groups: list) -> None:
    _, classes, mask = padded(groups)
    for value, group in zip(vote_entropy(classes, mask).tolist(), groups, strict=True):
        assert 0.0 <= value <= math.log(max(len(group), 1)) + 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_same_bits_in_any_order(seed: int) -> None:
    shuffle = random.Random(seed)
    groups = [[shuffle.choice("abcde") for _ in range(shuffle.randrange(17))] for _ in range(60)]
    classes = vote_classes(groups)
    whole = vote_entropy(classes, classes >= 0)
    mixed = vote_classes([shuffle.sample(group, len(group)) for group in reversed(groups)])
    assert same_bits(whole.flip(0), vote_entropy(mixed, mixed >= 0))
    alone = torch.cat([vote_entropy(c, c >= 0) for c in (vote_classes([group]) for group in groups)])
    assert same_bits(whole, alone)
