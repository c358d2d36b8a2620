# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.quickstart import summary


def log(path: Path, records: dict[int, dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps({"step": s, "data": d}) + "\n" for s, d in records.items()))


def test_agpo_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps: dict[int, dict[str, Any]] = {
        s: {
            summary.REWARD: 0.1 * s,
            summary.TOKENS: 100 * s,
            "response_length/mean": 7.0,
            "agpo/tau/mean": 1.0,
            "agpo/tau/min": 0.8,
            "agpo/tau/max": 1.2,
            "agpo/eps/mean": 0.2,
        }
        for s in (1, 2, 3)
    }
    steps[3] |= {summary.ACCURACY: 0.75}
    log(tmp_path / "metrics.000.jsonl", {0: {summary.ACCURACY: 0.5}} | steps)
    result = summary.write(tmp_path, wall_seconds=61.4, method="agpo", seed=2)
    line = "quickstart: val accuracy 0.500 -> 0.750 | steps 3 | generated tokens 600 | wall 61 s"
    assert result.line == line and line in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["generated_tokens"] == 600
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.part*"))


def test_grpo_run_counts_tokens_from_response_lengths(tmp_path: Path) -> None:
    log(tmp_path / "metrics.jsonl", {1: {"response_length/mean": 20.5}, 2: {"response_length/mean": 10.0}})
    result = summary.write(tmp_path, wall_seconds=1.0, responses_per_step=4)
    assert result.generated_tokens == 82 + 40
    assert result.accuracy_first is None
    assert "val accuracy ? -> ?" in result.line


def test_resumed_run_counts_repeated_steps_once_and_survives_a_torn_line(tmp_path: Path) -> None:
    log(
        tmp_path / "metrics.000.jsonl",
        {0: {summary.ACCURACY: 0.4}, 1: {summary.TOKENS: 10}, 2: {summary.TOKENS: 10}},
    )
    with (tmp_path / "metrics.000.jsonl").open("a") as file:
        file.write('{"step": 3, "da')
    log(tmp_path / "metrics.001.jsonl", {2: {summary.TOKENS: 7}, 3: {summary.TOKENS: 5, summary.ACCURACY: 0.6}})
    result = summary.write(tmp_path, wall_seconds=1.0)
    assert (result.steps, result.generated_tokens) == (3, 10 + 7 + 5)
    assert (result.accuracy_first, result.accuracy_last) == (0.4, 0.6)


def test_not_a_number_is_left_out() -> None:
    records = [(1, {"x": float("nan")}), (2, {"x": 2}), (3, {"x": "text"}), (4, {"x": True}), (5, {})]
    assert summary.series(records, "x") == [(2, 2.0)]


def test_no_metrics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metrics"):
        summary.write(tmp_path, wall_seconds=1.0)
    assert not (tmp_path / "summary.json").exists()


def test_resumed_step_keeps_its_training_record(tmp_path) -> None:
    """A resumed run validates at the checkpoint's step; that must not hide the step's tokens."""
    (tmp_path / "metrics.000.jsonl").write_text('{"step": 2, "data": {"agpo/tokens/generated": 7}}\n')
    (tmp_path / "metrics.001.jsonl").write_text('{"step": 2, "data": {"acc": 0.5}}\n')
    records = summary.read(sorted(tmp_path.glob("metrics*.jsonl")))
    assert records == [(2, {"agpo/tokens/generated": 7, "acc": 0.5})]


def test_the_effective_rate_is_the_rate_times_the_step_size() -> None:
    first = {summary.RATE: 1e-4, summary.STEP_SIZE: 0.03}
    records: list[summary.Record] = [(1, first), (2, {summary.RATE: 1e-4}), (3, {summary.REWARD: 0.5})]
    assert dict(summary.effective_rate(records)) == pytest.approx({1: 3e-6, 2: 1e-4})
    assert summary.newest(first | {summary.REWARD: 0.25, "agpo/tau/mean": 1.0}) == {
        "reward": "0.250",
        "tau": "1.000",
        "lr": "3.0e-06",
    }
    assert summary.newest({}) == {}
