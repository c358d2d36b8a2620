# SPDX-License-Identifier: Apache-2.0
"""AGPO in verl's Megatron engine, as far as a machine without a GPU goes: docs/megatron.md says how far that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODES = ("token-mean", "seq-mean-token-mean")


@pytest.fixture(scope="module")
def engine() -> dict[str, Any]:
    """What the engine computed, in a process of its own: Megatron changes global state."""
    folder = os.environ.get("AGPO_MEGATRON")
    if folder is None:
        pytest.skip("megatron-core is not there: bash scripts/run_tests.sh installs it, or set AGPO_MEGATRON=FOLDER")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).parent / "megatron_engine.py"],
        env=os.environ | {"AGPO_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_row_is_scored_at_its_own_temperature(engine: dict[str, Any]) -> None:
    for found, expected in zip(engine["log_probs"]["found"], engine["log_probs"]["expected"], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_update_is_that_of_the_columns_whatever_the_micro_batches(engine: dict[str, Any], mode: str) -> None:
    """Clip ratios and weights per response, through Megatron's schedule and verl's scaling by micro-batches."""
    for size in (1, 2, 4):
        assert engine["updates"][f"{mode} none {size}"]["gradient"] == pytest.approx(engine["direct"][mode], abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_adaptive_loss_sees_whole_groups(engine: dict[str, Any], mode: str) -> None:
    one, two, four = (engine["updates"][f"{mode} exp {size}"]["gradient"] for size in (1, 2, 4))
    assert one == pytest.approx(four, abs=1e-6) and two == pytest.approx(four, abs=1e-6)
    assert four != pytest.approx(engine["direct"][mode], abs=1e-3), "it changes the update"


def test_metrics_come_back_as_sums(engine: dict[str, Any]) -> None:
    assert {update["tokens"] for update in engine["updates"].values()} == {14}
