# SPDX-License-Identifier: Apache-2.0
"""The clipped surrogate: closed form, gradient, degenerate tokens, parity with verl, memory kept for
backward."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agpo_core import aggregate, clipped_surrogate, importance_weights, policy_loss
from agpo_core.losses import surrogate_by_definition
from tests.core.strategies import INF, NAN

MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum", "seq-mean-token-sum-norm")


def batch(
    rows: int = 6, tokens: int = 37, seed: int = 0, dtype: torch.dtype = torch.float32, spread: float = 0.6
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    old = (torch.randn(rows, tokens, generator=g, dtype=torch.float64) - 2).to(dtype)
    new = (old.double() + spread * torch.randn(rows, tokens, generator=g, dtype=torch.float64)).to(dtype)
    mask = (torch.rand(rows, tokens, generator=g) < 0.8).long()
    mask[-1] = 0  # an empty response
    advantages = torch.randn(rows, generator=g, dtype=torch.float64).to(dtype)
    advantages[0] = 0.0
    return {"log_prob": new, "old_log_prob": old, "advantages": advantages, "mask": mask}


def plain(b: dict[str, Tensor], low: Any, high: Any, dual: float | None, weights: Tensor | None = None) -> Tensor:
    """The formula as written, by autograd."""
    ratio = (b["log_prob"] - b["old_log_prob"]).clamp(-20, 20).exp()
    a = b["advantages"].unsqueeze(1) if b["advantages"].dim() == 1 else b["advantages"]
    low, high = (torch.as_tensor(x, dtype=ratio.dtype).reshape(-1, 1) for x in (low, high))
    loss = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - low, 1 + high))
    if dual is not None:
        loss = torch.where(a < 0, torch.minimum(-a * dual, loss), loss)
    return loss if weights is None else loss * weights


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "slope"),
    [
        (0.0, 2.0, -2.0, -2.0),
        (math.log(1.1), 1.0, -1.1, -1.1),
        (math.log(1.5), 1.0, -1.28, 0.0),  # held by the upper clip
        (math.log(0.5), 1.0, -0.5, -0.5),  # pessimistic: not held
        (math.log(0.5), -1.0, 0.8, 0.0),  # held by the lower clip
        (math.log(1.5), -1.0, 1.5, 1.5),
        (math.log(5.0), -1.0, 3.0, 0.0),  # dual clip
        (30.0, 1.0, -1.28, 0.0),
        (-30.0, 1.0, -math.exp(-20), 0.0),  # the log ratio is clamped: no gradient
        (0.3, 0.0, 0.0, 0.0),
    ],
)
def test_closed_form_and_gradient(log_ratio: float, advantage: float, loss: float, slope: float) -> None:
    new = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    out = clipped_surrogate(
        new, torch.zeros(1, 1).double(), torch.tensor([advantage]), torch.ones(1, 1), 0.2, 0.28, dual_clip=3.0
    )
    out.loss_BT.sum().backward()
    assert out.loss_BT.item() == pytest.approx(loss, rel=1e-12, abs=1e-15)
    assert new.grad is not None and new.grad.item() == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("dual", [3.0, 1.5, None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", ["B", "BT"])
@pytest.mark.parametrize("eps", ["number", "row", "column"])
def test_value_and_gradient_equal_autograd_of_the_formula(
    dual: float | None, weighted: bool, shape: str, eps: str
) -> None:
    b = batch(dtype=torch.float64, spread=1.5)
    if shape == "BT":
        b["advantages"] = b["advantages"].unsqueeze(1) * torch.linspace(0.5, 1.5, 37, dtype=torch.float64)
    b["log_prob"][1, :4] = b["old_log_prob"][1, :4] + torch.tensor([25.0, -25.0, 19.0, -19.0])
    g = torch.Generator().manual_seed(9)
    rows = torch.rand(2, 6, generator=g, dtype=torch.float64) * 0.3 + 0.05
    low, high = (0.2, 0.28) if eps == "number" else (rows[0], rows[1])
    given_low, given_high = (x.unsqueeze(1) if eps == "column" else x for x in (low, high))  # type: ignore[union-attr]
    weights = torch.rand(6, 37, generator=g, dtype=torch.float64) if weighted else None
    upstream = torch.randn(6, 37, generator=g, dtype=torch.float64)
    ours, theirs = b["log_prob"].clone().requires_grad_(), b["log_prob"].clone().requires_grad_()
    out = clipped_surrogate(
        **(b | {"log_prob": ours}), clip_low=given_low, clip_high=given_high, dual_clip=dual, weights=weights
    )
    expected = plain(b | {"log_prob": theirs}, low, high, dual, weights) * b["mask"]
    torch.testing.assert_close(out.loss_BT, expected, rtol=1e-12, atol=1e-12)
    (out.loss_BT * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_gradcheck_by_finite_differences() -> None:
    b = batch(rows=3, tokens=5, dtype=torch.float64)
    rest = {key: value for key, value in b.items() if key != "log_prob"}
    for mode in MODES:
        assert torch.autograd.gradcheck(
            lambda x, mode=mode: policy_loss(x, **rest, clip_low=0.2, clip_high=torch.rand(3) * 0 + 0.28, mode=mode)[0],
            (b["log_prob"].requires_grad_(),),
        )


def test_gradient_flows_to_log_prob_only() -> None:
    b = {key: value.requires_grad_() if value.is_floating_point() else value for key, value in batch().items()}
    eps, weights = torch.full((6,), 0.2, requires_grad=True), torch.ones(6, 37, requires_grad=True)
    loss, metrics = policy_loss(**b, clip_low=eps, clip_high=eps, weights=weights)
    loss.backward()
    assert b["log_prob"].grad is not None and b["log_prob"].grad.abs().sum() > 0
    assert eps.grad is None and weights.grad is None
    assert b["old_log_prob"].grad is None and b["advantages"].grad is None
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    b = batch(dtype=dtype)
    new = b["log_prob"].clone().requires_grad_()
    wide = {key: value.float() for key, value in b.items()}
    wide["log_prob"].requires_grad_()
    loss, _ = policy_loss(**(b | {"log_prob": new}), clip_low=0.2, clip_high=0.2)
    expected, _ = policy_loss(**wide, clip_low=0.2, clip_high=0.2)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert new.grad is not None and new.grad.dtype == dtype
    assert torch.equal(new.grad, wide["log_prob"].grad.to(dtype))  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["log_prob", "old_log_prob", "advantages", "weights"])
def test_non_finite_tokens_leave_loss_gradient_and_denominator(bad: float, where: str) -> None:
    b = batch(rows=4, tokens=9)
    b["mask"] = torch.ones(4, 9)
    b["mask"][3, 5:] = 0
    b["advantages"] = b["advantages"].unsqueeze(1).repeat(1, 9) + 1.0
    b["weights"] = torch.full((4, 9), 0.5)
    clean = {key: value.clone() for key, value in b.items()}
    b[where][1, 2] = b[where][2, 7] = b[where][3, 8] = bad  # the last one is masked already
    clean["mask"][1, 2] = clean["mask"][2, 7] = 0
    results = []
    for item in (b, clean):
        item["log_prob"].requires_grad_()
        out = clipped_surrogate(**item, clip_low=0.2, clip_high=0.2)
        for mode in MODES:
            aggregate(out.loss_BT, out.mask, mode).backward(retain_graph=True)  # type: ignore[arg-type]
        results.append((out, item["log_prob"].grad))
    (got, got_grad), (expected, expected_grad) = results
    assert torch.equal(got.mask, expected.mask) and torch.equal(got.loss_BT, expected.loss_BT)
    assert torch.equal(got_grad, expected_grad)
    assert got_grad[1, 2] == got_grad[2, 7] == 0
    assert (got.nonfinite_tokens.item(), expected.nonfinite_tokens.item()) == (2, 0)
    for name, value in got.metrics().items():
        if name != "nonfinite_tokens":
            assert value.item() == expected.metrics()[name].item(), name


def test_ppo_has_no_dual_clip_unless_it_is_asked_for() -> None:
    new = torch.tensor([[math.log(9.0)]])
    loss = clipped_surrogate(new, torch.zeros(1, 1), torch.tensor([-1.0]), torch.ones(1, 1), 0.2, 0.2).loss_BT
    assert loss.item() == pytest.approx(9.0)


def test_a_clip_ratio_that_is_not_a_number_takes_its_response_out() -> None:
    b = batch(rows=4, tokens=5)
    b["mask"] = torch.ones(4, 5)
    out = clipped_surrogate(**b, clip_low=torch.tensor([0.2, NAN, 0.2, 0.2]), clip_high=0.2)
    assert out.nonfinite_tokens.item() == 5 and not out.mask[1].any() and (out.loss_BT[1] == 0).all()


@pytest.mark.parametrize("dual", [None, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fast_path_equals_the_definition(dual: float | None, weighted: bool, dtype: torch.dtype) -> None:
    """Values bit for bit, at clip bounds, ties and non-finite tokens too; first derivatives up to rounding."""
    b = batch(rows=40, tokens=30, dtype=dtype, spread=1.5)
    old = b["old_log_prob"]
    edges = torch.tensor([0.0, math.log(0.8), math.log(1.2), math.log(2.0), 20.0, -20.0, 25.0, -25.0, NAN, INF])
    b["log_prob"][:, :10] = old[:, :10] + edges.to(dtype)
    b["mask"][:, :10] = 1
    weights = torch.rand(40, 30, generator=torch.Generator().manual_seed(3)).to(dtype) if weighted else None
    b["log_prob"].requires_grad_()
    out = clipped_surrogate(**b, clip_low=0.2, clip_high=0.2, dual_clip=dual, weights=weights)
    low, high = (torch.full((1, 1), bound, dtype=torch.float64).to(dtype) for bound in (0.8, 1.2))
    loss = surrogate_by_definition(b["log_prob"], old, b["advantages"].unsqueeze(1), out.mask, low, high, dual, weights)
    assert torch.equal(out.loss_BT, loss)
    fast, plain_ = (torch.autograd.grad(value.sum(), b["log_prob"])[0] for value in (out.loss_BT, loss))
    torch.testing.assert_close(fast, plain_, rtol=1e-6, atol=0.0)
    assert torch.equal(fast == 0, plain_ == 0)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(mode: str) -> None:
    b = batch(rows=3, tokens=5, dtype=torch.float64)
    rest = {key: value for key, value in b.items() if key != "log_prob"} | {"clip_low": 0.2, "clip_high": 0.28}
    weights = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    x = b["log_prob"].requires_grad_()

    def loss(values: Tensor) -> Tensor:
        return policy_loss(values, **rest, mode=mode, dual_clip=3.0, weights=weights)[0]  # type: ignore[arg-type]

    assert torch.autograd.gradgradcheck(loss, (x,))
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # d/dx exp(x) = exp(x): where the ratio is free, every derivative of a token's loss is the first one.
    torch.testing.assert_close(second, first.detach())
    assert second.abs().sum() > 0


def test_a_gradient_penalty_reaches_the_model_behind_the_log_probs() -> None:
    b = batch(rows=3, tokens=5, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scaled = b["log_prob"] * scale
    loss, _ = policy_loss(scaled, b["old_log_prob"], b["advantages"], b["mask"], 0.2, 0.2)
    (slope,) = torch.autograd.grad(loss, scale, create_graph=True)
    (second,) = torch.autograd.grad(slope, scale)

    def first(value: float) -> float:
        at = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        loss, _ = policy_loss(b["log_prob"] * at, b["old_log_prob"], b["advantages"], b["mask"], 0.2, 0.2)
        return torch.autograd.grad(loss, at)[0].item()

    assert second.item() == pytest.approx((first(1 + 1e-6) - first(1 - 1e-6)) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("advantage", [1e5, -1e5, 3e38, -3e38])
def test_a_gradient_beyond_half_precision_is_its_largest_number(dtype: torch.dtype, advantage: float) -> None:
    new = torch.tensor([[0.0, -0.1, 19.0, -30.0]], dtype=dtype, requires_grad=True)
    loss, _ = policy_loss(
        new, torch.zeros(1, 4, dtype=dtype), torch.tensor([advantage]), torch.ones(1, 4), 0.2, 0.2, mode="token-sum"
    )
    loss.backward()
    assert new.grad is not None and new.grad.isfinite().all()
    limit = torch.finfo(dtype).max
    expected = max(-limit, min(limit, -advantage))
    assert new.grad[0, 0].item() == pytest.approx(expected, rel=0.01)


def test_a_loss_scale_that_overflows_stays_visible_to_a_gradient_scaler() -> None:
    new = torch.zeros(1, 2, dtype=torch.float16, requires_grad=True)
    loss, _ = policy_loss(new, new.detach(), torch.ones(1), torch.ones(1, 2), 0.2, 0.2)
    (loss * INF).backward()
    assert new.grad is not None and not new.grad.isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_losses_are_summed_in_float32(dtype: torch.dtype) -> None:
    loss = torch.full((40, 4000), 1.0, dtype=dtype, requires_grad=True)
    value = aggregate(loss, torch.ones(40, 4000), "token-mean")
    value.backward()
    assert value.dtype == torch.float32 and value.item() == 1.0
    assert loss.grad is not None and loss.grad.dtype == dtype


@pytest.mark.parametrize("bad", [0, 0.0, -4, NAN, INF])
def test_a_norm_length_is_a_number_above_0(bad: float) -> None:
    with pytest.raises(ValueError, match="norm_length"):
        aggregate(torch.ones(2, 3), torch.ones(2, 3), "seq-mean-token-sum-norm", bad)


@pytest.mark.parametrize("norm_length", [None, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
def test_no_token_at_all(mode: str, shape: tuple[int, int], norm_length: int | None) -> None:
    new = torch.zeros(shape, requires_grad=True)
    loss, metrics = policy_loss(
        new,
        torch.full(shape, NAN),
        torch.ones(shape[0]),
        torch.zeros(shape),
        0.2,
        0.2,
        mode=mode,  # type: ignore[arg-type]
        norm_length=norm_length,
    )
    loss.backward()
    assert loss.item() == 0.0 and (new.grad == 0).all()
    assert all(value.item() == 0 for value in metrics.values())


def test_metrics_closed_form() -> None:
    log_ratio = torch.tensor([[1.5, 0.5, 1.0, 9.0], [0.5, 5.0, 1.0, 9.0]]).log()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    out = clipped_surrogate(log_ratio, torch.zeros(2, 4), torch.tensor([1.0, -1.0]), mask, 0.2, 0.2, dual_clip=3.0)
    assert out.clip_fraction_high.item() == pytest.approx(1 / 6)
    assert out.clip_fraction_low.item() == pytest.approx(1 / 6)
    assert out.dual_clip_fraction.item() == pytest.approx(1 / 6)
    ratios = [1.5, 0.5, 1, 0.5, 5, 1]
    assert out.step_kl.item() == pytest.approx(-sum(map(math.log, ratios)) / 6, rel=1e-6)
    assert out.step_kl_k3.item() == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 6, rel=1e-6)


@given(st.integers(0, 10_000), st.floats(0.05, 0.4), st.floats(0, 0.3))
def test_a_wider_clip_never_raises_the_loss(seed: int, eps: float, wider: float) -> None:
    b = batch(seed=seed, spread=1.0)
    tight = clipped_surrogate(**b, clip_low=eps, clip_high=eps)
    wide = clipped_surrogate(**b, clip_low=min(eps + wider, 0.9), clip_high=eps + wider)
    assert (wide.loss_BT <= tight.loss_BT).all()
    assert tight.step_kl_k3 >= 0
    assert wide.clip_fraction_high + wide.clip_fraction_low <= tight.clip_fraction_high + tight.clip_fraction_low + 1e-6


def test_clip_ratio_is_per_response() -> None:
    b = batch(spread=1.0)
    low, high = torch.linspace(0.05, 0.3, 6), torch.linspace(0.4, 0.1, 6)
    whole = clipped_surrogate(**b, clip_low=low, clip_high=high).loss_BT
    for row in range(6):
        alone = {key: value[row : row + 1] for key, value in b.items()}
        one = clipped_surrogate(**alone, clip_low=float(low[row]), clip_high=float(high[row])).loss_BT
        assert torch.equal(one, whole[row : row + 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_prob": torch.zeros(3)}, "log_prob"),
        ({"old_log_prob": torch.zeros(6, 2)}, "old_log_prob"),
        ({"mask": torch.zeros(6)}, "mask"),
        ({"advantages": torch.zeros(5)}, "advantages"),
        ({"clip_low": torch.zeros(5)}, "clip_low"),
        ({"clip_high": torch.zeros(6, 2)}, "clip_high"),
        ({"dual_clip": 1.0}, "dual_clip=1.0"),
        ({"dual_clip": NAN}, "dual_clip=nan"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"clip_high": NAN}, "clip_high=nan"),
        ({"weights": torch.zeros(2, 2)}, "weights"),
    ],
)
def test_wrong_arguments(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clipped_surrogate(**(batch() | {"clip_low": 0.2, "clip_high": 0.2} | change))  # type: ignore[arg-type]


def test_aggregate_closed_form_and_dirty_padding() -> None:
    loss = torch.tensor([[1.0, 2.0, NAN], [3.0, INF, NAN], [NAN, NAN, NAN]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    expected = {
        "token-sum": 6,
        "token-mean": 2,
        "seq-mean-token-sum": 3,
        "seq-mean-token-mean": 2.25,
        "seq-mean-token-sum-norm": 1,
    }
    for mode, value in expected.items():
        assert aggregate(loss, mask, mode).item() == pytest.approx(value)  # type: ignore[arg-type]
    assert aggregate(loss, mask, "seq-mean-token-sum-norm", norm_length=6).item() == pytest.approx(0.5)
    aggregate(loss, mask).backward()
    assert loss.grad is not None
    assert torch.allclose(loss.grad, mask / 3)
    with pytest.raises(ValueError, match="mode"):
        aggregate(loss, mask, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected loss and mask"):
        aggregate(loss, mask[:2])


def test_importance_weights() -> None:
    scoring = torch.tensor([[0.0, math.log(1.5), math.log(9.0), NAN, -1.0]], requires_grad=True)
    sampling = torch.tensor([[0.0, 0.0, 0.0, 0.0, NAN]])
    weights = importance_weights(scoring, sampling, torch.ones(1, 5), cap=2.0)
    assert not weights.requires_grad
    assert weights.tolist() == [pytest.approx([1.0, 1.5, 2.0, 0.0, 0.0])]
    assert importance_weights(scoring, sampling, torch.zeros(1, 5), cap=2.0).sum().item() == 0
    with pytest.raises(ValueError, match="cap"):
        importance_weights(scoring, sampling, torch.ones(1, 5), cap=0.0)
    with pytest.raises(ValueError, match="same shape"):
        importance_weights(scoring, sampling[:, :2], torch.ones(1, 5), cap=2.0)


def kept_for_backward(function: Any) -> list[Tensor]:
    kept: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        function()
    storages = {value.untyped_storage().data_ptr(): value for value in kept}
    return list(storages.values())


def test_one_float_tensor_is_kept_for_backward() -> None:
    b = batch(rows=64, tokens=64)
    b["log_prob"].requires_grad_()
    kept = kept_for_backward(lambda: policy_loss(**b, clip_low=torch.full((64,), 0.2), clip_high=0.2))
    big = [value for value in kept if value.numel() >= 64 * 64]
    assert [value.is_floating_point() for value in big] == [True]


def verl_vanilla(
    b: dict[str, Tensor], low: float, high: float, mode: str, dual: float = 3.0, weights: Tensor | None = None
) -> tuple[Tensor, dict]:
    algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    workers = pytest.importorskip("verl.workers.config")
    config = workers.ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=low,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=dual,
    )
    advantages = b["advantages"].unsqueeze(1).expand_as(b["log_prob"])
    return algos.compute_policy_loss_vanilla(
        b["old_log_prob"], b["log_prob"], advantages, b["mask"], mode, config, weights
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.13, 0.31)])
@pytest.mark.parametrize("seed", range(3))
def test_parity_with_verl_vanilla_bit_for_bit(mode: str, low: float, high: float, seed: int) -> None:
    b = batch(rows=33, tokens=129, seed=seed, spread=1.2)
    ours, theirs = b["log_prob"].clone().requires_grad_(), b["log_prob"].clone().requires_grad_()
    expected, their_metrics = verl_vanilla(b | {"log_prob": theirs}, low, high, mode)
    got, metrics = policy_loss(**(b | {"log_prob": ours}), clip_low=low, clip_high=high, dual_clip=3.0, mode=mode)  # type: ignore[arg-type]
    assert got.item() == expected.item()
    got.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-9)
    fraction = (metrics["clip_fraction_low"] + metrics["clip_fraction_high"]).item()
    assert fraction == pytest.approx(their_metrics["actor/pg_clipfrac"], rel=1e-5)
    assert metrics["dual_clip_fraction"].item() == pytest.approx(their_metrics["actor/pg_clipfrac_lower"], rel=1e-5)
    assert metrics["step_kl"].item() == pytest.approx(their_metrics["actor/ppo_kl"], rel=1e-4, abs=1e-7)
    # the same ratios as a column per response
    rows = torch.full((33,), low, dtype=torch.float64), torch.full((33,), high, dtype=torch.float64)
    again, _ = policy_loss(**b, clip_low=rows[0], clip_high=rows[1], dual_clip=3.0, mode=mode)  # type: ignore[arg-type]
    assert again.item() == expected.item()


def test_clip_ratios_are_rounded_once_like_verl() -> None:
    """1 - eps and 1 + eps in double precision, then float32: for every eps, also one per response."""
    eps = torch.arange(1, 1000, dtype=torch.float64) / 1000
    expected_low = torch.tensor([1 - float(value) for value in eps], dtype=torch.float32)
    expected_high = torch.tensor([1 + float(value) for value in eps], dtype=torch.float32)
    old, mask = torch.zeros(len(eps), 1), torch.ones(len(eps), 1)
    low = clipped_surrogate(old - 19.0, old, -torch.ones(len(eps)), mask, eps, eps).loss_BT
    high = clipped_surrogate(old + 19.0, old, torch.ones(len(eps)), mask, eps, eps).loss_BT
    assert torch.equal(low[:, 0], expected_low)
    assert torch.equal(-high[:, 0], expected_high)


def test_parity_with_verl_vanilla_per_token_and_weighted() -> None:
    b = batch(rows=16, tokens=65, seed=5, spread=1.2)
    weights = torch.rand(16, 65, generator=torch.Generator().manual_seed(2))
    expected, _ = verl_vanilla(b, 0.2, 0.28, "token-mean", weights=weights)
    got, _ = policy_loss(**b, clip_low=0.2, clip_high=0.28, dual_clip=3.0, weights=weights)
    assert got.item() == expected.item()
    out = clipped_surrogate(**b, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    keep = b["mask"].bool()
    for row, column in keep.nonzero()[::29].tolist():
        one = b | {"mask": torch.zeros_like(b["mask"])}
        one["mask"][row, column] = 1
        assert verl_vanilla(one, 0.2, 0.28, "token-sum")[0].item() == out.loss_BT[row, column].item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_without_synchronisation() -> None:
    b = {key: value.cuda() for key, value in batch().items()}
    b["log_prob"].requires_grad_()
    eps = torch.full((6,), 0.2, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, metrics = policy_loss(**b, clip_low=eps, clip_high=eps)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, _ = policy_loss(**batch(), clip_low=0.2, clip_high=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(value.is_cuda for value in metrics.values())
