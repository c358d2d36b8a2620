# SPDX-License-Identifier: Apache-2.0
"""Controller state and decisions on disk, beside verl's checkpoints.

``global_step_N/agpo_state.json`` is written before verl marks the checkpoint as the latest one, so a process
that is killed at any moment leaves either the old checkpoint or a new one that has its state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agpo_core import AverageConfig, ControllerState, TokenLedger, save_state
from agpo_core.files import write_atomic
from agpo_core.jsonl import append_lines, keep_steps
from agpo_core.sealed import read_sealed, write_sealed
from agpo_core.state import OtherSettings, resume_state
from recipe.agpo.run_folder import AVERAGE_FILE, AVERAGE_FOLDER, LEDGER_FILE, STATE_FILE, TRACKER_FILE
from recipe.agpo.settings import RunConfig

LEDGER_FORMAT, LEDGER_VERSION = "agpo-token-ledger", 2
UNSEALED_LEDGER = 1  # the version before ledgers had a checksum
AVERAGE_FORMAT, AVERAGE_VERSION = "agpo-weight-average", 1
AVERAGE_WAYS_OUT = (
    "Ways out: another checkpoint, or a new average from here on: remove that folder, or set "
    "algorithm.agpo.average.enabled=false."
)
MOST_DIGITS = 18  # of a step; more is damage


class ResumeError(ValueError):
    """A checkpoint that AGPO cannot resume from; the message says what to do."""


def checkpoint_to_resume(config: Any) -> Path | None:
    """The checkpoint folder that verl will resume from, None for a fresh start.

    verl writes its tracker file in place; a kill at that moment leaves it empty, and verl could no longer
    start. Such a tracker is repaired: verl writes it last, so the newest folder with a data state is complete.
    """
    mode = config.trainer.resume_mode
    if mode == "disable":
        return None
    if mode == "resume_path":
        if "global_step_" not in str(config.trainer.resume_from_path):
            raise ResumeError(
                f"trainer.resume_from_path={config.trainer.resume_from_path}: must name a checkpoint folder "
                "global_step_N. Set it, or trainer.resume_mode=auto."
            )
        return Path(config.trainer.resume_from_path).absolute()
    root = Path(config.trainer.default_local_dir).absolute()
    tracker = root / TRACKER_FILE
    if not tracker.exists():
        return None
    if not tracker.is_file():  # a named pipe would wait for its writer
        raise ResumeError(f"{tracker} is not a regular file: remove it, or set trainer.default_local_dir=...")
    text = tracker.read_text(errors="replace").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > MOST_DIGITS:
        steps = _complete_steps(root)
        if not steps:
            raise ResumeError(
                f"{tracker} is damaged ({text[:20]!r}) and {root} has no complete checkpoint. Start a new run with "
                "trainer.resume_mode=disable, or in another folder with trainer.default_local_dir=..."
            )
        text = str(steps[-1])
        write_atomic(tracker, text)
        print(f"[agpo] repaired {tracker}: it was cut off while being written; latest step is {text}")
    folder = root / f"global_step_{text}"
    if not folder.exists():  # verl would start again from step 0, and would say so in its log only
        steps = _complete_steps(root)
        older = f"trainer.resume_mode=resume_path with trainer.resume_from_path={root}/global_step_"
        raise ResumeError(
            f"{tracker} names step {text}, and {folder.name} is not in {root}. "
            + (f"Resume the newest one that is there with {older}{steps[-1]}. " if steps else "")
            + "Start a new run with trainer.resume_mode=disable, or in another folder with "
            "trainer.default_local_dir=..."
        )
    return folder


def _complete_steps(root: Path) -> list[int]:
    """Steps of the checkpoints in a folder, in order; verl writes the data state last."""
    names = (p.parent.name.removeprefix("global_step_") for p in root.glob("global_step_*/data.pt"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def read_state(folder: Path, agpo: RunConfig, lr: float | None = None) -> ControllerState:
    """The controller state of a checkpoint. lr: the configured learning rate, for fresh controllers.

    Raises:
        ResumeError: no state, damaged state, or a state of another AGPO config.
    """
    ways_out = (
        "Ways out: another folder (trainer.default_local_dir=...), a fresh start (trainer.resume_mode=disable), "
        "or fresh controllers on these weights (algorithm.agpo.on_config_change=reset). Nothing was changed."
    )
    path = folder / STATE_FILE
    if agpo.on_config_change == "reset":
        return ControllerState.initial(agpo, lr)
    try:
        return resume_state(path, agpo, keep=agpo.on_config_change == "keep")
    except OtherSettings as error:
        raise ResumeError(
            f"{path} was written with other algorithm.agpo settings, so its decisions would not continue. {ways_out} "
            "To continue with the old state and the new settings: algorithm.agpo.on_config_change=keep."
        ) from error
    except ValueError as error:
        raise ResumeError(f"cannot resume the controllers from {path}: {_reason(error, path)}. {ways_out}") from error


def _reason(error: Exception, path: Path) -> str:
    """The message of an error without the file that it begins with."""
    return str(error).removeprefix(f"{path}: ")


def write_state(folder: Path, state: ControllerState, agpo: RunConfig) -> None:
    """Save the controller state into a checkpoint folder, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / STATE_FILE, state, agpo.fingerprint(), {"config": agpo.to_dict()})


