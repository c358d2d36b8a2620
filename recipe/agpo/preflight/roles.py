# SPDX-License-Identifier: Apache-2.0
"""The models of a run, and how verl's engines split each of them over the GPUs."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.plan.estimate import KNOWN, has_critic
from recipe.agpo.verl_api.names import STRATEGIES

ACTOR, REF, CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic"
MODEL, CRITIC_MODEL = "actor_rollout_ref.model", "critic.model"
CRITIC_TOKENS = 32768  # verl's default of a key that is not in its YAML


@dataclass(frozen=True)
class Size:
    """One parallel size: its key and its value."""

    key: str
    value: int


@dataclass(frozen=True)
class Role:
    """A model that is trained, or scored by.

    Attributes:
        key: its section.
        model: section of its model.
        engine: group of verl's configuration: dp, megatron, torchtitan or veomni.
        gpus: over which it is split.
        splits: the sizes whose product is the GPUs of one replica.
        sequence: key and size by which verl multiplies the token budget of a GPU.
        experts: sizes whose product must also divide the GPUs (Megatron's layout of experts).
    """

    key: str
    model: str
    engine: str
    gpus: int
    splits: tuple[Size, ...]
    sequence: Size | None = None
    experts: tuple[Size, ...] = ()

    @property
    def replica(self) -> int:
        """GPUs of one replica."""
        return product(self.splits)

    @property
    def ranks(self) -> int:
        """Data-parallel size; 1 at least, so that other sums can go on after a misfit."""
        return max(1, self.gpus // self.replica)

    @property
    def stretch(self) -> int:
        return self.sequence.value if self.sequence else 1


def product(sizes: tuple[Size, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size.value
    return total


def gpus(config: DictConfig) -> int:
    """GPUs of the trainer."""
    return int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)


def has_reference(config: DictConfig) -> bool:
    """Whether a reference policy of its own is loaded; with a LoRA the actor without it serves as one."""
    wanted = OmegaConf.select(config, f"{ACTOR}.use_kl_loss") or OmegaConf.select(config, "algorithm.use_kl_in_reward")
    model = config.actor_rollout_ref.model
    rank = (OmegaConf.select(model, "lora.rank") or 0) or (model.get("lora_rank") or 0)
    return bool(wanted) and not rank > 0 and model.get("lora_adapter_path") is None


def roles(config: DictConfig) -> list[Role]:
    """Actor, reference and critic, as far as the run has them and their engine is known."""
    found = [_role(config, ACTOR, MODEL)]
    if has_reference(config):
        found.append(_role(config, REF, MODEL))
    if has_critic(config):
        found.append(_role(config, CRITIC, CRITIC_MODEL))
    return [role for role in found if role is not None]


def actor(config: DictConfig) -> Role | None:
    return _role(config, ACTOR, MODEL)


def _role(config: DictConfig, key: str, model: str) -> Role | None:
    node = OmegaConf.select(config, key)
    strategy = str(node.get("strategy"))
    engine = STRATEGIES.get(strategy, "")
    section = {"dp": "fsdp" if key == CRITIC else "fsdp_config"}.get(engine, engine)
    settings = node.get(section)
    if not isinstance(settings, DictConfig) or strategy == "fsdp_turbo":  # its sizes are in a section of its own
        return None

    def size(name: str, place: str = f"{key}.{section}") -> Size:
        value = OmegaConf.select(config, f"{place}.{name}")
        return Size(f"{place}.{name}", 1 if value is None else int(value))

    everything = gpus(config)
    if engine == "megatron":
        tensor, pipeline = size("tensor_model_parallel_size"), size("pipeline_model_parallel_size")
        context, expert = size("context_parallel_size"), size("expert_model_parallel_size")
        of_experts = size("expert_tensor_parallel_size")
        if settings.get("expert_tensor_parallel_size") is None:
            of_experts = Size(tensor.key, tensor.value)
        experts = (pipeline, expert, of_experts) if expert.value > 1 else ()
        return Role(key, model, engine, everything, (tensor, pipeline, context), context, experts)
    if engine == "torchtitan":
        names = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
        return Role(key, model, engine, everything, tuple(size(name) for name in names), size(names[0]))
    if engine == "veomni":
        ulysses = size("ulysses_parallel_size")
        return Role(key, model, engine, everything, (ulysses,), ulysses)
    ulysses = size("ulysses_sequence_parallel_size")
    if key != CRITIC and node.get("ulysses_sequence_parallel_size") is not None:
        # The old key wins where it is above 1. verl does not read the critic's.
        old = size("ulysses_sequence_parallel_size", key)
        ulysses = old if old.value > 1 else ulysses
    return Role(key, model, engine, everything, (ulysses,), ulysses)


@functools.lru_cache(maxsize=32)
def _read(path: str, changed: float) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    text = values.get("text_config")
    return values | text if isinstance(text, dict) else values


def model_values(config: DictConfig, section: str) -> dict[str, Any]:
    """``config.json`` of a local model, or the shape of a known one; empty if it is not known here."""
    path = str(OmegaConf.select(config, f"{section}.path"))
    if path in KNOWN:
        shape = KNOWN[path]
        return {
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "num_hidden_layers": shape.layers,
        }
    file = Path(os.path.expanduser(path)) / "config.json"
    values = dict(_read(str(file), file.stat().st_mtime)) if file.is_file() else {}
    override = OmegaConf.select(config, f"{section}.override_config")
    return values | (dict(override) if isinstance(override, DictConfig) else {})


def whole(values: dict[str, Any], name: str) -> int | None:
    """A positive whole number of a model's configuration."""
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
