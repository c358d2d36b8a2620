# SPDX-License-Identifier: Apache-2.0
"""Every command ends bad input in one message: commands x broken files, in one process; Ctrl-C and pipes in others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.agpo.cli import INTERRUPTED, PIPE_CLOSED, TRACEBACK, main
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


GOOD_ROW = {
    "data_source": "x",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 0},
}
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
    "parquet without rows": parquet_bytes({"prompt": pa.array([], pa.string())}),
    "parquet with bad text": bad_text(),
    "zeros": b"\0" * 1000,
    "bad UTF-8": b'{"question": "\xff\xfe", "step": 1}\n',
    "UTF-16": json.dumps(GOOD_ROW).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf",
    "nested": DEEP,
    "nested object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested record": b'{"question": ' + DEEP + b', "prompt": ' + DEEP + b"}",
    "half a record": b'{"question": "x", "ans',
    "huge number": f'{{"step": {HUGE}, "data": {{"x": {HUGE}}}}}'.encode(),
    "huger number": b'{"step": 1, "data": {"training/global_step": 1, "x": ' + b"9" * 5000 + b"}}",
    "huge values": f'{{"step": 1, "data": {{"training/global_step": 1, "critic/score/mean": {HUGE}}}}}'.encode(),
    "huge counts": f'{{"format": "agpo-token-ledger", "version": 1, "ledger": {{"generated": {HUGE}}}}}'.encode(),
    "infinite": b'{"step": Infinity, "data": {"training/global_step": NaN, "x": 1e999}, "prompt": -Infinity}',
    "a number": b"7\n",
    "null": b"null\n",
    "text": b'"text"\n',
    "list": b'[1, null, {"question": 1}]\n',
    "surrogate": b'{"question": "\\ud800", "answer": "#### \\udfff", "step": 1, "data": {"\\ud800": 1}}',
    "surrogates in a dump": b'{"input": "\\ud800", "output": "\\udfff", "score": 1}',
    "yaml": b"a: [1, {b: \n\t- x",
    "yaml of a list": b"- 1\n- 2\n",
    "yaml with an anchor of itself": b"a: &a [*a]\n",
    "yaml of wrong types": b"defaults:\n  - ppo_trainer\n  - _self_\ntrainer: 5\ndata: [1]\n",
    "yaml without its default": b"defaults:\n  - nowhere\n",
    **{f"row: {name}": json.dumps(row).encode() + b"\n" for name, row in ROWS.items()},
    **{f"parquet row: {name}": parquet_bytes({k: [v] for k, v in row.items()}) for name, row in ROWS.items()},
}


def put(path: Path, what: str) -> Path:
    """Whatever ``what`` names, at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as server:  # a socket's name is short: it is bound from its folder
            before = os.getcwd()
            os.chdir(path.parent)
            server.bind(path.name)
            os.chdir(before)
    elif what == "an endless device":
        path.symlink_to("/dev/zero")
    elif what == "a link to nothing":
        path.symlink_to(path.with_name("nothing"))
    elif what == "a link to itself":
        path.symlink_to(path)
    elif what != "nothing":
        path.write_bytes(CONTENTS[what])
    return path


PLACES = ["a folder", "a pipe", "a socket", "an endless device", "a link to nothing", "a link to itself", "nothing"]
THINGS = [*CONTENTS, *PLACES]


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


Make = Callable[[Path, Path], list[Any]]


