# SPDX-License-Identifier: Apache-2.0
"""``agpo average``: exported checkpoints, in one file or several, and everything that does not fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe.agpo.cli import average, main
from recipe.agpo.evaluate.checkpoint import find

NAMES = ("model.embed", "model.norm", "lm_head", "steps")


def tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((7, 4), (5,), (3, 2, 2))
    found = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return dict(zip(NAMES, [*found, torch.tensor(seed)], strict=True))


def checkpoint(folder: Path, weights: dict[str, torch.Tensor], files: int = 1) -> Path:
    """A model in HF format, its weights in one file or in ``files``."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "dtype": "bfloat16"}))
    (folder / "tokenizer.json").write_text("{}")
    if files == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    places = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    (folder / average.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def call(*arguments: object) -> int:
    return main(["average", *map(str, arguments)])


@pytest.mark.parametrize("piece", [1, 5, average.PIECE])
@pytest.mark.parametrize("files", [(1, 1, 1), (2, 3, 2), (1, 2, 3)])
def test_the_mean_of_three_in_whatever_files_they_are(tmp_path, monkeypatch, files, piece, capsys):
    monkeypatch.setattr(average, "PIECE", piece)
    given = [checkpoint(tmp_path / str(i), tensors(i), count) for i, count in enumerate(files)]
    out = tmp_path / "deep" / "out"
    assert call(*given, "--out", out) == 0
    assert "weighted 0.333, 0.333, 0.333" in capsys.readouterr().out
    found = read(out)
    assert set(found) == set(NAMES)
    for name in NAMES[:3]:
        mean = sum(tensors(i)[name].float() for i in range(3)) / 3
        assert found[name].dtype == torch.bfloat16
        assert torch.allclose(found[name].float(), mean, rtol=2**-8, atol=1e-7)
    assert found["steps"] == 2, "whole numbers are those of the newest"
    assert {p.name for p in out.iterdir()} == {p.name for p in given[-1].iterdir()} | {"agpo_average.json"}
    assert find(str(out)).averaged == "average of 3 checkpoints"


def test_gamma_weighs_later_ones_more_and_float32_is_written_as_such(tmp_path, capsys):
    given = [checkpoint(tmp_path / str(i), tensors(i)) for i in range(3)]
    assert call(*given, "--out", tmp_path / "out", "--gamma", 1, "--dtype", "float32") == 0
    assert "weighted 0.167, 0.333, 0.500" in capsys.readouterr().out
    found = read(tmp_path / "out")
    expected = sum(share * tensors(i)["model.embed"].float() for i, share in enumerate((1 / 6, 2 / 6, 3 / 6)))
    assert found["model.embed"].dtype == torch.float32
    assert torch.allclose(found["model.embed"], expected, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_transformers_reads_the_average(tmp_path):
    from transformers import AutoModelForCausalLM

    from examples.inprocess_grpo import build_model

    for seed in (0, 1):
        build_model(seed, hidden=16, layers=1).save_pretrained(tmp_path / str(seed))
    assert call(tmp_path / "0", tmp_path / "1", "--out", tmp_path / "out") == 0
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("0", "1", "out")]
    one, two, mean = (model.state_dict() for model in models)
    assert all(torch.allclose(mean[name], (one[name] + two[name]) / 2, atol=1e-6) for name in one)


@pytest.fixture
def pair(tmp_path):
    return [checkpoint(tmp_path / str(i), tensors(i), 2) for i in range(2)]


def test_what_is_refused(tmp_path, pair, capsys):
    def refused(*arguments: object, words: tuple[str, ...]) -> None:
        assert call(*arguments, "--out", tmp_path / "out") == 1
        said = capsys.readouterr().err
        assert said.startswith("agpo average: ") and said.count("\n") == 1
        assert [word for word in words if word not in said] == [], said
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

    refused(pair[0], words=("at least two",))
    refused(pair[0], tmp_path / "nowhere", words=("no model folder",))
    refused(*pair, "--gamma", -1, words=("--gamma -1",))
    other = tensors(3)
    wider = checkpoint(tmp_path / "wider", other | {"model.norm": torch.zeros(6, dtype=torch.bfloat16)})
    refused(wider, pair[1], words=("model.norm", "[5]", "[6]", "same model"))
    full = checkpoint(tmp_path / "full", tensors(3, torch.float32))
    refused(full, pair[1], words=("BF16", "F32", "same type"))
    fewer = checkpoint(tmp_path / "fewer", {name: other[name] for name in NAMES[1:]})
    refused(fewer, pair[1], words=(str(fewer), "'model.embed'"))
    refused(pair[1], fewer, words=(str(fewer), "'model.embed'"))
    small = checkpoint(tmp_path / "small", {"x": torch.zeros(2, dtype=torch.float8_e4m3fn)})
    refused(small, small, words=("F8_E4M3", "bfloat16 or float32"))


def test_damaged_checkpoints_are_refused_and_named(tmp_path, pair, capsys):
    def refused(bad: Path, *words: str) -> None:
        for order in ((bad, pair[1]), (pair[1], bad)):
            assert call(*order, "--out", tmp_path / "out") == 1
            said = capsys.readouterr().err
            assert [word for word in (str(bad), *words) if word not in said] == [], said

    def copy(name: str) -> Path:
        return Path(shutil.copytree(pair[0], tmp_path / name))

    shard = "model-00002-of-00002.safetensors"
    (copy("missing") / shard).unlink()
    refused(tmp_path / "missing", shard, "missing")
    whole = (copy("cut") / shard).read_bytes()
    (tmp_path / "cut" / shard).write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut", shard, "not readable")
    (copy("no index") / average.INDEX).unlink()
    refused(tmp_path / "no index", "2 files *.safetensors", "save_pretrained")
    (copy("bad index") / average.INDEX).write_text("{")
    refused(tmp_path / "bad index", average.INDEX)
    (copy("odd index") / average.INDEX).write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    refused(tmp_path / "odd index", "weight_map")
    document = json.loads((copy("wrong index") / average.INDEX).read_text())
    document["weight_map"]["model.embed"] = shard
    (tmp_path / "wrong index" / average.INDEX).write_text(json.dumps(document))
    refused(tmp_path / "wrong index", "'model.embed'", shard)
    del document["weight_map"]["model.embed"]
    (tmp_path / "wrong index" / average.INDEX).write_text(json.dumps(document))
    refused(tmp_path / "wrong index", "'model.embed'", average.INDEX)
    old = checkpoint(tmp_path / "old", {"a": torch.ones(1)})
    (old / "model.safetensors").rename(old / "pytorch_model.bin")
    refused(old, "no *.safetensors", "save_pretrained")


def test_nothing_that_is_there_is_overwritten(tmp_path, pair, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    assert call(*pair, "--out", taken) == 0, "an empty folder is free"
    before = (taken / "agpo_average.json").read_bytes()
    assert call(*pair, "--out", taken) == 1 and "is there (a folder)" in capsys.readouterr().err
    assert call(*pair, "--out", pair[0] / "config.json") == 1 and "(a file)" in capsys.readouterr().err
    assert (taken / "agpo_average.json").read_bytes() == before


def test_a_failure_while_writing_leaves_nothing(tmp_path, pair, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(average, "_write_tensor", full)
    assert call(*pair, "--out", tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
