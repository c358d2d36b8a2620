# SPDX-License-Identifier: Apache-2.0
"""Packed responses give what padded ones give; log-probs and entropies at own temperatures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agpo_core import aggregate, log_probs_at, per_token, policy_loss, sequence_ids, token_entropy

LENGTHS = [3, 1, 5, 0, 2]
MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum", "seq-mean-token-sum-norm")


def packed(padded: Tensor) -> Tensor:
    return torch.cat([row[:n] for row, n in zip(padded, LENGTHS, strict=True)]).unsqueeze(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [None, 14])
def test_packed_equals_padded(mode: str, width: int | None) -> None:
    g = torch.Generator().manual_seed(0)
    old = torch.randn(5, 5, generator=g, dtype=torch.float64)
    new = (old + 0.4 * torch.randn(5, 5, generator=g, dtype=torch.float64)).requires_grad_()
    mask = (torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    mask[2, 1] = 0  # a token of a tool
    advantage, eps = torch.randn(5, generator=g, dtype=torch.float64), torch.linspace(0.1, 0.3, 5)
    expected, their = policy_loss(new, old, advantage, mask, eps, eps, mode=mode, norm_length=7)  # type: ignore[arg-type]

    ids = sequence_ids(LENGTHS, width)
    space = ids.shape[1] - sum(LENGTHS)

    def row(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(packed(values), (0, space), value=fill)

    got, ours = policy_loss(
        row(new, math.nan),
        row(old, 0.0),
        per_token(advantage, ids),
        row(mask, 0),
        per_token(eps, ids),
        per_token(eps, ids),
        mode=mode,
        norm_length=7,
        sequence_BT=ids,  # type: ignore[arg-type]
    )
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    assert {k: v.item() for k, v in ours.items()} == pytest.approx({k: v.item() for k, v in their.items()})
    theirs = torch.autograd.grad(expected, new, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(got, new)[0], theirs)


def test_responses_of_several_rows_and_none() -> None:
    ids = torch.tensor([[0, 0, 1, -1], [2, 2, 2, -1]])
    loss = torch.tensor([[1.0, 3.0, 5.0, math.nan], [1.0, 1.0, 4.0, 100.0]])
    assert aggregate(loss, torch.ones(2, 4), "seq-mean-token-mean", sequence_BT=ids).item() == pytest.approx(3.0)
    assert aggregate(loss, torch.ones(2, 4), "token-sum", sequence_BT=ids).item() == pytest.approx(15.0)
    nothing = torch.full((2, 4), -1)
    for mode in MODES:
        assert aggregate(loss, torch.ones(2, 4), mode, 3.0, sequence_BT=nothing).item() == 0.0  # type: ignore[arg-type]
        assert aggregate(loss[:, :0], torch.ones(2, 0), mode, 3.0, sequence_BT=nothing[:, :0]).item() == 0.0  # type: ignore[arg-type]


def test_ids_of_a_packed_row() -> None:
    assert sequence_ids(LENGTHS, 13).tolist() == [[0, 0, 0, 1, 2, 2, 2, 2, 2, 4, 4, -1, -1]]
    assert sequence_ids(torch.tensor([0, 2, 5]).diff()).tolist() == [[0, 0, 1, 1, 1]]
    assert sequence_ids([]).shape == (1, 0)
    assert per_token(torch.tensor([5, 7]), torch.tensor([[1, 0, -1]])).tolist() == [[7, 5, 5]]
    assert per_token(torch.zeros(0), torch.tensor([[-1]])).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="width=3"):
        sequence_ids(LENGTHS, 3)
    with pytest.raises(ValueError, match="lengths"):
        sequence_ids([2, -1])


def test_what_packed_rows_cannot_leave_open() -> None:
    ids = sequence_ids([2, 1])
    with pytest.raises(ValueError, match="norm_length"):
        aggregate(torch.ones(1, 3), torch.ones(1, 3), "seq-mean-token-sum-norm", sequence_BT=ids)
    with pytest.raises(ValueError, match="sequence_BT"):
        aggregate(torch.ones(1, 4), torch.ones(1, 4), sequence_BT=ids)


@pytest.mark.parametrize("shape", ["B", "column", "tokens"])
def test_log_probs_at_own_temperature(shape: str) -> None:
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 7, generator=g, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(7, (2, 3), generator=g)
    tau = torch.tensor([0.7, 1.3], dtype=torch.float64)
    given = {"B": tau, "column": tau.unsqueeze(1), "tokens": tau.unsqueeze(1).expand(2, 3)}[shape]
    expected = torch.stack([torch.log_softmax(logits[b] / tau[b], -1) for b in range(2)])
    got = log_probs_at(logits, tokens, given)
    torch.testing.assert_close(got, expected.gather(-1, tokens.unsqueeze(-1)).squeeze(-1))
    got.sum().backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


def test_log_probs_of_half_precision_logits_are_float32() -> None:
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(2)).bfloat16()
    got = log_probs_at(logits, torch.tensor([[1, 4]]), 0.5)
    assert got.dtype == torch.float32
    wide = torch.log_softmax(logits.float() / 0.5, -1)
    torch.testing.assert_close(got, wide[0, [0, 1], [1, 4]].unsqueeze(0))
    assert log_probs_at(logits[:, :0], torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0)


def test_entropy_of_logits() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [3.0, -math.inf, 3.0, -math.inf], [0.0, 90.0, 0.0, 0.0]]])
    assert token_entropy(logits).tolist()[0] == pytest.approx([math.log(4), math.log(2), 0.0], abs=1e-6)
    assert token_entropy(logits, torch.tensor([1e6]))[0, 2].item() == pytest.approx(math.log(4), rel=1e-4)
    certain = torch.tensor([[[5.0, -math.inf]]], requires_grad=True)
    token_entropy(certain).sum().backward()
    assert certain.grad is not None and certain.grad[0, 0, 0].isfinite()


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf, torch.ones(3), torch.ones(2, 2)])
def test_temperatures_that_cannot_be(tau: float | Tensor) -> None:
    with pytest.raises(ValueError, match="temperature"):
        log_probs_at(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), tau)


def test_shapes_of_logits_and_tokens() -> None:
    with pytest.raises(ValueError, match="tokens"):
        log_probs_at(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="logits"):
        token_entropy(torch.zeros(3, 4))
