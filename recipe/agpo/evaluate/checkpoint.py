# SPDX-License-Identifier: Apache-2.0
"""Find the folder with a model's weights in HF format, and hash the model to identify it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo import cpu
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.files import FileError, read_object
from recipe.agpo.run_folder import AVERAGE_FILE, AVERAGE_FOLDER

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Files that affect how the weights are used: shape, tokenizer, chat template, end tokens.
SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = ("chat_template.jinja", "chat_template.json")
SAMPLE_BYTES = 1 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A model in HF format.

    Attributes:
        name: what the user wrote.
        folder: where config, tokenizer and weights are.
        averaged: for a checkpoint with an average of the weights, which of the two this is, in words; else empty.
    """

    name: str
    folder: Path
    averaged: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return _settings_file(self.folder / "config.json")

    @property
    def weight_bytes(self) -> int:
        return sum(path.stat().st_size for path in weight_files(self.folder))

    def fingerprint(self) -> dict[str, str]:
        """Hashes of settings and weights. Of each weight file: name, size, and a megabyte at both ends and the middle.

        Reading all of a large model would take minutes, and training changes all of its weights.
        """
        return {"settings": _hash(_settings(self.folder)), "weights": _hash(_samples(self.folder))}

    def template_hash(self) -> str:
        """Of the chat template's text, ``none`` without one."""
        for name in TEMPLATES:
            if (self.folder / name).is_file():
                return _hash([(self.folder / name).read_bytes()])
        file = self.folder / "tokenizer_config.json"
        template = _settings_file(file).get("chat_template") if file.is_file() else None
        return _hash([json.dumps(template).encode()]) if template else "none"


def find(model: str, weights: str = "auto") -> Checkpoint:
    """The checkpoint that ``model`` names.

    Args:
        model: a folder in HF format; a checkpoint folder of verl (``global_step_N`` or its ``actor``) whose
            ``huggingface`` folder has weights; or a hub id.
        weights: ``average``: the average of the weights that was saved in the checkpoint; ``raw``: the weights that
            were trained; ``auto``: the average if there is one.

    Raises:
        EvaluationError: there is none; for a sharded checkpoint the message gives the command that merges it.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        if weights == "average":
            raise EvaluationError(f"--weights average: {model} is no folder with an average. Leave --weights out")
        if _HUB_ID.fullmatch(model):
            return Checkpoint(model, _from_hub(model))
        raise EvaluationError(f"no model folder {model}")
    if not folder.is_dir():
        raise EvaluationError(f"{model} is a file: name the folder that holds config.json and the weights")
    averaged, place = _choose(folder, weights)
    for candidate in (place, place / "huggingface", place / "actor", place / "actor" / "huggingface"):
        if (candidate / "config.json").is_file() and weight_files(candidate):
            return Checkpoint(model, candidate, averaged)
    for candidate in (place, place / "actor", place.parent if place.name == "huggingface" else place):
        if (candidate / "fsdp_config.json").is_file() or any(candidate.glob("model_world_size_*_rank_*.pt")):
            # A merged average lies beside the file that says that it is one.
            target = candidate / "huggingface" if (candidate / AVERAGE_FILE).is_file() else f"{candidate}-hf"
            # By this Python: another one may have no verl.
            merge = f"{'AGPO_CPU=1 ' if cpu.enabled() else ''}{shlex.quote(sys.executable)} -m verl.model_merger merge"
            raise EvaluationError(
                f"{model} is a checkpoint in verl's shards, not yet in HF format. Merge it first:\n"
                f"    {merge} --backend fsdp --local_dir {shlex.quote(str(candidate))} "
                f"--target_dir {shlex.quote(str(target))}\n"
                f"and evaluate {target}. The merger stores the weights as bfloat16."
                + (" For the weights without averaging: --weights raw." if place != folder else "")
            )
    problem = "has no weights (*.safetensors)" if (folder / "config.json").is_file() else "has no config.json"
    raise EvaluationError(f"{model} is no checkpoint in HF format: it {problem}")


def _choose(folder: Path, weights: str) -> tuple[str, Path]:
    """Which weights these are, in words, and the folder to search: of a checkpoint that holds both, one of them."""
    above = [folder.parent] if folder.name == "huggingface" else []
    for itself in (folder, *above):
        if (itself / AVERAGE_FILE).is_file():
            if weights == "raw":
                raise EvaluationError(f"--weights raw: {folder} holds an average. Name the folder of its checkpoint")
            return _what(itself), folder
    for actor in (folder, folder / "actor", *above):
        average = actor / AVERAGE_FOLDER
        if (average / AVERAGE_FILE).is_file():
            what = _what(average)
            return (f"raw weights, not its {what}", folder) if weights == "raw" else (what, average)
    if weights == "average":
        raise EvaluationError(
            f"--weights average: {folder} has no average of the weights (algorithm.agpo.average.enabled). Leave "
            "--weights out, or average several checkpoints with `agpo average`"
        )
    return "", folder


def _what(average: Path) -> str:
    document = _settings_file(average / AVERAGE_FILE)
    if "checkpoints" in document:
        return f"average of {len(document['checkpoints'])} checkpoints"
    return f"average of the weights over {document.get('updates')} updates"


def weight_files(folder: Path) -> list[Path]:
    """Safetensors if there are any, else the older binary files."""
    for pattern in WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]))
    except Exception as error:  # offline, unknown, gated: each with a message of its own
        raise EvaluationError(
            f"{model} is no folder here, and could not be had as a hub id: {type(error).__name__}: {error}"
        ) from error


def _settings_file(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileError as error:
        raise EvaluationError(f"{error}. The model is not complete: copy or download it again") from None


def _settings(folder: Path) -> Iterator[bytes]:
    for name in SETTINGS:
        if (folder / name).is_file():
            yield name.encode()
            yield (folder / name).read_bytes()


def _samples(folder: Path) -> Iterator[bytes]:
    for path in weight_files(folder):
        size = path.stat().st_size
        yield f"{path.name}:{size}".encode()
        with path.open("rb") as file:
            for start in sorted({0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)}):
                file.seek(start)
                yield file.read(SAMPLE_BYTES)


def _hash(parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]
