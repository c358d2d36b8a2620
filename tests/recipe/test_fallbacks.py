# SPDX-License-Identifier: Apache-2.0
"""What a run does instead of settings that it cannot follow, and fixes in the words of the command's entry point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.agpo.preflight import before_ray, find_problems, find_warnings
from recipe.agpo.preflight.algorithm import fallbacks, pasteable, with_fallbacks
from recipe.agpo.settings import agpo_config, resolved

Build = Callable[..., Any]
FUSED = "actor_rollout_ref.model.use_fused_kernels=True"
ONCE = "actor_rollout_ref.actor.ppo_mini_batch_size=8"
LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
LOW, HIGH = "actor_rollout_ref.actor.clip_ratio_low", "actor_rollout_ref.actor.clip_ratio_high"


@pytest.fixture(autouse=True)
def no_cpu_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_CPU", raising=False)


def used(config: Any) -> Any:
    return agpo_config(with_fallbacks(config))


def titles(config: Any) -> list[str]:
    return [fallback.title for fallback in fallbacks(config, agpo_config(config))]


def test_a_config_that_can_be_followed_is_followed(good_config: Build) -> None:
    config = good_config()
    assert titles(config) == []
    assert OmegaConf.to_yaml(with_fallbacks(config)) == OmegaConf.to_yaml(config)


def test_one_update_per_batch_runs_without_the_step_size(good_config: Build) -> None:
    config = good_config(ONCE)
    assert find_problems(config) == []
    assert not used(config).step_size.enabled and used(config).clip.enabled
    said = find_warnings(config)
    assert [line for line in said if "This run uses algorithm.agpo.step_size.enabled=False" in line], said
    for follows in ("actor_rollout_ref.actor.ppo_epochs=2", "+algorithm.agpo.step_size.enabled=false"):
        assert titles(good_config(ONCE, follows)) == []
    assert used(good_config(ONCE, "actor_rollout_ref.actor.ppo_epochs=2")).step_size.enabled


def test_fused_kernels_run_with_corrected_scoring(good_config: Build) -> None:
    config = good_config(FUSED, "actor_rollout_ref.rollout.calculate_log_probs=False")
    assert find_problems(config) == []
    before_ray(config)
    assert agpo_config(config).logprob_temperature == "corrected"
    assert config.algorithm.rollout_correction.rollout_is == "token"
    assert config.actor_rollout_ref.rollout.calculate_log_probs is True
    assert agpo_config(config).temperature.enabled, "the temperature is adapted as before"


@pytest.mark.parametrize(
    ("setting", "fixed"),
    [
        ("rollout_is=token", False),
        ("rollout_is=sequence", True),
        ("rollout_rs=seq_mean_k3", True),
        ("bypass_mode=True", True),
    ],
)
def test_the_temperature_is_fixed_where_weights_per_token_do_not_fit(
    good_config: Build, setting: str, fixed: bool
) -> None:
    """Whole responses sampled at another temperature would be weighted or rejected as if the policy had drifted."""
    config = good_config(FUSED, f"algorithm.rollout_correction.{setting}")
    assert find_problems(config) == []
    before = OmegaConf.to_yaml(config.algorithm.rollout_correction)
    said = " ".join(find_warnings(config))
    assert (f"algorithm.rollout_correction.{setting} compares" in said) == fixed
    assert used(config).temperature.enabled != fixed
    assert used(config).logprob_temperature == ("own" if fixed else "corrected")
    assert OmegaConf.to_yaml(config.algorithm.rollout_correction) == before, "asking changes nothing"


@pytest.mark.parametrize(
    "follows", ["+algorithm.agpo.temperature.enabled=false", "+algorithm.agpo.logprob_temperature=uncorrected"]
)
def test_fused_kernels_at_one_temperature_need_no_correction(good_config: Build, follows: str) -> None:
    assert titles(good_config(FUSED, follows)) == []
    assert find_problems(good_config(FUSED, follows)) == []


def test_other_estimators_are_not_changed(good_config: Build) -> None:
    for section in ("~algorithm.agpo", "+algorithm.agpo.token_budget=1000"):
        config = good_config("algorithm.adv_estimator=grpo", section, FUSED, ONCE)
        before = OmegaConf.to_yaml(config)
        before_ray(config)
        assert OmegaConf.to_yaml(config) == before


@pytest.mark.parametrize(
    ("mode", "low", "high"), [("gspo", 3e-4, 4e-4), ("cispo", 10.0, 0.2), ("vanilla", 0.2, 0.5), ("cispo", 1.0, 5.0)]
)
def test_published_clip_ratios_start(good_config: Build, mode: str, low: float, high: float) -> None:
    config = good_config(f"{LOSS}={mode}", f"{LOW}={low}", f"{HIGH}={high}")
    assert find_problems(config) == []
    settings = resolved(config, agpo_config(config))
    assert (settings.clip_low, settings.clip_high) == (low, high)


@pytest.mark.parametrize(("key", "value"), [("clip_ratio", "0.0"), ("clip_ratio_low", "0.0")])
def test_a_clip_ratio_is_named_by_the_key_that_it_comes_from(good_config: Build, key: str, value: str) -> None:
    sides = () if key != "clip_ratio" else (f"{LOW}=null", f"{HIGH}=null")
    problems = find_problems(good_config(f"actor_rollout_ref.actor.{key}={value}", *sides))
    assert len(problems) == 1
    assert problems[0].startswith(f"actor_rollout_ref.actor.{key}={value}:")
    assert f"Set actor_rollout_ref.actor.{key}=0.2, or +algorithm.agpo.clip.enabled=false" in problems[0]


def test_a_fix_has_a_plus_exactly_where_hydra_needs_it(good_config: Build) -> None:
    text = "algorithm.agpo.clip.max=1: bad. Set algorithm.agpo.clip.max=0.4 and trainer.nnodes=2, or trainer.new=1."
    bare = good_config("~algorithm.agpo")
    plus = "algorithm.agpo.clip.max=1: bad. Set +algorithm.agpo.clip.max=0.4 and trainer.nnodes=2, or +trainer.new=1."
    assert pasteable(text, bare) == plus
    assert pasteable(plus, bare) == plus
    section = good_config("+algorithm.agpo.clip.min=0.1")
    assert pasteable(text, section) == plus
    assert "Set algorithm.agpo.clip.max=0.4 and" in pasteable(text, good_config("+algorithm.agpo.clip.max=1"))
    null = good_config("+algorithm.agpo.clip.max=null")
    assert "Set algorithm.agpo.clip.max=0.4 and" in pasteable(text, null)
    for untouched in ("no advice: a.b=1", "Set AGPO_HOME=/x/y.z=1 in the shell", "Set a.b=1 of another program"):
        assert pasteable(untouched, bare) == untouched
