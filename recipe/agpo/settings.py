# SPDX-License-Identifier: Apache-2.0
"""Read ``RunConfig`` from verl's composed config. All keys of AGPO are under ``algorithm.agpo``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from agpo_core import AGPOConfig, Resolved, resolve
from agpo_core.schema import option

if TYPE_CHECKING:  # `agpo config` prints the settings where torch is installed and nothing else
    from omegaconf import DictConfig

ESTIMATOR = "agpo"
KEY_PREFIX = "algorithm.agpo"


@dataclass(frozen=True)
class RunConfig(AGPOConfig):
    """The method's settings, and those of its run in verl."""

    not_deciding: ClassVar[tuple[str, ...]] = (
        *AGPOConfig.not_deciding,
        "reward_timeout_s",
        "decisions_file",
        "dump_steps",
        "dump_responses",
        "on_config_change",
        "token_budget",
        "lr_schedule",
    )

    reward_timeout_s: float = option(60.0, "Longest wait for the outcome of one probe response, in seconds.", gt=0.0)
    outcome_key: str | None = option(
        None, "Key of the verifier's outcome in the reward function's result. auto: the first known key that is there."
    )
    vote_key: str | None = option(
        None, "Key of the answer's vote key in the reward function's result. auto: the first known key that is there."
    )
    token_budget: int | None = option(
        None,
        "End the run after the step in which this many tokens have been generated for training, probes included. "
        "Works with every estimator. auto: no budget, the run ends where verl ends it.",
        ge=1,
    )
    lr_schedule: Literal["steps", "tokens"] = option(
        "steps",
        "What the learning-rate schedule counts. tokens: its progress is generated tokens / token_budget instead of "
        "steps / total steps, so that runs with the same budget follow the same schedule.",
    )
    decisions_file: bool = option(True, "Write a file with the decisions on each prompt.")
    dump_steps: int | None = option(
        None,
        "Newest steps whose files are kept in trainer.rollout_data_dir and trainer.validation_data_dir; older ones are "
        "deleted. auto: every step's, as in verl.",
        ge=1,
    )
    dump_responses: int | None = option(
        None, "Responses in each of these files, whole groups first. auto: every response, as in verl.", ge=1
    )
    on_config_change: Literal["refuse", "keep", "reset"] = option(
        "refuse",
        "What to do on resuming from a checkpoint of other settings: refuse, keep its controller state, or reset the "
        "state.",
    )


def is_agpo(config: DictConfig) -> bool:
    """Whether this run asked for AGPO (``algorithm.adv_estimator=agpo``)."""
    from omegaconf import OmegaConf

    return str(OmegaConf.select(config, "algorithm.adv_estimator")) == ESTIMATOR


def keeps_ledger(config: DictConfig) -> bool:
    """Whether tokens are counted: in AGPO runs, and in runs of any estimator with a section ``algorithm.agpo``."""
    from omegaconf import OmegaConf

    return is_agpo(config) or OmegaConf.select(config, "algorithm.agpo") is not None


def agpo_config(config: DictConfig) -> RunConfig:
    """The ``algorithm.agpo`` section as a validated ``RunConfig``; defaults when it is absent.

    Raises:
        ValueError: unknown key (with the nearest match), wrong type or value out of range.
    """
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, "algorithm.agpo")
    if node is not None and not OmegaConf.is_dict(node):
        raise ValueError(
            f"{KEY_PREFIX}={node}: this is a section; set its keys one by one, for example {KEY_PREFIX}.preset=agpo"
        )
    values: dict[str, Any] = {} if node is None else OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return RunConfig.from_dict(values, prefix=KEY_PREFIX)


def resolved(config: DictConfig, agpo: AGPOConfig) -> Resolved:
    """The settings that AGPO takes from verl's own keys (temperature, clip ratios, group size)."""
    rollout = config.actor_rollout_ref.rollout
    low, high = _clip_ratios(config, agpo.clip.enabled and agpo.clip.base is None)
    return resolve(
        agpo,
        temperature=float(rollout.temperature),
        clip_low=low,
        clip_high=high,
        group_size=int(rollout.n),
        prefix=KEY_PREFIX,
    )


def _clip_ratios(config: DictConfig, checked: bool) -> tuple[float, float]:
    """verl's lower and upper clip ratio; messages name the key that the value comes from."""
    actor = config.actor_rollout_ref.actor
    keys = ["clip_ratio" if actor.get(key) is None else key for key in ("clip_ratio_low", "clip_ratio_high")]
    low, high = (float(actor[key]) for key in keys)
    named = [f"actor_rollout_ref.actor.{key}" for key in keys]
    off = f"{KEY_PREFIX}.clip.enabled=false"
    if checked:
        for key, value in zip(named, (low, high), strict=True):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{key}={value}: AGPO adapts a clip ratio above 0. Set {key}=0.2, or {off}.")
        if high < low < 1.0:
            raise ValueError(
                f"{named[0]}={low} is above {named[1]}={high}. Set actor_rollout_ref.actor.clip_ratio_low={high}, or "
                f"{off}."
            )
    return low, high
