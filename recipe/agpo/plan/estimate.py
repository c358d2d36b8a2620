# SPDX-License-Identifier: Apache-2.0
"""Memory, tokens and disk of a run, from the shapes in its configuration. Estimates, with their assumptions. [ours]"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.settings import agpo_config, keeps_ledger

GIB = 2**30
VLLM_OVERHEAD_GIB = 3.0  # CUDA graphs, sampler and activations of vLLM beside weights and cache
RESERVE_GIB = 3.0  # CUDA contexts of trainer and vLLM, NCCL buffers


@dataclass(frozen=True)
class Shape:
    """Architecture of a decoder with gated MLP and grouped-query attention."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    norms: int = 2

    @property
    def parameters(self) -> int:
        """Number of weights."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (queries + 2 * keys) + queries * self.hidden
        attention += (queries + 2 * keys) if self.qkv_bias else 0
        layer = attention + 3 * self.hidden * self.intermediate + self.norms * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in bfloat16, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


# From the public config.json of each model.
KNOWN = {
    "Qwen/Qwen2.5-14B": Shape(5120, 48, 40, 8, 128, 13824, 152064, qkv_bias=True),
    "meta-llama/Meta-Llama-3-8B": Shape(4096, 32, 32, 8, 128, 14336, 128256),
    "google/gemma-2-9b": Shape(3584, 42, 16, 8, 256, 14336, 256000, tied=True, norms=4),
}


@dataclass(frozen=True)
class Memory:
    """GiB per GPU. ``train`` is the peak of an update of the actor or the critic, ``rollout`` that of generation; both
    must fit. ``critic`` is what of a critic is on the GPU while the actor is updated; ``critic_train`` the peak of an
    update of the critic, 0 without one."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    vllm_weights: float
    kv_cache: float
    critic: float
    critic_train: float
    train: float
    rollout: float
    cached_tokens: int
    average: float  # of the weights, float32; 0 where it is off or in CPU memory


@dataclass(frozen=True)
class Cost:
    """Of one step and one run. Token figures are upper bounds: every response at its longest."""

    responses: int
    updates: int
    tokens: int
    probe_tokens: int
    discarded_tokens: int
    checkpoint_gib: float
    checkpoints_kept: int


def lora_rank(config: DictConfig) -> int:
    """Rank of the LoRA that is trained, 0 if all weights are; each backend has a key of its own."""
    model = config.actor_rollout_ref.model
    return int(model.get("lora_rank", 0) or 0) or int(model.get("lora", {}).get("rank", 0) or 0)


