# SPDX-License-Identifier: Apache-2.0
"""Start real training runs (verl, Ray, vLLM on the CPU platform) from tests, and read what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agpo_core import load_state
from recipe.agpo.cpu.config import cpu_env
from recipe.agpo.processes import MARKER, end_marked, marked, new_run_id
from recipe.agpo.quickstart import model as quickstart_model
from recipe.agpo.quickstart import task
from recipe.agpo.training.checkpoint import read_ledger

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
START_LIMIT = 900  # a guard against hanging: a start takes 70 to 150 s on two cores
SMALL = (
    "data.train_batch_size=8",
    "data.val_batch_size=8",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.actor.optim.lr=1e-3",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
)
# Responses read from a rule (replay.py) and no rollout server: for what the trainer does with them.
REPLAY = (
    "actor_rollout_ref.rollout.name=no_server",
    "actor_rollout_ref.rollout.calculate_log_probs=False",
    "actor_rollout_ref.rollout.agent.default_agent_loop=replay",
    f"actor_rollout_ref.rollout.agent.agent_loop_config_path={HERE / 'replay_agent.yaml'}",
)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def python_env() -> dict[str, str]:
    """What the processes of a test run need beside ``cpu_env``."""
    return {"PYTHONPATH": f"{HERE / 'site'}:{ROOT}", "VERL_USE_EXTERNAL_MODULES": "tests.realstack.no_rollout"}


def make_inputs(folder: Path) -> tuple[Path, Path, Path]:
    """An untrained quickstart model and its data: ``(model, train, val)``.

    ``AGPO_TEST_SEED`` chooses other weights, so that the model samples other responses: every test holds for each seed.
    """
    seed = int(os.environ.get("AGPO_TEST_SEED", "0"))
    model_folder = folder / "model"
    quickstart_model.build_model(quickstart_model.ModelConfig(), seed=seed).save_pretrained(model_folder)
    quickstart_model.build_tokenizer().save_pretrained(model_folder)
    train, val = task.make_data(folder / "data", seed=0, n_train=64, n_val=8)
    return model_folder, train, val


@dataclass
class Run:
    """A training process, its log and its results."""

    folder: Path
    metrics_path: Path
    log_path: Path
    marker: str
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = START_LIMIT) -> int:
        try:
            return self.process.wait(timeout=seconds)
        finally:
            self.stop()

    def wait_for(self, condition: Callable[[], bool], seconds: float = START_LIMIT) -> None:
        """Wait until ``condition()``; fail with the end of the log if the process ends before or time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not reached (exit code {self.process.poll()}):\n{self.tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        end_marked(self.marker)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def survivors(self) -> list[int]:
        return list(marked(self.marker))

    def kill(self, *names: str) -> None:
        """SIGKILL to the processes of this run whose command line holds one of ``names``; there must be some."""
        victims = [pid for pid in self.survivors() if any(name in command_line(pid) for name in names)]
        assert victims, f"no process named {names}"
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    def checkpoint(self) -> tuple[int, int]:
        """Step and generated tokens of the checkpoint that a restart would take; its state and ledger are whole."""
        checkpoints = self.folder / "checkpoints"
        step = int((checkpoints / "latest_checkpointed_iteration.txt").read_text())
        state, _, _ = load_state(checkpoints / f"global_step_{step}" / "agpo_state.json")
        assert state.step == step
        return step, read_ledger(checkpoints / f"global_step_{step}").generated

    def fill_the_disk(self, step: int) -> None:
        """Writing the weights of this step's checkpoint will fail as on a full disk."""
        weights = self.folder / "checkpoints" / f"global_step_{step}" / "actor" / "model_world_size_1_rank_0.pt"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.unlink(missing_ok=True)
        weights.symlink_to("/dev/full")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    def steps(self) -> dict[int, dict[str, Any]]:
        """Logged metrics by step, so far."""
        if not self.metrics_path.exists():
            return {}
        records = []
        for line in self.metrics_path.read_bytes().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return {record["step"]: record["data"] for record in records}

    def decisions(self) -> list[dict[str, Any]]:
        path = self.folder / "checkpoints" / "agpo_decisions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def start(
    folder: Path,
    inputs: tuple[Path, Path, Path],
    overrides: Sequence[str],
    *,
    module: str = "recipe.agpo.main",
    config: Sequence[str] = ("--config-name", "quickstart"),
    outcomes: str | None = None,
    base: Sequence[str] = SMALL,
) -> Run:
    """Start a training process in ``folder``; a second start in the same folder resumes.

    ``outcomes`` names a reward function of ``planted.py``; without it the quickstart's task judges.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, train, val = inputs
    attempt = len(list(folder.glob("metrics.*.jsonl")))
    metrics, log, marker = folder / f"metrics.{attempt}.jsonl", folder / f"log.{attempt}.txt", new_run_id()
    command = [
        sys.executable,
        "-m",
        module,
        *config,
        f"data.train_files={train}",
        f"data.val_files={val}",
        f"actor_rollout_ref.model.path={model}",
        f"reward.custom_reward_function.path={HERE / 'planted.py' if outcomes else 'pkg://recipe.agpo.quickstart.task'}",
        f"reward.custom_reward_function.name={outcomes or 'compute_score'}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        *base,
        *overrides,
    ]
    environment = (
        os.environ
        | cpu_env()
        | python_env()
        | {
            MARKER: marker,
            "VERL_FILE_LOGGER_PATH": str(metrics),
            "HYDRA_FULL_ERROR": "1",
        }
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Run(folder, metrics, log, marker, process)
