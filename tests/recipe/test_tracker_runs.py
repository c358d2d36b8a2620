# SPDX-License-Identifier: Apache-2.0
"""The id of a tracker's run is kept over a resume; wandb for real and offline, the others by stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recipe.agpo.processes import MARKER
from recipe.agpo.training import tracker_runs
from recipe.agpo.training.checkpoint import TRACKER_FILE
from recipe.agpo.training.tracker_runs import RUNS_FILE, continues_runs

WANDB = """
import sys
import wandb
from recipe.agpo.training.tracker_runs import continues_runs

config = {"algorithm": {"adv_estimator": "agpo"}, "trainer": {"default_local_dir": sys.argv[1], "resume_mode": "auto"}}


def as_verl_does(self, project_name, experiment_name, default_backend, config):
    wandb.init(project=project_name, name=experiment_name, config=config)


continues_runs(as_verl_does)(None, "project", "experiment", ["wandb"], config)
wandb.log({"agpo/tau/mean": 1.0}, step=1)
print("id", wandb.run.id)
wandb.finish()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MARKER, "WANDB_RUN_ID", "WANDB_RESUME", "SWANLAB_RUN_ID", "SWANLAB_RESUME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def config(folder: Path, **others: Any) -> dict[str, Any]:
    return {"algorithm": {"adv_estimator": "agpo"}, "trainer": {"default_local_dir": str(folder), **others}}


def start(folder: Path, backends: list[str], resume_mode: str = "auto", **algorithm: Any) -> dict[str, str]:
    """One start of verl's tracking; what the trackers saw in their environment."""
    seen: dict[str, str] = {}

    def original(*_: Any) -> None:
        seen.update({name: value for name, value in os.environ.items() if "RUN_ID" in name or "RESUME" in name})

    given = config(folder, resume_mode=resume_mode)
    given["algorithm"] |= algorithm
    before = dict(os.environ)
    continues_runs(original)(None, "project", "experiment", backends, given)
    assert dict(os.environ) == before
    return seen


def saved_checkpoint(folder: Path) -> None:
    (folder / "global_step_2").mkdir(parents=True)
    (folder / TRACKER_FILE).write_text("2")


@pytest.mark.parametrize("name", sorted(tracker_runs.CHOSEN))
def test_the_id_is_kept_over_a_resume_and_not_over_a_fresh_start(name: str, tmp_path: Path) -> None:
    variable, others = tracker_runs.CHOSEN[name]
    first = start(tmp_path, ["console", name])
    assert first[variable] and others.items() <= first.items()
    assert json.loads((tmp_path / RUNS_FILE).read_text())["runs"] == {name: first[variable]}
    without_checkpoint = start(tmp_path, [name])
    assert without_checkpoint[variable] != first[variable]
    saved_checkpoint(tmp_path)
    assert start(tmp_path, [name]) == start(tmp_path, [name]) == without_checkpoint
    assert start(tmp_path, [name], resume_mode="disable")[variable] != first[variable]


def test_the_users_own_id_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_RESUME", "must")
    assert start(tmp_path, ["wandb"]) == {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "must"}
    assert json.loads((tmp_path / RUNS_FILE).read_text())["runs"] == {"wandb": "mine"}


@pytest.mark.parametrize("backends", [["console", "file"], ["tensorboard"]])
def test_nothing_is_written_where_no_tracker_needs_it(backends: list[str], tmp_path: Path) -> None:
    assert start(tmp_path, backends) == {} and list(tmp_path.iterdir()) == []


def test_a_run_without_agpo_is_left_alone(tmp_path: Path) -> None:
    assert start(tmp_path, ["wandb"], adv_estimator="grpo") == {} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"version": 2, "runs": {}}', '{"version": 1, "runs": 3}'])
def test_a_damaged_file_gives_new_runs_and_a_warning(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_checkpoint(tmp_path)
    (tmp_path / RUNS_FILE).write_text(text)
    assert start(tmp_path, ["wandb"])["WANDB_RUN_ID"]
    assert RUNS_FILE in capsys.readouterr().out


def test_mlflow_and_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow gets its id from the server, trackio knows a run by its name."""
    current: list[Any] = [None]
    mlflow, trackio, variables = ModuleType("mlflow"), ModuleType("trackio"), ModuleType("trackio.context_vars")
    mlflow.active_run = lambda: SimpleNamespace(info=SimpleNamespace(run_id="from-server"))  # type: ignore[attr-defined]
    started: list[dict[str, Any]] = []
    trackio.init = lambda **given: started.append(given)  # type: ignore[attr-defined]
    variables.current_run = SimpleNamespace(get=lambda: current[0])  # type: ignore[attr-defined]
    for module in (mlflow, trackio, variables):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    current[0] = SimpleNamespace(name="experiment-2")
    assert start(tmp_path, ["mlflow", "trackio"]) == {} and started == []
    assert json.loads((tmp_path / RUNS_FILE).read_text())["runs"] == {
        "mlflow": "from-server",
        "trackio": "experiment-2",
    }
    saved_checkpoint(tmp_path)
    assert start(tmp_path, ["mlflow", "trackio"]) == {"MLFLOW_RUN_ID": "from-server"}
    assert [(each["project"], each["name"], each["resume"]) for each in started] == [
        ("project", "experiment-2", "allow")
    ]


def test_wandb_itself_offline(tmp_path: Path) -> None:
    """The installed wandb, without network: two starts, one id."""
    saved_checkpoint(tmp_path / "checkpoints")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    ids = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", WANDB, str(tmp_path / "checkpoints")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ids += [line.removeprefix("id ") for line in done.stdout.splitlines() if line.startswith("id ")]
    kept = json.loads((tmp_path / "checkpoints" / RUNS_FILE).read_text())["runs"]["wandb"]
    assert ids == [kept, kept]
