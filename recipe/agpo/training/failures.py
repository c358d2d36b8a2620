# SPDX-License-Identifier: Apache-2.0
"""Errors that end a run: one message with the cause and how to continue.

- Gradient not finite: verl skips that update (with Megatron it stops there). The step is counted, and not saved as a
  checkpoint; after three such steps in a row the run stops (:class:`Diverged`).
- Worker lost: the run stops (:class:`WorkerLost`).
- Checkpoint not written, a full disk for example: the run stops (:class:`CheckpointFailed`).
- Rollout server dead, or no response has a reward: the run stops (:class:`RolloutFailed`).

verl marks a checkpoint as the latest after all of it is written. The last marked checkpoint is therefore complete, with
controller state and token ledger (the counts of generated tokens), and the same command continues from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe.agpo.run_folder import TRACKER_FILE

NONFINITE_STEPS = 3
GRADIENT = "actor/grad_norm"


class RunStopped(RuntimeError):
    """The run cannot continue; the message names the cause and what to do."""


class RolloutFailed(RunStopped):
    """The rollout could not produce a batch."""


class WorkerLost(RunStopped):
    """A process of the run died."""


class CheckpointFailed(RunStopped):
    """A checkpoint could not be written."""


class Diverged(RunStopped):
    """Gradients have not been finite for several steps."""


class GradientWatch:
    """Counts steps in a row whose gradient was not finite."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def see(self, metrics: Mapping[str, Any], step: int, resume: str) -> None:
        """Read a step's metrics; a step without an actor update changes nothing.

        Raises:
            Diverged: the third such step in a row.
        """
        if GRADIENT not in metrics:
            return
        self.in_a_row = 0 if math.isfinite(float(metrics[GRADIENT])) else self.in_a_row + 1
        if self.in_a_row:
            print(f"[agpo] step {step}: the gradient was not finite, so verl skipped updates of this step.")
        if self.in_a_row >= NONFINITE_STEPS:
            raise Diverged(
                f"step {step}: the gradient has not been finite for {self.in_a_row} steps in a row. {resume} Before "
                "that, lower actor_rollout_ref.actor.optim.lr or check the data of these steps."
            )


def resume_words(root: Path) -> str:
    """A sentence that says from where the same command continues."""
    tracker = root / TRACKER_FILE
    step = tracker.read_text(errors="replace").strip() if tracker.is_file() else ""
    if not step.isdigit():
        return "No checkpoint was written yet: the same command starts from the beginning."
    return f"The last checkpoint is intact: the same command continues from global_step_{step} in {root}."


@contextmanager
def lost_workers_named(root: Path) -> Iterator[None]:
    """Turn Ray's errors about dead processes into :class:`WorkerLost`."""
    import ray

    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise WorkerLost(
            f"a process of the run died: {_first_line(error)} Out of memory is the usual cause; the kernel's log "
            f"tells. {resume_words(root)}"
        ) from error


@contextmanager
def failed_saves_named(folder: Path) -> Iterator[None]:
    """Turn errors while saving into :class:`CheckpointFailed`; a dead process stays :class:`WorkerLost`."""
    import ray

    try:
        yield
    except ray.exceptions.RayActorError:
        raise
    except Exception as error:  # torch, safetensors, Ray and the file system have their own
        raise CheckpointFailed(
            f"{folder.name} could not be written: {_first_line(getattr(error, 'cause', None) or error)} Look at the "
            f"free space of {folder.parent}; the incomplete {folder.name} may be removed. {resume_words(folder.parent)}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line}"[:500].rstrip(".") + "."
