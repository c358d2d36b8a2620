# SPDX-License-Identifier: Apache-2.0
"""``agpo eval``: what it refuses before a model is loaded, and the whole way with a model that stands in."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from recipe.agpo.cli import main
from recipe.agpo.evaluate import generate
from tests.evaluate.standin import Model
from tests.evaluate.test_checkpoint import averaged, hf
from tests.evaluate.test_data import row, write


@pytest.fixture
def inputs(tmp_path):
    """Arguments of an evaluation that could start."""
    rows = [row(f"{i}+0=", str(i % 3), data_source="made_up") for i in range(6)]
    return types.SimpleNamespace(
        model=hf(tmp_path / "model"), data=write(tmp_path / "sums.parquet", rows), out=tmp_path / "out"
    )


@pytest.fixture
def standin(monkeypatch):
    """The model that stands in, in place of vLLM; a list of the times it was started."""
    started = []

    def make(model, protocol, settings, problems):
        started.append(settings)
        return Model(protocol)

    monkeypatch.setattr(generate, "VllmGenerator", make)
    monkeypatch.setattr(generate, "choose_platform", lambda asked: "cpu")
    monkeypatch.setattr(generate.EngineSettings, "identity", lambda self: {"engine": "stand-in", "platform": "cpu"})
    return started


def call(inputs, *extra, **changed):
    given = {name: str(changed.get(name, value)) for name, value in vars(inputs).items()}
    return main(["eval", "--model", given["model"], "--data", given["data"], "--out", given["out"], *extra])


def test_an_average_is_named_on_the_screen_and_in_the_result(inputs, standin, capsys, tmp_path):
    inputs.model = tmp_path / "actor"
    hf(inputs.model / "huggingface")
    averaged(inputs.model)
    words = "average of the weights over 8 updates"
    assert call(inputs) == 0
    assert f"actor/average/huggingface ({words})" in capsys.readouterr().out
    assert words in json.loads((inputs.out / "eval.json").read_text())["model"]
    assert call(inputs, "--weights", "raw") == 1, "other weights, other evaluation"
    assert call(inputs, "--weights", "raw", out=tmp_path / "raw") == 0
    assert f"actor/huggingface (raw weights, not its {words})" in capsys.readouterr().out


def test_the_whole_way(inputs, standin, capsys, tmp_path):
    assert call(inputs, "--protocol", "sampled", "--samples", "4") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("protocol  sampled: temperature 1, top-p 1, 4 responses a problem")
    assert "data      sums: 6 of 6 problems" in printed and "| sums | 6 |" in printed
    found = json.loads((inputs.out / "eval.json").read_text())
    assert found["version"] == 1 and found["protocol"]["samples"] == 4
    assert set(found["benchmarks"][0]["pass_at"]) == {"1", "2", "4"}
    assert {path.name for path in inputs.out.iterdir()} >= {"eval.md", "eval.png", "header.json", "verdicts.jsonl"}

    assert call(inputs, "--protocol", "sampled", "--samples", "4") == 0 and len(standin) == 1  # nothing left to do
    other = tmp_path / "other"
    assert call(inputs, "--protocol", "sampled", "--seed", "1", "--compare", str(inputs.out), out=other) == 0
    compared = json.loads((other / "eval.json").read_text())["comparison"]
    assert compared["benchmarks"][0]["problems"] == 6
    capsys.readouterr()
    assert call(inputs, "--protocol", "sampled", "--samples", "2") == 1
    assert "another evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "changed", "says"),
    [
        ([], {"model": "/no/such/model"}, "no model folder"),
        ([], {"data": "/no/such/file.parquet"}, "no data file"),
        (["--pass-at", "8"], {}, "pass@8 needs at least 8 samples"),
        (["--samples", "8"], {}, "--protocol sampled"),
        (["--compare", "/no/such/run"], {}, "no finished evaluation"),
        (["--limit", "0"], {}, "limit must be at least 1"),
        (["--chunk", "0"], {}, "--chunk must be at least 1"),
        (["--template", "chat"], {}, ""),
        (["--chat-template", "no.jinja"], {}, "neither a file nor a template"),
        (["--chat-template", "{{ messages }}", "--template", "plain"], {}, "exclude each other"),
        (["--chat-template-kwargs", "["], {}, "--chat-template-kwargs: "),
        (["--chat-template-kwargs", "[1]"], {}, "must be a JSON object"),
        (["--chat-template-kwargs", '{"tokenize": false}'], {}, "tokenize cannot be chosen"),
        (["--reward", "no.such:thing"], {}, "cannot be imported"),
        (["--tensor-parallel-size", "2"], {}, "on the CPU platform it is 1"),
    ],
)
def test_refusals_come_before_the_model(inputs, standin, capsys, extra, changed, says):
    if not says:  # a model without a template
        (inputs.model / "tokenizer_config.json").write_text("{}")
        says = "no chat template"
    assert call(inputs, *extra, **changed) == 1
    error = capsys.readouterr().err
    assert error.startswith("agpo eval: ") and says in error
    assert standin == [] and not inputs.out.exists()


def test_a_run_is_not_compared_with_itself(inputs, standin, capsys):
    assert call(inputs, "--compare", str(inputs.out)) == 1
    assert "cannot be compared with itself" in capsys.readouterr().err


def test_a_file_without_a_verifier_is_refused_by_name(inputs, standin, capsys, tmp_path):
    path = write(tmp_path / "bare.parquet", [row(data_source="unheard_of", extra_info={"index": 0})])
    assert call(inputs, data=path) == 1
    error = capsys.readouterr().err
    assert "bare.parquet" in error and "'unheard_of' name no known kind of verifier" in error and "--reward" in error


def test_an_interrupt_says_how_to_go_on(inputs, standin, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "__call__", interrupted)
    assert call(inputs) == 130
    assert "the same command continues" in capsys.readouterr().err
    monkeypatch.undo()


def test_help_needs_no_engine():
    code = (
        "import sys\nfrom recipe.agpo.cli import main\n"
        "try:\n    main(['eval', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'vllm', 'verl', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--compare OTHER_DIR" in done.stdout and "--protocol {greedy,sampled}" in done.stdout
