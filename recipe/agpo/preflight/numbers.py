# SPDX-License-Identifier: Apache-2.0
"""Numbers, switches and sections: nulls, words and values out of range, before anything computes with them."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.agpo.preflight.roles import has_critic
from recipe.agpo.preflight.words import shown
from recipe.agpo.settings import RunConfig
from recipe.agpo.verl_api.names import STRATEGIES

# Sizes above these are slips of the keyboard, and products of them stay exact.
MOST, MOST_TOKENS, MOST_GPUS = 10**6, 10**9, 10**5


@dataclass(frozen=True)
class Rule:
    """What a key accepts.

    Attributes:
        fix: a value for the message; None: verl's default, or the nearest end of the range.
        whole: only whole numbers.
        low, high: ends of the range, included.
        above: a value that must be exceeded.
        optional: null is accepted.
    """

    fix: Any = None
    whole: bool = True
    low: float | None = None
    high: float | None = None
    above: float | None = None
    optional: bool = False

    def expected(self) -> str:
        low, above, high = (None if v is None else f"{v:,}" for v in (self.low, self.above, self.high))
        if low and high:
            span = f" from {low} to {high}"
        elif above:
            span = f" above {above}" + (f" and at most {high}" if high else "")
        else:
            span = f" of at least {low}" if low else f" of at most {high}" if high else ""
        kind = "a whole number" if self.whole else "a finite number"
        return f"must be {kind}{span}{', or null' if self.optional else ''}"

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        if not self.whole and not _finite(value):
            return False
        return not (
            (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
            or (self.above is not None and value <= self.above)
        )

    def fixed(self, value: Any, default: Any) -> Any:
        """A value to paste: the same number without a fraction of 0, else the default or an end of the range."""
        if isinstance(value, float) and self.whole and value.is_integer() and self.accepts(int(value)):
            return int(value)
        candidates = [self.fix, default, self.low, self.high]
        return next((c for c in candidates if c is not None and self.accepts(c)), "null" if self.optional else 1)


def _finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


_COUNT = Rule(low=1, high=MOST)
_MAYBE_COUNT = Rule(low=1, high=MOST, optional=True)
_MICRO = Rule(fix=1, low=1, high=MOST)
_TOKENS = Rule(low=1, high=MOST_TOKENS)
_ANY_WHOLE = Rule()
_MAYBE_WHOLE = Rule(optional=True)
_ZERO_UP = Rule(low=0, high=MOST)
_SPLIT = Rule(fix=1, low=1, high=MOST_GPUS)
_FINITE = Rule(whole=False)
_POSITIVE = Rule(whole=False, above=0)
_NOT_NEGATIVE = Rule(whole=False, low=0)
_CLIP = Rule(fix=0.2, whole=False, low=0)

BATCH, MINI = "data.train_batch_size", "actor_rollout_ref.actor.ppo_mini_batch_size"
ROLLOUT, ACTOR, REF = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.ref"

RULES: dict[str, Rule] = {
    "data.train_batch_size": _COUNT,
    "data.gen_batch_size": _MAYBE_COUNT,
    "data.val_batch_size": Rule(low=0, high=MOST_TOKENS, optional=True),
    "data.max_prompt_length": _TOKENS,
    "data.max_response_length": _TOKENS,
    "data.train_max_samples": _ANY_WHOLE,
    "data.val_max_samples": _ANY_WHOLE,
    "data.dataloader_num_workers": _ZERO_UP,
    "data.filter_overlong_prompts_workers": Rule(low=0, high=MOST, optional=True),
    "data.seed": _MAYBE_WHOLE,
    "trainer.nnodes": Rule(low=1, high=MOST_GPUS),
    "trainer.n_gpus_per_node": Rule(low=1, high=MOST_GPUS),
    "trainer.total_epochs": Rule(whole=False, above=0, high=MOST_TOKENS),
    "trainer.total_training_steps": Rule(whole=False, low=1, high=MOST_TOKENS, optional=True),
    "trainer.save_freq": _FINITE,
    "trainer.test_freq": _FINITE,
    "trainer.critic_warmup": _FINITE,
    "trainer.log_val_generations": _FINITE,
    "trainer.max_actor_ckpt_to_keep": _MAYBE_WHOLE,
    "trainer.max_critic_ckpt_to_keep": _MAYBE_WHOLE,
    "trainer.v1.separate_async.parameter_sync_step": _COUNT,
    "reward.num_workers": _COUNT,
    "algorithm.gamma": _FINITE,
    "algorithm.lam": _FINITE,
    f"{ROLLOUT}.n": Rule(fix=8, low=1, high=MOST),
    f"{ROLLOUT}.temperature": _NOT_NEGATIVE,
    f"{ROLLOUT}.top_p": Rule(fix=1.0, whole=False, above=0, high=1),
    f"{ROLLOUT}.top_k": Rule(fix=-1, low=-1),
    f"{ROLLOUT}.gpu_memory_utilization": Rule(whole=False, above=0, high=1),
    f"{ROLLOUT}.tensor_model_parallel_size": _SPLIT,
    f"{ROLLOUT}.data_parallel_size": _SPLIT,
    f"{ROLLOUT}.pipeline_model_parallel_size": _SPLIT,
    f"{ROLLOUT}.expert_parallel_size": _SPLIT,
    f"{ROLLOUT}.max_num_seqs": _COUNT,
    f"{ROLLOUT}.max_num_batched_tokens": _TOKENS,
    f"{ROLLOUT}.max_model_len": Rule(low=1, high=MOST_TOKENS, optional=True),
    f"{ROLLOUT}.nnodes": Rule(low=0, high=MOST_GPUS),
    f"{ROLLOUT}.agent.num_workers": _COUNT,
    f"{ROLLOUT}.val_kwargs.n": _COUNT,
    f"{ROLLOUT}.val_kwargs.temperature": _NOT_NEGATIVE,
    f"{ROLLOUT}.val_kwargs.top_p": Rule(fix=1.0, whole=False, above=0, high=1),
    f"{ROLLOUT}.val_kwargs.top_k": Rule(fix=-1, low=-1),
    f"{ACTOR}.ppo_mini_batch_size": _COUNT,
    f"{ACTOR}.ppo_epochs": _COUNT,
    f"{ACTOR}.clip_ratio": _CLIP,
    f"{ACTOR}.clip_ratio_low": Rule(fix=0.2, whole=False, low=0, optional=True),
    f"{ACTOR}.clip_ratio_high": Rule(fix=0.2, whole=False, low=0, optional=True),
    f"{ACTOR}.clip_ratio_c": Rule(fix=3.0, whole=False, above=1),
    f"{ACTOR}.entropy_coeff": _FINITE,
    f"{ACTOR}.kl_loss_coef": _FINITE,
    f"{ACTOR}.ulysses_sequence_parallel_size": _SPLIT,
}
OPTIMISER: dict[str, Rule] = {
    "lr": Rule(fix=1e-6, whole=False, low=0),
    "weight_decay": _NOT_NEGATIVE,
    "lr_warmup_steps": _MAYBE_WHOLE,
    "lr_warmup_steps_ratio": Rule(whole=False, low=0, high=1),
    "clip_grad": _POSITIVE,
    "min_lr_ratio": Rule(whole=False, low=0, optional=True),
}
MEGATRON: dict[str, Rule] = {
    "tensor_model_parallel_size": _SPLIT,
    "pipeline_model_parallel_size": _SPLIT,
    "context_parallel_size": _SPLIT,
    "expert_model_parallel_size": _SPLIT,
    "expert_tensor_parallel_size": Rule(low=1, high=MOST_GPUS, optional=True),
    "virtual_pipeline_model_parallel_size": Rule(low=1, high=MOST_GPUS, optional=True),
}
FSDP: dict[str, Rule] = {"ulysses_sequence_parallel_size": _SPLIT, "fsdp_size": _ANY_WHOLE}
TORCHTITAN: dict[str, Rule] = {
    f"{name}_size": _SPLIT
    for name in (
        "data_parallel_shard",
        "data_parallel_replicate",
        "tensor_parallel",
        "pipeline_parallel",
        "context_parallel",
        "expert_parallel",
    )
}
VEOMNI: dict[str, Rule] = {"ulysses_parallel_size": _SPLIT, "expert_parallel_size": _SPLIT, "fsdp_size": _ANY_WHOLE}
ENGINES = {"fsdp_config": FSDP, "fsdp": FSDP, "megatron": MEGATRON, "torchtitan": TORCHTITAN, "veomni": VEOMNI}

# Subtrees whose keys are other programs', and keys that take a number or a word.
NOT_OURS = (
    "global_profiler",
    "ray_kwargs",
    "transfer_queue",
    "hydra",
    "skip",
    "distillation",
    "algorithm.agpo",
    "algorithm.rollout_correction",
    "reward.reward_model.rollout",
)
NOT_OURS_PARTS = frozenset(
    ("profiler", "engine_kwargs", "override_config", "qat", "mixed_precision", "reshard_after_forward", "turbo_config")
)


def rules(config: DictConfig) -> dict[str, Rule]:
    """Key -> rule, for the parts that this run uses."""
    found = dict(RULES)
    parts = [(ACTOR, True), (REF, False)] + ([("critic", True)] if has_critic(config) else [])
    for prefix, trained in parts:
        for section, engine in ENGINES.items():
            found |= {f"{prefix}.{section}.{name}": rule for name, rule in engine.items()}
        if trained:
            found |= {f"{prefix}.optim.{name}": rule for name, rule in OPTIMISER.items()}
            found |= _sizes(config, prefix, "use_dynamic_bsz", "ppo_micro_batch_size", "ppo_max_token_len_per_gpu")
    reference = OmegaConf.select(config, f"{ACTOR}.use_kl_loss") or OmegaConf.select(
        config, "algorithm.use_kl_in_reward"
    )
    for prefix, used in ((ROLLOUT, True), (REF, bool(reference))):
        if used:
            found |= _sizes(
                config,
                prefix,
                "log_prob_use_dynamic_bsz",
                "log_prob_micro_batch_size",
                "log_prob_max_token_len_per_gpu",
            )
    if has_critic(config):
        found |= {
            "critic.ppo_mini_batch_size": _COUNT,
            "critic.ppo_epochs": _COUNT,
            "critic.cliprange_value": _POSITIVE,
        }
        # Not in verl's YAML; 32,768 where it is left out.
        found["critic.ppo_infer_max_token_len_per_gpu"] = Rule(fix=32768, low=1, high=MOST_TOKENS)
    if OmegaConf.select(config, "trainer.val_only") is True:
        found.pop("trainer.total_epochs")  # it validates and trains for no step
    if OmegaConf.select(config, f"{ACTOR}.use_kl_loss") is not True:
        found.pop(f"{ACTOR}.kl_loss_coef")
    if OmegaConf.select(config, "algorithm.use_kl_in_reward"):
        found["algorithm.kl_ctrl.kl_coef"] = _FINITE
    if OmegaConf.select(config, "trainer.v1.trainer_mode") == "separate_async":
        # The check of this mode says what is needed.
        found.pop(f"{ROLLOUT}.nnodes")
    return found


def _sizes(config: DictConfig, prefix: str, switch: str, rows: str, tokens: str) -> dict[str, Rule]:
    """The size of a micro-batch: in tokens with dynamic batch sizes, else in rows."""
    if OmegaConf.select(config, f"{prefix}.{switch}"):
        return {f"{prefix}.{tokens}": _TOKENS, f"{prefix}.{rows}_per_gpu": _MAYBE_COUNT}
    # verl asks the engine for the size per GPU; the old key for all GPUs together is not read any more.
    return {f"{prefix}.{rows}_per_gpu": _MICRO}


def numbers(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Every number of the run: its type and its range."""
    defaults = _flat(_defaults(_engine(config)))
    known = rules(config)
    for key, rule in known.items():
        there, value = _value(config, key)
        if there and not rule.accepts(value):
            fix = rule.fixed(value, defaults.get(key))
            if key in (BATCH, MINI) and not (isinstance(value, float) and fix == value):
                fix = _fitting(config, key, fix)
            yield f"{key}={shown(value)}: {rule.expected()}. Set {key}={fix}."
    for key, default in defaults.items():
        if key in known or key.startswith(NOT_OURS) or NOT_OURS_PARTS & set(key.split(".")):
            continue
        there, value = _value(config, key)
        if there and (problem := _wrong_type(value, default)):
            yield f"{key}={shown(value)}: {problem}. Set {key}={default}."


