# SPDX-License-Identifier: Apache-2.0
"""The average of the actor's weights in verl: beside its shards on each rank, in checkpoints, and in validation.

Each rank averages its own shards after every optimiser update. Sampling stays on the raw weights. For a validation the
average takes their place, is sent to the rollout servers, and gives way again. A checkpoint keeps verl's raw weights
in ``global_step_N/actor`` and the average in ``global_step_N/actor/average``, where verl's rotation of checkpoints
removes it with them; ``agpo_average.json`` there is written last.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agpo_core import AverageConfig, WeightAverage
from agpo_core.averaging import STATE_VERSION
from recipe.agpo.run_folder import AVERAGE_FILE
from recipe.agpo.settings import agpo_config
from recipe.agpo.training import checkpoint
from recipe.agpo.verl_api import actor_weights
from recipe.agpo.verl_api.actor_weights import on_every_rank
from recipe.agpo.verl_api.updates import AFTER_UPDATE

if TYPE_CHECKING:
    Trainer: Any  # whichever of verl's V1 trainers it is mixed into
else:
    Trainer = object

AVERAGE = "agpo_average"  # attribute of the actor's engine
HF_MODEL = ("hf_model",)


def average_trainer(base: type) -> type:
    """``base``, one of verl's trainers, with the average of the actor's weights."""
    return type(f"{base.__name__}Averaged", (AverageMixin, base), {})


class AverageMixin(Trainer):
    """For any of verl's V1 trainers: keeps the average, saves it, and validates with it."""

    def __init__(self, config: Any) -> None:
        self.average: AverageConfig = agpo_config(config).average
        super().__init__(config=config)

    @property
    def _validates_average(self) -> bool:
        """Only where the rollout rests during validation; asynchronous modes go on to sample for training."""
        return self.average.validate and self.config.trainer.v1.trainer_mode == "sync"

    def _load_checkpoint(self) -> None:
        offloaded = bool(self.config.actor_rollout_ref.actor.fsdp_config.param_offload)
        settings = dataclasses.replace(self.average, offload=self.average.offload or offloaded)
        on_every_rank(self.actor_rollout_wg, begin, settings)
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        folder = checkpoint.checkpoint_to_resume(self.config)
        assert folder is not None, "verl resumed, so there is a checkpoint"
        updates, place = checkpoint.read_average(folder), checkpoint.average_folder(folder)
        if updates is None:
            print(f"[agpo] {folder} has no average of the weights: it begins with the next update.")
            return
        problems = [p for p in on_every_rank(self.actor_rollout_wg, load, str(place), updates) if p]
        if problems:
            raise checkpoint.ResumeError(
                f"cannot continue the average of the weights in {place}: {problems[0]}. {checkpoint.AVERAGE_WAYS_OUT}"
            )

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir).absolute() / f"global_step_{self.global_steps}"
        place = checkpoint.average_folder(folder)
        (place / AVERAGE_FILE).unlink(missing_ok=True)  # of a start that was killed later
        # Before verl marks this checkpoint as the latest.
        updates = on_every_rank(self.actor_rollout_wg, save, str(place))[0]
        if updates:
            checkpoint.write_average(folder, updates, self.average)
        super()._save_checkpoint()

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        if self._validates_average and self.global_steps:
            on_every_rank(self.actor_rollout_wg, swap_in)
            self._send_weights()

    def on_validate_end(self) -> None:
        if self._validates_average and self.global_steps:
            on_every_rank(self.actor_rollout_wg, swap_out)
            self._send_weights()
        super().on_validate_end()

    def _send_weights(self) -> None:
        # verl's servers take new weights only when they sleep.
        self.checkpoint_manager.sleep_replicas()
        self.checkpoint_manager.update_weights(self.global_steps)


# ---- what runs on each rank, with the actor's engine ---------------------------------------------------------


def begin(engine: Any, settings: AverageConfig) -> None:
    """Start an average that takes in the weights after every update."""
    average = WeightAverage.from_config(settings)
    setattr(engine, AVERAGE, average)
    setattr(engine, AFTER_UPDATE, lambda: average.update(actor_weights.trained(engine)))


def load(engine: Any, folder: str, updates: int) -> str:
    """Continue the average of a checkpoint; returns what is wrong with it, in words, or nothing."""
    try:
        tensors = actor_weights.load(engine, Path(folder))
        state = {"version": STATE_VERSION, "count": updates, "tensors": tensors}
        _average(engine).load_state_dict(state, list(actor_weights.trained(engine)))
    except KeyError as error:
        return f"it lacks the weights {error}"
    except Exception as error:  # a damaged file fails in many ways inside pickle
        return f"{type(error).__name__}: {error}"
    return ""


def save(engine: Any, folder: str) -> int:
    """Save the average, in HF format too if the run saves its models in it; returns the number of updates."""
    average = _average(engine)
    if average.count:
        actor_weights.save(engine, Path(folder), average.tensors)
        if actor_weights.exports(engine):
            with average.swapped(actor_weights.trained(engine)):
                actor_weights.export(engine, Path(folder), HF_MODEL)
    return average.count


def swap_in(engine: Any) -> None:
    """The average takes the place of the weights."""
    _average(engine).swap_in(actor_weights.trained(engine))


def swap_out(engine: Any) -> None:
    """The weights are in their place again."""
    _average(engine).swap_out(actor_weights.trained(engine))


def _average(engine: Any) -> WeightAverage:
    average = getattr(engine, AVERAGE)
    assert isinstance(average, WeightAverage)
    return average
