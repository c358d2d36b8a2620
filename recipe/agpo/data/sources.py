# SPDX-License-Identifier: Apache-2.0
"""Records of a benchmark from local files or from the hub, one at a time, with the split that they belong to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.data.benchmarks import Benchmark
from recipe.agpo.data.example import DataError
from recipe.agpo.data.rows import json_lines, parquet_rows
from recipe.agpo.files import kind_of, parse_json, read_text

SUFFIXES = (".jsonl", ".json", ".parquet")
MANY_FILES = 20  # above this the manifest keeps one hash over all of them
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "eval": "test",
    "testing": "test",
}
_NOT_DATA = re.compile(r"^\.|\.manifest\.json$|\.skipped\.jsonl$|^dataset_infos?\.json$|^state\.json$")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Record:
    """One record of a source.

    Attributes:
        place: file and line or number, for the list of skipped rows.
        value: the record, None if it could not be read.
        problem: why not.
    """

    place: str
    value: dict[str, Any] | None
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """All records of one split.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        info: what the manifest says about it.
        records: a fresh stream of its records, each time in the same order.
        paths: the files that they come from, none for other sources.
    """

    split: str
    info: dict[str, Any]
    records: Callable[[], Iterator[Record]]
    paths: tuple[Path, ...] = ()


def split_named(name: str) -> str | None:
    """The split that a file or split name tells of: ``train-00000-of-00001`` is train, ``cmath_dev`` validation."""
    found = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def open_sources(bench: Benchmark, source: str, split: str | None = None, revision: str | None = None) -> list[Source]:
    """The splits of ``source``: a file, a folder, a hub id, or ``hub`` for the benchmark's own.

    Args:
        bench: whose format it is in.
        source: where the records are.
        split: only this one; names the split of a file whose name does not.
        revision: of the hub data set; None for its newest.

    Raises:
        DataError: nothing there, or the splits cannot be told apart.
    """
    if split is not None and split not in bench.splits:
        hint = " To train on test data, keep the split test and give --allow-test-for-training." * bench.test_only
        raise DataError(f"{bench.name} has no split {split!r}, only {', '.join(bench.splits)}.{hint}")
    path = Path(source)
    if path.exists():
        return _local_sources(bench, path, split)
    if source == "hub":
        if bench.hub_id is None:
            raise DataError(f"no public copy of {bench.name} is known to us: give a path, or the id of one")
        return _hub_sources(bench, bench.hub_id, split, revision)
    if _HUB_ID.fullmatch(source) and not source.startswith("."):
        return _hub_sources(bench, source, split, revision)
    raise DataError(f"{source}: no such file or folder, and no hub id (owner/name)")


def files_info(paths: list[Path], root: Path) -> dict[str, Any]:
    """Names below ``root`` and sha256 of files, without any path of this machine."""
    files = [{"name": path.relative_to(root).as_posix(), "sha256": file_sha256(path)} for path in paths]
    if len(files) <= MANY_FILES:
        return {"kind": "files", "files": files}
    lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    return {"kind": "files", "count": len(files), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_file(path: Path, name: str) -> Iterator[Record]:
    """The records of a .jsonl (line by line), .parquet (in batches) or .json file (whole)."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path, name)
    elif path.suffix == ".json":
        yield from _read_json(path, name)
    else:
        yield from _read_lines(path, name)


def _local_sources(bench: Benchmark, path: Path, split: str | None) -> list[Source]:
    root = path if path.is_dir() else path.parent
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path} is {kind_of(path)}: give a file or a folder")
    files = _files(path)
    if not files:
        raise DataError(f"{path}: no {' / '.join(SUFFIXES)} file there")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of_file(bench, file, root, split if len(files) == 1 else None), []).append(file)
    chosen = [name for name in bench.splits if name in by_split and split in (None, name)]
    if not chosen:
        raise DataError(f"{path}: nothing of split {split!r} there, only {', '.join(sorted(by_split))}")
    return [_file_source(name, by_split[name], root) for name in chosen]


