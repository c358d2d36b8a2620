# SPDX-License-Identifier: Apache-2.0
"""The loss in the workers against verl's own ``vanilla`` and ``ppo_loss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from agpo_core import AGPOConfig, LossConfig, StepSizeConfig
from recipe.agpo import plugin  # noqa: F401 - registers the policy loss
from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW, GROUP, GROUP_WEIGHT, ROW_WEIGHT
from recipe.agpo.training.actor_loss import (
    BASE_LOSS,
    BASE_LOSSES,
    METRIC_PREFIX,
    ActorLoss,
    agpo_policy_loss,
)
from recipe.agpo.verl_api.updates import rows_of


def actor_loss(config: Any, **arguments: Any) -> Any:
    return ActorLoss(config)(**arguments)


MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
PolicyLoss = Callable[..., tuple[torch.Tensor, dict[str, Any]]]


def actor_config(loss_mode: str = "agpo", **changes: Any) -> ActorConfig:
    values: dict[str, Any] = {
        "strategy": "fsdp2",
        "rollout_n": 4,
        "ppo_mini_batch_size": 4,
        "ppo_micro_batch_size_per_gpu": 4,
        "clip_ratio_low": 0.1,
        "clip_ratio_high": 0.28,
    }
    return ActorConfig(policy_loss=PolicyLossConfig(loss_mode=loss_mode), **values | changes)


class Rows:
    """Random rows whose ratios cross both clip ratios and the dual clip; row 5 has no response."""

    def __init__(self, seed: int = 0, rows: int = 6, tokens: int = 9) -> None:
        torch.manual_seed(seed)
        self.old = -torch.rand(rows, tokens) * 3
        self.new = self.old + torch.randn(rows, tokens) * 0.5
        self.new[0, 0], self.new[1, 0] = self.old[0, 0] + 25, self.old[1, 0] - 25
        self.advantages = torch.randn(rows, 1).expand(rows, tokens).contiguous()
        self.advantages[:, 0] = -1.0
        self.mask = torch.arange(tokens) < torch.randint(2, tokens + 1, (rows, 1))
        self.mask[5] = False
        self.weights = torch.rand(rows, tokens) * 2

    def loss(
        self, function: PolicyLoss, config: ActorConfig, mode: str = "token-mean", weights: bool = False
    ) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor]:
        """(loss, metrics, gradient by the new log-probs)."""
        new = self.new.clone().requires_grad_()
        loss, metrics = function(
            old_log_prob=self.old,
            log_prob=new,
            advantages=self.advantages,
            response_mask=self.mask,
            loss_agg_mode=mode,
            config=config,
            rollout_is_weights=self.weights if weights else None,
        )
        loss.backward()
        assert new.grad is not None
        return loss.detach(), metrics, new.grad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("dual_clip", [3.0, 1.2])
@pytest.mark.parametrize("fixed_denominators", [False, True])
def test_vanilla_bit_for_bit(mode: str, weights: bool, dual_clip: float, fixed_denominators: bool) -> None:
    rows = Rows()
    config = actor_config(clip_ratio_c=dual_clip)
    if fixed_denominators:
        config.global_batch_info.update(dp_size=2, batch_num_tokens=70, global_batch_size=12)
    ours, our_metrics, our_gradient = rows.loss(agpo_policy_loss, config, mode, weights)
    theirs, their_metrics, their_gradient = rows.loss(compute_policy_loss_vanilla, config, mode, weights)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-6, atol=1e-8)
    assert our_gradient.abs().max() > 0
    for name, value in their_metrics.items():
        assert our_metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert our_metrics["actor/pg_clipfrac"] > 0 and our_metrics["actor/pg_clipfrac_lower"] > 0


def test_unset_sides_fall_back_on_clip_ratio() -> None:
    config = actor_config(clip_ratio=0.15, clip_ratio_low=None, clip_ratio_high=None)
    rows = Rows()
    assert torch.equal(rows.loss(agpo_policy_loss, config)[0], rows.loss(compute_policy_loss_vanilla, config)[0])


@pytest.mark.parametrize("base", BASE_LOSSES)
def test_a_clip_ratio_per_row_is_each_rows_own_loss_of_verl(base: str) -> None:
    rows = Rows(seed=1)
    low = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 0.1])
    high = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.05, 0.1])
    config = actor_config()
    object.__setattr__(config, "clip_ratio_low", low.unsqueeze(-1))
    object.__setattr__(config, "clip_ratio_high", high.unsqueeze(-1))
    object.__setattr__(config, BASE_LOSS, base)
    together, metrics, gradient = rows.loss(agpo_policy_loss, config, "token-sum")
    total = torch.zeros(())
    for i in range(6):
        one = Rows(seed=1)
        one.mask &= torch.arange(6).unsqueeze(-1) == i
        scalar = actor_config(clip_ratio_low=float(low[i]), clip_ratio_high=float(high[i]))
        loss, _, row_gradient = one.loss(get_policy_loss_fn(base), scalar, "token-sum")
        torch.testing.assert_close(gradient[i], row_gradient[i], rtol=1e-6, atol=1e-8)
        total = total + loss
    torch.testing.assert_close(together, total, rtol=1e-5, atol=1e-6)
    alike = actor_config()
    object.__setattr__(alike, BASE_LOSS, base)
    assert together != rows.loss(agpo_policy_loss, alike, "token-sum")[0]
    assert metrics[f"{METRIC_PREFIX}tokens"] == int(rows.mask.sum()), "the drift is measured with every loss"


@pytest.mark.parametrize("base", BASE_LOSSES)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.startswith("seq-mean")])
def test_row_weights_take_invalid_rows_out_of_the_fixed_denominator(mode: str, base: str) -> None:
    """6 rows, 2 of them without a reward: the same loss as a batch of the other 4."""
    rows = Rows()
    rows.mask[4] = False  # row 5 is empty already
    config = actor_config()
    config.global_batch_info.update(dp_size=1, batch_num_tokens=None, global_batch_size=6)
    object.__setattr__(config, ROW_WEIGHT, torch.full((6,), 6 / 4))
    object.__setattr__(config, BASE_LOSS, base)
    weighted, _, _ = rows.loss(agpo_policy_loss, config, mode)

    four = Rows()
    for name in ("old", "new", "advantages", "mask", "weights"):
        setattr(four, name, getattr(four, name)[:4])
    alone = actor_config()
    alone.global_batch_info.update(dp_size=1, batch_num_tokens=None, global_batch_size=4)
    expected, _, _ = four.loss(get_policy_loss_fn(base), alone, mode)
    torch.testing.assert_close(weighted, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [ROW_WEIGHT, GROUP_WEIGHT])
@pytest.mark.parametrize("base", BASE_LOSSES)
def test_a_weight_scales_the_gradient_of_its_row(base: str, name: str) -> None:
    rows, config = Rows(), actor_config()
    object.__setattr__(config, BASE_LOSS, base)
    plain = rows.loss(agpo_policy_loss, config, "token-sum")[2]
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 1.0, 1.0])
    object.__setattr__(config, name, weights)
    torch.testing.assert_close(rows.loss(agpo_policy_loss, config, "token-sum")[2], plain * weights.unsqueeze(1))


def test_token_sums_and_a_non_finite_log_prob() -> None:
    rows, config = Rows(), actor_config()
    counted = int(rows.mask.sum())
    _, clean, _ = rows.loss(agpo_policy_loss, config)
    assert clean[f"{METRIC_PREFIX}tokens"] == counted
    assert clean[f"{METRIC_PREFIX}nonfinite_tokens"] == 0
    log_ratio = (rows.new - rows.old).clamp(-20, 20)[rows.mask]
    assert clean[f"{METRIC_PREFIX}kl_sum"] == pytest.approx(-float(log_ratio.sum()), rel=1e-5)
    k3 = float((log_ratio.exp() - 1 - log_ratio).sum())
    assert clean[f"{METRIC_PREFIX}kl_k3_sum"] == pytest.approx(k3, rel=1e-5)
    clipped = clean[f"{METRIC_PREFIX}clip_low_tokens"] + clean[f"{METRIC_PREFIX}clip_high_tokens"]
    assert clipped == pytest.approx(clean["actor/pg_clipfrac"] * counted, rel=1e-5)

    rows.new[2, 0] = float("nan")
    loss, metrics, gradient = rows.loss(agpo_policy_loss, config)
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())
    assert gradient[2, 0] == 0
    assert metrics[f"{METRIC_PREFIX}tokens"] == counted - 1
    assert metrics[f"{METRIC_PREFIX}nonfinite_tokens"] == 1


# ---- through verl's ppo_loss -------------------------------------------------------------------------


class MicroBatch:
    """What verl's FSDP engine hands to a loss function: nested columns, log-probs over prompt and response."""

    lengths = [(2, 3), (3, 5), (1, 4), (2, 2)]

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        prompts = [p for p, _ in self.lengths]
        self.responses = [r for _, r in self.lengths]
        self.columns = {
            "prompts": nested([torch.ones(p, dtype=torch.int64) for p in prompts]),
            "responses": nested([torch.ones(r, dtype=torch.int64) for r in self.responses]),
            "response_mask": nested([torch.ones(r, dtype=torch.int64) for r in self.responses]),
            "old_log_probs": nested([-torch.rand(r) for r in self.responses]),
            "ref_log_prob": nested([-torch.rand(r) for r in self.responses]),
            "advantages": nested([torch.randn(1).expand(r).clone() for r in self.responses]),
        }
        total = sum(p + r for p, r in self.lengths)
        self.values = -torch.rand(total)
        self.entropy = nested_like(torch.rand(total), self.lengths)

    def data(self, **columns: torch.Tensor) -> TensorDict:
        data = TensorDict(self.columns | columns, batch_size=len(self.lengths))
        tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(self.responses), global_batch_size=len(self.lengths))
        return data

    def run(
        self, function: PolicyLoss, config: ActorConfig, **columns: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, Any], torch.Tensor]:
        """(loss, metrics, gradient by the model's log-probs)."""
        values = self.values.clone().requires_grad_()
        output = {"log_probs": nested_like(values, self.lengths), "entropy": self.entropy}
        loss, metrics = function(config=config, model_output=output, data=self.data(**columns))
        loss.backward()
        assert values.grad is not None
        return loss.detach().clone(), metrics, values.grad


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def nested_like(values: torch.Tensor, lengths: list[tuple[int, int]]) -> torch.Tensor:
    offsets = torch.tensor([0, *(p + r for p, r in lengths)]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(values, offsets=offsets)


def clip_columns(low: list[float], high: list[float]) -> dict[str, torch.Tensor]:
    return {
        CLIP_LOW: torch.tensor(low),
        CLIP_HIGH: torch.tensor(high),
        ROW_WEIGHT: torch.ones(len(low)),
    }


FULL = {"use_kl_loss": True, "kl_loss_coef": 0.1, "entropy_coeff": 0.05}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extras", [{}, FULL])
def test_through_ppo_loss_with_equal_columns_it_is_verls_loss(mode: str, extras: dict[str, Any]) -> None:
    """0.1 and 0.28 as columns or as verl's numbers: the same loss, KL loss and entropy bonus."""
    batch = MicroBatch()
    columns = clip_columns([0.1] * 4, [0.28] * 4)
    ours, metrics, gradient = batch.run(actor_loss, actor_config(loss_agg_mode=mode, **extras), **columns)
    theirs, their_metrics, their_gradient = batch.run(ppo_loss, actor_config("vanilla", loss_agg_mode=mode, **extras))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-7)
    assert set(their_metrics) <= set(metrics)
    assert ("kl_loss" in metrics) == bool(extras)