def commands(tmp: Path, good: Path) -> dict[str, tuple[str, Make]]:
    """name -> (suffix of the broken file, the command line from that file and a place for output)."""
    evaluation = ["eval", "--model", tmp / "model"]
    return {
        "data prepare jsonl": (".jsonl", lambda f, o: ["data", "prepare", "aime24", "--from", f, "--out", o]),
        "data prepare json": (".json", lambda f, o: ["data", "prepare", "sat_math", "--from", f, "--out", o]),
        "data prepare parquet": (".parquet", lambda f, o: ["data", "prepare", "amc23", "--from", f, "--out", o]),
        "data prepare --custom": (
            ".jsonl",
            lambda f, o: ["data", "prepare", "cmath", "--from", f, "--split", "test", "--custom", "--out", o],
        ),
        "data prepare --against": (
            ".parquet",
            lambda f, o: ["data", "prepare", "gsm8k", "--from", good, "--out", o, "--against", f],
        ),
        "data prepare --tokenizer": (
            "",
            lambda f, o: [
                "data",
                "prepare",
                "gsm8k",
                "--from",
                good,
                "--out",
                o,
                "--max-prompt-tokens",
                "5",
                "--tokenizer",
                f,
            ],
        ),
        "data check train": (".parquet", lambda f, o: ["data", "check", f, "--against", good]),
        "data check jsonl": (".jsonl", lambda f, o: ["data", "check", f, "--against", good]),
        "data check against": (".parquet", lambda f, o: ["data", "check", good, "--against", f]),
        "data show": (".parquet", lambda f, o: ["data", "show", f]),
        "data show jsonl": (".jsonl", lambda f, o: ["data", "show", f]),
        "data mix": (
            ".parquet",
            lambda f, o: [
                "data",
                "mix",
                f"{f.parent.name}=1",
                "--from",
                f.parent.parent,
                "--split",
                f.stem,
                "--out",
                o,
                "--size",
                3,
            ],
        ),
        "data mix manifest": (
            ".manifest.json",
            lambda f, o: [
                "data",
                "mix",
                f"{f.parent.name}=1",
                "--from",
                f.parent.parent,
                "--split",
                beside(good, f),
                "--out",
                o,
                "--size",
                3,
            ],
        ),
        "eval --data": (".parquet", lambda f, o: [*evaluation, "--data", f, "--out", o]),
        "eval --compare": ("", lambda f, o: [*evaluation, "--data", good, "--out", o, "--compare", f]),
        "eval --compare header": (
            "header.json",
            lambda f, o: [*evaluation, "--data", good, "--out", o, "--compare", finished(f.parent)],
        ),
        "eval --compare verdicts": (
            "verdicts.jsonl",
            lambda f, o: [*evaluation, "--data", good, "--out", o, "--compare", finished(f.parent)],
        ),
        "eval --model": ("", lambda f, o: ["eval", "--model", f, "--data", good, "--out", o]),
        "eval --model config": (
            "config.json",
            lambda f, o: ["eval", "--model", weights(f.parent), "--data", good, "--out", o],
        ),
        "eval --reward": (".py", lambda f, o: [*evaluation, "--data", good, "--out", o, "--reward", f"{f}:judge"]),
        "report file": (".jsonl", lambda f, o: ["report", f, "--out", o / "r.html"]),
        "plan yaml": (".yaml", lambda f, o: ["plan", f]),
        "plan --diff": (".yaml", lambda f, o: ["plan", "qwen14b", "--diff", f]),
        "plan script": (".sh", lambda f, o: ["plan", f]),
    }


def weights(folder: Path) -> Path:
    """Something that passes for a model's weights until it is loaded."""
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


def finished(folder: Path) -> Path:
    """A folder that passes for a finished evaluation, but for what stands there already."""
    header = {"version": 1, "model": "m", "generation": {}, "judging": {}}
    for name, text in (("eval.json", "{}"), ("header.json", json.dumps(header)), ("verdicts.jsonl", "")):
        if not os.path.lexists(folder / name):
            (folder / name).write_text(text)
    return folder


def beside(good: Path, manifest: Path) -> str:
    """Puts a good file beside a manifest; returns its split."""
    split = manifest.name.removesuffix(".manifest.json")
    shutil.copy(good, manifest.with_name(f"{split}.parquet"))
    return split


