# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.agpo.cli import main
from recipe.agpo.data.show import shown
from tests.data.samples import gsm8k, write_jsonl
from tests.standins import tokenizers as standins


def test_prepare_check_mix_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in" / "train.jsonl", [gsm8k(i) for i in range(8)] + ["{"])
    write_jsonl(tmp_path / "in" / "test.jsonl", [gsm8k(100)])
    out = str(tmp_path / "out")
    assert main(["data", "prepare", "gsm8k", "--from", str(tmp_path / "in"), "--out", out, "--custom"]) == 0
    text = capsys.readouterr().out
    assert "gsm8k/train: 9 read, 8 written, skipped: 1 bad_json" in text and "train.jsonl:9" in text
    train, test = f"{out}/gsm8k/train.parquet", f"{out}/gsm8k/test.parquet"
    report = tmp_path / "deep" / "report.json"
    assert main(["data", "check", train, "--against", test, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["pair_count"] == 0
    assert main(["data", "check", train, "--against", test, "--n", "4"]) == 1
    capsys.readouterr()
    assert main(["data", "mix", "gsm8k=1", "--from", out, "--out", f"{out}/mix", "--size", "12"]) == 0
    assert "each row up to 2 times" in capsys.readouterr().out
    assert main(["data", "show", f"{out}/mix/train.parquet", "-n", "1"]) == 0
    assert "\\boxed{}" in capsys.readouterr().out


def test_show_applies_the_chat_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "train.jsonl", [gsm8k(1, "How many?")])
    source = ["--from", str(tmp_path / "train.jsonl"), "--custom"]
    assert main(["data", "prepare", "gsm8k", *source, "--out", str(tmp_path)]) == 0
    path = tmp_path / "gsm8k" / "train.parquet"
    for tokenizer, begin, first in (
        (standins.gemma2(), "<bos><start_of_turn>user\nHow many?", "the first is '<bos>' (id 2, its BOS)"),
        (standins.gemma2(None), "<bos>How many?", "the first is '<bos>' (id 2, its BOS)"),
        (standins.qwen(), "<|im_start|>user\nHow many?", "the first is '<|im_start|>' (id 1)"),
    ):
        text = shown(path, 3, tokenizer)
        assert begin in text and first in text and "gold   3" in text
        assert "1 prompts: min " in text and text.rstrip().endswith("1")
    assert "<user>\nHow many?" in shown(path) and "--tokenizer PATH" in shown(path) and "min" not in shown(path)
    raising = shown(path, 3, standins.qwen("{{ raise_exception('not so') }}"))
    assert "raises TemplateError: not so" in raising and "1 prompts cannot be rendered" in raising


def test_prepare_takes_a_system_message_and_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--from", str(write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)])), "--custom", "--out", str(tmp_path)]
    before = ["--system", "Be brief.", "--example", "1 + 1?", "2"]
    assert main(["data", "prepare", "gsm8k", *source, *before]) == 0
    capsys.readouterr()
    assert main(["data", "show", str(tmp_path / "gsm8k" / "train.parquet")]) == 0
    assert "<system>\nBe brief.\n<user>\n1 + 1?\n<assistant>\n2\n<user>" in capsys.readouterr().out


def test_errors_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    bad = write_jsonl(tmp_path / "train.jsonl", ["{"])
    for arguments, words in (
        (["prepare", "gsm8k", *out], "--from SOURCE"),
        (["prepare", "nope", *out], "nope"),
        (["prepare", "gsm8k", "--from", str(bad), *out], "not a single row"),
        (["prepare", "gsm8k", "--from", str(bad), "--size", "3", *out], "--limit"),
        (["prepare", "reasoning_gym:chain_sum", *out], "--size"),
        (["prepare", "reasoning_gym:chain_sum", "--size", "2", "--config", "[", *out], "not JSON"),
        (["mix", "gsm8k", "--from", str(tmp_path), *out, "--size", "3"], "NAME=WEIGHT"),
        (["mix", "a=1", "a=2", "--from", str(tmp_path), *out, "--size", "3"], "twice"),
        (["show", str(tmp_path / "none.parquet")], "no such file"),
    ):
        assert main(["data", *arguments]) == 2, arguments
        assert words in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert "code_contests" in text and "check the source" in text
