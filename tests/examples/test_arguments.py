# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of benchmarks and examples end in one message, before anything is measured or written."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

WRONG = {
    "benchmarks.core_speed": [
        ["--rounds", "0"],
        ["--prompts", "-3"],
        ["--tokens", "x"],
        ["--threads", "9" * 400],
        ["--device", "tpu"],
    ],
    "benchmarks.sandbox_cost": [["--runs", "0"]],
    "benchmarks.learning_curves": [["--steps", "0"], ["--every", "-1"], ["--seeds", "x"], ["--methods", "x"]],
    "benchmarks.verifier_speed": [["--responses", "0"], ["--workers", "-1"], ["--time-limit", "nan"]],
    "benchmarks.verifier_pairs": [
        ["--changes", "0"],
        ["--math500", "{none}"],
        ["--math500", "{pipe}"],
        ["--math-verify", "{none}"],
    ],
    "benchmarks.verifier_forms": [[], ["--golds", "{none}"], ["--labelled", "{folder}"]],
    "benchmarks.compare.run": [["--jobs", "0"], ["--seeds", "x"], ["--grid", "x"], ["--lrs", "0"]],
    "examples.inprocess_grpo": [
        ["--agpo", "wat"],
        ["--agpo", "clip.wat=1"],
        ["--agpo", "temperature=7"],
        ["--agpo", "preset=foo"],
        ["--agpo", "probe.size=99"],
        ["--aggregation", "foo"],
        ["--warm", "nan"],
        ["--warm", "1.5"],
        ["--device", "wat"],
        ["--out", "{none}/x"],
        ["--group", "0"],
        ["--budget", "-1"],
        ["--lr", "nan"],
        ["--decay", "x"],
        ["--desired-kl", "0"],
    ],
}


@pytest.mark.parametrize(("module", "arguments"), [(name, each) for name, tried in WRONG.items() for each in tried])
def test_wrong_arguments(
    module: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = {name: str(tmp_path / name) for name in ("none", "pipe")} | {"folder": str(tmp_path)}
    given = [argument.format(**places) for argument in arguments]
    if module.startswith("benchmarks.verifier"):
        given += ["--out", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main()
    assert ended.value.code == 2
    assert sum("error:" in line for line in capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
