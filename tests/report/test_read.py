# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.report.page import page
from recipe.agpo.report.read import read_run, read_runs
from recipe.agpo.report.samples import EACH, LONGEST
from recipe.agpo.run_folder import write_launch
from recipe.agpo.settings import RunConfig
from tests.report import runs


def test_whole_run(tmp_path: Path) -> None:
    run = read_run(runs.agpo_run(tmp_path, 30, config=RunConfig.from_dict({"token_budget": 50_000})))
    assert (run.steps, len(run.records), run.starts, run.superseded) == (30, 31, [0], 0)
    assert run.method == "agpo" and run.settings.number("token_budget") == 50_000
    counts = {"generated": 12000, "probe": 6000, "discarded": 0, "validation": 600, "lost_sessions": 0}
    assert run.ledger == (30, counts)
    assert run.tokens() == ([(float(s), 400.0 * s) for s in range(1, 31)], False)
    assert run.series(runs.ACCURACY)[:2] == [(0.0, 0.4), (5.0, 0.45)]
    assert run.decisions is not None and run.decisions.rows == 30 * runs.PROMPTS
    assert [note.name for note in run.files] == ["metrics.000.jsonl", "agpo_decisions.jsonl"]
    assert not run.problems and not any(note.bad for note in run.files)


def test_resumed_run_goes_on_where_the_later_attempt_began(tmp_path: Path) -> None:
    def early(step: int, data: dict) -> None:
        data["critic/score/mean"] = 0.0

    runs.agpo_run(tmp_path, 12, change=early)
    runs.agpo_run(tmp_path, 5, first=7, file="metrics.001.jsonl")
    run = read_run(tmp_path)
    assert run.starts == [0, 6]
    assert [step for step, _ in run.records] == list(range(12)), "step 12 belongs to the attempt that was given up"
    assert run.superseded == 1
    rewards = dict(run.series("critic/score/mean"))
    assert rewards[6] == 0.0 and all(rewards[step] > 0.0 for step in range(7, 12))
    assert run.records[6][1][runs.ACCURACY] == 0.4, "the resumed attempt validated step 6 again"


def test_attempts_are_ordered_by_number(tmp_path: Path) -> None:
    for name, value in (("metrics.9.jsonl", 0.9), ("metrics.10.jsonl", 1.0)):
        (tmp_path / name).write_bytes(runs.line(1, {"training/global_step": 1, "critic/score/mean": value}))
    assert read_run(tmp_path).series("critic/score/mean") == [(1.0, 1.0)]


def test_damaged_lines_are_counted_and_named(tmp_path: Path) -> None:
    runs.agpo_run(tmp_path, 3)
    metrics, decisions = tmp_path / "metrics.000.jsonl", tmp_path / "checkpoints" / "agpo_decisions.jsonl"
    cut, words, number = b'{"step": 4, "data": {"critic', b'{"step": "5", "data": {}}', b'{"step": 6, "data": 7}'
    huge = b'{"step": 1' + b"0" * 400 + b', "data": {}}'
    broken = [cut, b"\xff\xfe", words, b"[1]", number, huge]
    metrics.write_bytes(metrics.read_bytes() + b"\n".join(broken))
    decisions.write_bytes(decisions.read_bytes() + b'{"step": 4, "tau"')
    run = read_run(tmp_path)
    assert run.steps == 3
    assert {note.name: note.bad for note in run.files} == {
        "metrics.000.jsonl": [5, 6, 7, 8, 9, 10],
        "agpo_decisions.jsonl": [13],
    }


def test_values_that_are_no_finite_numbers_are_left_out(tmp_path: Path) -> None:
    values = ["null", "NaN", "Infinity", "1e400", '"0.5"', "true", "[1]", "1" + "0" * 400, "0.25"]
    text = "".join(f'{{"step": {i}, "data": {{"x": {v}}}}}\n' for i, v in enumerate(values))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_run(tmp_path).series("x") == [(8.0, 0.25)]


def test_damaged_checkpoint_files_are_reported_not_fatal(tmp_path: Path) -> None:
    runs.agpo_run(tmp_path, 3)
    last = tmp_path / "checkpoints" / "global_step_3"
    (tmp_path / "run.json").unlink()
    (last / "agpo_state.json").write_text(json.dumps({"extra": {"config": {"unknown_key": 1}}}))
    (last / "agpo_ledger.json").write_text("{")
    run = read_run(tmp_path)
    assert run.settings.number("clip.kl_target") is None and run.ledger is None and len(run.problems) == 1
    assert "agpo_ledger.json" in run.problems[0]


