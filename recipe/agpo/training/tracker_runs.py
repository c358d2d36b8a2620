# SPDX-License-Identifier: Apache-2.0
"""A tracker (wandb, swanlab, mlflow, trackio) continues its run when training resumes from a checkpoint.

verl starts a new run of every tracker at every start. Here the ids of the runs are kept in ``tracker_runs.json`` beside
the checkpoints. They are used again when a checkpoint is resumed, and only then: a fresh start gets new runs.
TensorBoard and ClearML need none of this. TensorBoard adds to its folder, and verl lets ClearML continue its last task.
"""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.agpo.files import FileError, read_object, write_text
from recipe.agpo.settings import keeps_ledger
from recipe.agpo.training.checkpoint import checkpoint_to_resume

RUNS_FILE = "tracker_runs.json"
VERSION = 1
# Trackers that take the id of a new run from their environment, with what lets them continue it.
CHOSEN = {
    "wandb": ("WANDB_RUN_ID", {"WANDB_RESUME": "allow"}),
    "swanlab": ("SWANLAB_RUN_ID", {"SWANLAB_RESUME": "allow"}),
}
MLFLOW_ID = "MLFLOW_RUN_ID"  # the id of a run that exists; a new run gets one from the server


def continues_runs(original: Callable[..., None]) -> Callable[..., None]:
    """verl's ``Tracking.__init__`` with the runs of the checkpoint that is resumed."""

    def init(
        self: Any, project_name: str, experiment_name: str, default_backend: Any = "console", config: Any = None
    ) -> None:
        names = [default_backend] if isinstance(default_backend, str) else list(default_backend)
        with _continued(names, project_name, config):
            original(self, project_name, experiment_name, default_backend, config)

    return init


@contextmanager
def _continued(names: list[str], project: str, config: Mapping[str, Any] | None) -> Iterator[None]:
    run = OmegaConf.create(dict(config)) if config else None
    if run is None or not keeps_ledger(run) or not {*CHOSEN, "mlflow", "trackio"} & set(names):
        yield
        return
    path = Path(run.trainer.default_local_dir).absolute() / RUNS_FILE
    known = _read(path) if checkpoint_to_resume(run) else {}
    ids: dict[str, str] = {}
    environment: dict[str, str] = {}
    for name in CHOSEN.keys() & set(names):
        variable, others = CHOSEN[name]
        ids[name] = os.environ.get(variable) or known.get(name) or uuid.uuid4().hex
        environment |= {variable: ids[name]} | others
    if "mlflow" in names and "mlflow" in known:
        environment[MLFLOW_ID] = known["mlflow"]
    if "trackio" in names and "trackio" in known:
        # verl starts a run of its own only if there is none.
        importlib.import_module("trackio").init(project=project, name=known["trackio"], config=config, resume="allow")
    with _defaults(environment):
        yield
    if "mlflow" in names and (active := importlib.import_module("mlflow").active_run()) is not None:
        ids["mlflow"] = active.info.run_id
    if "trackio" in names and (current := _trackio_run()) is not None:
        ids["trackio"] = current.name
    write_text(path, json.dumps({"version": VERSION, "runs": ids}, indent=2) + "\n")


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        found = read_object(path)
        if found["version"] != VERSION:
            raise FileError(f"{path}: version {found['version']} is not {VERSION}")
        return {str(name): str(run) for name, run in found["runs"].items()}
    except (FileError, LookupError, TypeError, AttributeError) as error:
        print(f"[agpo] WARNING: {path} cannot be read ({error}): the trackers start new runs.")
        return {}


@contextmanager
def _defaults(environment: dict[str, str]) -> Iterator[None]:
    """Variables that are set in the block, where they are not set already."""
    added = {name: value for name, value in environment.items() if not os.environ.get(name)}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)  # mlflow removes its own


def _trackio_run() -> Any:
    return importlib.import_module("trackio.context_vars").current_run.get()
