# SPDX-License-Identifier: Apache-2.0
"""A composed verl config that AGPO accepts, for tests that break one thing in it."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

ROOT = Path(__file__).parents[2]
# Found without importing verl: its folder is all that Hydra needs.
VERL_CONFIG = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config"  # type: ignore[union-attr,arg-type]
Compose = Callable[..., Any]


def compose_verl(*overrides: str, folder: Path = VERL_CONFIG, name: str = "ppo_trainer") -> Any:
    """verl's config as its entry point would compose it."""
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        return compose(name, overrides=list(overrides))


@functools.cache
def _composed() -> Any:
    return compose_verl()


def changed(*overrides: str) -> Any:
    """verl's default config with Hydra's ``key=value``, ``+key=value`` and ``~key``; Hydra composes only once."""
    config = copy.deepcopy(_composed())
    with open_dict(config):
        for override in overrides:
            if override.startswith("~"):
                parent, _, name = override[1:].rpartition(".")
                OmegaConf.select(config, parent).pop(name)
                continue
            key = override.lstrip("+").split("=", 1)[0]
            value = OmegaConf.select(OmegaConf.from_dotlist([override.lstrip("+")]), key)
            OmegaConf.update(config, key, value, force_add=True)
    return config


def parquet_of(folder: Path, rows: int) -> Path:
    """A file of this many sums in verl's schema, with a verifier."""
    import pandas

    path = folder / "sums.parquet"
    pandas.DataFrame(
        [
            {
                "data_source": "sums",
                "prompt": [{"role": "user", "content": f"{i}+1="}],
                "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
                "extra_info": {"verifier": "numeric", "index": i},
            }
            for i in range(rows)
        ]
    ).to_parquet(path)
    return path


@pytest.fixture
def verl_config() -> Compose:
    """``changed`` for the tests."""
    return changed


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Eight prompts in verl's schema."""
    return [
        {
            "data_source": "chain_sum",
            "prompt": [{"role": "user", "content": f"{i}+1="}],
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
        }
        for i in range(8)
    ]


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to ``<tmp_path>/<name>.parquet``."""

    def write(rows: list[dict[str, Any]], name: str = "train", columns: list[str] | None = None) -> Path:
        import pandas

        path = tmp_path / f"{name}.parquet"
        pandas.DataFrame(rows, columns=columns).to_parquet(path)
        return path

    return write


@pytest.fixture
def good_config(tmp_path: Path, rows: list[dict[str, Any]], write_parquet: Callable[..., Path]) -> Callable[..., Any]:
    """Compose a config without a problem, plus overrides; data, model and output folder lie in ``tmp_path``."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    data = write_parquet(rows)

    def build(*overrides: str) -> Any:
        return changed(
            "algorithm.adv_estimator=agpo",
            "+algorithm.agpo.preset=agpo",
            f"data.train_files={data}",
            f"data.val_files={data}",
            "data.train_batch_size=8",
            "data.filter_overlong_prompts=True",
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            "actor_rollout_ref.rollout.name=vllm",
            "actor_rollout_ref.rollout.n=4",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
            "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
            f"actor_rollout_ref.model.path={model}",
            "trainer.n_gpus_per_node=1",
            f"trainer.default_local_dir={tmp_path / 'run'}",
            *overrides,
        )

    return build
