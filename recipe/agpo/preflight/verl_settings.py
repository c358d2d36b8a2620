# SPDX-License-Identifier: Apache-2.0
"""Settings of verl and AGPO that cannot work together or have no effect."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.preflight.algorithm import one_update
from recipe.agpo.preflight.words import nearest
from recipe.agpo.rollout import MANAGER, OLD_MANAGER
from recipe.agpo.settings import RunConfig, is_agpo, resolved
from recipe.agpo.training.actor_loss import BASE_LOSSES
from recipe.agpo.verl_api.actor_weights import STRATEGY
from recipe.agpo.verl_api.version import VERL_VERSION

CLIP_AWARE_LOSSES = (*BASE_LOSSES, "agpo", "bypass_mode")
TRAINER_MODES = ("sync", "colocate_async", "separate_async")


def versions(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    version = importlib.metadata.version("verl")
    if version != VERL_VERSION:
        yield (
            f"verl {version} is installed; recipe/agpo/verl_api names the internals of verl {VERL_VERSION}, "
            f"and only that version is tested. Install it with: pip install verl=={VERL_VERSION}"
        )


def trainer(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    if not config.trainer.use_v1:
        yield "trainer.use_v1=False: AGPO works with verl's V1 trainer. Set trainer.use_v1=True."
    mode = config.trainer.v1.trainer_mode
    if mode not in TRAINER_MODES:
        yield (
            f"trainer.v1.trainer_mode={mode}: AGPO has not been run in it (only in {' or '.join(TRAINER_MODES)}). Set "
            f"trainer.v1.trainer_mode={nearest(mode, TRAINER_MODES) or 'sync'}."
        )
    if config.reward.reward_model.enable and not config.reward.reward_model.enable_resource_pool:
        yield (
            "reward.reward_model.enable=True without a resource pool: rewards then come after the rollout, and the "
            "probe needs them during it. Set reward.reward_model.enable_resource_pool=True and "
            "reward.reward_model.nnodes=1 (GPUs of its own), or reward.reward_model.enable=False and use a reward "
            "function."
        )
    groups = config.algorithm.get("filter_groups", None)
    if groups is not None and groups.enable and groups.metric == "reward" and agpo.outcome_key is not None:
        yield (
            f"algorithm.filter_groups.metric=reward filters on shaped rewards, while AGPO compares groups by "
            f"{agpo.outcome_key!r}. Set algorithm.filter_groups.metric={agpo.outcome_key}."
        )


def separate(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Conditions of verl's ``separate_async`` that verl itself checks only after Ray and the data are loaded."""
    if config.trainer.v1.trainer_mode != "separate_async":
        return
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    syncs = int(config.trainer.v1.separate_async.parameter_sync_step)
    batch, mini = int(config.data.train_batch_size), int(actor.ppo_mini_batch_size)
    if batch != syncs * mini:
        yield (
            f"data.train_batch_size={batch}: separate_async trains one mini-batch at a time, "
            f"trainer.v1.separate_async.parameter_sync_step={syncs} of them a step. Set "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={max(1, batch // syncs)} and data.train_batch_size="
            f"{max(1, batch // syncs) * syncs}."
        )
    if int(rollout.nnodes) < 1 or int(rollout.n_gpus_per_node) < 1:
        yield (
            f"actor_rollout_ref.rollout.nnodes={rollout.nnodes}, actor_rollout_ref.rollout.n_gpus_per_node="
            f"{rollout.n_gpus_per_node}: separate_async needs separate GPUs for the rollout, at least 1 of both. Set "
            f"actor_rollout_ref.rollout.nnodes={max(1, int(rollout.nnodes))} and "
            f"actor_rollout_ref.rollout.n_gpus_per_node={max(1, int(rollout.n_gpus_per_node))}; trainer.nnodes and "
            "trainer.n_gpus_per_node then count what is left for training."
        )
    if rollout.checkpoint_engine.backend == "naive":
        yield (
            "actor_rollout_ref.rollout.checkpoint_engine.backend=naive: it passes weights within one GPU, and "
            "separate_async keeps learner and rollout apart. Set "
            "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl."
        )
    level = os.environ.get("VERL_LOGGING_LEVEL", "INFO")
    if not config.actor_rollout_ref.hybrid_engine and level in ("INFO", "DEBUG"):
        yield (
            f"actor_rollout_ref.hybrid_engine=False: verl {VERL_VERSION} stops at a faulty log line of its own then. "
            "Start it with the environment variable VERL_LOGGING_LEVEL=WARNING. Or: Set "
            "actor_rollout_ref.hybrid_engine=True."
        )


def schedule(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    if agpo.lr_schedule == "tokens" and agpo.token_budget is None:
        yield (
            "algorithm.agpo.lr_schedule=tokens: there is no budget to measure against. Set "
            "algorithm.agpo.lr_schedule=steps, or algorithm.agpo.token_budget to a number of tokens."
        )


def average(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    strategy = config.actor_rollout_ref.actor.strategy
    if agpo.average.enabled and strategy != STRATEGY:
        yield (
            f"algorithm.agpo.average.enabled=true with actor_rollout_ref.actor.strategy={strategy}: the average is "
            f"kept beside the shards of {STRATEGY}. Set actor_rollout_ref.actor.strategy={STRATEGY}, or "
            "algorithm.agpo.average.enabled=false and average saved checkpoints with `agpo average`."
        )


def rollout(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    rollout = config.actor_rollout_ref.rollout
    small, cold = agpo.adaptive and int(rollout.n) < 2, not float(rollout.temperature) > 0
    if small:
        yield (
            f"actor_rollout_ref.rollout.n={rollout.n}: a group needs at least 2 responses to have a dispersion. "
            "Set actor_rollout_ref.rollout.n=8, or algorithm.agpo.preset=grpo."
        )
    if cold:
        yield (
            f"actor_rollout_ref.rollout.temperature={rollout.temperature}: must be > 0. Set "
            "actor_rollout_ref.rollout.temperature=1.0."
        )
    if not small and not cold:
        try:
            resolved(config, agpo)
        except ValueError as error:
            yield with_prefix(str(error))
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if manager not in (None, MANAGER, OLD_MANAGER):
        yield (
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={manager}: AGPO needs its own manager for "
            f"the probe. Leave the key out: Set actor_rollout_ref.rollout.agent.agent_loop_manager_class=null."
        )


def scoring(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    if agpo.logprob_temperature == "corrected":
        level = OmegaConf.select(config, "algorithm.rollout_correction.rollout_is")
        if level is None:
            yield (
                "algorithm.agpo.logprob_temperature=corrected needs verl's importance weights. Set "
                "algorithm.rollout_correction.rollout_is=token, or algorithm.agpo.logprob_temperature=own."
            )
        if not config.actor_rollout_ref.rollout.calculate_log_probs:
            yield (
                "algorithm.agpo.logprob_temperature=corrected needs the sampler's log-probabilities. Set "
                "actor_rollout_ref.rollout.calculate_log_probs=True."
            )


def megatron(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron" and OmegaConf.select(actor, "megatron.dynamic_context_parallel", default=False):
        yield (
            "actor_rollout_ref.actor.megatron.dynamic_context_parallel=True: whether AGPO's columns survive its "
            "scheduling of rows has not been reviewed. Set "
            "actor_rollout_ref.actor.megatron.dynamic_context_parallel=False."
        )


def loss(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """The loss takes a clip ratio per response, and measures the step KL for the step size."""
    mode = config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla")
    clip = agpo.clip.enabled and mode not in CLIP_AWARE_LOSSES
    drift = agpo.step_size.enabled and mode not in (*BASE_LOSSES, "agpo")
    off = " and ".join(
        f"algorithm.agpo.{name}.enabled=false" for name, on in (("clip", clip), ("step_size", drift)) if on
    )
    distils = OmegaConf.select(config, "distillation.enabled", default=False)
    parts = (("clip", agpo.clip.enabled), ("step_size", agpo.step_size.enabled))
    if distils and (agpo.clip.enabled or agpo.step_size.enabled or agpo.weighs_rows):
        keys = [f"algorithm.agpo.{name}.enabled=false" for name, on in parts if on]
        keys += ["algorithm.agpo.advantage.zero_variance=keep"] if agpo.masks_groups else []
        keys += ["algorithm.agpo.loss.adaptive=none"] if agpo.loss.adaptive != "none" else []
        keys += ["algorithm.agpo.allocation.enabled=false"] if agpo.allocation.enabled else []
        yield (
            "distillation.enabled=True: verl trains with the distillation's loss, which takes neither a clip ratio nor "
            f"a weight per response and measures no drift. Set {' and '.join(keys)}, or distillation.enabled=False."
        )
    elif off:
        what = " and ".join(
            words
            for words, on in (
                ("has not been tested with a clip ratio per response", clip),
                ("does not measure the drift that the step size needs", drift),
            )
            if on
        )
        yield (
            f"actor_rollout_ref.actor.policy_loss.loss_mode={mode} {what}. Set {off}, or "
            f"actor_rollout_ref.actor.policy_loss.loss_mode=vanilla (also known: {', '.join(BASE_LOSSES[1:])})."
        )


def groups(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Settings of groups, loss and allocation that contradict each other or verl's."""
    actor = config.actor_rollout_ref.actor
    mode = actor.policy_loss.get("loss_mode", "vanilla")
    filtered = config.algorithm.get("filter_groups", None)
    filters = filtered is not None and filtered.enable
    rule = agpo.advantage.zero_variance
    if agpo.masks_groups and actor.loss_agg_mode == "token-sum":
        yield (
            f"algorithm.agpo.advantage.zero_variance={rule} with actor_rollout_ref.actor.loss_agg_mode=token-sum: a "
            "sum has no denominator to leave groups out of. Set algorithm.agpo.advantage.zero_variance=keep, or "
            "actor_rollout_ref.actor.loss_agg_mode=token-mean."
        )
    if agpo.weighs_rows and mode == "bypass_mode":
        yield (
            "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode: verl's loss for it takes no weights per "
            "response, which zero_variance=mask, an adaptive loss and weighting=prompts need. Set "
            "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla."
        )
    if agpo.loss.adaptive != "none" and mode not in ("vanilla", "agpo", "bypass_mode"):
        yield (
            f"algorithm.agpo.loss.adaptive={agpo.loss.adaptive} with actor_rollout_ref.actor.policy_loss.loss_mode="
            f"{mode}: the loss of a group is defined on vanilla's. Set "
            "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla, or algorithm.agpo.loss.adaptive=none."
        )
    if not agpo.allocation.enabled:
        return
    if filters:
        yield (
            "algorithm.agpo.allocation.enabled=true with algorithm.filter_groups.enable=True: both spend the step's "
            "responses again, and filtered groups are asked for one by one. Set "
            "algorithm.agpo.allocation.enabled=false, or algorithm.filter_groups.enable=False."
        )
    if config.reward.reward_model.enable:
        yield (
            "algorithm.agpo.allocation.enabled=true with reward.reward_model.enable=True: a reward model is given "
            "groups of rollout.n responses. Set algorithm.agpo.allocation.enabled=false."
        )


def pointless(config: DictConfig, agpo: RunConfig) -> list[str]:
    """Settings with which a part of AGPO has no effect."""
    actor = config.actor_rollout_ref.actor
    found = []
    mode = config.trainer.v1.trainer_mode
    if agpo.average.enabled and agpo.average.validate and mode != "sync":
        found.append(
            f"algorithm.agpo.average.validate=true with trainer.v1.trainer_mode={mode}: the rollout goes on during "
            "validation, so validation uses the raw weights; evaluate checkpoints with `agpo eval` for the average."
        )
    if not is_agpo(config):
        if agpo.fingerprint() != RunConfig().fingerprint():
            found.append(
                f"algorithm.adv_estimator={config.algorithm.adv_estimator}: of algorithm.agpo only token_budget, "
                "lr_schedule and average have an effect. Set algorithm.adv_estimator=agpo if the controllers are "
                "wanted."
            )
        return found
    if agpo.clip.enabled and one_update(config):
        found.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} covers the whole batch "
            f"(data.train_batch_size={config.data.train_batch_size}): with one update per batch every importance "
            "ratio is 1 and a clip ratio has no effect. Set actor_rollout_ref.actor.ppo_epochs=2, or "
            "ppo_mini_batch_size to half of the batch or less."
        )
    if actor.strategy == "megatron":
        found.append(
            "actor_rollout_ref.actor.strategy=megatron: AGPO has been run with FSDP2 only so far. Compare the first "
            "steps with actor_rollout_ref.actor.strategy=fsdp2 before you trust it."
        )
    filtered = config.algorithm.get("filter_groups", None)
    if filtered is not None and filtered.enable and agpo.advantage.zero_variance != "keep":
        found.append(
            f"algorithm.agpo.advantage.zero_variance={agpo.advantage.zero_variance} with "
            "algorithm.filter_groups.enable=True: dynamic sampling drops these groups. Set zero_variance=keep, or "
            "filter_groups.enable=False."
        )
    if agpo.logprob_temperature == "uncorrected" and agpo.temperature.enabled:
        found.append(
            "algorithm.agpo.logprob_temperature=uncorrected: responses are sampled at their own temperature and scored "
            "at another one, as in the public code. Use own or corrected for a consistent gradient."
        )
    return found


def with_prefix(message: str) -> str:
    return message if "algorithm.agpo" in message else f"algorithm.agpo: {message}"