def _fitting(config: DictConfig, key: str, default: int) -> int:
    """A batch of two mini-batches, or half of the batch: a size that the other one allows."""
    there, other = _value(config, MINI if key == BATCH else BATCH)
    if not there or not _COUNT.accepts(other):
        return default
    return min(MOST, 2 * other) if key == BATCH else max(1, other // 2)


def sections(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """A word or a number in the place of a whole section of verl's configuration."""

    def walk(default: dict[str, Any], prefix: str) -> Iterator[str]:
        for name, value in default.items():
            key = f"{prefix}{name}"
            if not isinstance(value, dict) or not value or key.startswith(NOT_OURS):
                continue
            there, found = _value(config, key)
            if there and not isinstance(found, DictConfig):
                yield (
                    f"{key}={shown(found)}: this is a section of verl's configuration with the keys "
                    f"{', '.join(list(value)[:4])}, ... Leave {key} out, and set its keys one by one."
                )
            elif there:
                yield from walk(value, f"{key}.")

    yield from walk(_defaults(_engine(config)), "")


def _wrong_type(value: Any, default: Any) -> str | None:
    """What is wrong with a value whose default is a number or a switch."""
    if isinstance(default, bool):
        return "must be True or False" if isinstance(value, str) else None
    if not isinstance(default, int | float) or value is None:
        return None
    if isinstance(value, bool | str | list | dict | DictConfig):
        return "must be a number"
    return None if isinstance(value, int | float) and _finite(value) else "must be a finite number"


def _value(config: DictConfig, key: str) -> tuple[bool, Any]:
    """Whether a key is there with a value of its own, and the value. One that follows from another key has none."""
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(config, parent) if parent else config
        if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_missing(node, name):
            return False, None
        if OmegaConf.is_interpolation(node, name) and not (node[name] is None and _refers_to_sibling(node, name)):
            return False, None
        return True, node[name]
    except OmegaConfBaseException as error:
        # What it refers to is not there.
        return (True, f"{type(error).__name__}") if "nterpolation" in type(error).__name__ else (False, None)


def _refers_to_sibling(node: DictConfig, name: str) -> bool:
    """Whether a value follows from an optional key beside it, as the size per GPU does from the one for all GPUs."""
    return "select:." in str(OmegaConf.to_container(node, resolve=False)[name])  # type: ignore[index,call-overload]


def _engine(config: DictConfig) -> str:
    return STRATEGIES.get(str(OmegaConf.select(config, f"{ACTOR}.strategy")), "dp")


@functools.cache
def _defaults(engine: str) -> dict[str, Any]:
    """verl's own configuration of an engine, as it ships it composed."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        return {}
    name = "" if engine == "dp" else f"{engine}_"
    file = Path(spec.origin).parent / "trainer" / "config" / f"_generated_ppo_{name}trainer.yaml"
    if not file.is_file():
        return {}
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # type: ignore[return-value]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