def shape_of(config: DictConfig) -> Shape | None:
    """Architecture of the actor: a known model, or ``config.json`` of a local folder; None if neither is there."""
    path = str(config.actor_rollout_ref.model.path)
    if path in KNOWN:
        return KNOWN[path]
    file = Path(path).expanduser() / "config.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        heads = int(values["num_attention_heads"])
        return Shape(
            hidden=int(values["hidden_size"]),
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or values["hidden_size"] // heads),
            intermediate=int(values["intermediate_size"]),
            vocabulary=int(values["vocab_size"]),
            tied=bool(values.get("tie_word_embeddings", False)),
            qkv_bias=values.get("model_type") == "qwen2",
            norms=4 if values.get("model_type") == "gemma2" else 2,
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class States:
    """Bytes per GPU of one model's states, and which of them stay there between its own updates."""

    weights: float
    gradients: float
    optimiser: float
    keeps_weights: bool
    keeps_optimiser: bool

    @property
    def whole(self) -> float:
        """During an update of the model."""
        return self.weights + self.gradients + self.optimiser

    @property
    def resting(self) -> float:
        """At any other time: verl offloads what is to be offloaded, and drops the gradients."""
        return self.keeps_weights * self.weights + self.keeps_optimiser * self.optimiser


def _states(node: DictConfig, engine: str, count: int, ranks: int, lora: bool) -> States:
    """States of a model of ``count`` weights; ``engine``: the section of its engine."""
    settings = node.get(engine)
    megatron = node.strategy == "megatron"
    split = _split(settings) if megatron else 1
    if lora:
        weights, gradients, optimiser = 2 * count / (split if megatron else ranks), 0.0, 0.0
    elif megatron:
        weights, gradients, optimiser = 2 * count / split, 4 * count / split, 12 * count / ranks
    else:
        weights, gradients, optimiser = 4 * count / ranks, 4 * count / ranks, 8 * count / ranks
    offload = settings if isinstance(settings, DictConfig) else {}
    return States(weights, gradients, optimiser, not offload.get("param_offload"), not offload.get("optimizer_offload"))


def _split(settings: DictConfig) -> int:
    return int(settings.tensor_model_parallel_size) * int(settings.pipeline_model_parallel_size)


def memory(config: DictConfig, shape: Shape, gpu_gib: float) -> Memory:
    """Memory per GPU of the colocated actor, critic and vLLM.

    Weights, gradients and Adam's two moments in float32, sharded over all ranks (FSDP2; Megatron: weights in bfloat16
    over tensor and pipeline ranks, the rest over all). A LoRA keeps frozen bfloat16 weights; its other state is
    small and not counted. Activations: one bfloat16 hidden state per layer and token of a micro-batch (gradient
    checkpointing) plus one layer recomputed. Logits: bfloat16, float32 and the gradient, of a micro-batch, split
    over tensor ranks; a critic has none. vLLM sleeps during updates. Offloaded states are on the GPU only during an
    update of their own model; the others stay there during generation too. A critic is as large as the actor.
    """
    ref, actor = config.actor_rollout_ref, config.actor_rollout_ref.actor
    ranks = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    count = shape.parameters
    megatron = actor.strategy == "megatron"
    states = _states(actor, "megatron" if megatron else "fsdp_config", count, ranks, bool(lora_rank(config)))
    split = _split(actor.megatron) if megatron else 1
    critic = _critic(config, count, ranks)
    tokens = micro_batch_tokens(config)
    per_token = shape.layers * shape.hidden * 2 + 34 * shape.hidden + 6 * shape.intermediate
    activations, logits = tokens * per_token / max(1, split), tokens * shape.vocabulary * 10 / max(1, split)
    gathered = 2 * 2 * count / shape.layers if actor.strategy != "megatron" else 0.0
    share = float(ref.rollout.gpu_memory_utilization) * gpu_gib * GIB
    vllm_weights = 2 * count / int(ref.rollout.tensor_model_parallel_size)
    cache = max(0.0, share - vllm_weights - VLLM_OVERHEAD_GIB * GIB)
    per_cached = shape.kv_bytes_per_token / int(ref.rollout.tensor_model_parallel_size)
    average = 0.0 if lora_rank(config) or not _on_gpu(config) else 4 * count / ranks
    beside = average + gathered + RESERVE_GIB * GIB
    resting = critic.resting if critic else 0.0
    train = states.whole + resting + activations + logits + beside
    critic_train = 0.0
    if critic:
        rows = critic_tokens(config) * per_token / max(1, split)
        critic_train = critic.whole + states.resting + rows + beside
    return Memory(
        weights=_gib(states.weights),
        gradients=_gib(states.gradients),
        optimiser=_gib(states.optimiser),
        activations=_gib(activations),
        logits=_gib(logits),
        vllm_weights=_gib(vllm_weights),
        kv_cache=_gib(cache),
        critic=_gib(resting),
        critic_train=_gib(critic_train),
        train=_gib(max(train, critic_train)),
        rollout=_gib(states.resting + resting + average + share + RESERVE_GIB * GIB),
        cached_tokens=int(cache / per_cached),
        average=_gib(average),
    )


def _averages(config: DictConfig) -> bool:
    return keeps_ledger(config) and agpo_config(config).average.enabled


def _on_gpu(config: DictConfig) -> bool:
    """Whether an average of the weights takes memory of the GPU."""
    if not _averages(config):
        return False
    return not (agpo_config(config).average.offload or config.actor_rollout_ref.actor.fsdp_config.param_offload)


def has_critic(config: DictConfig) -> bool:
    """As verl decides it."""
    enabled = OmegaConf.select(config, "critic.enable")
    return bool(enabled) if enabled is not None else OmegaConf.select(config, "algorithm.adv_estimator") == "gae"


def _critic(config: DictConfig, count: int, ranks: int) -> States | None:
    if not has_critic(config):
        return None
    engine = "megatron" if config.critic.strategy == "megatron" else "fsdp"
    return _states(config.critic, engine, count, ranks, False)


def _gib(size: float) -> float:
    return round(size / GIB, 2)


def micro_batch_tokens(config: DictConfig) -> int:
    """Tokens of one forward and backward pass on one GPU."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        return int(actor.ppo_max_token_len_per_gpu)
    longest = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    return int(actor.ppo_micro_batch_size_per_gpu or actor.ppo_mini_batch_size) * longest


def critic_tokens(config: DictConfig) -> int:
    """Tokens of one pass of the critic on one GPU: verl fills them by this key, whatever its other keys say."""
    return int(config.critic.get("ppo_infer_max_token_len_per_gpu") or 32768)


def rows_in(files: Any) -> int | None:
    """Rows of parquet files; None where one of them is not here."""
    import pyarrow
    import pyarrow.parquet

    total = 0
    for name in [files] if isinstance(files, str) else list(files or []):
        path = Path(str(name)).expanduser()
        try:
            total += pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except (OSError, pyarrow.ArrowInvalid):
            return None
    return total


@dataclass(frozen=True)
class Length:
    """Of a run. None: it depends on data that are not here. Token figures are upper bounds.

    Attributes:
        steps: training steps.
        generated, read: tokens generated for training, and tokens of prompts and responses in the updates.
        validations: how often the model is validated.
        validation_tokens: generated in all of them.
    """

    steps: int | None
    generated: int | None
    read: int | None
    validations: int | None
    validation_tokens: int | None


def length(config: DictConfig, per_step: Cost, budget: int | None) -> Length:
    """Steps and tokens of a run: up to its steps or epochs, or to its token budget at responses of full length."""
    data, trainer, val = config.data, config.trainer, config.actor_rollout_ref.rollout.val_kwargs
    rows, shown = rows_in(data.train_files), rows_in(data.val_files)
    steps: int | None = None
    if trainer.total_training_steps is not None:
        steps = int(trainer.total_training_steps)
    elif rows is not None:
        steps = rows // int(data.train_batch_size) * int(trainer.total_epochs)
    if budget is not None and per_step.tokens:
        most = -(-budget // per_step.tokens)
        steps = most if steps is None else min(steps, most)
    if steps is None:
        return Length(None, None, None, None, None)
    generated = steps * per_step.tokens
    longest = int(data.max_prompt_length) + int(data.max_response_length)
    trained = per_step.responses - per_step.discarded_tokens // max(1, int(data.max_response_length))
    read = steps * trained * longest * int(config.actor_rollout_ref.actor.ppo_epochs)
    every = int(trainer.test_freq)
    validations = int(bool(trainer.val_before_train)) + (-(-steps // every) if every > 0 else 0)
    each = None if shown is None else shown * int(val.n) * int(data.max_response_length)
    return Length(steps, generated, read, validations, None if each is None else each * validations)


def cost(config: DictConfig, shape: Shape | None, probe_size: int, reuse: bool) -> Cost:
    """Tokens per step, and disk per checkpoint: float32 weights and Adam's moments, of actor and critic, and the
    average of the weights; with a LoRA the frozen bfloat16 weights."""
    ref, data = config.actor_rollout_ref, config.data
    prompts, group, longest = int(data.train_batch_size), int(ref.rollout.n), int(data.max_response_length)
    extra = 0 if reuse else prompts * probe_size
    models = 2 if str(config.algorithm.adv_estimator) == "gae" else 1
    per_weight = models * (2 if lora_rank(config) else 12)
    if _averages(config):  # its file is a whole model
        per_weight += 2 if lora_rank(config) else 4
    size = per_weight * shape.parameters / GIB if shape else 0.0
    keep: Any = config.trainer.max_actor_ckpt_to_keep
    return Cost(
        responses=prompts * group + extra,
        updates=-(-prompts // int(ref.actor.ppo_mini_batch_size)) * int(ref.actor.ppo_epochs),
        tokens=(prompts * group + extra) * longest,
        probe_tokens=prompts * probe_size * longest,
        discarded_tokens=extra * longest,
        checkpoint_gib=round(size, 3),
        checkpoints_kept=int(keep) if keep else 0,
    )
