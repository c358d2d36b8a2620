# SPDX-License-Identifier: Apache-2.0
"""What the plugin does to a process that imports verl. Each in a fresh process, as in a Ray worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def in_a_fresh_process(code: str) -> Any:
    """Run ``code``; what it assigns to ``result`` comes back."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AGPO_", "VERL_"))}
    # As an entry point loads it; an installed one must not do it for us.
    environment |= {"PYTHONPATH": str(ROOT), "VERL_USE_EXTERNAL_PLUGINS": "none"}
    script = f"{code}\nimport json\nprint('RESULT' + json.dumps(result))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


def test_registries_trainer_and_checks() -> None:
    found = in_a_fresh_process(
        """
import sys
import verl
before = set(sys.modules)
import recipe.agpo.plugin
added = sorted(set(sys.modules) - before)
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
}
"""
    )
    assert found["registries"] == [True, True] and found["wrapped"] == [True, True]
    # Importing the plugin is cheap: nothing heavy comes with it that `import verl` had not loaded.
    heavy = ("verl.trainer", "verl.workers", "vllm", "transformers.models", "agpo_core", "transfer_queue")
    assert [name for name in found["added"] if name.startswith(heavy)] == []
    assert found["built"] == ["Base", "AGPOTrainer"]
    assert found["managers"] == [None, "recipe.agpo.rollout.manager.AGPOAgentLoopManager"]
    assert {"grpo", "gae", "rloo", "agpo"} <= set(found["others"])


def test_the_plugin_may_come_before_verl() -> None:
    """Ray unpickles our classes in workers that have not imported verl yet."""
    found = in_a_fresh_process(
        """
import sys
import recipe.agpo.plugin
early = "verl" in sys.modules
from verl.trainer.ppo import core_algos
result = [early, "agpo" in core_algos.ADV_ESTIMATOR_REGISTRY, "agpo" in core_algos.POLICY_LOSS_REGISTRY]
"""
    )
    assert found == [False, True, True]


def test_without_the_switch_there_is_no_cpu_platform() -> None:
    found = in_a_fresh_process(
        """
import os, sys
import recipe.agpo.plugin
import verl
result = ["recipe.agpo.cpu.patches" in sys.modules, os.environ.get("VERL_PLATFORM")]
"""
    )
    assert found == [False, None]
