# SPDX-License-Identifier: Apache-2.0
"""What is compared: methods as data, tasks, and one cell of the comparison (method, task, seed, rate, clip)."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

GRPO = {"preset": "grpo"}
TWICE = {"epochs": 2}  # every batch is passed through twice
ONE_UPDATE = {"prompts": 8, "updates": 1}
# name -> (settings of algorithm.agpo, changes to LoopConfig)
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (GRPO, {}),
    "grpo, linear decay": (GRPO, {"decay": "linear"}),
    # RSL-RL's adaptive schedule, its target at our drift_target of a policy entropy of 0.2 nats
    "grpo, KL-adaptive": (GRPO, {"desired_kl": 0.001}),
    "dapo_like": (GRPO, {"clip_high": 0.28, "dynamic_sampling": True}),
    "dr_grpo": (
        GRPO | {"advantage": {"scale": "none"}, "logprob_temperature": "own"},
        {"aggregation": "seq-mean-token-sum"},
    ),
    "reference": ({"preset": "reference"}, {"aggregation": "seq-mean-token-mean"}),
    "agpo_d": ({"preset": "agpo_d"}, {}),
    "agpo_l": ({"preset": "agpo_l"}, {}),
    "agpo": ({}, TWICE),  # preset agpo with ppo_epochs=2; agpo-epoch has one pass, verl's default
    # every batch of 8 prompts is trained on in one update: as many updates, each from a fresh batch
    "grpo, one update": (GRPO, ONE_UPDATE),
    "agpo, one update": ({}, ONE_UPDATE),
    "agpo, 0.01": ({"step_size": {"drift_target": 0.01}}, TWICE),
    # each part of agpo left out
    "agpo-temperature": ({"temperature": {"enabled": False}}, TWICE),
    "agpo-clip": ({"clip": {"enabled": False}}, TWICE),
    "agpo-step_size": ({"step_size": {"enabled": False}}, TWICE),
    "agpo-epoch": ({}, {}),
    # each part of agpo alone on GRPO, and the two that belong together
    "temperature": (GRPO | {"temperature": {"enabled": True}}, {}),
    "clip": (GRPO | {"clip": {"enabled": True}}, {}),
    "step_size": (GRPO | {"step_size": {"enabled": True}}, {}),
    "epoch": (GRPO, TWICE),
    "step_size+epoch": (GRPO | {"step_size": {"enabled": True}}, TWICE),
    "agpo+average": ({"average": {"enabled": True}}, TWICE),
    "grpo+average": (GRPO | {"average": {"enabled": True}}, {}),
    "agpo+allocation": ({"allocation": {"enabled": True}}, TWICE),
    # other forms of the two, alone on GRPO: one clip ratio for the batch, mixed groups clipped wider or tighter than
    # by default, uncertain prompts cooled, heated more
    "clip, of the batch": (GRPO | {"clip": {"enabled": True, "dispersion_gain": 0.0, "vote_entropy_gain": 0.0}}, {}),
    "clip, mixed wider": (GRPO | {"clip": {"enabled": True, "dispersion_gain": 0.4, "vote_entropy_gain": 0.0}}, {}),
    "clip, mixed tighter": (GRPO | {"clip": {"enabled": True, "dispersion_gain": -0.4, "vote_entropy_gain": 0.0}}, {}),
    "temperature, cooled": (GRPO | {"temperature": {"enabled": True, "gain": -0.15}}, {}),
    "temperature, 0.4": (GRPO | {"temperature": {"enabled": True, "gain": 0.4}}, {}),
    # agpo with a negative gain: higher temperature for certain prompts, lower for uncertain ones
    "agpo, cooled": ({"temperature": {"gain": -0.15}}, TWICE),
    "agpo, cooled more": ({"temperature": {"gain": -0.3}}, TWICE),
    # the step size with half and twice the drift
    "step_size, 0.0025": (GRPO | {"step_size": {"enabled": True, "drift_target": 0.0025}}, {}),
    "step_size, 0.01": (GRPO | {"step_size": {"enabled": True, "drift_target": 0.01}}, {}),
    # the parts of the other paper and ours, alone on GRPO
    "signed": (GRPO | {"advantage": {"zero_variance": "signed"}}, {}),
    "mask": (GRPO | {"advantage": {"zero_variance": "mask"}}, {}),
    "floor": (GRPO | {"loss": {"adaptive": "floor"}}, {}),
    "exp": (GRPO | {"loss": {"adaptive": "exp"}}, {}),
    "length": (GRPO | {"length": {"weight": 0.1}}, {}),
    "allocation": (GRPO | {"allocation": {"enabled": True}}, {}),
    "allocation-biased": (GRPO | {"allocation": {"enabled": True, "weighting": "responses"}}, {}),
}


class Setting(NamedTuple):
    """How a task is run.

    Attributes:
        warm: accuracy at which the warm start stops.
        budget: generated tokens.
        lr: learning rate, GRPO's best of the grid.
    """

    warm: float
    budget: int
    lr: float


TASKS = {
    "chain_sum": Setting(0.3, 150_000, 1e-4),
    "number_sorting": Setting(0.3, 150_000, 3e-4),
    "spell_backward": Setting(0.3, 100_000, 1e-4),
}
CLIP = 0.2
EVALUATIONS = 12  # over a run


@dataclass(frozen=True)
class Cell:
    """One run. ``lr`` and ``clip`` None: the loop's own."""

    task: str
    method: str
    seed: int
    lr: float
    clip: float = CLIP

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def run_cell(cell: Cell, cache: Path, device: str = "cpu") -> dict[str, Any]:
    """Train one cell; returns its record: the cell, its curve and the means of each step's measurements."""
    import torch

    from agpo_core import AGPOConfig
    from examples.inprocess_grpo import GymTask, LoopConfig, train

    torch.set_num_threads(1)
    settings, changes = METHODS[cell.method]
    budget = TASKS[cell.task].budget
    task = GymTask(cell.task)
    model = warm_model(task, cell.seed, cache).to(device)
    loop = LoopConfig(
        lr=cell.lr,
        clip_low=cell.clip,
        clip_high=cell.clip,
        seed=cell.seed,
        budget=budget,
        eval_every=budget // EVALUATIONS,
    )
    if "clip_high" in changes:
        changes = changes | {"clip_high": cell.clip * changes["clip_high"] / CLIP}
    agpo = dict(settings)
    # The bounds of an adaptive clip ratio are scaled with its base.
    clip = {"min": cell.clip / 4, "max": min(0.99, cell.clip * 2)}
    if cell.method == "reference":
        clip["base"] = cell.clip
    if AGPOConfig.from_dict(agpo).clip.enabled:
        agpo["clip"] = agpo.get("clip", {}) | clip
    records: list[dict[str, Any]] = []
    began = time.monotonic()
    train(model, task, AGPOConfig.from_dict(agpo), replace(loop, **changes), records.append)
    steps = [record for record in records if record["step"]]
    raw = [[r["tokens"], r["accuracy_raw"]] for r in records if "accuracy_raw" in r]  # beside an average of weights
    measured = sorted({k for r in steps for k in r} - {"step", "tokens", "accuracy", "accuracy_raw", "seconds"})
    return {
        **asdict(cell),
        "curve": [[r["tokens"], r["accuracy"]] for r in records if "accuracy" in r],
        **({"curve_raw": raw} if raw else {}),
        "steps": len(steps),
        "seconds": round(time.monotonic() - began, 1),
        "means": {k: _mean([r[k] for r in steps if k in r]) for k in measured},
        "last": {k: _mean([r[k] for r in steps[-len(steps) // 5 :] if k in r]) for k in measured},
    }


def warm_model(task: Any, seed: int, cache: Path) -> Any:
    """The warm-started model of a task and a seed, trained once."""
    import torch

    from examples.inprocess_grpo import build_model, warm_start
    from recipe.agpo.files import replacing

    accuracy = TASKS[task.name].warm
    path = cache / f"{task.name}-{seed}-{accuracy:g}.pt"
    model = build_model(seed)
    if not path.exists():
        warm_start(model, task, accuracy=accuracy, seed=seed, max_steps=1500)
        with replacing(path) as part:
            torch.save(model.state_dict(), part)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
