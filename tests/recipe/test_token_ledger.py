# SPDX-License-Identifier: Apache-2.0
"""The token budget ends a run of any trainer. The trainer here is a stand-in with verl's loop conditions;
tests/realstack/test_scripts.py does it with verl's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from agpo_core import TokenLedger
from recipe.agpo import run_folder
from recipe.agpo.rollout.worker import CountingWorker
from recipe.agpo.training import checkpoint
from recipe.agpo.training.failures import CheckpointFailed, Diverged, WorkerLost
from recipe.agpo.training.token_ledger import LedgerMixin, ledger_metrics
from recipe.agpo.verl_api.updates import SCHEDULE_POSITION


class Loop:
    """verl's ``fit``: save and validate in the last step and at their frequency."""

    def __init__(self, config: Any) -> None:
        self.config, self.global_steps, self.total_training_steps = config, 0, config.steps
        self.saved: list[int] = []
        self.validated: list[int] = []
        self.logged: list[dict[str, Any]] = []
        self._load_checkpoint()

    def _load_checkpoint(self) -> None:
        self.global_steps = self.config.resumed

    def _save_checkpoint(self) -> None:
        self.saved.append(self.global_steps)

    def fit(self, manager: Any) -> None:
        self.agent_loop_manager = manager
        self.global_steps += 1
        while self.global_steps <= self.total_training_steps:
            last, metrics = self.global_steps >= self.total_training_steps, dict[str, Any]()
            self.step(metrics, {})
            for kind, frequency in (("save", self.config.trainer.save_freq), ("test", self.config.trainer.test_freq)):
                if frequency > 0 and (last or self.global_steps % frequency == 0):
                    self._save_checkpoint() if kind == "save" else self.validated.append(self.global_steps)
            self.logged.append(metrics)
            self.global_steps += 1

    def step(self, metrics: dict[str, Any], timing: dict[str, float]) -> str:
        self.agent_loop_manager.undrained += TokenLedger(generated=100, probe=40)
        batch = SimpleNamespace(extra_info={})
        self._update_critic(batch, metrics)
        self._update_actor(batch, metrics)
        metrics |= {"actor/grad_norm": self.config.get("norms", [1.0] * 99)[self.global_steps]} | batch.extra_info
        return "batch"

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return batch

    _update_critic = _update_actor


class Trainer(LedgerMixin, Loop):
    pass


class Manager:
    """Generates 100 tokens a step."""

    def __init__(self) -> None:
        self.undrained = TokenLedger()

    def drain_tokens(self) -> TokenLedger:
        drained, self.undrained = self.undrained, TokenLedger()
        return drained


def config(folder: Path, budget: int | None, **other: Any) -> Any:
    return OmegaConf.create(
        {
            "steps": 10,
            "resumed": 0,
            "algorithm": {"adv_estimator": "grpo", "agpo": {"token_budget": budget}},
            "trainer": {"save_freq": 4, "test_freq": 5, "default_local_dir": str(folder), "resume_mode": "auto"},
        }
        | other
    )


def run(settings: Any) -> Trainer:
    trainer = Trainer(settings)
    trainer.fit(Manager())
    return trainer


@pytest.mark.parametrize(("budget", "last"), [(1, 1), (100, 1), (101, 2), (650, 7), (700, 7)])
def test_the_step_that_reaches_the_budget_is_the_last_and_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: int, last: int
) -> None:
    trainer = run(config(tmp_path, budget))
    assert len(trainer.logged) == last
    assert trainer.saved[-1] == trainer.validated[-1] == last
    assert trainer.ledger == TokenLedger(100 * last, 40 * last)
    assert checkpoint.read_ledger(tmp_path / f"global_step_{last}") == trainer.ledger
    assert f"{100 * last:,} of {budget:,} generated tokens" in capsys.readouterr().out


def test_what_an_asynchronous_rollout_finished_after_the_step_is_saved_and_logged_with_the_next(
    tmp_path: Path,
) -> None:
    class Ahead(Trainer):
        def step(self, metrics: dict[str, Any], timing: dict[str, float]) -> str:
            batch = super().step(metrics, timing)
            self.agent_loop_manager.undrained += TokenLedger(generated=7)
            return batch

    settings = config(tmp_path, None)
    settings.trainer.save_freq = 1
    settings.steps = 2
    trainer = Ahead(settings)
    trainer.fit(Manager())
    assert [m["agpo/tokens/generated"] for m in trainer.logged] == [100.0, 107.0]
    assert [checkpoint.read_ledger(tmp_path / f"global_step_{i}").generated for i in (1, 2)] == [107, 214]


