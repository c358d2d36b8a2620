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