def ended(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command; an exception that nobody foresaw comes through."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


def refused(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that must fail."""
    code, _, said = ended(arguments, capsys)
    assert code in (1, 2), (arguments, code)
    assert sum(line.startswith("agpo") for line in said.splitlines()) == 1, (arguments, said)
    assert "(unexpected:" not in said, (arguments, said)
    return said


class Accepted(Exception):
    """The evaluation found nothing to refuse."""


@pytest.fixture(autouse=True)
def nothing_is_unexpected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that no command foresaw fail the test, and no model is loaded."""
    from recipe.agpo.evaluate import generate

    def stop(*_: Any) -> None:
        raise Accepted

    monkeypatch.setenv(TRACEBACK, "1")
    monkeypatch.setattr(generate, "choose_platform", stop)


def is_fine(name: str, what: str) -> bool:
    """What is unusual, and no error for this command."""
    row = what.partition("row: ")[2]
    if name in ("data show", "data show jsonl") and what in ("empty", "byte order mark", "parquet without rows"):
        return True
    if name.startswith(("data check", "data show")):
        return bool(row) and row not in BAD_PROMPTS
    if name == "data mix manifest":
        return what in PLACES
    if name == "eval --compare header":
        return what == "nothing"  # a good one is put there
    if name == "data prepare --custom":
        return what == "row: no prompt"
    if name == "eval --reward":
        return False
    return name in ("report file", "eval --data", "eval --model config", "eval --compare verdicts")


PLANNED = [
    "empty",
    "noise",
    "zeros",
    "bad UTF-8",
    "UTF-16",
    "nested",
    "nested object",
    "huge number",
    "null",
    "text",
    *(what for what in THINGS if what.startswith(("yaml", "a ", "an "))),
    "nothing",
]
DIFFED = ["yaml", "nested", "bad UTF-8", "a pipe", "nothing"]
SCRIPTS = ["empty", "noise", "bad UTF-8", "a folder", "a pipe", "nothing"]
BAD_PROMPTS = [name for name in ROWS if "prompt" in name]


@pytest.mark.parametrize("name", commands(Path(), Path()))
def test_broken_files(name: str, tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    things = {"plan yaml": PLANNED, "plan --diff": DIFFED, "plan script": SCRIPTS}  # a plan takes half a second
    for number, what in enumerate(things.get(name, THINGS)):
        folder = tmp_path / str(number)
        suffix, make = commands(folder, good)[name]
        (folder / "model").mkdir(parents=True)
        (weights(folder / "model") / "config.json").write_text('{"model_type": "llama"}')
        path = put(folder / "set" / (suffix if suffix[:1].isalpha() else f"rows{suffix}"), what)
        try:
            code, _, said = ended(make(path, folder / "out"), capsys)
        except Accepted:
            assert is_fine(name, what), f"{name}, {what}: nothing was refused"
            continue
        except Exception as error:
            raise AssertionError(f"{name}, {what}: {type(error).__name__}: {error}") from error
        if code == 0 or (code == 1 and not said):
            assert is_fine(name, what), f"{name}, {what}: nothing was refused"
        else:
            assert sum(line.startswith("agpo") for line in said.splitlines()) == 1, (name, what, said)
            assert not (folder / "out").exists(), (name, what)


@pytest.mark.parametrize("what", THINGS)
def test_a_report_on_broken_files_is_a_report(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run that crashed is the one that people look at."""
    run = tmp_path / "run"
    line = json.dumps({"step": 1, "data": {"training/global_step": 1, "actor/grad_norm": 1.0}})
    run.mkdir()
    (run / "metrics.jsonl").write_text(line + "\n")
    step = run / "checkpoints" / "global_step_1"
    for place in (
        "metrics.2.jsonl",
        "run.json",
        "rollouts/1.jsonl",
        "checkpoints/agpo_decisions.jsonl",
        step / "agpo_state.json",
        step / "agpo_ledger.json",
    ):
        put(run / place, what)
    code, out, said = ended(["report", run, "--out", tmp_path / "report.html"], capsys)
    assert (code, said) == (0, "") and "run: 1 steps" in out
    assert "1.0" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("out", ["a file", "a folder", "below a file", "a pipe", "a link to itself"])
def test_places_for_output(out: str, tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    source = tmp_path / "in" / "test.jsonl"
    source.parent.mkdir()
    source.write_text(json.dumps(gsm8k(1)) + "\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
    place = {"a file": "file", "a folder": "in", "below a file": "file/x", "a pipe": "pipe", "a link to itself": "loop"}
    path = tmp_path / place[out]
    folders = [
        ["data", "prepare", "gsm8k", "--from", source, "--custom", "--out", path],
        ["data", "mix", "gsm8k=1", "--from", good.parent.parent, "--size", 2, "--out", path],
        ["eval", "--model", tmp_path / "none", "--data", good, "--out", path],
        ["doctor", "--no-ray", "--ranks", 1, "--folder", path],
    ]
    files = [
        ["data", "check", good, "--against", good, "--json", path],
        ["report", tmp_path / "metrics.jsonl", "--out", path],
        ["config", "--write", path],
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for arguments in (folders if out != "a folder" else []) + (files if out != "a file" else files[1:2]):
        said = refused(arguments, capsys)
        assert place[out].partition("/")[0] in said, said
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "9" * 5000, "nan", "inf", "1e400", "x", "", "-5", "0", "\u0661x"])
def test_numbers(number: str, tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path / "out"]
    model = weights(tmp_path)
    (model / "config.json").write_text("{}")
    evaluation = ["eval", "--model", model, "--data", good, *out, "--protocol", "sampled"]
    for arguments in (
        ["data", "prepare", "gsm8k", "--from", good, *out, "--limit"],
        ["data", "prepare", "reasoning_gym:chain_sum", *out, "--size"],
        ["data", "check", good, "--against", good, "--n"],
        ["data", "mix", "gsm8k=1", "--from", good.parent.parent, *out, "--size"],
        ["data", "show", good, "-n"],
        [*evaluation, "--samples"],
        [*evaluation, "--temperature"],
        [*evaluation, "--max-tokens"],
        [*evaluation, "--limit"],
        [*evaluation, "--chunk"],
        [*evaluation, "--pass-at"],
        ["plan", "qwen14b", "--gpu-gb"],
        ["doctor", "--no-ray", "--ranks"],
    ):
        *before, option = arguments
        refused([*before, f"{option}{'' if option == '-n' else '='}{number}"], capsys)
    if number not in ("0", "-5"):
        refused(["data", "mix", f"gsm8k={number}", "--from", good.parent.parent, *out, "--size", 2], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override",
    [
        "data.train_batch_size=abc",
        "data.train_batch_size=[1]",
        f"data.train_batch_size={HUGE}",
        "trainer.nnodes=null",
        "algorithm.agpo=5",
        "algorithm.agpo.clip=x",
        "algorithm.agpo.token_budget=-1",
        "actor_rollout_ref.model.path=null",
        "actor_rollout_ref=7",
        "no.such.key=1",
        "=",
        "data.val_files={a: 1}",
        "trainer.logger=1",
        "data.train_batch_size=${nowhere}",
        "data.max_prompt_length=1e999",
    ],
)
def test_overrides_of_wrong_types(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = ended(["plan", "qwen14b", override], capsys)
    if code != 2:
        # Whatever the screen can be drawn with is a problem of the run, named below it.
        assert code == 0 and not said and "method" in out
    else:
        assert sum(line.startswith("agpo plan:") for line in said.splitlines()) == 1 and "(unexpected" not in said


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user whom file modes bind; root is not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_missing_permissions(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        tmp_path = Path(name)
        secret, folder = tmp_path / "secret.parquet", tmp_path / "folder"
        shutil.copy(good, secret)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
        secret.chmod(0)
        folder.mkdir(mode=0o500)
        closed, run, model, mine = (tmp_path / each for each in ("closed", "run", "model", "mine"))
        for each in (run, model, mine):
            each.mkdir()
        mine.chmod(0o777)
        (weights(model) / "config.json").write_text('{"model_type": "llama"}')
        (run / "metrics.jsonl").write_text('{"step": 1, "data": {"training/global_step": 1}}\n')
        for each in (closed, run / "checkpoints"):
            each.mkdir(mode=0)
        tmp_path.chmod(0o755)
        opened = good if os.geteuid() else shutil.copy(good, tmp_path / "good.parquet")
        with without_rights():
            for arguments in (
                ["data", "show", secret],
                ["data", "check", opened, "--against", secret],
                ["data", "check", opened, "--against", opened, "--json", folder / "x.json"],
                ["data", "prepare", "gsm8k", "--from", secret, "--split", "train", "--out", tmp_path / "out"],
                ["eval", "--model", folder, "--data", secret, "--out", folder / "out"],
                ["report", tmp_path / "metrics.jsonl", "--out", folder / "x.html"],
                ["config", "--write", folder / "x.yaml"],
                ["data", "prepare", "gsm8k", "--from", closed, "--split", "train", "--out", tmp_path / "out"],
                ["data", "show", closed / "rows.parquet"],
                ["eval", "--model", model, "--data", opened, "--out", folder / "out"],
                ["eval", "--model", model, "--data", opened, "--out", closed / "out"],
            ):
                assert "no such file" not in refused(arguments, capsys)
            # A report shows what can be read.
            page = mine / "x.html"
            words = "run: 1 steps, not measured (Too early to say)"
            assert ended(["report", run, "--out", page], capsys)[:2] == (0, f"{words}\npage: {page}\n")
            assert str(run / "checkpoints") in page.read_text(encoding="utf-8")


def test_names_that_are_not_utf8(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Linux has no rule for names: bytes that are not UTF-8 come as lone surrogates."""
    source = tmp_path / "in" / "\udcff-test.jsonl"
    source.parent.mkdir()
    source.write_text(json.dumps(gsm8k(1)) + "\n{\n")
    prepare = ["data", "prepare", "gsm8k", "--custom", "--from", source.parent, "--out"]
    assert ended([*prepare, tmp_path / "out"], capsys)[0] == 0
    (file,) = json.loads((tmp_path / "out/gsm8k/test.manifest.json").read_text(encoding="utf-8"))["source"]["files"]
    (skipped,) = (tmp_path / "out/gsm8k/test.skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert file["name"] == "\udcff-test.jsonl" and json.loads(skipped)["place"] == "\udcff-test.jsonl:2"
    assert "UTF-8" in refused([*prepare, tmp_path / "\udcfe"], capsys)
    assert not (tmp_path / "\udcfe").exists()


def test_arguments_of_a_verifier_that_are_no_object(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would fail at the first verdict, hours after the start."""
    model = weights(tmp_path)
    (model / "config.json").write_text("{}")
    for number, text in enumerate(["{", "[1]", "7", "[" * 100_000]):
        info = {"verifier": "numeric", "verifier_args": text}
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(parquet_bytes({name: [value] for name, value in (GOOD_ROW | {"extra_info": info}).items()}))
        said = refused(["eval", "--model", model, "--data", path, "--out", tmp_path / "out"], capsys)
        assert f"{number}.parquet: row 0: extra_info['verifier_args']" in said
    assert not (tmp_path / "out").exists()


def test_an_unforeseen_error_is_a_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], good: Path
) -> None:
    from recipe.agpo.data import show

    monkeypatch.delenv(TRACEBACK)
    monkeypatch.setattr(show, "count_rows", lambda _: 1 / 0)
    code, _, said = ended(["data", "show", good], capsys)
    assert code == 2 and said.count("\n") == 1
    assert said.startswith("agpo data show: ZeroDivisionError") and f"{TRACEBACK}=1" in said


def test_files_of_windows_are_read(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.dumps(GOOD_ROW).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n" + row + b"\r\n\r\n")
    assert ended(["data", "check", tmp_path / "rows.jsonl", "--against", good], capsys)[0] == 0
    assert "1+1?" in ended(["data", "show", tmp_path / "rows.jsonl"], capsys)[1]
    step = b'{"step": 1, "data": {"training/global_step": 1}}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\xef\xbb\xbf" + step + b"\r\n" + step.replace(b"1", b"2") + b"\r\n")
    code, out, _ = ended(["report", tmp_path / "metrics.jsonl"], capsys)
    assert code == 0 and "2 steps" in out
    assert "not usable" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def command(*arguments: Any, **other: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with the buffer that output to a pipe has."""
    return subprocess.Popen(
        [sys.executable, "-m", "recipe.agpo.cli", *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stderr=subprocess.PIPE,
        **other,
    )


@pytest.mark.parametrize("arguments", [["config"], ["--help"], ["data", "list"], ["data", "prepare", "--help"]])
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = command(*arguments, stdout=writer)
    os.close(writer)
    assert child.communicate(timeout=120)[1] == b"" and child.returncode == PIPE_CLOSED


def test_a_full_disk_behind_the_output_is_one_message() -> None:
    with open("/dev/full", "wb") as full:
        child = command("config", stdout=full)
        said = child.communicate(timeout=120)[1].decode()
    assert child.returncode == 2 and said.count("\n") == 1 and "space" in said


def test_ctrl_c_ends_quietly(tmp_path: Path, good: Path) -> None:
    """Generating a set that is too large to end by itself; the signal comes once it has begun to write."""
    out = tmp_path / "out"
    child = command("data", "prepare", "reasoning_gym:chain_sum", "--size", 10**6, "--out", out, stdout=subprocess.PIPE)
    while not list(out.rglob(".train.parquet.*.tmp")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)
    assert said == (b"", b"agpo data prepare: interrupted\n") and child.returncode == INTERRUPTED
    assert not out.exists()
