# SPDX-License-Identifier: Apache-2.0
"""Controller state and decisions on disk, through kills and resumes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agpo_core import ControllerState, StepSignals, StepSize, TokenLedger, update_state
from agpo_core.sealed import write_sealed
from agpo_core.state import state_to_dict
from recipe.agpo import run_folder
from recipe.agpo.settings import RunConfig
from recipe.agpo.training import checkpoint
from recipe.agpo.training.checkpoint import DecisionLog, ResumeError, checkpoint_to_resume, read_ledger, read_state
from tests.recipe.steps import gather, two_prompts


@pytest.fixture
def state() -> ControllerState:
    config = RunConfig()
    signals = StepSignals(policy_entropy=1 / 3, step_kl=0.1 + 0.2, step_kl_k3=0.1 + 0.2)
    return update_state(gather(two_prompts()).stats, signals, ControllerState.initial(config), config)


def config(folder: Path, mode: str = "auto", path: str | None = None) -> Any:
    trainer = SimpleNamespace(resume_mode=mode, resume_from_path=path, default_local_dir=str(folder))
    return SimpleNamespace(trainer=trainer)


def test_state_and_ledger_come_back_exactly(tmp_path: Path, state: ControllerState) -> None:
    agpo, ledger = RunConfig(), TokenLedger(10**15 + 1, 7, 5, 3, 1)
    folder = tmp_path / "global_step_1"
    checkpoint.write_state(folder, state, agpo)
    checkpoint.write_ledger(folder, ledger)
    assert read_state(folder, agpo) == state
    assert read_ledger(folder) == ledger
    assert {p.name for p in folder.iterdir()} == {run_folder.STATE_FILE, run_folder.LEDGER_FILE}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        '{"format": "agpo-token-ledger", "version": 1',
        '{"format": "agpo-token-ledger", "version": 2, "ledger": {}}',
        '{"format": "agpo-token-ledger", "version": 1, "ledger": {"generated": 5}}',
        '{"format": "agpo-token-ledger", "version": 1, "ledger": {"generated": -5, "probe": 0, "discarded": 0, '
        '"validation": 0, "lost_sessions": 0}}',
        "[]",
    ],
)
def test_a_run_does_not_go_on_without_knowing_its_cost(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / run_folder.LEDGER_FILE).write_text(text)
    with pytest.raises(ResumeError, match="token ledger .*Ways out"):
        read_ledger(tmp_path)


def ledger_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    checkpoint.write_ledger(folder, TokenLedger(generated=900, probe=300, discarded=20))
    path = folder / run_folder.LEDGER_FILE
    return path, json.loads(path.read_text())


def test_an_edited_ledger_is_refused(tmp_path: Path) -> None:
    path, document = ledger_file(tmp_path)
    document["ledger"]["generated"] = 800
    path.write_text(json.dumps(document))
    with pytest.raises(ResumeError, match="wrong checksum"):
        read_ledger(tmp_path)
    del document["checksum"]
    path.write_text(json.dumps(document))
    with pytest.raises(ResumeError, match="missing field 'checksum'"):
        read_ledger(tmp_path)


def test_a_ledger_from_before_checksums_is_read(tmp_path: Path) -> None:
    path, document = ledger_file(tmp_path)
    old = {"format": document["format"], "version": 1, "ledger": document["ledger"]}
    path.write_text(json.dumps(old))
    assert read_ledger(tmp_path) == TokenLedger(generated=900, probe=300, discarded=20)
    for value in (-1, 1.5, "9", 10**30, None):
        path.write_text(json.dumps(old | {"ledger": old["ledger"] | {"probe": value}}))
        with pytest.raises(ResumeError, match="probe"):
            read_ledger(tmp_path)


def test_a_step_size_outside_its_bounds(tmp_path: Path, state: ControllerState) -> None:
    """Refused where the same settings cannot have led to it; brought within the bounds of others."""
    agpo = RunConfig()
    far = dataclasses.replace(state, step_size=StepSize(5e4, True))
    checkpoint.write_state(tmp_path, far, agpo)
    with pytest.raises(ResumeError, match=r"step_size.scale=50000.0: must be within \[1e-06, 10000.0\]"):
        read_state(tmp_path, agpo)
    other = {"on_config_change": "keep", "clip": {"kl_target": 0.02}}
    assert read_state(tmp_path, RunConfig.from_dict(other)).step_size == StepSize(1e4, True)
    fixed = RunConfig.from_dict(other | {"step_size": {"enabled": False}})
    assert read_state(tmp_path, fixed).step_size.scale == 1.0


def test_on_config_change(tmp_path: Path, state: ControllerState) -> None:
    checkpoint.write_state(tmp_path, state, RunConfig())
    other = {"clip": {"kl_target": 0.02}}
    with pytest.raises(ResumeError, match="other algorithm.agpo settings"):
        read_state(tmp_path, RunConfig.from_dict(other))
    assert read_state(tmp_path, RunConfig.from_dict(other | {"on_config_change": "keep"})) == state
    fresh = RunConfig.from_dict(other | {"on_config_change": "reset"})
    assert read_state(tmp_path, fresh) == ControllerState.initial(fresh)
    # The switch itself, and what decides nothing, is no other config.
    same = RunConfig.from_dict({"on_config_change": "keep", "decisions_file": False, "token_budget": 9})
    assert same.fingerprint() == RunConfig().fingerprint()


def test_a_checkpoint_of_the_release_before_goes_on(tmp_path: Path, state: ControllerState) -> None:
    """It has another fingerprint and old names, and means the same."""
    values, config = state_to_dict(state) | {"version": 2}, RunConfig().to_dict()
    for name in ("uncertainty", "dispersion", "vote_entropy", "skewness", "entropy", "step_kl"):
        values[name] = {"decay" if key == "ema_weight" else key: value for key, value in values[name].items()}
    weight = config["signals"].pop("ema_weight")
    config["scoring"] = config.pop("logprob_temperature")
    config["advantage"]["zero_variance"] = "drop"
    config["temperature"] |= {"decay": weight, "base": None}
    config["clip"] |= {"decay": weight, "kl_decay": weight, "entropy_decay": weight, "base": None}
    del config["reference"]
    payload = {"state": values, "fingerprint": "of the release before", "extra": {"config": config}}
    write_sealed(tmp_path / run_folder.STATE_FILE, "agpo-controller-state", 2, payload)
    assert read_state(tmp_path, RunConfig()) == state
    config["clip"]["kl_target"] = 0.5
    write_sealed(tmp_path / run_folder.STATE_FILE, "agpo-controller-state", 2, payload)
    with pytest.raises(ResumeError, match="other algorithm.agpo settings"):
        read_state(tmp_path, RunConfig())


def test_a_damaged_state_is_refused(tmp_path: Path, state: ControllerState) -> None:
    checkpoint.write_state(tmp_path, state, RunConfig())
    file = tmp_path / run_folder.STATE_FILE
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ResumeError, match="Nothing was changed"):
        read_state(tmp_path, RunConfig())


def test_which_checkpoint_verl_will_take(tmp_path: Path) -> None:
    assert checkpoint_to_resume(config(tmp_path)) is None
    (tmp_path / run_folder.TRACKER_FILE).write_text("4")
    with pytest.raises(ResumeError, match=r"names step 4, and global_step_4 is not in .*\. Start a new run with"):
        checkpoint_to_resume(config(tmp_path))  # verl would start again from step 0
    (tmp_path / "global_step_2").mkdir()
    (tmp_path / "global_step_2" / "data.pt").write_bytes(b"")
    with pytest.raises(ResumeError, match=r"trainer\.resume_from_path=\S*/global_step_2\. "):
        checkpoint_to_resume(config(tmp_path))
    (tmp_path / "global_step_4").mkdir()
    assert checkpoint_to_resume(config(tmp_path)) == tmp_path / "global_step_4"
    assert checkpoint_to_resume(config(tmp_path, "disable")) is None
    other = str(tmp_path / "else" / "global_step_2")
    assert checkpoint_to_resume(config(tmp_path, "resume_path", other)) == Path(other)
    with pytest.raises(ResumeError, match="resume_from_path=None"):
        checkpoint_to_resume(config(tmp_path, "resume_path"))


@pytest.mark.parametrize("damage", [b"", b"\x00\x00", b"1 0", b"-1"])
def test_a_cut_off_tracker_becomes_the_newest_complete_step(tmp_path: Path, damage: bytes) -> None:
    """Step 9 was being written when the process died: it has no data.pt yet."""
    for step, complete in ((2, True), (10, True), (9, True), (12, False)):
        (tmp_path / f"global_step_{step}").mkdir()
        if complete:
            (tmp_path / f"global_step_{step}" / "data.pt").write_bytes(b"")
    tracker = tmp_path / run_folder.TRACKER_FILE
    tracker.write_bytes(damage)
    assert checkpoint_to_resume(config(tmp_path)) == tmp_path / "global_step_10"
    assert tracker.read_text() == "10"


@pytest.mark.parametrize("damage", ["x", "-1", "5.0", "\u0663", "\u00b2", "9" * 400, "\0"])
def test_a_tracker_that_names_no_step(tmp_path: Path, damage: str) -> None:
    for name in ("3", "12", "x", ""):
        (tmp_path / f"global_step_{name}").mkdir()
        (tmp_path / f"global_step_{name}" / "data.pt").write_bytes(b"")
    (tmp_path / run_folder.TRACKER_FILE).write_text(damage)
    assert checkpoint_to_resume(config(tmp_path)) == tmp_path / "global_step_12"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    """Opening a named pipe would wait for its writer, and /dev/zero has no end."""
    places = [tmp_path / name for name in (run_folder.STATE_FILE, run_folder.LEDGER_FILE, run_folder.TRACKER_FILE)]
    for place in (*places, tmp_path / run_folder.DECISIONS_FILE):
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to("/dev/zero")
    with pytest.raises(ResumeError, match="agpo_state.json.*Ways out"):
        read_state(tmp_path, RunConfig())
    with pytest.raises(ResumeError, match="agpo_ledger.json.*Ways out"):
        read_ledger(tmp_path)
    with pytest.raises(ResumeError, match="latest_checkpointed_iteration.txt is not a regular file"):
        checkpoint_to_resume(config(tmp_path))
    with pytest.raises(ValueError, match="agpo_decisions.jsonl: not a regular file"):
        DecisionLog(tmp_path / run_folder.DECISIONS_FILE, resumed_step=1)


def rows(step: int) -> list[dict[str, Any]]:
    return [{"step": step, "prompt": name, "text": "\u2028数"} for name in "ab"]


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_decisions_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "run" / "d.jsonl"
    log = DecisionLog(path, resumed_step=0)
    for step in (1, 2, 3):
        log.append(rows(step))
    assert steps_in(path) == [1, 1, 2, 2, 3, 3]
    DecisionLog(path, resumed_step=2).append(rows(3))
    assert steps_in(path) == [1, 1, 2, 2, 3, 3]
    DecisionLog(path, resumed_step=0)
    assert path.read_text() == ""


@pytest.mark.parametrize("cut", [*range(1, 9), 40])
def test_a_last_line_cut_off_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "d.jsonl"
    DecisionLog(path, resumed_step=0).append(rows(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    DecisionLog(path, resumed_step=5).append(rows(2))
    # Cut by the newline alone, the line is still whole.
    assert steps_in(path) == ([1, 1, 2, 2] if cut == 1 else [1, 2, 2])


def test_what_follows_a_cut_off_line_stands_on_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A write can fail half-way (a full disk) in a process that goes on; the next start counts what was lost."""
    path = tmp_path / "d.jsonl"
    log = DecisionLog(path, resumed_step=0)
    log.append(rows(1))
    path.write_bytes(path.read_bytes()[:-7])
    log.append(rows(2))
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    assert [json.loads(line)["step"] for line in lines[2:-1]] == [2, 2]
    DecisionLog(path, resumed_step=5)
    assert steps_in(path) == [1, 2, 2]
    assert "not whole" in capsys.readouterr().out


def test_lines_glued_by_older_versions_and_other_damage_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    DecisionLog(path, resumed_step=0).append(rows(1))
    whole = path.read_text(encoding="utf-8").split("\n")[0]
    damage = ['{"step": 1, "out' + whole, '{"step": 1, "x": 1}}', '{"step": "1"}', '{"step": true}', "[1]"]
    damage.append("[" * 99_999)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join([*damage, whole]) + "\n")
    DecisionLog(path, resumed_step=5)
    assert steps_in(path) == [1, 1, 1]


def test_a_text_that_utf8_cannot_hold_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    DecisionLog(path, resumed_step=0).append([{"step": 1, "key": "\ud83d"}])
    DecisionLog(path, resumed_step=1)
    assert json.loads(path.read_text(encoding="utf-8")) == {"step": 1, "key": "\ud83d"}


def test_a_disabled_log_writes_and_deletes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    DecisionLog(path, resumed_step=0, enabled=False).append(rows(1))
    assert not path.exists()
