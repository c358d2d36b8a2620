# SPDX-License-Identifier: Apache-2.0
"""Every command ends bad input in one message: commands x broken files, in one process; Ctrl-C and pipes in others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.agpo.cli import TRACEBACK, main
from recipe.agpo.data.benchmarks import read_gsm8k
from recipe.agpo.data.rows import RowWriter, make_row
from recipe.agpo.data.templates import TEMPLATES
from tests.data.samples import gsm8k

ROOT = Path(__file__).resolve().parents[2]
DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = "9" * 400


def parquet_bytes(table: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


def bad_text() -> bytes:
    """A column of text that is not UTF-8."""
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": text, "data_source": text, "reward_model": text}), sink)
    return sink.getvalue().to_pybytes()


GOOD_ROW = {"data_source": "x", "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"split": "train", "index": 0}}  # fmt: skip
WHOLE = parquet_bytes({name: [value] * 50 for name, value in GOOD_ROW.items()})
ROWS = {  # rows of the wrong types, as parquet and as .jsonl
    "no prompt": {"question": "x", "answer": "y"},
    "null prompt": GOOD_ROW | {"prompt": None},
    "number prompt": GOOD_ROW | {"prompt": 7},
    "empty prompt": GOOD_ROW | {"prompt": ""},
    "prompt of numbers": GOOD_ROW | {"prompt": [1, 2]},
    "prompt without content": GOOD_ROW | {"prompt": [{"role": "user"}]},
    "prompt of a structure": GOOD_ROW | {"prompt": {"role": "user", "content": "x"}},
    "text reward": GOOD_ROW | {"reward_model": "x"},
    "null reward": GOOD_ROW | {"reward_model": None},
    "null gold": GOOD_ROW | {"reward_model": {"ground_truth": None}},
    "text info": GOOD_ROW | {"extra_info": "x"},
    "list info": GOOD_ROW | {"extra_info": [1]},
    "split of a number": GOOD_ROW | {"extra_info": {"split": 1, "index": "x"}, "data_source": 5},
}
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "noise": bytes(range(256)) * 8,
    "truncated parquet": WHOLE[: len(WHOLE) // 2],
    "parquet without its start": WHOLE[100:],
    "parquet with damage within": WHOLE[:60] + b"\xff" * 200 + WHOLE[260:],
    "parquet with a damaged footer": WHOLE[:-40] + b"\xff" * 30 + WHOLE[-10:],
    "parquet without rows": parquet_bytes({"prompt": pa.array([], pa.string()), "data_source": pa.array([], pa.string())}),
    "parquet with bad text": bad_text(),
    "zeros": b"\0" * 1000,
    "bad UTF-8": b'{"question": "\xff\xfe", "step": 1}\n',
    "UTF-16": json.dumps(GOOD_ROW).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf",
    "nested": DEEP,
    "nested object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested record": b'{"question": ' + DEEP + b', "prompt": ' + DEEP + b"}",
    "half a record": b'{"question": "x", "ans',
    "huge number": b'{"step": ' + HUGE.encode() + b', "data": {"x": ' + HUGE.encode() + b'}, "prompt": ' + b"9" * 5000 + b"}",
    "infinite": b'{"step": Infinity, "data": {"training/global_step": NaN, "x": 1e999}, "prompt": -Infinity}',
    "a number": b"7\n",
    "null": b"null\n",
    "text": b'"text"\n',
    "list": b'[1, null, {"question": 1}]\n',
    "surrogate": b'{"question": "\\ud800", "answer": "#### \\udfff", "step": 1, "data": {"\\ud800": 1}, "prompt": "\\ud800"}',
    "yaml": b"a: [1, {b: \n\t- x",
    "yaml of a list": b"- 1\n- 2\n",
    "yaml with an anchor of itself": b"a: &a [*a]\n",
    "yaml of wrong types": b"defaults:\n  - ppo_trainer\n  - _self_\ntrainer: 5\ndata: [1]\n",
    "yaml without its default": b"defaults:\n  - nowhere\n",
    **{f"row: {name}": json.dumps(row).encode() + b"\n" for name, row in ROWS.items()},
    **{f"parquet row: {name}": parquet_bytes({k: [v] for k, v in row.items()}) for name, row in ROWS.items()},
}  # fmt: skip


def put(path: Path, what: str) -> Path:
    """Whatever ``what`` names, at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a link to nothing":
        path.symlink_to(path.with_name("nothing"))
    elif what == "a link to itself":
        path.symlink_to(path)
    elif what != "nothing":
        path.write_bytes(CONTENTS[what])
    return path


