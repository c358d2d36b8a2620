# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from recipe.agpo.data import Options, check_training_files, mix
from tests.data.samples import SAMPLES, gsm8k, prepare_few, write_jsonl


def prepared(folder: Path, split: str, allow: bool = False) -> Path:
    source = write_jsonl(folder / f"{split}.jsonl", [gsm8k(i) for i in range(3)])
    prepare_few("gsm8k", str(source), folder, options=Options(allow_test=allow))
    return folder / "gsm8k" / f"{split}.parquet"


def test_training_split_passes_and_test_split_is_refused(tmp_path: Path) -> None:
    train, test = prepared(tmp_path, "train"), prepared(tmp_path, "test")
    assert check_training_files([train]) == []
    (problem,) = check_training_files([str(train), str(test)])
    assert "3 rows of gsm8k/test" in problem and str(test) in problem
    assert check_training_files([test], allow_test=True) == []


def test_rows_count_even_without_or_against_the_manifest(tmp_path: Path) -> None:
    test = prepared(tmp_path, "test")
    renamed = test.with_name("train.parquet")
    test.rename(renamed)  # its manifest is lost, its name lies
    assert len(check_training_files([renamed])) == 1


def test_flag_at_preparation_is_remembered(tmp_path: Path) -> None:
    assert check_training_files([prepared(tmp_path, "test", allow=True)]) == []


@pytest.mark.parametrize("allow", [False, True])
def test_mixture_of_test_rows(allow: bool, tmp_path: Path) -> None:
    prepared(tmp_path, "test", allow)
    mix({"gsm8k": 1}, tmp_path, tmp_path / "mix", size=3, split="test")
    assert len(check_training_files([tmp_path / "mix" / "test.parquet"])) == (0 if allow else 1)


def test_test_only_benchmark(tmp_path: Path) -> None:
    record = next(s.record for s in SAMPLES if s.name == "aime24")
    prepare_few("aime24", str(write_jsonl(tmp_path / "problems.jsonl", [record])), tmp_path)
    assert len(check_training_files([tmp_path / "aime24" / "test.parquet"])) == 1


def test_files_of_other_tools(tmp_path: Path) -> None:
    rows = {
        "own": ({"data_source": "mine", "prompt": "x"}, 0),
        "verl_train": ({"data_source": "openai/gsm8k", "extra_info": {"split": "train"}}, 0),
        "verl_test": ({"data_source": "openai/gsm8k", "extra_info": {"split": "test"}}, 1),
        "no_split": ({"data_source": "aime24"}, 1),
    }
    for name, (row, problems) in rows.items():
        path = write_jsonl(tmp_path / f"{name}.jsonl", [row])
        assert len(check_training_files([path])) == problems, name


def test_parquet_without_our_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["a"]}), path)
    assert check_training_files([path]) == []


def test_missing_and_broken_files_are_problems_not_exceptions(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    problems = check_training_files([tmp_path / "none.parquet", broken], allow_test=True)
    assert len(problems) == 2 and "no such file" in problems[0] and "no parquet file" in problems[1]
    train = prepared(tmp_path, "train")
    train.with_name("train.manifest.json").write_text("{")
    assert "no manifest" in check_training_files([train])[0]
