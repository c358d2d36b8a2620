# SPDX-License-Identifier: Apache-2.0
"""Read ``RunConfig`` from verl's composed config. All keys of AGPO are under ``algorithm.agpo``."""

from __future__ import annotations

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
    values: dict[str, Any] = {} if node is None else OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return RunConfig.from_dict(values, prefix=KEY_PREFIX)


def resolved(config: DictConfig, agpo: AGPOConfig) -> Resolved:
    """The settings that AGPO takes from verl's own keys (temperature, clip ratios, group size)."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    low = actor.clip_ratio if actor.clip_ratio_low is None else actor.clip_ratio_low
    high = actor.clip_ratio if actor.clip_ratio_high is None else actor.clip_ratio_high
    return resolve(
        agpo,
        temperature=float(rollout.temperature),
        clip_low=float(low),
        clip_high=float(high),
        group_size=int(rollout.n),
        prefix=KEY_PREFIX,
    )
