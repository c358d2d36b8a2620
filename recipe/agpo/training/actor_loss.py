# SPDX-License-Identifier: Apache-2.0
"""The loss that runs in verl's actor workers: verl's own ``ppo_loss`` with per-response clip ratios.

verl's ``ppo_loss`` reads ``clip_ratio_low`` and ``clip_ratio_high`` from its config. It gets a copy in which they are
``[B, 1]`` tensors; KL loss, entropy bonus, dual clip, every aggregation mode and rollout correction remain verl's code.
The registered policy loss ``agpo`` is ``agpo_core.clipped_surrogate``: the same value as verl's ``vanilla``, with the
clip fraction per side, the step KL and a rule for non-finite tokens. verl's ``gspo`` and ``cispo`` accept these tensors
unchanged; for them only our sums are added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict

from agpo_core import (
    LossConfig,
    StepSizeConfig,
    SurrogateOutput,
    adaptive_weights,
    clipped_surrogate,
    group_losses,
    stops_updates,
)
from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW, GROUP, GROUP_WEIGHT, ROW_WEIGHT
from recipe.agpo.verl_api import losses
from recipe.agpo.verl_api.configs import as_dataclass
from recipe.agpo.verl_api.updates import rows_of

BASE_LOSSES = ("vanilla", "gspo", "cispo")
BASE_LOSS = "agpo_base_loss"
METRIC_PREFIX = "actor/agpo/"
MEASURED_SHARE, MEASURED_ROWS = 1 / 8, 32  # of a rank's rows of a batch with one update, scored again after it


def actor_loss_config(config: Any) -> Any:
    """The actor config for our loss: the policy loss is ours, and ``agpo_base_loss`` keeps the configured one."""
    actor = OmegaConf.create(OmegaConf.to_container(config.actor_rollout_ref.actor, resolve=True))
    base = actor.policy_loss.get("loss_mode", "vanilla")
    if base in BASE_LOSSES:
        with open_dict(actor):
            actor.policy_loss.loss_mode = "agpo"
    made = as_dataclass(actor)
    if base in BASE_LOSSES and base != "vanilla":
        # ActorConfig freezes its fields; this is the worker's own copy.
        object.__setattr__(made, BASE_LOSS, base)
    return made


@dataclass(frozen=True)
class ActorLoss:
    """verl's ``ppo_loss`` with the columns of the batch; what verl's actor workers call.

    Attributes:
        config: verl's ``ActorConfig``; not changed.
        adaptive: the adaptive loss of whole groups.
        step_size: the adaptive step size, for which an update is left out if the policy has drifted too far.
    """

    config: Any
    adaptive: LossConfig = LossConfig()
    step_size: StepSizeConfig = StepSizeConfig(enabled=False)
    metric_prefix: str = METRIC_PREFIX
    _drift: list[float] = field(default_factory=lambda: [0.0, 0.0], repr=False, compare=False)  # k3, tokens

    def __call__(self, model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
        """Loss and metrics of one micro-batch, as ``ppo_loss``; without the columns below, exactly its result.

        Args:
            model_output: what the engine computed, with ``log_probs``.
            data: micro-batch of B rows; any of the columns ``agpo_clip_low`` and ``agpo_clip_high`` (together),
                ``agpo_row_weight``, ``agpo_group_weight``, all ``[B]``.
            dp_group: data-parallel group, passed on.
        """
        loss, metrics = losses.ppo_loss(
            config=self._with_columns(data), model_output=model_output, data=data, dp_group=dp_group
        )
        if self.step_size.enabled:
            for place, name in enumerate(("kl_k3_sum", "tokens")):
                measured = metrics.get(f"{METRIC_PREFIX}{name}")  # not there in a loss that is distillation alone
                self._drift[place] += 0.0 if measured is None else sum(measured.values)
        return loss, _with_sums(metrics)

    def stops(self, engine: Any, entropy: float | None, schedule: float) -> bool:
        """Whether the update whose gradient has just been computed is left out; all ranks of the actor agree."""
        # Over all ranks, because pipeline stages without the loss must decide alike. Ranks that share rows repeat them
        # in both sums.
        sums = torch.tensor(self._drift, dtype=torch.float64)
        _all_reduce(sums, _world())
        k3, tokens = sums.tolist()
        return tokens > 0 and stops_updates(k3 / tokens, entropy, self.step_size, schedule)

    def after_update(self, engine: Any, data: Any) -> dict[str, float]:
        """Sums of this rank's drift after the only update of a batch: a forward pass over some of its rows."""
        sums = torch.zeros(2, dtype=torch.float64)

        def collect(model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
            out = self._surrogate(model_output, data)[0]
            tokens = out.mask.sum()
            sums.add_(torch.stack([out.step_kl_k3.double() * tokens, tokens.double()]).to(sums.device))
            return torch.zeros(()), {}

        engine.forward_backward_batch(rows_of(data, MEASURED_SHARE, MEASURED_ROWS), collect, forward_only=True)
        return dict(zip(("after_kl_k3_sum", "after_tokens"), sums.tolist(), strict=True))

    def before_update(self, engine: Any, data: Any) -> None:
        """Give the rows of a mini-batch the weights of their groups in the adaptive loss.

        A group may be spread over several micro-batches and ranks. A forward pass without gradients over all of them
        first sums the loss of each group. The update then uses the weights computed from these sums, so its gradient
        equals that of an unsplit batch.
        """
        self._drift[:] = [0.0, 0.0]
        if self.adaptive.adaptive == "none" or GROUP not in data.keys():
            return
        # Prompts are numbered through the step; ranks agree on the largest number.
        groups = data[GROUP].max().reshape(1) + 1
        parallel = engine.get_data_parallel_group()
        _all_reduce(groups, parallel, maximum=True)
        sums = torch.zeros(int(groups), 2, dtype=torch.float64)

        def collect(model_output: Any, data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
            sums.add_(self._group_losses(model_output, data, len(sums)).to(sums.device))
            return torch.zeros(()), {}

        engine.forward_backward_batch(data, collect, forward_only=True)
        _all_reduce(sums, parallel)
        weights = adaptive_weights(sums, self.adaptive.adaptive, self.adaptive.floor)
        group = data[GROUP].cpu()
        per_row = torch.where(group >= 0, weights[group.clamp(min=0)], torch.ones(len(group), dtype=torch.float64))
        data[GROUP_WEIGHT] = per_row.float().to(data[GROUP].device)

    def _with_columns(self, data: Any) -> Any:
        wanted = [name for name in (CLIP_LOW, ROW_WEIGHT, GROUP_WEIGHT) if name in data.keys()]
        if not wanted:
            return self.config
        config = copy.copy(self.config)
        # ActorConfig freezes its fields; this copy lives for one micro-batch only.
        if CLIP_LOW in wanted:
            object.__setattr__(config, "clip_ratio_low", data[CLIP_LOW].unsqueeze(-1))
            object.__setattr__(config, "clip_ratio_high", data[CLIP_HIGH].unsqueeze(-1))
        for name in (ROW_WEIGHT, GROUP_WEIGHT):
            if name in wanted:
                object.__setattr__(config, name, data[name])
        return config

    def _group_losses(self, model_output: Any, data: Any, groups: int) -> torch.Tensor:
        """Numerators and denominators of the groups' policy losses over one micro-batch, ``[groups, 2]``."""
        out, config = self._surrogate(model_output, data)
        return group_losses(out.loss_BT, out.mask, data[GROUP], groups, config.loss_agg_mode)

    def _surrogate(self, model_output: Any, data: Any) -> tuple[SurrogateOutput, Any]:
        """The clipped surrogate of a micro-batch, and verl's config with the batch's columns."""
        config = self._with_columns(data)
        log_prob = losses.no_padding_2_padding(model_output["log_probs"], data)
        rows = data.select("response_mask", "old_log_probs", "advantages").to_padded_tensor()
        low, high = _clip_ratios(config)
        out = clipped_surrogate(
            log_prob,
            rows["old_log_probs"],
            rows["advantages"],
            rows["response_mask"].bool(),
            low,
            high,
            dual_clip=config.get("clip_ratio_c", 3.0),
        )
        return out, config


def agpo_policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Policy loss ``agpo`` for verl's registry; signature and shapes as verl's ``vanilla``.

    ``config.clip_ratio_low`` / ``clip_ratio_high`` may be numbers or ``[B, 1]`` tensors. ``agpo_row_weight`` ``[B]``
    removes rows from the denominator and weighs prompts equally (``agpo_core.weights``), ``agpo_group_weight`` ``[B]``
    gives the adaptive loss. Both multiply the advantages, because each of these losses is proportional to them.
    ``agpo_base_loss`` selects another loss of ``BASE_LOSSES``.
    """
    group_weight = getattr(config, GROUP_WEIGHT, None)
    for weight in (getattr(config, ROW_WEIGHT, None), group_weight):
        if weight is not None:  # a weight of 1 changes no bit
            advantages = advantages * weight.unsqueeze(-1).to(advantages.dtype)
    low, high = _clip_ratios(config)
    out = clipped_surrogate(
        log_prob,
        old_log_prob,
        advantages,
        response_mask,
        low,
        high,
        dual_clip=config.get("clip_ratio_c", 3.0),
        weights=rollout_is_weights,
    )
    tokens = out.mask.sum()
    sums = {
        "tokens": tokens,
        "kl_sum": out.step_kl * tokens,
        "kl_k3_sum": out.step_kl_k3 * tokens,
        "nonfinite_tokens": out.nonfinite_tokens,
        "informative_tokens": (out.mask.bool() & (advantages != 0)).sum(),
    }
    if group_weight is not None:
        sums["adaptive_weight_sum"] = group_weight.sum()
        sums["floored_rows"] = (group_weight == 0).sum()
    base = getattr(config, BASE_LOSS, "vanilla")
    if base != "vanilla":
        # These losses clip differently, so only verl's clip fraction describes them.
        loss, metrics = losses.get_policy_loss_fn(base)(
            old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
        )
        own = {}
    else:
        loss = losses.agg_loss(
            loss_mat=out.loss_BT, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info
        )
        metrics = {}
        own = {
            "actor/pg_clipfrac": out.clip_fraction_low + out.clip_fraction_high,
            "actor/ppo_kl": out.step_kl,
            "actor/pg_clipfrac_lower": out.dual_clip_fraction,
        }
        sums["clip_low_tokens"] = out.clip_fraction_low * tokens
        sums["clip_high_tokens"] = out.clip_fraction_high * tokens
    read = _to_numbers(own | {f"{METRIC_PREFIX}{name}": value for name, value in sums.items()})
    if group_weight is not None:
        read[f"{METRIC_PREFIX}adaptive_rows"] = float(len(group_weight))
    return loss, metrics | read


def _to_numbers(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Copy scalars from the device in one transfer: each `.item()` would synchronise the GPU."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


def _clip_ratios(config: Any) -> tuple[Any, Any]:
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return low, high


def _world() -> Any:
    from torch import distributed

    return distributed.group.WORLD if distributed.is_initialized() else None


def _all_reduce(values: torch.Tensor, group: Any, maximum: bool = False) -> None:
    """Sum or maximum over the data-parallel ranks, in place; does nothing without a process group."""
    from torch import distributed

    if not distributed.is_initialized() or group is None:
        return
    if distributed.get_backend(group) == "nccl":
        on_gpu = values.cuda()
        distributed.all_reduce(on_gpu, distributed.ReduceOp.MAX if maximum else distributed.ReduceOp.SUM, group=group)
        values.copy_(on_gpu)
    else:
        distributed.all_reduce(values, distributed.ReduceOp.MAX if maximum else distributed.ReduceOp.SUM, group=group)


def _with_sums(metrics: dict[str, Any]) -> dict[str, Any]:
    """Our token counts and sums add up over micro-batches; verl would average them."""
    for key, value in metrics.items():
        if key.startswith(METRIC_PREFIX):
            metrics[key] = losses.summed(value.values)
    return metrics