def test_without_a_budget_verls_own_end_holds(tmp_path: Path) -> None:
    trainer = run(config(tmp_path, None))
    assert len(trainer.logged) == 10 and trainer.saved == [4, 8, 10]
    assert "agpo/tokens/budget_left" not in trainer.logged[0]


def test_who_never_saves_still_does_not(tmp_path: Path) -> None:
    settings = config(tmp_path, 300)
    settings.trainer.save_freq, settings.trainer.test_freq = -1, 0
    trainer = run(settings)
    assert (len(trainer.logged), trainer.saved, trainer.validated) == (3, [], [])


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    run(config(tmp_path, 400))
    (tmp_path / run_folder.TRACKER_FILE).write_text("4")
    finished = run(config(tmp_path, 400, resumed=4))
    assert finished.logged == [] and finished.saved == [], "nothing is left to do"
    further = run(config(tmp_path, 600, resumed=4))
    assert [m["agpo/tokens/generated_cumulative"] for m in further.logged] == [500.0, 600.0]
    assert [m["agpo/tokens/budget_left"] for m in further.logged] == [100.0, 0.0]


def test_a_worker_counts_where_tokens_are_made() -> None:
    worker = object.__new__(CountingWorker)
    worker._ledger = TokenLedger()
    outputs = [SimpleNamespace(response_mask=[1, 1, 0, 1]), SimpleNamespace(response_mask=[1, 0])]
    assert worker.count(outputs, validate=False) == 4, "tool output is not generated"
    worker.count(outputs[:1], validate=False, probe=True)
    worker.count(outputs[:1], validate=False, probe=True, discarded=True)
    worker.count(outputs[1:], validate=True)
    assert asyncio.run(worker.drain_tokens()) == TokenLedger(10, 6, 3, 1).to_dict()
    assert asyncio.run(worker.drain_tokens()) == TokenLedger().to_dict()


def test_what_is_logged() -> None:
    logged = ledger_metrics(TokenLedger(10, 4, 2, 1), TokenLedger(110, 44, 22, 11, 3), 100)
    assert logged["agpo/tokens/generated"] == 10.0 and logged["agpo/tokens/generated_cumulative"] == 110.0
    assert logged["agpo/tokens/budget_left"] == 0.0 and logged["agpo/rollout/lost_sessions_cumulative"] == 3.0


@pytest.mark.parametrize("horizon", [40, 10])
def test_the_learning_rate_schedule_follows_the_tokens_to_the_budget(tmp_path: Path, horizon: int) -> None:
    settings = config(tmp_path, 400)
    settings.algorithm.agpo.lr_schedule = "tokens"
    settings.actor_rollout_ref = {"actor": {"optim": {"total_training_steps": horizon}}}
    settings.critic = {"optim": {"total_training_steps": horizon}}
    trainer = run(settings)
    assert [m[SCHEDULE_POSITION] for m in trainer.logged] == [horizon * share / 4 for share in (1, 2, 3, 4)]
    assert all(SCHEDULE_POSITION not in m for m in run(config(tmp_path / "steps", 400)).logged), "verl's own schedule"


def test_gradients_that_are_no_numbers_are_counted_not_saved_and_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = float("nan")
    settings = config(tmp_path, None, norms=[0, 1, 1, bad, 1, bad, float("inf"), bad, 1, 1, 1])
    settings.trainer.save_freq = 1
    trainer = Trainer(settings)
    with pytest.raises(Diverged, match="step 7: the gradient has not been finite for 3 steps in a row"):
        trainer.fit(Manager())
    assert [m["agpo/nonfinite_steps"] for m in trainer.logged] == [0, 0, 1, 0, 1, 2]
    assert trainer.saved == [1, 2, 4]
    assert "step 3 is not saved" in capsys.readouterr().out