def _file_source(split: str, files: list[Path], root: Path) -> Source:
    def records() -> Iterator[Record]:
        for file in files:
            yield from read_file(file, file.relative_to(root).as_posix())

    return Source(split, files_info(files, root), records, tuple(files))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path}: not one of {', '.join(SUFFIXES)}")
        return [path]
    os.listdir(path)  # a folder that may not be read raises here; rglob would take it for an empty one
    found = [file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file()]
    return sorted((file for file in found if not _NOT_DATA.search(file.name)), key=lambda file: _natural(file, path))


def _natural(file: Path, root: Path) -> list[tuple[int, int, str]]:
    """Sorts ``2.json`` before ``10.json``, and never depends on the order in which the disk lists files."""
    parts = re.split(r"(\d+)", file.relative_to(root).as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _split_of_file(bench: Benchmark, file: Path, root: Path, asked: str | None) -> str:
    names = [file.stem, *reversed(file.relative_to(root).parts[:-1])]
    told = next((found for found in map(split_named, names) if found), None)
    if len(bench.splits) == 1:
        if told == "train" and asked is None:
            raise DataError(
                f"{file} looks like training data, but {bench.name} has only a {bench.splits[0]} split. If it is the "
                f"benchmark all the same, give the file itself and --split {bench.splits[0]}"
            )
        return bench.splits[0]
    if told is None:
        if asked is None:
            raise DataError(f"{file}: its name does not tell the split; give the file itself and --split NAME")
        return asked
    if told not in bench.splits:
        raise DataError(f"{file} looks like split {told}, but {bench.name} has only {', '.join(bench.splits)}")
    return told


def _read_lines(path: Path, name: str) -> Iterator[Record]:
    for number, value, problem in json_lines(path):
        place = f"{name}:{number}"
        yield Record(place, None, problem) if problem else _checked(value, place)


def _read_json(path: Path, name: str) -> Iterator[Record]:
    text = read_text(path)
    try:
        whole = parse_json(text)
    except ValueError as error:
        if "Extra data" in str(error):  # one record a line, under the wrong suffix: common on the hub
            yield from _read_lines(path, name)
        else:
            yield Record(name, None, str(error))
        return
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    for number, value in enumerate(whole if isinstance(whole, list) else [whole]):
        place = f"{name}[{number}]" if isinstance(whole, list) else name
        yield _checked(value, place)


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    for number, value in enumerate(parquet_rows(path)):
        yield Record(f"{name}[{number}]", value)


def _checked(value: Any, place: str) -> Record:
    if isinstance(value, dict):
        return Record(place, value)
    return Record(place, None, f"a record is {type(value).__name__}, not an object")


def _hub_sources(bench: Benchmark, hub_id: str, split: str | None, revision: str | None) -> list[Source]:
    config = bench.hub_config if hub_id == bench.hub_id else None
    try:
        import datasets
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(hub_id, revision=revision).sha
        names = datasets.get_dataset_split_names(hub_id, config, revision=commit)
    except Exception as error:  # offline, refused, unknown, not installed: one message for all
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise DataError(
            f"cannot reach {hub_id} on the hub ({type(error).__name__}: {reason}). Without a connection, prepare from "
            "local files in the same format: --from PATH"
        ) from error
    by_split: dict[str, list[str]] = {}
    for name in names:
        told = split_named(name)
        if len(bench.splits) == 1 and (told != "train" or split is not None):
            told = bench.splits[0]
        if told in bench.splits:
            by_split.setdefault(told, []).append(name)
    chosen = [name for name in bench.splits if name in by_split and split in (None, name)]
    if not chosen:
        hint = f". If it is the benchmark all the same, add --split {bench.splits[0]}" * (len(bench.splits) == 1)
        raise DataError(f"{hub_id}: no split for {split or '/'.join(bench.splits)} among {', '.join(names)}{hint}")

    def source(ours: str) -> Source:
        def records() -> Iterator[Record]:
            for name in by_split[ours]:
                stream = datasets.load_dataset(hub_id, config, split=name, revision=commit, streaming=True)
                for number, value in enumerate(stream):
                    yield _checked(dict(value), f"{name}[{number}]")

        info = {"kind": "hub", "id": hub_id, "config": config, "revision": commit, "splits": by_split[ours]}
        return Source(ours, info, records)

    return [source(name) for name in chosen]