def test_preset_grpo_keeps_verls_own_loss_in_the_workers() -> None:
    from recipe.agpo.training.trainer import AGPOMixin

    class Settings(AGPOMixin):
        def __init__(self, agpo: AGPOConfig) -> None:
            self.agpo = agpo

    assert not Settings(AGPOConfig.from_preset("grpo"))._own_loss
    assert Settings(AGPOConfig())._own_loss


def test_the_columns_reach_the_loss() -> None:
    batch = MicroBatch()
    wide = batch.run(actor_loss, actor_config(), **clip_columns([0.4] * 4, [0.4] * 4))
    tight = batch.run(actor_loss, actor_config(), **clip_columns([0.05] * 4, [0.05] * 4))
    first = batch.run(actor_loss, actor_config(), **clip_columns([0.05, 0.4, 0.4, 0.4], [0.05, 0.4, 0.4, 0.4]))
    split = sum(MicroBatch.lengths[0])
    assert not torch.equal(wide[2], tight[2])
    assert torch.equal(first[2][:split], tight[2][:split])
    assert torch.equal(first[2][split:], wide[2][split:])


def test_the_config_is_not_changed_and_the_columns_do_not_stay() -> None:
    batch, config = MicroBatch(), actor_config()
    before = batch.run(actor_loss, config)[0]
    batch.run(actor_loss, config, **clip_columns([0.05] * 4, [0.05] * 4))
    assert (config.clip_ratio_low, config.clip_ratio_high, hasattr(config, ROW_WEIGHT)) == (0.1, 0.28, False)
    assert torch.equal(batch.run(actor_loss, config)[0], before)