@pytest.mark.parametrize("cause", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 1 vs 2")])
def test_a_checkpoint_that_cannot_be_written_is_named_with_what_is_left(tmp_path: Path, cause: Exception) -> None:
    class FullDisk(Loop):
        def _save_checkpoint(self) -> None:
            if self.global_steps == 8:
                raise cause
            super()._save_checkpoint()
            (tmp_path / run_folder.TRACKER_FILE).write_text(str(self.global_steps))

    trainer = type("FullDiskTrainer", (LedgerMixin, FullDisk), {})(config(tmp_path, None))
    words = r"global_step_8 could not be written: \w+: .*continues from global_step_4"
    with pytest.raises(CheckpointFailed, match=words):
        trainer.fit(Manager())


def test_a_dead_worker_is_named_and_without_a_checkpoint_the_run_starts_anew(tmp_path: Path) -> None:
    class DeadWorker(Loop):
        def step(self, metrics: dict[str, Any], timing: dict[str, float]) -> str:
            raise ray.exceptions.ActorDiedError()

    trainer = type("DeadWorkerTrainer", (LedgerMixin, DeadWorker), {})(config(tmp_path, None))
    with pytest.raises(WorkerLost, match="a process of the run died: .*No checkpoint was written yet"):
        trainer.fit(Manager())


def test_a_start_removes_what_a_killed_save_left(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_4"
    folder.mkdir()
    (folder / f".{run_folder.STATE_FILE}.0123abcd.tmp").write_text("half")
    (tmp_path / f".{run_folder.DECISIONS_FILE}.0123abcd.tmp").write_text("half")
    (folder / ".other.0123abcd.tmp").write_text("not ours")
    Trainer(config(tmp_path, budget=None))
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".other.0123abcd.tmp", "global_step_4"]


class Dumping(Loop):
    """verl's dumps of responses: ``(step, keys)`` of each, and a file."""

    def step(self, metrics: dict[str, Any], timing: dict[str, float]) -> str:
        batch = super().step(metrics, timing)
        keys = [f"{self.global_steps:08d}-{p:06d}_{session}_0" for p in (1, 0) for session in (1, 0)]
        self._log_rollout_data(KVBatchMeta(keys=keys, tags=[{}] * 4), timing, str(self.config.dumps))
        return batch

    def _log_rollout_data(self, batch: Any, timing: dict[str, float], folder: str) -> None:
        texts = [f"text of {key}" for key in batch.keys]
        self._dump_generations(texts, texts, texts, [0.0] * len(texts), {"uid": batch.keys, "other": [1]}, folder)

    def _dump_generations(self, inputs: Any, outputs: Any, gts: Any, scores: Any, extra: Any, folder: str) -> None:
        assert len(inputs) == len(outputs) == len(gts) == len(scores) == len(extra["uid"])
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / f"{self.global_steps}.jsonl").write_text("\n".join(extra["uid"]))


def dumps(tmp_path: Path, **limits: int) -> dict[int, list[str]]:
    folder = tmp_path / "dumps"
    settings = config(tmp_path, 500, dumps=str(folder))
    settings.algorithm.agpo.update(limits)
    type("DumpingTrainer", (LedgerMixin, Dumping), {})(settings).fit(Manager())
    return {int(file.stem): file.read_text().split("\n") for file in folder.glob("[0-9]*.jsonl")}


def test_dumps_are_bounded_where_the_config_says_so(tmp_path: Path) -> None:
    (tmp_path / "dumps").mkdir()
    for left in ("3.jsonl", "99.jsonl", "notes.jsonl"):
        (tmp_path / "dumps" / left).write_text("of an earlier attempt")
    bounded = dumps(tmp_path, dump_steps=2, dump_responses=3)
    assert sorted(bounded) == [4, 5], "the newest two, and nothing that an earlier attempt wrote for later steps"
    assert bounded[5] == ["00000005-000000_0_0", "00000005-000000_1_0", "00000005-000001_0_0"], "whole groups first"
    assert (tmp_path / "dumps" / "notes.jsonl").exists()


def test_without_a_limit_dumps_are_verls_own(tmp_path: Path) -> None:
    whole = dumps(tmp_path)
    assert sorted(whole) == [1, 2, 3, 4, 5] and {len(keys) for keys in whole.values()} == {4}
