# SPDX-License-Identifier: Apache-2.0
"""The quickstart's arguments and run folder; nothing here starts a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipe.agpo.plan.compose import compose
from recipe.agpo.quickstart import run, task
from recipe.agpo.run_folder import write_launch


@pytest.fixture(autouse=True)
def no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("the run was started")

    monkeypatch.setattr(task, "make_data", started)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGPO_DRY_RUN", raising=False)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code = run.main(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said, (arguments, code, said)
    return said


@pytest.mark.parametrize(
    "argument",
    [
        "--steps=0",
        "--steps=-3",
        "--steps=x",
        "--steps=" + "9" * 400,
        "--seed=-1",
        "--seed=1.5",
        "--seed=" + "9" * 20,
        "--method=wat",
        "--nonsense",
        "--nonsense=1",
        "word",
        "=1",
        "a b=1",
        "-x=1",
        "--config-name=other",
    ],
)
def test_arguments_that_make_no_sense(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert argument.lstrip("-").partition("=")[2][:20] in refused([argument], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "loop", "pipe"])
def test_folders_that_can_be_none(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for option in ("--out", "--cache"):
        assert place.partition("/")[0] in refused([option, str(tmp_path / place)], capsys)
    assert (tmp_path / "file").read_text() == "kept" and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\0", "[" * 100_000])
@pytest.mark.parametrize("name", [run.IDENTITY, run.SUMMARY])
def test_damaged_files_of_a_run(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    said = refused(["--out", "out"], capsys)
    assert name in said and "--fresh" in said
    assert (tmp_path / "out" / name).read_text() == text


def test_another_run_is_not_mixed_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="was started"):
        run.main(["--out", "out", "--seed", "1"])
    assert "--fresh" in refused(["--out", "out", "--seed", "2"], capsys)
    with pytest.raises(AssertionError, match="was started"):
        run.main(["--out", "out", "--seed", "2", "--fresh"])


def test_fresh_removes_a_run_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("kept")
    assert "thesis" in refused(["--fresh", "--out", "thesis"], capsys)
    assert (tmp_path / "thesis" / "chapter").read_text() == "kept"
    write_launch(tmp_path / "thesis", {"started": "today"})
    assert "thesis" in refused(["--fresh", "--out", "thesis"], capsys), "a run, but not of the quickstart"


def test_a_dry_run_prints_the_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGPO_DRY_RUN", "1")
    odd = tmp_path / "a b, 'é'"
    assert run.main(["--steps", "3", "--out", str(odd), "trainer.nnodes=1", "~trainer.logger"]) == 0
    first, name, *given = capsys.readouterr().out.splitlines()
    assert (first, name, given[-2:]) == ("--config-name", "quickstart", ["trainer.nnodes=1", "~trainer.logger"])
    config = compose("quickstart", given)
    assert config.trainer.default_local_dir == f"{odd}/checkpoints" and config.trainer.total_training_steps == 3
    assert list(tmp_path.iterdir()) == []


def test_the_next_command_names_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recipe.agpo.cli import _parser

    folder = tmp_path / "runs" / "a b"
    weights = folder / "checkpoints" / "global_step_20" / "actor" / "huggingface"
    weights.mkdir(parents=True)
    assert run.evaluation(folder) is None, "no checkpoint"
    (folder / run.TRACKER).write_text("20")
    assert run.evaluation(folder) is None, "shards only"
    (weights / "model.safetensors").touch()
    words = run.evaluation(folder)
    assert words is not None
    given = _parser().parse_args(words[words.index("eval") :])
    assert given.model == "runs/a b/checkpoints/global_step_20" and given.out == Path("runs/a b/eval")
    assert given.data == [Path("runs/a b/data/val.parquet")]
    assert given.max_tokens == compose("quickstart").data.max_response_length
    (folder / run.IDENTITY).write_text("{}")
    (folder / run.SUMMARY).write_text('{"line": "quickstart: val accuracy"}')
    assert run.main(["--out", str(folder)]) == 0
    assert "'runs/a b/eval'" in capsys.readouterr().out.splitlines()[-1]


def test_on_a_pipe_a_run_prints_ten_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from tqdm import tqdm

    metrics, bar, told = tmp_path / "metrics.jsonl", tqdm(total=200, disable=True), 0
    for step in range(201):
        metrics.write_text(json.dumps({"step": step, "data": {"critic/score/mean": step / 400}}) + "\n")
        for _ in range(3):  # the file is read more often than it grows
            run._advance(bar, metrics)
            told = run._tell(bar, 200, told)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == "quickstart: step 20 of 200, reward=0.050"


def test_ctrl_c_before_the_training_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "make_data", interrupted)
    assert run.main(["--out", "out"]) == 130
    assert capsys.readouterr().err.strip() == "quickstart: interrupted; the same command continues."
