# SPDX-License-Identifier: Apache-2.0
"""The average of the weights on verl's own trainer, two ranks, replayed responses: it is what validation gets, it
changes no weight that is trained, and a killed run continues it bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipe.agpo.evaluate.checkpoint import find
from recipe.agpo.evaluate.errors import EvaluationError
from tests.realstack import stack
from tests.realstack.no_server import SYNCS, digest

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("average")]

SAVED, LAST = 2, 4
AVERAGED = (
    *stack.REPLAY,
    "trainer.n_gpus_per_node=2",
    "data.max_response_length=32",
    f"trainer.save_freq={SAVED}",
    f"trainer.test_freq={SAVED}",
    "algorithm.agpo.step_size.start=1",
)
ON = ("algorithm.agpo.average.enabled=true", "algorithm.agpo.average.horizon=3")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The whole weights of a checkpoint of two ranks."""
    ranks = [torch.load(folder / f"model_world_size_2_rank_{rank}.pt", weights_only=False) for rank in range(2)]
    return {
        name: torch.cat([shard[name].to_local() for shard in ranks]) if hasattr(value, "to_local") else value
        for name, value in ranks[0].items()
    }


def updates(run: stack.Run, step: int) -> int:
    path = run.folder / "checkpoints" / f"global_step_{step}" / "actor" / "average" / "agpo_average.json"
    return int(json.loads(path.read_text())["updates"])


def actor(run: stack.Run, step: int = LAST) -> Path:
    return run.folder / "checkpoints" / f"global_step_{step}" / "actor"


@pytest.fixture(scope="module")
def killed(tmp_path_factory, inputs) -> Any:
    """Five steps, then killed. What step 4 saved is kept beside, and the run goes back to step 2."""
    folder = tmp_path_factory.mktemp("average")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(SYNCS, str(folder / "syncs"))
        run = stack.start(folder, inputs, (*AVERAGED, *ON, "trainer.total_training_steps=400"))
    try:
        run.wait_for(lambda: LAST + 1 in run.steps())
    finally:
        run.stop()
    saved = SimpleNamespace(
        raw=weights(actor(run)), average=weights(actor(run) / "average"), updates=updates(run, LAST)
    )
    syncs = (folder / "syncs").read_text().split()
    return SimpleNamespace(run=run, saved=saved, syncs=syncs)


def back_to_the_first_checkpoint(run: stack.Run) -> None:
    checkpoints = run.folder / "checkpoints"
    shutil.rmtree(checkpoints / f"global_step_{LAST}")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(SAVED))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_validation_gets_the_average_and_sampling_the_weights(killed) -> None:
    raw, average = digest(killed.saved.raw.items()), digest(killed.saved.average.items())
    assert raw != average
    # At the start, after each step, and around each of the two validations before and after the checkpoints.
    before, step1, step2, validated, restored, step3, step4, validated_again, restored_again = killed.syncs[:9]
    assert len({before, step1, step2, step3, step4}) == 5, "each step trained"
    assert validated not in (step1, step2) and restored == step2
    assert (step4, validated_again, restored_again) == (raw, average, raw)
    # Two updates a step.
    assert (updates(killed.run, SAVED), killed.saved.updates) == (2 * SAVED, 2 * LAST)


def test_a_checkpoint_says_how_its_average_is_exported(killed) -> None:
    with pytest.raises(EvaluationError, match=r"--local_dir \S+/actor/average"):
        find(str(actor(killed.run).parent))
    assert (actor(killed.run) / "average" / "huggingface" / "config.json").is_file()


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_a_resumed_run_trains_the_same_and_averages_the_same(killed, inputs, on: bool) -> None:
    back_to_the_first_checkpoint(killed.run)
    settings = ON if on else ("algorithm.agpo.average.enabled=false",)
    resumed = stack.start(killed.run.folder, inputs, (*AVERAGED, *settings, f"trainer.total_training_steps={LAST}"))
    try:
        assert resumed.wait() == 0, resumed.tail()
    finally:
        resumed.stop()
    assert min(resumed.steps()) == SAVED + 1, "went on from the checkpoint"
    assert same(weights(actor(resumed)), killed.saved.raw)
    assert (actor(resumed) / "average").exists() == on
    if on:
        assert same(weights(actor(resumed) / "average"), killed.saved.average)
        assert updates(resumed, LAST) == killed.saved.updates
