# SPDX-License-Identifier: Apache-2.0
"""The README's first command: it trains, stops cleanly at Ctrl-C, goes on, and ends with line, picture and JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

from recipe.agpo.quickstart import summary as summaries
from recipe.agpo.quickstart import warm_start
from recipe.agpo.report.page import page
from recipe.agpo.report.read import read_run
from tests.realstack import stack

SMALL = (
    "data.train_batch_size=8",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
    "trainer.save_freq=2",
    "trainer.test_freq=4",
    "algorithm.agpo.dump_responses=12",
)


def _short_warm_start(cache):
    """A warm start of two steps where the quickstart looks for the whole one, which test_warm_start.py makes."""
    short = warm_start.WarmStartConfig(max_steps=2, batch_size=4)
    made = warm_start.warm_start(cache, config=short, progress=False)
    made.rename(cache / f"warm-start-{warm_start.cache_key(warm_start.WarmStartConfig(), 0)}")


def _start(folder, steps):
    environment = os.environ | stack.python_env() | {"AGPO_NO_SETUP": "1"}
    return subprocess.Popen(
        [
            "bash",
            "scripts/run_agpo_quickstart.sh",
            "--out",
            str(folder),
            "--steps",
            str(steps),
            "--cache",
            str(folder.parent / "cache"),
            *SMALL,
        ],
        cwd=stack.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _logged_step(folder):
    """The last step whose line is written to its end."""
    text = "".join(path.read_text() for path in sorted(folder.glob("metrics.*.jsonl")))
    lines = text[: text.rfind("\n") + 1].splitlines()
    return json.loads(lines[-1])["step"] if lines else -1


def _training_processes(folder):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if str(folder).encode() in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def _recorded_and_reported(folder, steps):
    """Both launches are in ``run.json``, a few responses are kept, and the page shows them by their texts."""
    run = read_run(folder)
    assert len(run.launches) == 2 and run.planned_steps == steps and run.settings.on("step_size")
    assert run.launch["versions"]["verl"] and f"trainer.total_training_steps={steps}" in run.launch["overrides"]
    assert run.problems_of(summaries.ACCURACY) == 256
    dumps = folder / "checkpoints" / "rollouts"
    kept = sorted(int(file.stem) for file in dumps.glob("*.jsonl"))
    assert kept == list(range(max(1, steps - 2), steps + 1))
    assert len((dumps / f"{steps}.jsonl").read_text().splitlines()) == 12
    assert all(str(row["prompt"]) in run.prompts for row in run.decisions.latest[:3])
    assert re.search(r"<bdi>[-+\d]+=", page([run])), "prompts by their text"
    assert "[agpo] step_size: enabled=true" in (folder / "train.log").read_text()


def test_quickstart_stops_goes_on_and_ends_with_its_summary(tmp_path):
    folder = tmp_path / "quickstart"
    _short_warm_start(tmp_path / "cache")
    first = _start(folder, 400)
    deadline = time.monotonic() + stack.START_LIMIT
    while _logged_step(folder) < 3:
        assert first.poll() is None, first.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=stack.START_LIMIT)[0]
    assert first.returncode == 130, output[-3000:]
    assert "continues from the last checkpoint" in output
    assert _training_processes(folder) == []

    # How far it got until it was stopped depends on the machine.
    saved = int((folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text())
    second = _start(folder, saved + 1)
    output = second.communicate(timeout=stack.START_LIMIT)[0]
    assert second.returncode == 0, output[-3000:]
    assert f"continuing from step {saved}" in output
    line = re.search(
        r"quickstart: val accuracy (\d\.\d+) -> (\d\.\d+) \| "
        rf"steps {saved + 1} \| generated tokens (\d+) \| wall \d+ s",
        output,
    )
    assert line, output[-2000:]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["line"] == line.group(0)
    assert (folder / "curves.png").stat().st_size > 10_000
    _recorded_and_reported(folder, saved + 1)

    # The last line of the output is the command that evaluates the checkpoint: it works as it is.
    evaluation = output.splitlines()[-1]
    assert " eval " in evaluation, output[-2000:]
    done = subprocess.run(
        ["bash", "-c", evaluation],
        cwd=stack.ROOT,
        env=os.environ | stack.python_env(),
        capture_output=True,
        text=True,
        timeout=stack.START_LIMIT,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = json.loads((folder / "eval" / "eval.json").read_text())["benchmarks"][0]
    assert (found["problems"], found["responses"], found["unjudged"]) == (256, 256, 0)
    assert max(output.count("step/s"), output.count("s/step")) == 0, "no progress bar on a pipe"

    again = _start(folder, saved + 1)
    output = again.communicate(timeout=stack.START_LIMIT)[0]
    assert again.returncode == 0 and "holds a finished run" in output and line.group(0) in output