def test_our_sums_add_up_over_micro_batches_and_verls_stay_as_they_are() -> None:
    from verl.utils.metric import AggregationType

    _, metrics, _ = MicroBatch().run(actor_loss, actor_config(), **clip_columns([0.1] * 4, [0.28] * 4))
    tokens = metrics[f"{METRIC_PREFIX}tokens"]
    assert tokens.aggregation is AggregationType.SUM and tokens.aggregate() == sum(MicroBatch().responses)
    assert metrics["actor/ppo_kl"].aggregation is AggregationType.MEAN


@pytest.mark.parametrize("base", ["vanilla", "gspo"])
def test_a_micro_batch_is_read_from_the_device_once(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read of a scalar makes a GPU wait for itself; verl's own loss has three of them, which stay in gspo."""
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            reads.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    config = actor_config(loss_agg_mode="seq-mean-token-mean")
    for name, value in ((BASE_LOSS, base), (ROW_WEIGHT, torch.full((2,), 2.0)), (GROUP_WEIGHT, torch.ones(2))):
        object.__setattr__(config, name, value)
    new, old, mask = -torch.rand(2, 3), -torch.rand(2, 3), torch.ones(2, 3)
    _, metrics = agpo_policy_loss(old, new, torch.ones(2, 3), mask, "seq-mean-token-mean", config)
    assert reads.count("tolist") == 1
    assert set(reads) == ({"tolist"} if base == "vanilla" else {"tolist", "item"})
    assert metrics[f"{METRIC_PREFIX}tokens"] == 6.0 and metrics[f"{METRIC_PREFIX}adaptive_rows"] == 2.0


def test_verls_other_losses_run_unchanged_through_actor_loss() -> None:
    """Preset grpo with another loss mode: without columns exactly verl."""
    batch = MicroBatch()
    ours, _, _ = batch.run(actor_loss, actor_config("gspo", loss_agg_mode="seq-mean-token-mean"))
    theirs, _, _ = batch.run(ppo_loss, actor_config("gspo", loss_agg_mode="seq-mean-token-mean"))
    assert torch.equal(ours, theirs)


# ---- the adaptive loss of whole groups -----------------------------------------------------------------


class Engine:
    """What ``before_update`` asks of verl's engines: micro-batches passed to a loss function, here on one rank."""

    def __init__(self, batch: MicroBatch, size: int) -> None:
        self.batch, self.size = batch, size

    def get_data_parallel_group(self) -> None:
        return None

    def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool) -> None:
        assert forward_only
        log_probs = nested_like(self.batch.values, self.batch.lengths).unbind()
        for start in range(0, len(data), self.size):
            rows = list(range(start, start + self.size))
            part = tu.index_select_tensor_dict(data, torch.tensor(rows))
            loss_function(model_output={"log_probs": nested([log_probs[i] for i in rows])}, data=part)


