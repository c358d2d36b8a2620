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