def test_baseline_estimates_its_tokens(tmp_path: Path) -> None:
    run = read_run(runs.grpo_run(tmp_path, 10))
    tokens, estimated = run.tokens()
    assert estimated and not run.adaptive and run.method == "baseline"
    lengths = [length for _, length in run.series("response_length/mean")]
    assert tokens[-1][1] == pytest.approx(sum(16 * length for length in lengths), rel=0.01)


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert (run.steps, run.records, run.files) == (0, [], [])
    with pytest.raises(FileNotFoundError, match="no such run"):
        read_run(tmp_path / "absent")


def test_single_metrics_file(tmp_path: Path) -> None:
    runs.grpo_run(tmp_path, 4)
    assert read_run(tmp_path / "metrics.000.jsonl").steps == 4


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run", "other"]


def test_decisions_summarise_prompts(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "prompt": "p0", "tau": 0.7, "eps_low": 0.1, "outcomes": [0.0, 0.0]},
        {"step": 1, "prompt": "p1", "tau": 1.4, "eps_low": None, "outcomes": [0.0, 1.0, None]},
        {"step": 2, "prompt": "p2", "tau": None, "eps_low": 0.3, "outcomes": [1.0, 1.0]},
        {"step": 2, "prompt": "p3", "tau": 1.0, "eps_low": 0.2, "outcomes": []},
    ]
    (tmp_path / "agpo_decisions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    decisions = read_run(tmp_path).decisions
    assert decisions is not None
    assert decisions.quantiles("tau", 0.0, 1.0) == [(1.0, 0.7, 1.4), (2.0, 1.0, 1.0)]
    assert decisions.values("eps", since=2) == [0.3, 0.2]
    assert [(s.never, s.sometimes, s.always) for s in decisions.steps.values()] == [(1, 1, 0), (0, 0, 1)]
    assert [row["prompt"] for row in decisions.latest] == ["p2", "p3"]


def test_samples_are_the_best_and_the_worst_of_the_newest_step(tmp_path: Path) -> None:
    runs.dump(tmp_path / "rollouts", 9, [("old", "old", 1.0)])
    runs.dump(tmp_path / "rollouts", 10, [(f"p{i}", "x" * (LONGEST + i), i / 10) for i in range(10)])
    run = read_run(tmp_path)
    assert [sample.score for sample in run.samples] == [0.9, 0.8, 0.7, 0.2, 0.1, 0.0]
    assert {(s.source, s.step) for s in run.samples} == {("rollouts", 10)} and len(run.samples) == 2 * EACH
    assert [(len(s.response), s.cut) for s in run.samples][:2] == [(LONGEST, 9), (LONGEST, 8)]


def test_settings_come_from_the_launch_and_without_one_from_the_checkpoint(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 3, config=RunConfig.from_dict({"clip": {"kl_target": 0.02}}))
    write_launch(folder, {"settings": {"preset": "agpo_d", "clip": {"kl_target": 0.03}}, "planned": {"steps": 9}})
    run = read_run(folder)
    assert (run.settings.number("clip.kl_target"), run.method, run.planned_steps) == (0.03, "agpo_d", 9)
    assert len(run.launches) == 2
    (folder / "run.json").unlink()
    run = read_run(folder)
    assert (run.settings.number("clip.kl_target"), run.method, run.planned_steps) == (0.02, "agpo", None)


@pytest.mark.parametrize("value", [{}, [], 7, None, "x", {"clip": 3, "preset": 7}, {"clip": {"kl_target": "high"}}])
def test_settings_of_any_form_are_read(value: Any, tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 3)
    write_launch(folder, {"settings": value, "planned": value, "config": value, "machine": value, "versions": value})
    assert "AGPO training report" in page([read_run(folder)])


def test_the_quickstarts_old_record_is_read(tmp_path: Path) -> None:
    runs.grpo_run(tmp_path, 4)
    (tmp_path / "run.json").write_text(json.dumps({"method": "reference", "seed": 3}))
    assert read_run(tmp_path).method == "reference" and read_run(tmp_path).identity["seed"] == 3