@pytest.mark.parametrize("form", ["floor", "exp"])
def test_groups_split_over_micro_batches_get_the_weights_of_whole_groups(form: str) -> None:
    batch = MicroBatch()
    # A group whose loss is a little above 0, and one of two right answers, far below the floor.
    for row, advantage in zip(batch.columns["advantages"].unbind(), (-0.01, 1.0, 1.0, 0.0), strict=True):
        row.fill_(advantage)
    loss = ActorLoss(actor_config(), LossConfig(adaptive=form, floor=0.05))
    seen = []
    for size in (1, 2, 4):
        data = batch.data(**{GROUP: torch.tensor([0, 1, 1, -1])})
        loss.before_update(Engine(batch, size), data)
        seen.append(data[GROUP_WEIGHT])
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[2])
    assert seen[0][1] == seen[0][2] != seen[0][0] and seen[0][3] == 1.0


def test_updates_stop_when_the_rows_so_far_have_drifted_too_far() -> None:
    """The mean over the micro-batches of one update, against ten times the target; anew for every update."""
    batch = MicroBatch()
    loss = ActorLoss(actor_config(), step_size=StepSizeConfig(drift_target=0.01))

    def micro_batch() -> dict[str, Any]:
        return batch.run(lambda config, **arguments: loss(**arguments), loss.config)[1]

    assert not loss.stops(None, 0.5, 1.0), "nothing was measured"
    metrics = micro_batch()
    micro_batch()
    k3, tokens = (metrics[f"{METRIC_PREFIX}{name}"].aggregate() for name in ("kl_k3_sum", "tokens"))
    entropy = k3 / tokens / 0.1  # at which the drift is ten times the target
    assert loss.stops(None, 0.99 * entropy, 1.0) and not loss.stops(None, 1.01 * entropy, 1.0)
    assert loss.stops(None, 2.0 * entropy, 0.5), "half of the rate, a quarter of the drift"
    loss.before_update(None, batch.data())
    assert not loss.stops(None, 0.99 * entropy, 1.0)


