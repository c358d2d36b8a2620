# SPDX-License-Identifier: Apache-2.0
"""One screen with what a run will do and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from agpo_core import AGPOConfig
from recipe.agpo.plan import estimate
from recipe.agpo.settings import agpo_config, is_agpo, keeps_ledger, resolved

WIDTH = 14


def lines(config: DictConfig, gpu_gib: float) -> Iterator[str]:
    """The plan as plain text, line by line."""
    for name, text in rows(config, gpu_gib):
        yield f"{name:<{WIDTH + 2}}{text}"


def rows(config: DictConfig, gpu_gib: float) -> Iterator[tuple[str, str]]:
    """The plan: names and what there is to say."""
    ref, data, trainer = config.actor_rollout_ref, config.data, config.trainer
    shape = estimate.shape_of(config)
    yield ("method", _method(config))
    size = f", {shape.parameters / 1e9:.2f} billion weights" if shape else ", shape unknown here: no estimates"
    lora = estimate.lora_rank(config)
    yield ("model", f"{ref.model.path}{size}{f', LoRA of rank {lora}' if lora else ''}")
    gpus = int(trainer.n_gpus_per_node) * int(trainer.nnodes)
    backend = f"{ref.actor.strategy}, vLLM replicas of {ref.rollout.tensor_model_parallel_size} GPU(s)"
    yield ("machine", f"{trainer.nnodes} node(s) x {trainer.n_gpus_per_node} GPU(s) of {gpu_gib:g} GB; {backend}")
    probe, reuse = _probe(config)
    cost = estimate.cost(config, shape, probe, reuse)
    yield (
        "step",
        f"{data.train_batch_size} prompts x {ref.rollout.n} responses = {cost.responses:,} responses, "
        f"{cost.updates} update(s) per batch, at most {cost.tokens:,} generated tokens",
    )
    if is_agpo(config):
        share = "train too" if reuse else f"are discarded: {cost.discarded_tokens:,} tokens per step"
        yield ("probe", f"{probe} of {ref.rollout.n} responses per prompt decide; they {share}")
    if is_agpo(config):
        yield ("groups", _groups(agpo_config(config)))
    yield ("run", _length(config, cost))
    if shape:
        need = estimate.memory(config, shape, gpu_gib)
        fits = "fits" if max(need.train, need.rollout) <= gpu_gib else f"does NOT fit into {gpu_gib:g}"
        yield (
            "memory, update",
            f"{need.train:.0f} GiB per GPU: weights {need.weights:g}, gradients {need.gradients:g}, optimiser "
            f"{need.optimiser:g}, activations {need.activations:g}, logits {need.logits:g} ({fits})",
        )
        longest = int(data.max_prompt_length) + int(data.max_response_length)
        yield (
            "memory, rollout",
            f"{need.rollout:.0f} GiB per GPU: vLLM {ref.rollout.gpu_memory_utilization:g} of it, weights "
            f"{need.vllm_weights:g}, KV cache {need.kv_cache:g} = {need.cached_tokens:,} tokens, "
            f"{need.cached_tokens // longest} responses at their longest",
        )
        kept = f"{cost.checkpoints_kept} kept" if cost.checkpoints_kept else "all kept"
        yield ("checkpoint", f"about {cost.checkpoint_gib:,.0f} GiB every {trainer.save_freq} steps, {kept}")
    yield ("logged", f"{', '.join(trainer.logger)}; checkpoints and decisions in {trainer.default_local_dir}")
    yield ("validation", f"{_files(data.val_files)}, every {trainer.test_freq} steps")
    yield ("assumes", f"{gpus} GPU(s) shared by trainer and vLLM; formulas in recipe/agpo/plan/estimate.py")


def _method(config: DictConfig) -> str:
    name = str(config.algorithm.adv_estimator)
    if not is_agpo(config):
        note = ", tokens counted" if keeps_ledger(config) else ""
        return f"{name} of verl (critic)" + note if name == "gae" else f"{name} of verl, no controller{note}"
    agpo = agpo_config(config)
    bounds = f"adapts in [{agpo.temperature.min:g}, {agpo.temperature.max:g}]"
    temperature = bounds if agpo.temperature.enabled else "is fixed"
    clip = "adapts" if agpo.clip.enabled else "is fixed"
    size = f"aims at a drift of {agpo.step_size.drift_target:g}" if agpo.step_size.enabled else "is the learning rate's"
    return (
        f"agpo, preset {agpo.preset}: temperature {temperature}, clip ratio {clip}, step size {size}, scoring "
        f"{agpo.logprob_temperature}"
    )


def _groups(agpo: AGPOConfig) -> str:
    rule, loss, length = agpo.advantage.zero_variance, agpo.loss, agpo.length.weight
    parts = [f"of equal outcomes: {rule}" + (", gated on outcomes" if agpo.advantage.outcome_gate else "")]
    parts.append(f"adaptive loss {loss.adaptive}" + (f" at {loss.floor:g}" if loss.adaptive != "none" else ""))
    parts.append(f"length reward {length:g}" if length else "no length reward")
    parts.append("sizes follow the probes" if agpo.allocation.enabled else "equal sizes")
    return ", ".join(parts)


def _probe(config: DictConfig) -> tuple[int, bool]:
    if not is_agpo(config):
        return 0, True
    agpo = agpo_config(config)
    if not agpo.adaptive:
        return 0, True
    return resolved(config, agpo).probe_size, agpo.probe.reuse


def _length(config: DictConfig, cost: estimate.Cost) -> str:
    budget: Any = agpo_config(config).token_budget if keeps_ledger(config) else None
    steps = config.trainer.total_training_steps
    limit = f"{steps} steps" if steps else f"{config.trainer.total_epochs} epochs"
    if budget is None:
        return f"{limit}, no token budget"
    return f"ends at {budget:,} generated tokens (at least {-(-budget // cost.tokens):,} steps), or after {limit}"


def _files(files: Any) -> str:
    listed = [files] if isinstance(files, str) else list(files or [])
    return ", ".join(str(file) for file in listed) or "none"
