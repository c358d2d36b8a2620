# SPDX-License-Identifier: Apache-2.0
"""Settings of verl that a part of AGPO cannot work with: what AGPO does instead, and fixes that fit the command."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.agpo.settings import KEY_PREFIX, RunConfig, agpo_config, is_agpo

ACTOR = "actor_rollout_ref.actor"
CORRECTION = "algorithm.rollout_correction"


@dataclass(frozen=True)
class Fallback:
    """Settings that differ from what was asked for.

    Attributes:
        title: the cause in a few words.
        reason: the setting that cannot be followed, and what would follow it.
        changes: key -> value that the run uses.
    """

    title: str
    reason: str
    changes: dict[str, Any]

    def __str__(self) -> str:
        used = " ".join(f"{key}={value}" for key, value in self.changes.items())
        return f"{self.reason} This run uses {used}."


def one_update(config: DictConfig) -> bool:
    """Whether a batch is one optimiser update."""
    actor = config.actor_rollout_ref.actor
    return int(actor.ppo_mini_batch_size) >= int(config.data.train_batch_size) and int(actor.ppo_epochs) == 1


def fallbacks(config: DictConfig, agpo: RunConfig) -> Iterator[Fallback]:
    """What this run does instead of settings that cannot be followed."""
    actor = config.actor_rollout_ref.actor
    if agpo.step_size.enabled and one_update(config):
        yield Fallback(
            "one update per batch",
            f"{ACTOR}.ppo_mini_batch_size={actor.ppo_mini_batch_size} covers the whole batch (data.train_batch_size="
            f"{config.data.train_batch_size}): the adaptive step size is not tuned for one update per batch "
            f"(docs/evidence.md). Use two updates or more, for example {ACTOR}.ppo_epochs=2.",
            {f"{KEY_PREFIX}.step_size.enabled": False},
        )
    fused = bool(config.actor_rollout_ref.model.get("use_fused_kernels", False))
    if fused and agpo.logprob_temperature == "own" and agpo.temperature.enabled:
        yield _one_temperature(config)


def _one_temperature(config: DictConfig) -> Fallback:
    """The learner scores at one temperature. Fused kernels are kept: without them the run needs more memory."""
    reason = (
        "actor_rollout_ref.model.use_fused_kernels=True: verl's fused kernels take one temperature for the whole "
        "batch, so the learner cannot score each response at its own."
    )
    correction = OmegaConf.select(config, CORRECTION) or {}
    others = [
        f"{CORRECTION}.{key}={correction[key]}"
        for key, fitting in (("bypass_mode", (None, False)), ("rollout_is", (None, "token")), ("rollout_rs", (None,)))
        if correction.get(key) not in fitting
    ]
    if others:
        # Another temperature would look like a drift of the policy: the ratio of whole responses far from 1.
        return Fallback(
            "fused kernels, with other corrections",
            f"{reason} Importance weights per token would correct that, but {' and '.join(others)} compares sampler "
            "and learner in another way.",
            {f"{KEY_PREFIX}.temperature.enabled": False},
        )
    return Fallback(
        "fused kernels",
        f"{reason} It scores at the rollout's temperature, and importance weights correct the difference.",
        {
            f"{KEY_PREFIX}.logprob_temperature": "corrected",
            f"{CORRECTION}.rollout_is": "token",
            "actor_rollout_ref.rollout.calculate_log_probs": True,
        },
    )


def use_fallbacks(config: DictConfig) -> None:
    """Write the fallbacks into the config, which every process of the run reads."""
    found = list(fallbacks(config, agpo_config(config))) if is_agpo(config) else []
    with open_dict(config):
        for fallback in found:
            for key, value in fallback.changes.items():
                OmegaConf.update(config, key, value, force_add=True)


def with_fallbacks(config: DictConfig) -> DictConfig:
    """The config with the settings that the run will use; a copy if they differ from those asked for."""
    if not is_agpo(config) or not any(fallbacks(config, agpo_config(config))):
        return config
    config = copy.deepcopy(config)
    use_fallbacks(config)
    return config


_ASSIGNMENT = re.compile(r"(?<![\w.+~/-])([a-z_]\w*(?:\.\w+)+)(?==)")
_ADVICE = re.compile(r"\b[Ss]et ")


def pasteable(problem: str, config: DictConfig) -> str:
    """The problem with a ``+`` before each key of its fix that this command's config does not have.

    Hydra takes a key that is not in the config only with it: verl's own config has no section ``algorithm.agpo``.
    """
    advice = _ADVICE.search(problem)
    if advice is None:
        return problem
    before, after = problem[: advice.start()], problem[advice.start() :]
    return before + _ASSIGNMENT.sub(lambda match: _plus(match[1], config) + match[1], after)


def _plus(key: str, config: DictConfig) -> str:
    node: Any = config
    path = key.split(".")
    if path[0] not in config:
        return ""
    for name in path:
        if not isinstance(node, DictConfig) or name not in node:
            return "+"
        node = OmegaConf.select(node, name, throw_on_resolution_failure=False)
    return ""
