# SPDX-License-Identifier: Apache-2.0
"""One screen with what a run will do and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig

from agpo_core import AGPOConfig, initial_step_size
from recipe.agpo.plan import estimate
from recipe.agpo.settings import agpo_config, is_agpo, keeps_ledger, resolved

WIDTH = 14


def lines(config: DictConfig, gpu_gib: float, speed: float | None = None) -> Iterator[str]:
    """The plan as plain text, line by line."""
    return plain(rows(config, gpu_gib, speed))


def plain(table: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Rows of a plan as plain text."""
    for name, text in table:
        yield f"{name:<{WIDTH + 2}}{text}"


def rows(config: DictConfig, gpu_gib: float, speed: float | None = None) -> Iterator[tuple[str, str]]:
    """The plan: names and what there is to say. ``speed``: generated tokens per second and GPU, for GPU-hours."""
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
    if keeps_ledger(config) and agpo_config(config).average.enabled:
        yield ("average", _average(agpo_config(config)))
    yield ("run", _length(config, cost))
    budget: Any = agpo_config(config).token_budget if keeps_ledger(config) else None
    run = estimate.length(config, cost, budget)
    yield ("tokens", _tokens(run))
    yield ("time", _hours(run, gpus, speed))
    if shape:
        need = estimate.memory(config, shape, gpu_gib)
        fits = "fits" if max(need.train, need.rollout) <= gpu_gib else f"does NOT fit into {gpu_gib:g}"
        yield (
            "memory, update",
            f"{need.train:.0f} GiB per GPU: weights {need.weights:g}, gradients {need.gradients:g}, optimiser "
            f"{need.optimiser:g}, {f'average {need.average:g}, ' if need.average else ''}activations "
            f"{need.activations:g}, logits {need.logits:g}{_critic(need)} ({fits})",
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


def overfull(config: DictConfig, gpu_gib: float) -> str | None:
    """The problem of a run that does not fit its GPUs; None if it fits, or if the model's shape is not known here."""
    shape = estimate.shape_of(config)
    if shape is None:
        return None
    need = estimate.memory(config, shape, gpu_gib)
    if max(need.train, need.rollout) <= gpu_gib:
        return None
    actor = "actor_rollout_ref.actor"
    ways = [
        "GPUs of more memory (--gpu-gb)",
        f"more of them (trainer.nnodes, trainer.n_gpus_per_node, now {config.trainer.nnodes} x "
        f"{config.trainer.n_gpus_per_node})",
    ]
    if need.train > gpu_gib:
        ways.append(f"shorter micro-batches ({actor}.ppo_max_token_len_per_gpu or ppo_micro_batch_size_per_gpu)")
    if need.rollout > gpu_gib:
        ways.append("a smaller actor_rollout_ref.rollout.gpu_memory_utilization")
    section = "megatron" if config.actor_rollout_ref.actor.strategy == "megatron" else "fsdp_config"
    ways.append(f"{actor}.{section}.optimizer_offload=True")
    if need.critic_train:
        section = "megatron" if config.critic.strategy == "megatron" else "fsdp"
        ways.append(f"critic.{section}.optimizer_offload=True")
    return (
        f"memory: an update needs {need.train:.0f} GiB per GPU and generation {need.rollout:.0f}, and --gpu-gb is "
        f"{gpu_gib:g}. What helps: {'; '.join(ways)}."
    )


def _critic(need: estimate.Memory) -> str:
    if not need.critic_train:
        return ""
    return f", critic {need.critic:g} beside it; {need.critic_train:.0f} in an update of the critic"


def _tokens(run: estimate.Length) -> str:
    if run.steps is None:
        return "the number of steps depends on data.train_files, which is not here: agpo data prepare makes it"
    assert run.generated is not None and run.read is not None
    text = f"{run.steps:,} steps: at most {run.generated:,} generated and {run.read:,} read in updates"
    if not run.validations:
        return f"{text}; no validation"
    each = "unknown here" if run.validation_tokens is None else f"at most {run.validation_tokens:,} generated"
    return f"{text}; {run.validations} validation(s), {each}"


def _hours(run: estimate.Length, gpus: int, speed: float | None) -> str:
    if run.generated is None:
        return "unknown, as the number of steps"
    if speed is None:
        return "say how fast it is for GPU-hours: --tokens-per-second-per-gpu N"
    total = run.generated + (run.validation_tokens or 0)
    hours = total / speed / 3600
    return (
        f"at most {hours:,.1f} GPU-hours, {hours / gpus:,.1f} h on {gpus} GPU(s), at {speed:g} generated tokens per "
        "second and GPU"
    )


def _method(config: DictConfig) -> str:
    name = str(config.algorithm.adv_estimator)
    if not is_agpo(config):
        note = ", tokens counted" if keeps_ledger(config) else ""
        return f"{name} of verl (critic)" + note if name == "gae" else f"{name} of verl, no controller{note}"
    agpo = agpo_config(config)
    bounds = f"adapts in [{agpo.temperature.min:g}, {agpo.temperature.max:g}]"
    temperature = bounds if agpo.temperature.enabled else "is fixed"
    clip = "adapts" if agpo.clip.enabled else "is fixed"
    size = "is the learning rate's"
    if agpo.step_size.enabled:
        rate = float(config.actor_rollout_ref.actor.optim.lr)
        first = rate * initial_step_size(agpo.step_size, rate).scale
        size = f"starts at a learning rate of {first:g} and aims at a drift of {agpo.step_size.drift_target:g}"
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


def _average(agpo: AGPOConfig) -> str:
    average = agpo.average
    horizon = f", about the last {average.horizon} updates" if average.horizon else ""
    return f"of the weights, gamma {average.gamma:g}{horizon}; {'validated and ' if average.validate else ''}saved"


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
