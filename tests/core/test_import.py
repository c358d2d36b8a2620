# SPDX-License-Identifier: Apache-2.0
"""The package stands on torch and the standard library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import agpo_core

BLOCKED = (
    "verl",
    "ray",
    "vllm",
    "transformers",
    "omegaconf",
    "hydra",
    "tensordict",
    "datasets",
    "pandas",
    "recipe",
)

PROGRAM = f"""
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Wall())
import torch
import agpo_core
config = agpo_core.AGPOConfig()
stats = agpo_core.probe_statistics(torch.tensor([[1.0, 0.0]]), config=config)
state = agpo_core.ControllerState.initial(config)
print(agpo_core.decide_temperature(stats, state, config, 1.0).tau.item())
assert not set({BLOCKED!r}) & {{name.split(".")[0] for name in sys.modules}}
"""


def test_imports_without_the_training_stack() -> None:
    root = Path(agpo_core.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0"]


def test_every_public_name_is_there_and_documented() -> None:
    assert agpo_core.__version__ == "0.1.0"
    assert len(agpo_core.__all__) == len(set(agpo_core.__all__))
    for name in agpo_core.__all__:
        value = getattr(agpo_core, name)
        if callable(value):
            assert value.__doc__, name
