# SPDX-License-Identifier: Apache-2.0
"""The state file: exact round trip, damage is told apart, replaced atomically, resume equivalence."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agpo_core import (
    AGPOConfig,
    ControllerState,
    StateError,
    StepSignals,
    StepSize,
    decide_clip,
    decide_temperature,
    load_state,
    save_state,
    state_from_dict,
    state_to_dict,
    update_state,
)
from agpo_core.records import STATE_VERSION
from agpo_core.sealed import checksum
from tests.core.strategies import binary, probes, same_bits, statistics, trained_state

CONFIG = AGPOConfig()
STATE = trained_state(CONFIG)


def saved(folder: Path) -> Path:
    path = folder / "state.json"
    save_state(path, STATE, "f" * 64, {"note": [1, None, "x"]})
    return path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    assert load_state(saved(tmp_path)) == (STATE, "f" * 64, {"note": [1, None, "x"]})
    assert os.listdir(tmp_path) == ["state.json"]


@given(st.lists(probes(max_prompts=2), max_size=4), st.floats(1e-9, 50), st.floats(0, 3))
def test_round_trip_of_any_state(steps: list, entropy: float, kl: float) -> None:
    state = ControllerState.initial(CONFIG)
    for groups in steps:
        state = update_state(
            statistics(groups, CONFIG), StepSignals(policy_entropy=entropy, step_kl=kl, step_kl_k3=kl), state, CONFIG
        )
    assert state_from_dict(json.loads(json.dumps(state_to_dict(state)))) == state


@pytest.mark.parametrize("preset", ["agpo", "reference"])
def test_resumed_run_decides_like_one_never_stopped(tmp_path: Path, preset: str) -> None:
    config = AGPOConfig.from_preset(preset)
    batches = [statistics([binary((3 * step + row) % 9) for row in range(5)], config) for step in range(8)]

    def run(state: ControllerState, start: int) -> list:
        decisions = []
        for step in range(start, 8):
            signals = StepSignals(policy_entropy=1.0 + 0.1 * step, step_kl=0.004 * step, step_kl_k3=0.004 * step)
            decisions.append(decide_temperature(batches[step], state, config, 1.0).tau)
            decisions.append(decide_clip(batches[step], signals, state, config, 0.2, 0.2).high)
            state = update_state(batches[step], signals, state, config)
            if start == 0 and step == 3:
                save_state(tmp_path / "s.json", state, config.fingerprint())
        return decisions

    whole = run(ControllerState.initial(config), 0)
    resumed = run(load_state(tmp_path / "s.json")[0], 4)
    assert len(resumed) == 8
    assert all(same_bits(a, b) for a, b in zip(whole[8:], resumed, strict=True))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="missing"):
        load_state(tmp_path / "none.json")


@pytest.mark.parametrize("keep", [0, 1, 40, 400, -3])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError, match="not JSON, truncated"):
        load_state(path)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StateError, match="not JSON"):
        load_state(path)


def edited(path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["state"]["uncertainty"].update(mean_acc=0.5), "wrong checksum"),
        (lambda d: d.update(fingerprint="0" * 64), "wrong checksum"),
        (lambda d: d["extra"].update(note=2), "wrong checksum"),
        (lambda d: d.update(version=9), "unknown version 9"),
        (lambda d: d.update(format="else"), "not a controller state file"),
        (lambda d: d.pop("checksum"), "missing field 'checksum'"),
        (lambda d: d.pop("state"), "missing field 'state'"),
    ],
)
def test_damage_is_told_apart(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    path = edited(saved(tmp_path), change)
    with pytest.raises(StateError, match=words) as error:
        load_state(path)
    assert str(path) in str(error.value)


def test_not_an_object(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1]")
    with pytest.raises(StateError, match="not a controller state file"):
        load_state(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("entropy"), "lacks the field 'entropy'"),
        (lambda d: d["step_kl"].pop("weight"), "lacks the field 'weight'"),
        (lambda d: d.update(version=7), "version 7"),
        (lambda d: d["entropy"].update(ema_weight="x"), "malformed"),
        (lambda d: d.update(reference=None), "malformed"),
    ],
)
def test_bad_dict(change, words: str) -> None:  # type: ignore[no-untyped-def]
    values = state_to_dict(STATE)
    change(values)
    with pytest.raises(StateError, match=words):
        state_from_dict(values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_size.scale", -1.0),
        ("step_size.scale", 0.0),
        ("step_size.scale", float("inf")),
        ("step_size.scale", True),
        ("step_size.exceeded", 1),
        ("step_size.exceeded", "false"),
        ("step", -5),
        ("step", 2.5),
        ("step", "3"),
        ("step", 10**30),
        ("entropy.updates", -5),
        ("entropy.updates", 1.0),
        ("entropy.updates", None),
        ("entropy.ema_weight", 0.0),
        ("entropy.ema_weight", 1.5),
        ("entropy.ema_weight", "0.1"),
        ("step_kl.mean_acc", float("nan")),
        ("step_kl.mean_acc", -1e-3),
        ("step_kl.mean_acc", 10**400),
        ("step_kl.square_acc", -1.0),
        ("step_kl.square_acc", 0.0),  # below the square of the mean
        ("uncertainty.weight", 1.01),
        ("uncertainty.weight", 0.0),
        ("skewness.updates", 0),  # with sums above 0
        ("reference.u_bar", -0.1),
        ("reference.kl_ema", float("-inf")),
        ("reference.h_ref", []),
        ("dispersion", 0.3),
        ("version", True),
        ("version", "2"),
    ],
)
def test_values_that_no_run_can_reach_are_refused_by_name_although_the_checksum_holds(
    tmp_path: Path, field: str, value: object
) -> None:
    values = state_to_dict(STATE)
    *sections, name = field.split(".")
    node = values
    for section in sections:
        node = node[section]
    node[name] = value
    payload = {"state": values, "fingerprint": "f" * 64, "extra": {}}
    document = {"format": "agpo-controller-state", "version": STATE_VERSION, "checksum": checksum(payload), **payload}
    path = tmp_path / "state.json"
    path.write_text(json.dumps(document))
    with pytest.raises(StateError) as error:
        load_state(path)
    assert name in str(error.value) and str(path) in str(error.value)
    assert "wrong checksum" not in str(error.value)
    if not isinstance(value, int) or value < 10**15:
        assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "payload",
    [
        {"state": [], "fingerprint": "f", "extra": {}},
        {"state": {}, "fingerprint": 7, "extra": {}},
        {"state": {}, "fingerprint": "f", "extra": "none"},
    ],
)
def test_parts_of_the_wrong_type_are_refused(tmp_path: Path, payload: dict) -> None:
    path = tmp_path / "state.json"
    document = {"format": "agpo-controller-state", "version": STATE_VERSION, "checksum": checksum(payload), **payload}
    path.write_text(json.dumps(document))
    with pytest.raises(StateError, match="must be a JSON"):
        load_state(path)


def test_files_that_break_a_json_reader_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with pytest.raises(StateError, match="cannot be read"):
        load_state(tmp_path)
    for text in ("[" * 200_000, "1" * 6_000, "\ufeff{}", '{"format": "agpo-controller-state", "version": [2]}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(StateError, match=str(path)):
            load_state(path)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_versions_are_read(tmp_path: Path, version: int) -> None:
    """Their running values said decay; version 1 knew no step size, and its learning rate goes on as it was."""
    values = state_to_dict(STATE) | {"version": version}
    for name in ("uncertainty", "dispersion", "vote_entropy", "skewness", "entropy", "step_kl"):
        values[name] = {"decay" if key == "ema_weight" else key: value for key, value in values[name].items()}
    if version == 1:
        del values["step_size"]
    payload = {"state": values, "fingerprint": "f", "extra": {}}
    document = {"format": "agpo-controller-state", "version": version, "checksum": checksum(payload), **payload}
    path = tmp_path / "state.json"
    path.write_text(json.dumps(document))
    expected = dataclasses.replace(STATE, step_size=StepSize(1.0, True)) if version == 1 else STATE
    assert load_state(path)[0] == expected


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, ControllerState.initial(CONFIG), "0" * 64)
    assert load_state(path)[0] == STATE
    assert os.listdir(tmp_path) == ["state.json"]


def test_file_and_folder_are_flushed_and_only_then_is_the_file_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_replace(source: str, target: str) -> None:
        calls.append("replace")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    saved(tmp_path)
    assert calls == ["file", "replace", "folder"]


def test_values_that_json_cannot_hold_are_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ValueError):
        save_state(path, STATE, "0" * 64, {"bad": float("nan")})
    assert load_state(path)[1] == "f" * 64
