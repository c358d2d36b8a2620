# SPDX-License-Identifier: Apache-2.0
"""``algorithm.agpo`` in verl's config -> ``RunConfig``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.agpo.settings import RunConfig, agpo_config, is_agpo, resolved


def section(values: dict[str, Any] | None) -> Any:
    algorithm: dict[str, Any] = {"adv_estimator": "agpo"}
    if values is not None:
        algorithm["agpo"] = values
    return OmegaConf.create({"algorithm": algorithm})


def test_a_missing_section_means_the_default_preset() -> None:
    assert agpo_config(section(None)) == RunConfig() == agpo_config(section({}))


def test_null_means_what_the_preset_says_even_where_null_is_a_value() -> None:
    """clip.base can be None; null must not wipe the preset's 0.2, auto does."""
    nulls = {"preset": "reference", "clip": {"base": None, "min": None}, "logprob_temperature": None}
    assert agpo_config(section(nulls)) == RunConfig.from_preset("reference")
    assert agpo_config(section(nulls)).clip.base == 0.2
    assert agpo_config(section({"preset": "reference", "clip": {"base": "auto"}})).clip.base is None


def test_values_and_interpolations_arrive() -> None:
    config = section({"temperature": {"gain": 0.2, "max": "${algorithm.agpo.temperature.gain}"}})
    config.algorithm.agpo.temperature.max = "${half}"
    config.half = 1.3
    settings = agpo_config(config)
    assert (settings.temperature.gain, settings.temperature.max) == (0.2, 1.3)
    assert settings.temperature.min == RunConfig().temperature.min


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": {"gian": 0.2}}, ["algorithm.agpo.temperature.gian", "temperature.gain"]),
        ({"temprature": {"gain": 0.2}}, ["algorithm.agpo.temprature", "temperature"]),
        ({"gain": 0.2}, ["algorithm.agpo.gain", "temperature.gain"]),
        ({"temperature": {"min": 0.0}}, ["algorithm.agpo.temperature.min", "0.0", "> 0"]),
        ({"temperature": {"min": 2.0}}, ["algorithm.agpo.temperature.min=2.0", "max=1.4"]),
        ({"clip": {"max": 1.5}}, ["algorithm.agpo.clip.max=1.5", "< 1"]),
        ({"temperature": {"gain": "0.2"}}, ["algorithm.agpo.temperature.gain='0.2'", "float", "str"]),
        ({"temperature": {"enabled": 1}}, ["algorithm.agpo.temperature.enabled=1", "bool"]),
        ({"logprob_temperature": "owned"}, ["algorithm.agpo.logprob_temperature='owned'", "own"]),
        ({"preset": "agop"}, ["algorithm.agpo.preset='agop'", "agpo"]),
        ({"temperature": 1.0}, ["algorithm.agpo.temperature=1.0", "mapping"]),
    ],
)
def test_bad_values_are_refused_with_key_value_and_fix(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        agpo_config(section(values))
    assert [word for word in words if word not in str(caught.value)] == []


def test_is_agpo_reads_the_estimator(verl_config: Callable[..., Any]) -> None:
    assert is_agpo(section({}))
    assert not is_agpo(verl_config("algorithm.adv_estimator=grpo"))
    assert not is_agpo(OmegaConf.create({}))


def test_resolved_takes_bases_from_verl(good_config: Callable[..., Any]) -> None:
    config = good_config(
        "actor_rollout_ref.actor.clip_ratio_low=0.1",
        "actor_rollout_ref.actor.clip_ratio_high=0.3",
        "actor_rollout_ref.rollout.temperature=0.9",
        "actor_rollout_ref.rollout.n=8",
    )
    settings = resolved(config, agpo_config(config))
    assert (settings.clip_low, settings.clip_high, settings.tau_base) == (0.1, 0.3, 0.9)
    assert (settings.group_size, settings.probe_size) == (8, 4)


def test_resolved_uses_the_symmetric_clip_ratio_where_the_sides_are_null(
    good_config: Callable[..., Any],
) -> None:
    config = good_config("actor_rollout_ref.actor.clip_ratio=0.15")
    config.actor_rollout_ref.actor.clip_ratio_low = None
    config.actor_rollout_ref.actor.clip_ratio_high = None
    settings = resolved(config, agpo_config(config))
    assert (settings.clip_low, settings.clip_high) == (0.15, 0.15)


def test_what_only_a_run_needs_decides_nothing() -> None:
    base = RunConfig().fingerprint()
    run = {"reward_timeout_s": 5.0, "decisions_file": False, "token_budget": 9, "on_config_change": "keep"}
    assert agpo_config(section(run)).fingerprint() == base
    assert agpo_config(section({"outcome_key": "acc"})).fingerprint() != base
