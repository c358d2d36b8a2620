# SPDX-License-Identifier: Apache-2.0
"""What the plugin and the CPU platform do to a process that imports verl, in fresh processes as in a Ray worker.

Two processes for all tests: the platform off and verl imported first, the platform on and the plugin imported first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


# What the platform has done to verl's modules.
PLATFORM = """
def platform():
    import importlib.metadata
    import inspect
    from verl.plugin.platform.platform_manager import PlatformRegistry
    early = sorted(m for m in ("vllm", "verl.trainer.main_ppo", "verl.workers.engine") if m in sys.modules)
    import verl.utils.distributed as distributed
    import verl.workers.engine.fsdp.transformer_impl as fsdp
    try:
        vllm = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        vllm = None
    return dict(
        registered="cpu" in PlatformRegistry.registered_names(),
        patched=hasattr(distributed.initialize_global_process_group_ray, "__agpo__"),
        offload_is_torchs=inspect.isclass(fsdp.CPUOffloadPolicy),
        vllm=vllm,
        version_is_original=importlib.metadata.version.__name__ == "version"
            and not hasattr(importlib.metadata.version, "__agpo__"),
        engine=os.environ.get("VERL_ENGINE_DEVICE"),
        name=os.environ.get("VERL_PLATFORM"),
        early=early,
        submodules=sorted(m for m in sys.modules if m.startswith("recipe.agpo.cpu.")),
    )
"""


def in_a_fresh_process(code: str, **variables: str) -> Any:
    """Run ``code``; what it assigns to ``result`` comes back."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AGPO_", "VERL_"))} | variables
    # As an entry point loads it; an installed one must not do it for us.
    environment |= {"PYTHONPATH": str(ROOT), "VERL_USE_EXTERNAL_PLUGINS": "none"}
    script = f"import os, sys\n{PLATFORM}\n{code}\nimport json\nprint('RESULT' + json.dumps(result))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


@pytest.fixture(scope="module")
def off() -> dict[str, Any]:
    """The platform is off, and verl comes first."""
    found = in_a_fresh_process(
        """
import verl
before = set(sys.modules)
import recipe.agpo.plugin
added = sorted(set(sys.modules) - before)
from recipe.agpo import cpu
cpu.install()
before = platform()
from verl.trainer.ppo import core_algos
registries = ["agpo" in core_algos.ADV_ESTIMATOR_REGISTRY, "agpo" in core_algos.POLICY_LOSS_REGISTRY]
from verl.utils.config import validate_config
from verl.trainer.ppo.v1 import get_trainer_cls, PPOTrainerSync
from recipe.agpo.install import install
from recipe.agpo.verl_api.patching import is_wrapped
install()  # twice is once

from omegaconf import OmegaConf
built = []
class Base:
    def __init__(self, config): built.append(type(self).__name__)
import verl.trainer.ppo.v1.trainer_base as trainer_base
trainer_base.TRAINER_REGISTRY["sync"] = Base
def config(estimator):
    agent = {"agent_loop_manager_class": None}
    return OmegaConf.create({
        "algorithm": {"adv_estimator": estimator},
        "actor_rollout_ref": {"rollout": {"agent": agent}},
    })
grpo = config("grpo")
get_trainer_cls("sync")(config=grpo)
import recipe.agpo.training.trainer
class Ours:
    def __init__(self, config): built.append("AGPOTrainer")
recipe.agpo.training.trainer.agpo_trainer = lambda base: Ours
agpo = config("agpo")
get_trainer_cls("sync")(config=agpo)
result = {
    "added": added,
    "registries": registries,
    "wrapped": [is_wrapped(validate_config), is_wrapped(get_trainer_cls)],
    "built": built,
    "managers": [c.actor_rollout_ref.rollout.agent.agent_loop_manager_class for c in (grpo, agpo)],
    "others": sorted(core_algos.ADV_ESTIMATOR_REGISTRY),
    "platform": before,
}
"""
    )
    return dict(found)


@pytest.fixture(scope="module")
def on() -> dict[str, Any]:
    """The platform is on, and the plugin comes first: Ray unpickles our classes in workers without verl."""
    found = in_a_fresh_process(
        """
import recipe.agpo.plugin
from recipe.agpo import cpu
cpu.install()  # a second call must change nothing
after = platform()
from verl.trainer.ppo import core_algos
registries = ["agpo" in core_algos.ADV_ESTIMATOR_REGISTRY, "agpo" in core_algos.POLICY_LOSS_REGISTRY]
result = {"registries": registries, "platform": after}
""",
        AGPO_CPU="1",
        OMP_NUM_THREADS="1",
    )
    return dict(found)


def test_registries_trainer_and_checks(off: dict[str, Any]) -> None:
    found = off
    assert found["registries"] == [True, True] and found["wrapped"] == [True, True]
    # Importing the plugin is cheap: nothing heavy comes with it that `import verl` had not loaded.
    heavy = ("verl.trainer", "verl.workers", "vllm", "transformers.models", "agpo_core", "transfer_queue")
    assert [name for name in found["added"] if name.startswith(heavy)] == []
    assert found["built"] == ["Base", "AGPOTrainer"]
    assert found["managers"] == [None, "recipe.agpo.rollout.manager.AGPOAgentLoopManager"]
    assert {"grpo", "gae", "rloo", "agpo"} <= set(found["others"])


def test_the_plugin_may_come_before_verl(on: dict[str, Any]) -> None:
    assert on["registries"] == [True, True]


def test_without_the_switch_there_is_no_cpu_platform(off: dict[str, Any]) -> None:
    platform = off["platform"]
    assert platform["registered"] is False
    assert platform["patched"] is False
    assert platform["offload_is_torchs"] is True
    assert platform["version_is_original"] is True
    assert platform["engine"] is None and platform["name"] is None
    assert not {"recipe.agpo.cpu.patches", "recipe.agpo.cpu.platform"} & set(platform["submodules"])


def test_the_switch_patches_later_imports_and_imports_nothing_heavy(on: dict[str, Any]) -> None:
    platform = on["platform"]
    assert platform["registered"] is True
    assert platform["patched"] is True
    assert platform["offload_is_torchs"] is False
    assert str(platform["vllm"]).endswith("+cpu")
    assert platform["engine"] == "cuda"
    assert platform["early"] == []
