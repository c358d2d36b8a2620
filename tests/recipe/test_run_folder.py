# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo import run_folder
from recipe.agpo.preflight.launch import record_launch, setting_lines
from recipe.agpo.run_folder import HIDDEN, folder_of, read_launches, without_secrets, write_launch
from recipe.agpo.settings import RunConfig

Build = Callable[..., Any]


@pytest.mark.parametrize(
    "value",
    [
        {"hub_token": "q7"},
        {"WANDB_API_KEY": "q7"},
        {"a": {"b": [{"password": "q7"}]}},
        {"secret": ["q7", {"x": "q7"}]},
        {"aws.secret_access_key": 77},
        {"credentials": {"user": "q7"}},
        "trainer.hub_token=q7",
        "+ray_kwargs.env_vars={HF_TOKEN:q7,OTHER:1}",
        '\'{"api_key": "q7"}\'',
        "https://user:q7@host/path",
        "https://host/x?token=q7&y=1",
        ["key=hf_q7q7q7q7q7q7q7q7q7"],
        "note=sk-q7q7q7q7q7q7q7q7",
        {"key": "q7" * 20},
    ],
)
def test_secrets_are_hidden(value: Any) -> None:
    hidden = json.dumps(without_secrets(value))
    assert "q7" not in hidden and "77" not in hidden and HIDDEN in hidden


@pytest.mark.parametrize(
    "value",
    [
        {"token_budget": 5, "max_token_len": 7, "tokenizer": "x", "author": "y", "use_token_level": True},
        "algorithm.agpo.token_budget=2000",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384",
        "data.train_files=[/data/0123456789abcdef0123456789abcdef/train.parquet]",
        "model.path=models--Qwen/snapshots/0123456789abcdef0123456789abcdef01234567",
        "https://host:8080/path",
        {"nothing": None, "lr": 1e-6, "on": False, "list": [1, "two"]},
    ],
)
def test_what_is_no_secret_is_kept(value: Any) -> None:
    assert without_secrets(value) == value


def test_launches_are_added_and_bounded(tmp_path: Path) -> None:
    for number in range(run_folder.LAUNCHES + 5):
        write_launch(tmp_path, {"number": number, "config": {"a": number}, "api_key": "x"})
    launches = read_launches(tmp_path)
    numbers = [each["number"] for each in launches]
    assert len(numbers) == run_folder.LAUNCHES and numbers[0] == 0 and numbers[-3:] == [22, 23, 24]
    assert [each["number"] for each in launches if "config" in each] == [24], "of the newest only"
    assert launches[-1]["api_key"] == HIDDEN


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "[" * 100_000, '{"launches": 3}', '{"method": "agpo", "seed": 0}']
)
def test_a_damaged_record_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / run_folder.RUN_FILE).write_text(text)
    assert read_launches(tmp_path) == []
    write_launch(tmp_path, {"number": 1})
    assert read_launches(tmp_path) == [{"number": 1}]
    assert [path.name for path in tmp_path.iterdir()] == [run_folder.RUN_FILE], "nothing is left beside it"


def test_the_run_folder_of_a_checkpoint_folder() -> None:
    assert folder_of(Path("/runs/a/checkpoints")) == Path("/runs/a") and folder_of(Path("/runs/a")) == Path("/runs/a")


def test_a_launch_is_recorded_and_its_settings_are_printed(
    good_config: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    config = good_config(
        f"trainer.default_local_dir={folder}/checkpoints",
        "algorithm.agpo.step_size.drift_target=0.02",
        "trainer.total_training_steps=7",
        "+trainer.hub_token=very-secret",
    )
    record_launch(config)
    (launch,) = read_launches(folder)
    assert launch["settings"]["step_size"]["drift_target"] == 0.02
    assert launch["config"]["trainer"]["total_training_steps"] == launch["planned"]["steps"] == 7
    assert sum(launch["planned"]["validation_problems"].values()) > 0
    assert HIDDEN not in str(launch["commit"]), "a commit is no secret"
    assert launch["machine"]["cores"] >= 1 and launch["versions"]["verl"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", launch["started"])
    assert "very-secret" not in (folder / run_folder.RUN_FILE).read_text()
    said = capsys.readouterr().out
    assert "[agpo] step_size: enabled=true drift_target=0.02" in said and "[agpo] settings: preset=agpo" in said
    record_launch(config)
    assert len(read_launches(folder)) == 2


def test_steps_are_planned_from_the_rows_and_epochs(good_config: Build, tmp_path: Path) -> None:
    config = good_config(f"trainer.default_local_dir={tmp_path}/checkpoints", "trainer.total_training_steps=null")
    config.data.train_batch_size, config.trainer.total_epochs = 3, 5
    record_launch(config)
    assert read_launches(tmp_path)[0]["planned"]["steps"] == 8 // 3 * 5, "the fixture has eight prompts"


def test_baselines_are_recorded_and_runs_without_our_section_are_not(good_config: Build, tmp_path: Path) -> None:
    place = f"trainer.default_local_dir={tmp_path}/checkpoints"
    record_launch(good_config(place, "algorithm.adv_estimator=grpo", "~algorithm.agpo"))
    assert not (tmp_path / run_folder.RUN_FILE).exists()
    record_launch(good_config(place, "algorithm.adv_estimator=grpo"))
    assert (tmp_path / run_folder.RUN_FILE).exists()


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(
    good_config: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    record_launch(good_config(f"trainer.default_local_dir={tmp_path}/file/checkpoints"))
    assert "WARNING: what was started is not recorded" in capsys.readouterr().out
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)


def test_every_setting_is_printed_once() -> None:
    lines = list(setting_lines(RunConfig()))
    keys = [f"{line.split(':')[0]}.{part.split('=')[0]}" for line in lines for part in line.split(": ", 1)[1].split()]
    assert len(keys) == len(set(keys)) > 30 and "step_size.max" in keys and "settings.token_budget" in keys
