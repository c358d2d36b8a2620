# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from recipe.agpo.quickstart import warm_start
from recipe.agpo.quickstart.model import build_tokenizer
from recipe.agpo.quickstart.task import TaskConfig, take

TINY = warm_start.WarmStartConfig(max_steps=2, batch_size=4)


def test_trains_once_then_reuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = warm_start.warm_start(tmp_path, seed=0, config=TINY, progress=False)
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "warm_start.json").read_text())["steps"] == 2

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(warm_start, "_train", fail)
    assert warm_start.warm_start(tmp_path, seed=0, config=TINY, progress=False) == folder
    with pytest.raises(AssertionError, match="trained again"):
        warm_start.warm_start(tmp_path, seed=1, config=TINY, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]  # nothing half-made stays behind


def test_key_depends_on_everything_that_decides_the_weights() -> None:
    changed = [
        dataclasses.replace(TINY, target_loss=0.5),
        dataclasses.replace(TINY, learning_rate=1e-3),
        dataclasses.replace(TINY, task=TaskConfig(max_terms=6)),
    ]
    keys = {warm_start.cache_key(config, 0) for config in [TINY, *changed]} | {warm_start.cache_key(TINY, 1)}
    assert len(keys) == 5


def test_stops_after_target_and_cool_down(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, max_steps=50, target_loss=100.0, cool_down_steps=3)
    folder = warm_start.warm_start(tmp_path, config=config, progress=False)
    assert json.loads((folder / "warm_start.json").read_text())["steps"] == 1 + 3


@pytest.mark.realstack
@pytest.mark.nightly
def test_the_whole_warm_start_reaches_its_loss(tmp_path: Path) -> None:
    config = warm_start.WarmStartConfig()
    warm_start.main(["--train-into", str(tmp_path / "weights")])
    with safe_open(tmp_path / "weights", framework="pt") as file:
        reached = json.loads(file.metadata()["reached"])
    assert reached["steps"] < config.max_steps and reached["loss"] <= config.target_loss


def test_the_default_weights_come_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded, not trained; and they are those of a model that has reached the target loss."""

    def fail(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(warm_start, "_train", fail)
    config = warm_start.WarmStartConfig()
    folder = warm_start.warm_start(tmp_path, progress=False)
    record = json.loads((folder / "warm_start.json").read_text())
    assert record["steps"] < config.max_steps and record["loss"] <= config.target_loss
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 329_856
    ids, mask, labels = warm_start.encode(take("val", 0, 64), build_tokenizer())
    with torch.no_grad():
        loss = float(model(input_ids=ids, attention_mask=mask, labels=labels).loss)
    assert loss < 2 * config.target_loss


def test_weights_are_written_and_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm_start.train_into(tmp_path / "weights", TINY)
    monkeypatch.setattr(warm_start, "SHIPPED", tmp_path / "weights")
    loaded, reached = warm_start._load(TINY)
    trained, _ = warm_start._train(TINY, 0, False)
    assert reached["steps"] == 2
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_only_the_solution_is_learned() -> None:
    tokenizer = build_tokenizer()
    batch = take("warm_start", 0, 3)
    ids, mask, labels = warm_start.encode(batch, tokenizer)
    assert ids.shape == mask.shape == labels.shape
    for row, problem in enumerate(batch):
        learned = labels[row][labels[row] != -100]
        assert tokenizer.decode(learned) == problem.solution + tokenizer.eos_token
        assert mask[row].sum() == 3 + len(problem.prompt) + len(learned)
