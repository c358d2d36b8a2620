# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.data import DataError, check_overlap
from recipe.agpo.data.overlap import ngrams, report_table, tokens
from recipe.agpo.data.templates import TEMPLATES
from tests.data.samples import gsm8k, prepare_few, write_jsonl

PLANTED = "Every spring the old gardener plants seven rows of tulips behind the red brick wall near the pond"


def make(folder: Path, split: str, texts: list[str], template: str = "boxed-1") -> Path:
    from recipe.agpo.data import Options

    source = write_jsonl(folder / f"{split}.jsonl", [gsm8k(i, text) for i, text in enumerate(texts)])
    prepare_few("gsm8k", str(source), folder, options=Options(template=template))
    return folder / "gsm8k" / f"{split}.parquet"


def test_planted_overlap_is_found_and_nothing_else(tmp_path: Path) -> None:
    test = make(
        tmp_path, "test", [PLANTED + ". How many tulips?", "A second question that nothing else shares words with"]
    )
    train = make(
        tmp_path,
        "train",
        [
            "A boat crosses a wide river four times a day and carries nine people on each of its trips, how many?",
            "Elsewhere, EVERY spring the old gardener  plants seven rows of tulips behind the red -- brick wall!",
            " ".join(PLANTED.split()[:12]),  # twelve words: one too few
        ],
    )
    report = check_overlap([train], [test])
    assert report["rows"] == {"train": 3, "eval": 2}
    assert (report["train_rows_overlapping"], report["eval_rows_overlapping"], report["pair_count"]) == (1, 1, 1)
    (pair,) = report["pairs"]
    # 15 words of the text are shared, so three 13-grams.
    assert (pair["train_index"], pair["eval_index"], pair["shared"]) == (1, 0, 3)
    assert "1 of 3 training rows" in report_table(report)
    assert check_overlap([train], [test], n=15)["pair_count"] == 1
    assert check_overlap([train], [test], n=16)["pair_count"] == 0
    assert check_overlap([train], [test], n=12)["pair_count"] == 2


@pytest.mark.parametrize("template", ["boxed-1", "boxed-zh-1", "python-1"])
def test_our_own_instruction_is_no_overlap(template: str, tmp_path: Path) -> None:
    assert len(tokens(TEMPLATES["python-1"].instruction)) > 13
    test = make(tmp_path, "test", ["One short text here"], template)
    train = make(tmp_path, "train", ["Another short text there"], template)
    assert check_overlap([train], [test])["pair_count"] == 0


def test_a_frame_around_every_problem_is_no_overlap(tmp_path: Path) -> None:
    frame = "Please read the following exercise with great care and then state the one result: {} apples"
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for path, numbers in ((train, range(10)), (test, range(50, 80))):
        write_jsonl(path, [{"prompt": [{"role": "user", "content": frame.format(i)}]} for i in numbers])
    assert check_overlap([train], [test])["pair_count"] == 0


def test_chinese_goes_by_characters(tmp_path: Path) -> None:
    test = make(tmp_path, "test", ["小明家的果园里一共种了三十六棵苹果树和梨树"])
    train = make(tmp_path, "train", ["去年，小明家的果园里一共种了三十六棵桃树", "学校里一共种了三十六棵树"])
    (pair,) = check_overlap([train], [test])["pairs"]
    assert pair["train_index"] == 0 and pair["shared"] == len("小明家的果园里一共种了三十六棵") - 12


def test_short_texts_overlap_only_if_equal(tmp_path: Path) -> None:
    test = make(tmp_path, "test", ["What is 3 + 4?"])
    train = make(tmp_path, "train", ["what is  3 + 4?", "What is 3 - 4?", "What is 3 + 4, and why?"])
    assert [pair["train_index"] for pair in check_overlap([train], [test])["pairs"]] == [0]


def test_report_is_the_same_for_any_order_and_is_json(tmp_path: Path) -> None:
    test = make(tmp_path / "a", "test", [PLANTED])
    train = [make(tmp_path / name, "train", [PLANTED, "Something else"]) for name in ("b", "c")]
    reports = [check_overlap(train, [test]), check_overlap(train[::-1], [test])]
    assert json.dumps(reports[0]) == json.dumps(reports[1])
    assert reports[0]["train_rows_overlapping"] == 2


def test_listed_pairs_are_capped_but_all_are_counted(tmp_path: Path) -> None:
    test = make(tmp_path, "test", [PLANTED])
    train = make(tmp_path, "train", [f"{PLANTED} number {i}" for i in range(40)])
    report = check_overlap([train], [test], max_pairs=5)
    assert len(report["pairs"]) == 5 and report["pair_count"] == report["train_rows_overlapping"] == 40


def test_missing_file_and_small_n(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        check_overlap([tmp_path / "a.parquet"], [tmp_path / "b.parquet"])
    with pytest.raises(DataError, match="at least 2"):
        check_overlap([], [], n=1)


def test_tokens() -> None:
    assert tokens("Well-known: $x^2$ = 3−1, 50%") == ["well", "known", "x", "^", "2", "=", "3", "\u2212", "1", "50"]
    assert tokens("2 - 1 - a") == ["2", "-", "1", "a"]
    assert tokens("共3个") == ["共", "3", "个"]


@given(st.lists(st.sampled_from("abcde"), min_size=4, max_size=30), st.integers(2, 4))
def test_rolling_hash_equals_the_hash_of_each_window(words: list[str], n: int) -> None:
    def one(window: list[str]) -> Any:
        return list(ngrams(" ".join(window), n))

    assert list(ngrams(" ".join(words), n)) == [one(words[i : i + n])[0] for i in range(len(words) - n + 1)]