@pytest.mark.parametrize(("size", "taken"), [(1, [0]), (2, [0, 2]), (4, [0, 1, 2, 3])])
def test_the_drift_after_the_only_update_is_measured_on_some_rows(
    size: int, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.agpo.training.actor_loss.MEASURED_ROWS", 1)
    batch = MicroBatch()
    data = batch.data()
    tu.assign_non_tensor(data, use_dynamic_bsz=False, micro_batch_size_per_gpu=size)
    rows = nested_like(batch.values, batch.lengths).unbind()

    class OfTheseRows(Engine):
        def forward_backward_batch(self, data: TensorDict, loss_function: Any, forward_only: bool) -> None:
            assert forward_only and data["responses"].offsets().diff().tolist() == [batch.responses[i] for i in taken]
            loss_function(model_output={"log_probs": nested([rows[i] for i in taken])}, data=data)

    sums = ActorLoss(actor_config()).after_update(OfTheseRows(batch, size), data)
    k3 = 0.0
    for i in taken:
        prompt, response = batch.lengths[i]
        # log-probs of the response are those of the positions before its tokens
        ratio = rows[i][prompt - 1 : prompt + response - 1] - batch.columns["old_log_probs"].unbind()[i]
        k3 += float((ratio.exp() - 1 - ratio).sum())
    assert sums["after_tokens"] == sum(batch.responses[i] for i in taken)
    assert sums["after_kl_k3_sum"] == pytest.approx(k3, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "micro", "taken"), [(16, 1, [0, 8]), (16, 4, [0, 4, 8, 12]), (3, 1, [0, 1]), (8, 8, list(range(8)))]
)
def test_the_measured_rows_are_spread_and_fill_micro_batches(rows: int, micro: int, taken: list[int]) -> None:
    data = tu.get_tensordict({"row": torch.arange(rows)}, {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": micro})
    assert rows_of(data, 1 / 8, 2)["row"].tolist() == taken


def test_without_an_adaptive_loss_nothing_is_passed_forward() -> None:
    batch = MicroBatch()
    data = batch.data(**{GROUP: torch.tensor([0, 0, 1, 1])})
    ActorLoss(actor_config()).before_update(None, data)
    assert GROUP_WEIGHT not in data.keys()


def test_floored_groups_are_counted() -> None:
    columns = clip_columns([0.1] * 4, [0.28] * 4) | {GROUP_WEIGHT: torch.tensor([0.0, 0.0, 1.0, 0.5])}
    _, metrics, gradient = MicroBatch().run(actor_loss, actor_config(), **columns)
    sums = {
        name: metrics[f"{METRIC_PREFIX}{name}"].aggregate()
        for name in ("adaptive_rows", "adaptive_weight_sum", "floored_rows")
    }
    assert sums == {"adaptive_rows": 4.0, "adaptive_weight_sum": 1.5, "floored_rows": 2.0}
    assert not gradient[: sum(MicroBatch.lengths[0]) + sum(MicroBatch.lengths[1])].any()
