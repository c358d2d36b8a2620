# SPDX-License-Identifier: Apache-2.0
"""From verl's composed config to ``AGPOConfig``: everything of ours lives under ``algorithm.agpo``."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from agpo_core import AGPOConfig, Resolved, resolve

ESTIMATOR = "agpo"


def is_agpo(config: DictConfig) -> bool:
    """Whether this run asked for AGPO (``algorithm.adv_estimator=agpo``)."""
    return str(OmegaConf.select(config, "algorithm.adv_estimator")) == ESTIMATOR


def keeps_ledger(config: DictConfig) -> bool:
    """Whether we count tokens: AGPO runs, and runs of any estimator that have a section ``algorithm.agpo``."""
    return is_agpo(config) or OmegaConf.select(config, "algorithm.agpo") is not None


def agpo_config(config: DictConfig) -> AGPOConfig:
    """The ``algorithm.agpo`` section as a validated ``AGPOConfig``; defaults when it is absent.

    Raises:
        ValueError: unknown key (with the nearest match), wrong type or value out of range.
    """
    node = OmegaConf.select(config, "algorithm.agpo")
    values: dict[str, Any] = {} if node is None else OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return AGPOConfig.from_dict(_without_nulls(values))


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
    )


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Drop keys that are null: in our YAML null means "what the preset says"."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = _without_nulls(value)
            if not value:
                continue
        if value is not None:
            kept[key] = value
    return kept
