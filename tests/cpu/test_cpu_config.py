# SPDX-License-Identifier: Apache-2.0
"""The CPU settings on verl's own composed config."""

from collections.abc import Sequence

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.agpo.cpu.config import SETTINGS, apply_cpu_defaults, cpu_conflicts, cpu_env


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return hydra_compose("ppo_trainer", overrides=list(overrides))


@pytest.fixture(scope="module")
def plain() -> DictConfig:
    return compose()


@pytest.fixture
def config(plain: DictConfig) -> DictConfig:
    return plain.copy()


def test_our_idea_of_verls_defaults_is_right(config: DictConfig) -> None:
    # A setting whose default is wrong would never be applied. A key given by interpolation may follow another.
    wrong = {s.key: OmegaConf.select(config, s.key) for s in SETTINGS if OmegaConf.select(config, s.key) != s.default}
    assert wrong == {}


@pytest.mark.parametrize("mode", ["sync", "separate_async"])
def test_every_setting_is_applied_and_nothing_conflicts(config: DictConfig, mode: str) -> None:
    config.trainer.v1.trainer_mode = mode
    assert cpu_conflicts(config)
    apply_cpu_defaults(config, explicit=())
    wanted = {s.key: s.value if s.mode in (None, mode) else s.default for s in SETTINGS}
    assert {key: OmegaConf.select(config, key) for key in wanted} == wanted
    assert cpu_conflicts(config) == []


def test_rollout_servers_of_their_own_get_slots(config: DictConfig) -> None:
    config.trainer.v1.trainer_mode = "separate_async"
    config.actor_rollout_ref.rollout.nnodes, config.actor_rollout_ref.rollout.n_gpus_per_node = 1, 2
    apply_cpu_defaults(config, explicit=())
    assert config.ray_kwargs.ray_init.num_gpus == 1 + 2


def test_changes_are_reported_and_a_second_call_has_none(config: DictConfig) -> None:
    changes = apply_cpu_defaults(config, explicit=())
    assert ("trainer.device", "cuda", "cpu") in changes
    assert ("ray_kwargs.ray_init.num_gpus", None, 1) in changes
    assert apply_cpu_defaults(config, explicit=()) == []


def test_only_listed_keys_change(config: DictConfig) -> None:
    before = OmegaConf.to_container(config, resolve=True)
    apply_cpu_defaults(config, explicit=())
    for setting in SETTINGS:
        OmegaConf.update(config, setting.key, setting.default, force_add=True)
    OmegaConf.update(config, "ray_kwargs.ray_init.num_gpus", None, force_add=True)
    after = OmegaConf.to_container(config, resolve=True)
    assert _without_none(after) == _without_none(before)


def _without_none(node: object) -> object:
    if isinstance(node, dict):
        return {k: _without_none(v) for k, v in node.items() if v is not None}
    return node


def test_a_value_that_is_not_verls_default_stays() -> None:
    config = compose(["actor_rollout_ref.rollout.agent.num_workers=3", "trainer.n_gpus_per_node=2"])
    apply_cpu_defaults(config, explicit=())
    assert config.actor_rollout_ref.rollout.agent.num_workers == 3
    assert config.trainer.n_gpus_per_node == 2
    assert config.ray_kwargs.ray_init.num_gpus == 2


def test_a_key_the_user_wrote_stays_even_at_verls_default(config: DictConfig) -> None:
    changes = apply_cpu_defaults(config, explicit={"reward.num_workers", "ray_kwargs.ray_init.num_gpus"})
    assert config.reward.num_workers == 8
    assert "num_gpus" not in config.ray_kwargs.ray_init
    assert "reward.num_workers" not in {key for key, _, _ in changes}


def test_ray_slots_are_ranks_times_nodes() -> None:
    config = compose(["trainer.n_gpus_per_node=2", "trainer.nnodes=3"])
    apply_cpu_defaults(config, explicit=())
    assert config.ray_kwargs.ray_init.num_gpus == 6


def test_a_choice_that_cannot_work_is_named() -> None:
    config = compose()
    apply_cpu_defaults(config, explicit={"actor_rollout_ref.actor.strategy"})
    assert [(key, value) for key, value, _ in cpu_conflicts(config)] == [
        ("actor_rollout_ref.actor.strategy", "fsdp"),
    ]


def test_a_missing_group_is_left_out() -> None:
    config = OmegaConf.create({"trainer": {"device": "cuda", "n_gpus_per_node": 2, "nnodes": 1}})
    assert apply_cpu_defaults(config, explicit=()) == [("trainer.device", "cuda", "cpu")]
    assert set(config) == {"trainer"}


def test_environment_values_are_strings_and_name_the_platform() -> None:
    env = cpu_env()
    assert all(isinstance(value, str) and value for value in env.values())
    assert (env["AGPO_CPU"], env["VERL_PLATFORM"], env["VERL_ENGINE_DEVICE"]) == ("1", "cpu", "cuda")
    assert int(env["OMP_NUM_THREADS"]) >= 1
