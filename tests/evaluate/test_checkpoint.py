# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys

import pytest

from recipe.agpo.evaluate import checkpoint
from recipe.agpo.evaluate.errors import EvaluationError


def hf(folder, weights=b"w" * 100, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", **config}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("place", ["", "huggingface", "actor", "actor/huggingface"])
def test_finds_the_weights_below_a_checkpoint_folder(tmp_path, place):
    folder = hf(tmp_path / "global_step_20" / place)
    found = checkpoint.find(str(tmp_path / "global_step_20"))
    assert found.folder == folder and found.weight_bytes == 100


@pytest.mark.parametrize("named", ["global_step_20", "global_step_20/actor", "global_step_20/actor/huggingface"])
def test_shards_are_refused_with_the_command_that_merges_them(tmp_path, named):
    actor = tmp_path / "global_step_20" / "actor"
    hf(actor / "huggingface", weights=None)
    (actor / "fsdp_config.json").write_text("{}")
    (actor / "model_world_size_1_rank_0.pt").write_bytes(b"x")
    with pytest.raises(EvaluationError) as error:
        checkpoint.find(str(tmp_path / named))
    # By the Python that runs: another one may have no verl.
    command = f"{sys.executable} -m verl.model_merger merge --backend fsdp --local_dir {actor} --target_dir {actor}-hf"
    assert command in str(error.value)


def averaged(folder, weights=b"a" * 7, **document):
    """An average of the weights in an actor's folder, exported unless ``weights`` is None."""
    hf(folder / "average" / "huggingface", weights=weights)
    (folder / "average" / "model_world_size_1_rank_0.pt").write_bytes(b"x")
    (folder / "average" / "agpo_average.json").write_text(json.dumps({"updates": 8} | document))
    return folder / "average"


@pytest.mark.parametrize("named", ["", "actor", "actor/huggingface"])
def test_of_a_checkpoint_with_an_average_it_is_the_average_unless_the_raw_weights_are_asked_for(tmp_path, named):
    actor = tmp_path / "global_step_4" / "actor"
    raw, average = hf(actor / "huggingface"), averaged(actor)
    model = str(tmp_path / "global_step_4" / named)
    for weights in ("auto", "average"):
        found = checkpoint.find(model, weights)
        assert (found.folder, found.averaged) == (average / "huggingface", "average of the weights over 8 updates")
    found = checkpoint.find(model, "raw")
    assert (found.folder, found.averaged) == (raw, "raw weights, not its average of the weights over 8 updates")


@pytest.mark.parametrize("named", ["", "huggingface"])
def test_an_average_that_is_named_itself(tmp_path, named):
    average = averaged(tmp_path / "actor")
    found = checkpoint.find(str(average / named))
    assert (found.folder, found.averaged) == (average / "huggingface", "average of the weights over 8 updates")
    with pytest.raises(EvaluationError, match="--weights raw: .* holds an average"):
        checkpoint.find(str(average / named), "raw")


def test_an_average_that_is_not_yet_merged(tmp_path):
    actor = tmp_path / "global_step_4" / "actor"
    hf(actor / "huggingface")
    average = averaged(actor, weights=None)
    for named in (tmp_path / "global_step_4", actor, average):
        with pytest.raises(EvaluationError) as error:
            checkpoint.find(str(named))
        command = f"merge --backend fsdp --local_dir {average} --target_dir {average / 'huggingface'}\n"
        assert command in str(error.value)
        assert ("--weights raw" in str(error.value)) == (named != average)
    assert checkpoint.find(str(actor), "raw").folder == actor / "huggingface"
    (average / "huggingface" / "model.safetensors").write_bytes(b"w")
    assert checkpoint.find(str(actor)).folder == average / "huggingface"


def test_weights_that_are_not_there(tmp_path):
    plain = hf(tmp_path / "plain")
    assert checkpoint.find(str(plain), "raw").averaged == "" == checkpoint.find(str(plain)).averaged
    for model in (str(plain), "somebody/some-model"):
        with pytest.raises(EvaluationError, match="--weights average: .*no"):
            checkpoint.find(model, "average")
    average = averaged(tmp_path / "actor")
    (average / "agpo_average.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"agpo_average.json: not JSON"):
        checkpoint.find(str(tmp_path / "actor"))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="no model folder"):
        checkpoint.find(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="is a file"):
        checkpoint.find(str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="no config.json"):
        checkpoint.find(str(tmp_path / "empty"))
    with pytest.raises(EvaluationError, match="no weights"):
        checkpoint.find(str(hf(tmp_path / "bare", weights=None)))


def test_an_unreachable_hub_id_is_refused_in_words(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(EvaluationError, match="could not be had as a hub id: ConnectionError: offline"):
        checkpoint.find("somebody/some-model")


def test_the_fingerprint_sees_weights_and_settings_but_not_the_place(tmp_path):
    size = 5 * checkpoint.SAMPLE_BYTES
    base = checkpoint.find(str(hf(tmp_path / "a", bytes(size))))
    same = checkpoint.find(str(hf(tmp_path / "b", bytes(size))))
    assert base.fingerprint() == same.fingerprint()
    for place in (0, size // 2, size - 1):
        other = bytearray(size)
        other[place] = 1
        found = checkpoint.find(str(hf(tmp_path / f"weights{place}", bytes(other)))).fingerprint()
        assert found["weights"] != base.fingerprint()["weights"] and found["settings"] == base.fingerprint()["settings"]
    settings = checkpoint.find(str(hf(tmp_path / "c", bytes(size), eos_token_id=7))).fingerprint()
    assert settings["settings"] != base.fingerprint()["settings"]


def test_template_hash(tmp_path):
    found = checkpoint.find(str(hf(tmp_path / "a")))
    inside = found.template_hash()
    (found.folder / "chat_template.jinja").write_text("{{ other }}")
    assert found.template_hash() not in ("none", inside)
    (found.folder / "chat_template.jinja").unlink()
    (found.folder / "tokenizer_config.json").write_text("{}")
    assert found.template_hash() == "none"