def write_ledger(folder: Path, ledger: TokenLedger) -> None:
    """Save the token ledger into a checkpoint folder, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed(folder / LEDGER_FILE, LEDGER_FORMAT, LEDGER_VERSION, {"ledger": ledger.to_dict()})


def read_ledger(folder: Path) -> TokenLedger:
    """The token ledger of a checkpoint.

    Raises:
        ResumeError: no ledger, or a damaged one: the number of generated tokens would be unknown.
    """
    path = folder / LEDGER_FILE
    versions = (UNSEALED_LEDGER, LEDGER_VERSION)
    try:
        _, payload = read_sealed(path, LEDGER_FORMAT, versions, ["ledger"], unsealed=(UNSEALED_LEDGER,))
        ledger = TokenLedger.from_dict(payload["ledger"])
        if max(ledger.probe, ledger.discarded) > ledger.generated:
            raise ValueError(f"{path}: probe and discarded tokens are parts of the generated ones, got {ledger}")
        return ledger
    except ValueError as error:
        raise ResumeError(
            f"cannot read the token ledger {path}: {_reason(error, path)}. Ways out: another folder "
            "(trainer.default_local_dir=...), a fresh start (trainer.resume_mode=disable), or write the file with "
            f'{{"format": "{LEDGER_FORMAT}", "version": {UNSEALED_LEDGER}, "ledger": '
            f"{json.dumps(TokenLedger().to_dict())}}} and the counts that you know."
        ) from error


def average_folder(folder: Path) -> Path:
    """Where a checkpoint has its average of the weights."""
    return folder / "actor" / AVERAGE_FOLDER


def write_average(folder: Path, updates: int, average: AverageConfig) -> None:
    """Mark the average of a checkpoint as complete, atomically."""
    place = average_folder(folder)
    place.mkdir(parents=True, exist_ok=True)
    payload = {"updates": updates, "gamma": average.gamma, "horizon": average.horizon}
    write_sealed(place / AVERAGE_FILE, AVERAGE_FORMAT, AVERAGE_VERSION, payload)


def read_average(folder: Path) -> int | None:
    """Number of updates in the average of a checkpoint; None if it has no average.

    Raises:
        ResumeError: the average is not complete, or damaged.
    """
    place = average_folder(folder)
    if not place.exists():
        return None
    path = place / AVERAGE_FILE
    try:
        _, payload = read_sealed(path, AVERAGE_FORMAT, (AVERAGE_VERSION,), ["updates"])
    except ValueError as error:
        raise ResumeError(
            f"cannot continue the average of the weights from {path}: {_reason(error, path)}. {AVERAGE_WAYS_OUT}"
        ) from error
    return int(payload["updates"])


class DecisionLog:
    """Per-prompt decisions, one JSON object per line. Resuming drops the lines after the resumed step."""

    def __init__(self, path: Path, *, resumed_step: int, enabled: bool = True) -> None:
        self._path = path if enabled else None
        if not enabled:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        broken = keep_steps(path, 1, resumed_step)
        if broken:
            print(f"[agpo] {path}: dropped lines that are not whole (a process was killed while writing): {broken}")

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add one step's rows in a single write."""
        if self._path is not None:
            append_lines(self._path, rows)