THINGS = [*CONTENTS, "a folder", "a pipe", "a link to nothing", "a link to itself", "nothing"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared file."""
    path = tmp_path_factory.mktemp("good") / "gsm8k" / "train.parquet"
    path.parent.mkdir()
    writer = RowWriter(path)
    for i in range(3):
        writer.add(make_row("gsm8k", "train", i, read_gsm8k(gsm8k(i)), TEMPLATES["boxed-1"]))
    writer.close()
    return path


def model(folder: Path) -> Path:
    """A folder that passes for a model until it is loaded."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


# name -> from (a place for the broken thing, a good file, a folder) to the command
Make = Callable[[Path, Path], list[Any]]


def commands(tmp: Path, good: Path) -> dict[str, tuple[str, Make]]:
    """name -> (suffix of the broken file, from it and a place for output to the command line)."""
    return {
        "data prepare jsonl": (".jsonl", lambda f, o: ["data", "prepare", "aime24", "--from", f, "--out", o, "--custom"]),
        "data prepare json": (".json", lambda f, o: ["data", "prepare", "sat_math", "--from", f, "--out", o]),
        "data prepare parquet": (".parquet", lambda f, o: ["data", "prepare", "amc23", "--from", f, "--out", o]),
        "data prepare --against": (".parquet", lambda f, o: [
            "data", "prepare", "aime24", "--from", good, "--out", o, "--against", f]),
        "data prepare --tokenizer": ("", lambda f, o: [
            "data", "prepare", "aime24", "--from", good, "--out", o, "--max-prompt-tokens", "5", "--tokenizer", f]),
        "data check train": (".parquet", lambda f, o: ["data", "check", f, "--against", good]),
        "data check jsonl": (".jsonl", lambda f, o: ["data", "check", f, "--against", good]),
        "data check against": (".parquet", lambda f, o: ["data", "check", good, "--against", f]),
        "data show": (".parquet", lambda f, o: ["data", "show", f]),
        "data show jsonl": (".jsonl", lambda f, o: ["data", "show", f]),
        "data mix": (".parquet", lambda f, o: [
            "data", "mix", f"{f.parent.name}=1", "--from", f.parent.parent, "--split", f.stem, "--out", o, "--size", 3]),
        "eval --data": (".parquet", lambda f, o: ["eval", "--model", model(tmp / "model"), "--data", f, "--out", o]),
        "eval --compare": ("", lambda f, o: [
            "eval", "--model", model(tmp / "model"), "--data", good, "--out", o, "--compare", f]),
        "eval --model": ("", lambda f, o: ["eval", "--model", f, "--data", good, "--out", o]),
        "eval --reward": (".py", lambda f, o: [
            "eval", "--model", model(tmp / "model"), "--data", good, "--out", o, "--reward", f"{f}:judge"]),
        "report file": (".jsonl", lambda f, o: ["report", f, "--out", o / "r.html"]),
        "plan yaml": (".yaml", lambda f, o: ["plan", f]),
        "plan --diff": (".yaml", lambda f, o: ["plan", "qwen14b", "--diff", f]),
        "plan script": (".sh", lambda f, o: ["plan", f]),
    }  # fmt: skip


COMMANDS = commands(Path(), Path())
FINE = {  # good input in an unusual form
    ("data show", "row: list info"),
}


def ended(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, stderr) of a command; an exception that nobody foresaw comes through."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.err


def one_message(said: str) -> bool:
    """One line, or one that argparse or a command goes on under."""
    lines = [line for line in said.splitlines() if line.startswith("agpo")]
    return len(lines) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_broken_files(
    name: str, tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    from recipe.agpo.evaluate import generate

    def stop(*_: Any) -> None:
        raise AssertionError("bad input must be refused before a model is loaded")

    monkeypatch.setattr(generate, "choose_platform", stop)
    for number, what in enumerate(THINGS):
        folder = tmp_path / str(number)
        suffix, make = commands(folder, good)[name]
        path = put(folder / "set" / f"train{suffix}", what)
        if name.startswith("data prepare") and suffix != "":
            path = path.rename(path.with_name(f"test{suffix}")) if os.path.lexists(path) else path.with_name("x")
        out = folder / "out"
        with pytest.MonkeyPatch.context():
            try:
                code, said = ended(make(path, out), capsys)
            except AssertionError as error:
                if "before a model" in str(error) and what in ACCEPTED:
                    continue
                raise AssertionError(f"{name}, {what}: {error}") from error
            except Exception as error:
                raise AssertionError(f"{name}, {what}: {type(error).__name__}: {error}") from error
        if code == 0:
            assert name == "report file" or what in ACCEPTED, (name, what)
            continue
        assert one_message(said), (name, what, said)
        assert not out.exists(), (name, what)


# Rows that are good for some commands though not for all.
ACCEPTED = {f"{kind}: {row}" for kind in ("row", "parquet row") for row in ROWS} | {"surrogate", "yaml of a list"}
