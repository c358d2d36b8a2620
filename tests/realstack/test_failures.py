# SPDX-License-Identifier: Apache-2.0
"""Things that break in the middle of a step end in one clear error, and leave the last checkpoint alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from agpo_core import load_state
from recipe.agpo.processes import marked
from recipe.agpo.training.checkpoint import read_ledger
from tests.realstack import stack
from tests.realstack.bad_reward import UP_FOR


def _processes(marker, *names):
    for pid in marked(marker):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(wanted in name for wanted in names):
            yield pid


def _marked_checkpoint(run):
    """Step of the checkpoint that a restart would take; asserts that its controller state and ledger are whole."""
    step = int((run.folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    folder = run.folder / "checkpoints" / f"global_step_{step}"
    state, _, _ = load_state(folder / "agpo_state.json")
    assert state.step == step
    return step, read_ledger(folder).generated


def test_a_lost_worker_a_full_disk_and_a_loss_that_is_no_number(launch):
    """Three bad days of one run; each start goes on from where the last good checkpoint was."""
    common = [*stack.REPLAY, "data.max_response_length=32", "trainer.save_freq=1", "trainer.total_training_steps=40"]
    lost = launch(common)
    lost.wait_for(lambda: 2 in lost.steps())
    for pid in _processes(lost.marker, "WorkerDict"):
        os.kill(pid, signal.SIGKILL)
    assert lost.wait(180) != 0
    assert "a process of the run died" in lost.log and lost.survivors() == [], lost.tail()
    step, tokens = _marked_checkpoint(lost)
    assert step >= 2 and f"goes on from global_step_{step}" in lost.log

    # Writes to this device fail as on a full disk.
    weights = lost.folder / "checkpoints" / f"global_step_{step + 1}" / "actor" / "model_world_size_1_rank_0.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.unlink(missing_ok=True)
    weights.symlink_to("/dev/full")
    full = launch(common)
    assert full.wait() != 0
    assert f"global_step_{step + 1} could not be written" in full.log, full.tail()
    assert f"goes on from global_step_{step}" in full.log
    assert _marked_checkpoint(full) == (step, tokens)
    weights.unlink()

    diverged = launch([*common, "actor_rollout_ref.actor.entropy_coeff=nan"])
    assert diverged.wait() != 0
    assert "gradient has not been finite for 3 steps" in diverged.log, diverged.tail()
    assert [data["agpo/nonfinite_steps"] for data in diverged.steps().values()] == [1, 2]
    assert min(diverged.steps()) == step + 1, "went on from the last good checkpoint"
    assert diverged.steps()[step + 1]["agpo/tokens/generated_cumulative"] > tokens
    assert _marked_checkpoint(diverged) == (step, tokens), "what did not learn is not saved"


def test_dead_vllm_server_is_named_and_nothing_is_corrupt(launch):
    run = launch(
        [
            "trainer.total_training_steps=400",
            "trainer.save_freq=1",
            "data.max_response_length=32",
            "reward.custom_reward_function.name=by_hash",
            # The other ways of scoring and of weighting, so that they run on the real stack once.
            "algorithm.agpo.allocation.enabled=true",
            "algorithm.agpo.allocation.weighting=responses",
            "algorithm.agpo.logprob_temperature=corrected",
            "algorithm.rollout_correction.rollout_is=token",
            "actor_rollout_ref.rollout.calculate_log_probs=True",
        ],
        reward=stack.HERE / "bad_reward.py",
    )
    run.wait_for(lambda: 3 in run.steps())
    assert run.steps()[3]["agpo/tau/min"] < run.steps()[3]["agpo/tau/max"]
    assert 0.5 < run.steps()[3]["rollout_corr/rollout_is_mean"] < 1.5
    assert run.steps()[3]["agpo/group_size/min"] < run.steps()[3]["agpo/group_size/max"]
    victims = list(_processes(run.marker, "vLLMHttpServer", "VLLM::EngineCore"))
    assert victims, "no vLLM process found"
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    code = run.wait(180)
    assert code != 0
    assert "vLLM rollout server died" in run.log, run.tail()
    _marked_checkpoint(run)
    assert run.survivors() == []


def test_verifier_outage_stops_with_the_cause(launch):
    """Two steps of preset agpo_d, each of 8 prompts with 4 responses to throw away and 4 to keep; then no verdicts."""
    run = launch(
        [
            "algorithm.agpo.preset=agpo_d",
            "data.max_response_length=32",
            "trainer.save_freq=1",
            "trainer.total_training_steps=40",
            "reward.custom_reward_function.name=goes_down",
        ],
        reward=stack.HERE / "bad_reward.py",
    )
    assert run.wait() != 0
    assert "no response got a reward" in run.log, run.tail()
    assert "verifier is down" in run.log
    assert UP_FOR == 2 * 8 * (4 + 4) and _marked_checkpoint(run)[0] == 2
    assert sorted(run.steps()) == [1, 2]
    assert "logprob_temperature=uncorrected" not in run.log, "that is preset reference"
    stack.check_discarded_probes(run)
