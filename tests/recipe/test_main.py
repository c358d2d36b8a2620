# SPDX-License-Identifier: Apache-2.0
"""Our entry point: what is wrong with a setting ends it with one message and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.agpo import main as entry_point
from recipe.agpo.preflight import ConfigProblem
from tests.recipe.test_preflight import Carried

ROOT = Path(__file__).parents[2]


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit code and stderr of our entry point in this process."""
    monkeypatch.setattr(sys, "argv", ["agpo", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as caught:
        entry_point.main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("algorithm.agpo.temperature.gian=0.2", "Set algorithm.agpo.temperature.gain=0.2"),
        ("data.train_bach_size=8", "Set data.train_batch_size=8"),
        ("foo.bar=1", "+foo.bar=1"),
        ("data.train_batch_size=[1", "AGPO cannot start"),
    ],
)
def test_a_misspelt_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], override: str, advice: str
) -> None:
    code, said = ended(monkeypatch, capsys, override)
    assert code == 2 and advice in said and "Traceback" not in said and "To append to your config" not in said


def test_another_config_of_the_users(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [ppo_trainer, _self_]\n")
    arguments = ("--config-path", str(tmp_path), "--config-name=mine", "data.train_bach_size=8")
    code, said = ended(monkeypatch, capsys, *arguments)
    assert code == 2 and "Set data.train_batch_size=8" in said


@pytest.mark.parametrize("carried", [False, True])
def test_a_problem_that_others_raise_around(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], carried: bool
) -> None:
    """verl, Hydra and Ray wrap what is raised inside them."""
    from verl.trainer import main_ppo

    def fails() -> None:
        problem = ConfigProblem("AGPO cannot start, 1 problem(s):\n  1. a=b: no.")
        raise (Carried(problem) if carried else RuntimeError("Hydra's")) from problem

    monkeypatch.setattr(main_ppo, "main", fails)
    code, said = ended(monkeypatch, capsys)
    assert code == 2 and said.strip() == "AGPO cannot start, 1 problem(s):\n  1. a=b: no."


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer import main_ppo

    def fails() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(main_ppo, "main", fails)
    monkeypatch.setattr(sys, "argv", ["agpo"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError):
        entry_point.main()


PROGRAM = """
import sys
import recipe.agpo.plugin
sys.argv = ["main"] + sys.argv[1:]
from verl.trainer.main_ppo import main
main()
"""


def test_verls_own_entry_point_ends_without_a_traceback(tmp_path: Path) -> None:
    """A real process, Hydra's main and verl's validate_config; Ray is never started."""
    overrides = ("algorithm.adv_estimator=agpo", "data.train_batch_size=null", "trainer.logger=[wandbb]")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *overrides, f"hydra.run.dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "HYDRA_FULL_ERROR" not in done.stderr
    assert "data.train_batch_size=null: must be a whole number" in done.stderr and "[wandb]" in done.stderr
    assert "ray init" not in done.stdout


def test_what_verl_itself_refuses_is_a_problem_too() -> None:
    from omegaconf import OmegaConf

    from recipe.agpo.preflight import verls_own

    ours = OmegaConf.create({"algorithm": {"adv_estimator": "agpo"}})
    with pytest.raises(ConfigProblem, match="verl refuses the configuration: AssertionError: sizes"), verls_own(ours):
        raise AssertionError("sizes")
    others = OmegaConf.create({"algorithm": {"adv_estimator": "grpo"}})
    with pytest.raises(AssertionError), verls_own(others):
        raise AssertionError("sizes")
