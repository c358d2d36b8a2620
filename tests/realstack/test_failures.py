# SPDX-License-Identifier: Apache-2.0
"""Things that break in the middle of a step end in one clear error, and leave the last checkpoint alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from agpo_core import load_state
from recipe.agpo.cpu.processes import marked
from tests.realstack import stack


def _vllm_servers(marker):
    for pid in marked(marker):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "vLLMHttpServer" in name or "VLLM::EngineCore" in name:
            yield pid


def test_dead_vllm_server_is_named_and_nothing_is_corrupt(launch):
    run = launch(
        [
            "trainer.total_training_steps=400",
            "trainer.save_freq=1",
            "data.max_response_length=32",
            "reward.custom_reward_function.name=by_hash",
            # The other way of scoring, so that it runs on the real stack once.
            "algorithm.agpo.scoring=corrected",
            "algorithm.rollout_correction.rollout_is=token",
            "actor_rollout_ref.rollout.calculate_log_probs=True",
        ],
        reward=stack.HERE / "bad_reward.py",
    )
    run.wait_for(lambda: 3 in run.steps())
    assert run.steps()[3]["agpo/tau/min"] < run.steps()[3]["agpo/tau/max"]
    assert 0.5 < run.steps()[3]["rollout_corr/rollout_is_mean"] < 1.5
    victims = list(_vllm_servers(run.marker))
    assert victims, "no vLLM process found"
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    code = run.wait(180)
    assert code != 0
    assert "vLLM rollout server died" in run.log, run.tail()
    tracker = (run.folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text()
    state, _, _ = load_state(run.folder / "checkpoints" / f"global_step_{tracker}" / "agpo_state.json")
    assert state.step == int(tracker)
    assert run.survivors() == []


def test_verifier_outage_stops_with_the_cause(launch):
    run = launch(
        [*stack.REPLAY, "trainer.total_training_steps=2", "reward.custom_reward_function.name=always_raises"],
        reward=stack.HERE / "bad_reward.py",
    )
    assert run.wait() != 0
    assert "no response got a reward" in run.log, run.tail()
    assert "verifier is down" in run.log
