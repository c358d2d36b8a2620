# SPDX-License-Identifier: Apache-2.0
"""The average of the weights in verl: shards of FSDP2 on a rank, and when the trainer saves, resumes and swaps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from agpo_core import AverageConfig, WeightAverage
from recipe.agpo.training import average
from recipe.agpo.training.average import average_trainer, begin, load, save, swap_in, swap_out
from recipe.agpo.training.checkpoint import ResumeError
from recipe.agpo.verl_api import actor_weights
from recipe.agpo.verl_api.updates import AFTER_UPDATE
from tests.recipe.conftest import Compose


class Model(torch.nn.Module):
    """Five rows, tied twice, and a frozen part."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.LayerNorm(3)
        self.frozen = torch.nn.Linear(3, 2).requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.norm(self.embed(ids))) + self.head(self.embed(ids)).sum()


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    """One rank, so that FSDP2's parameters are distributed tensors."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def engine_on(mesh: Any, *, sharded: bool = True, dtype: torch.dtype = torch.float32, exports: bool = False) -> Any:
    from torch.distributed.fsdp import fully_shard

    module = Model(0).to(dtype)
    if sharded:
        fully_shard(module, mesh=mesh)
    manager = SimpleNamespace(rank=0, world_size=1, should_save_hf_model=exports)
    return SimpleNamespace(module=module, checkpoint_manager=manager)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], float]]:
    """What verl's manager was asked to save, and the sum of the model's weights at that time."""
    seen: list[tuple[tuple[str, ...], float]] = []

    def export(engine: Any, folder: Path, contents: Any) -> None:
        seen.append((tuple(contents), total(engine)))

    monkeypatch.setattr(actor_weights, "export", export)
    return seen


def total(engine: Any) -> float:
    return float(sum(part.float().abs().sum() for part in actor_weights.trained(engine)))


def change(engine: Any, times: int) -> None:
    """Updates of the optimiser, and what verl calls after each."""
    for number in range(times):
        with torch.no_grad():
            for part in actor_weights.trained(engine):
                part.add_(0.1 + number)
        getattr(engine, AFTER_UPDATE)()


def bits(parts: Any) -> list[torch.Tensor]:
    return [part.clone() for part in parts]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("offload", [True, False])
def test_on_a_rank_it_is_saved_continued_and_swapped_bit_for_bit(
    tmp_path: Path, mesh: Any, exported: list[Any], dtype: torch.dtype, sharded: bool, offload: bool
) -> None:
    settings = AverageConfig(enabled=True, offload=offload)
    engine = engine_on(mesh, sharded=sharded, dtype=dtype)
    begin(engine, settings)
    assert save(engine, str(tmp_path)) == 0 and not list(tmp_path.iterdir()), "nothing yet"
    change(engine, 3)
    expected = WeightAverage()
    other = engine_on(mesh, sharded=False, dtype=dtype)
    setattr(other, AFTER_UPDATE, lambda: expected.update(actor_weights.trained(other)))
    change(other, 3)
    kept = bits(engine.agpo_average.tensors)
    assert same(kept, bits(expected.tensors)) and kept[0].dtype == torch.float32

    raw = bits(actor_weights.trained(engine))
    swap_in(engine)
    assert same(bits(actor_weights.trained(engine)), [part.to(dtype) for part in kept])
    swap_out(engine)
    assert same(bits(actor_weights.trained(engine)), raw) and same(bits(engine.agpo_average.tensors), kept)

    assert save(engine, str(tmp_path)) == 3 and exported == [((), pytest.approx(total(engine)))]
    resumed = engine_on(mesh, sharded=sharded, dtype=dtype)
    begin(resumed, settings)
    assert load(resumed, str(tmp_path), 3) == ""
    assert same(bits(resumed.agpo_average.tensors), kept)
    resumed.module.load_state_dict(engine.module.state_dict())
    for each in (engine, resumed):
        change(each, 2)
    assert same(bits(resumed.agpo_average.tensors), bits(engine.agpo_average.tensors))


def test_the_saved_file_is_a_whole_model_as_verl_saves_one(tmp_path: Path, mesh: Any, exported: list[Any]) -> None:
    engine = engine_on(mesh)
    begin(engine, AverageConfig(enabled=True))
    change(engine, 2)
    save(engine, str(tmp_path))
    state = torch.load(tmp_path / "model_world_size_1_rank_0.pt", weights_only=False)
    usual = engine.module.state_dict()
    assert list(state) == list(usual)
    for name, value in usual.items():
        assert type(state[name]) is type(value) and state[name].shape == value.shape
        assert torch.equal(state[name].full_tensor(), value.full_tensor()) == name.startswith("frozen")
    assert torch.equal(state["head.weight"].full_tensor(), state["embed.weight"].full_tensor()), "tied"


def test_an_export_in_hf_format_holds_the_average(tmp_path: Path, mesh: Any, exported: list[Any]) -> None:
    engine = engine_on(mesh, exports=True)
    begin(engine, AverageConfig(enabled=True))
    change(engine, 2)
    before = total(engine)
    save(engine, str(tmp_path))
    (first, at_first), (second, at_second) = exported
    assert (first, second) == ((), ("hf_model",))
    mean = float(sum(part.abs().sum() for part in engine.agpo_average.tensors))
    assert at_first == before == total(engine) and at_second == pytest.approx(mean) != before


@pytest.mark.parametrize("damage", ["missing", "cut", "other model", "other shape"])
def test_what_cannot_be_continued_is_said_in_words(tmp_path: Path, mesh: Any, exported: list[Any], damage: str) -> None:
    engine = engine_on(mesh, sharded=False)
    begin(engine, AverageConfig(enabled=True))
    change(engine, 1)
    save(engine, str(tmp_path))
    path = tmp_path / "model_world_size_1_rank_0.pt"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        state = torch.load(path, weights_only=False)
        norm = state.pop("norm.weight")
        torch.save(state if damage == "other model" else state | {"norm.weight": norm[:2]}, path)
    words = {
        "missing": "FileNotFoundError",
        "other model": "lacks the weights 'norm.weight'",
        "other shape": "shape [3]",
    }
    problem = load(engine, str(tmp_path), 1)
    assert words.get(damage, "Error") in problem
    assert engine.agpo_average.count == 1, "unchanged"


# ---- the trainer ---------------------------------------------------------------------------------------------


class Recorded:
    """A trainer of verl that notes what it is asked for."""

    def __init__(self, config: Any) -> None:
        self.config, self.calls, self.global_steps = config, [], 0
        self.checkpoint_manager = SimpleNamespace(
            sleep_replicas=lambda: self.calls.append("sleep"),
            update_weights=lambda step: self.calls.append(f"send {step}"),
        )
        self.actor_rollout_wg = SimpleNamespace(agpo_call=self._call)
        self.results: dict[str, list[Any]] = {}

    def _call(self, function: Any, *arguments: Any) -> list[Any]:
        self.calls.append((function.__name__, *arguments))
        return self.results.get(function.__name__, [None, None])

    def _load_checkpoint(self) -> None:
        self.calls.append("verl loads")
        self.global_steps = self.resumes_at

    def _save_checkpoint(self) -> None:
        self.calls.append("verl saves")

    def on_validate_begin(self) -> None:
        self.calls.append("begin")

    def on_validate_end(self) -> None:
        self.calls.append("end")

    resumes_at = 0


@pytest.fixture
def trainer(verl_config: Compose, tmp_path: Path) -> Any:
    def build(*overrides: str) -> Any:
        config = verl_config(
            "+algorithm.agpo.average.enabled=true", f"trainer.default_local_dir={tmp_path}", *overrides
        )
        return average_trainer(Recorded)(config)

    return build


@pytest.mark.parametrize(("override", "offload"), [("", False), ("param_offload", True), ("agpo", True)])
def test_the_average_begins_before_verl_loads(trainer: Any, override: str, offload: bool) -> None:
    keys = {
        "": [],
        "param_offload": ["actor_rollout_ref.actor.fsdp_config.param_offload=true"],
        "agpo": ["+algorithm.agpo.average.offload=true"],
    }
    made = trainer(*keys[override])
    made._load_checkpoint()
    assert made.calls == [("begin", AverageConfig(enabled=True, offload=offload)), "verl loads"]


def test_validation_on_the_average_and_back(trainer: Any) -> None:
    made = trainer()
    made.global_steps = 3
    made.on_validate_begin()
    made.calls.append("validates")
    made.on_validate_end()
    assert made.calls == [
        *("begin", ("swap_in",), "sleep", "send 3"),
        "validates",
        *(("swap_out",), "sleep", "send 3", "end"),
    ]


@pytest.mark.parametrize(
    ("override", "step"),
    [
        ("trainer.v1.trainer_mode=colocate_async", 3),  # the rollout goes on sampling for training
        ("trainer.v1.trainer_mode=separate_async", 3),
        ("+algorithm.agpo.average.validate=false", 3),
        ("trainer.v1.trainer_mode=sync", 0),  # nothing to average yet
    ],
)
def test_validation_on_the_raw_weights(trainer: Any, override: str, step: int) -> None:
    made = trainer(override)
    made.global_steps = step
    made.on_validate_begin()
    made.on_validate_end()
    assert made.calls == ["begin", "end"]


def test_it_is_saved_before_verl_marks_the_checkpoint(trainer: Any, tmp_path: Path) -> None:
    made = trainer("+algorithm.agpo.average.horizon=20")
    made.global_steps = 2
    folder = tmp_path / "global_step_2" / "actor" / "average"
    folder.mkdir(parents=True)
    (folder / "agpo_average.json").write_text("of a start that was killed")
    made.results["save"] = [0, 0]
    made._save_checkpoint()
    assert not (folder / "agpo_average.json").exists()
    made.results["save"] = [4, 4]
    made._save_checkpoint()
    assert made.calls == [("save", str(folder)), "verl saves"] * 2
    document = json.loads((folder / "agpo_average.json").read_text())
    assert (document["format"], document["version"]) == ("agpo-weight-average", 1)
    assert (document["updates"], document["gamma"], document["horizon"]) == (4, 4.0, 20)


@pytest.fixture
def resuming(trainer: Any, tmp_path: Path) -> Any:
    """A trainer that resumes at step 2, where an average was saved."""
    made = trainer()
    made.global_steps = 2
    made.results["save"] = [4, 4]
    made._save_checkpoint()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    made.resumes_at, made.calls = 2, []
    return made


def test_a_resumed_run_loads_it_after_verl_has_loaded(resuming: Any, tmp_path: Path) -> None:
    resuming.results["load"] = ["", ""]
    resuming._load_checkpoint()
    folder = str(tmp_path / "global_step_2" / "actor" / "average")
    assert resuming.calls[1:] == ["verl loads", ("load", folder, 4)]


def test_a_checkpoint_without_an_average_begins_one(resuming: Any, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "global_step_2" / "actor" / "average"
    (folder / "agpo_average.json").unlink()
    folder.rmdir()
    resuming._load_checkpoint()
    assert resuming.calls[-1] == "verl loads" and "begins with the next update" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["edited", "incomplete", "shards"])
def test_a_damaged_average_is_refused_with_the_ways_out(resuming: Any, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "global_step_2" / "actor" / "average" / "agpo_average.json"
    if damage == "edited":
        path.write_text(path.read_text().replace("4", "5", 1))
    elif damage == "incomplete":
        path.unlink()
    resuming.results["load"] = ["", "EOFError: cut"]
    words = {"edited": "wrong checksum", "incomplete": "missing", "shards": "EOFError: cut"}[damage]
    with pytest.raises(ResumeError, match=rf"(?s){words}.*average.enabled=false"):
        resuming._load_checkpoint()


def test_without_it_the_trainer_is_the_usual_one(verl_config: Compose) -> None:
    from recipe.agpo import install

    def bases(*overrides: str) -> list[str]:
        made = install._trainer(Recorded, verl_config("+algorithm.agpo.preset=grpo", *overrides))
        return [base.__name__ for base in made.__mro__]

    assert average.AverageMixin.__name__ not in bases()
    names = bases("+algorithm.agpo.average.enabled=true")
    assert names.index("LedgerMixin") < names.index("AverageMixin") < names.index("Recorded")
