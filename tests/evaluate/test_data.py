# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pandas
import pytest

from recipe.agpo.evaluate import data
from recipe.agpo.evaluate.errors import EvaluationError


def row(text="1+1=", gold="2", **changed):
    found = {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": text}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": "test", "index": 0, "verifier": "math", "verifier_args": "{}"},
    }
    return found | changed


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_parquet(path)
    return path


def test_rows_become_problems(tmp_path):
    found = data.load([write(tmp_path / "sums.parquet", [row(), row("2+2=", "4")])])[0]
    assert (found.name, found.rows, len(found.problems)) == ("sums", 2, 2)
    second = found.problems[1]
    assert (second.index, second.gold, second.data_source) == (1, "4", "sums")
    assert second.messages == ({"role": "user", "content": "2+2="},)
    assert second.extra_info["verifier"] == "math"


def test_a_repeated_prompt_is_another_problem_and_a_gold_does_not_change_the_id(tmp_path):
    one = data.load([write(tmp_path / "a.parquet", [row(), row(), row("x")])])[0]
    other = data.load([write(tmp_path / "b.parquet", [row(gold="3"), row(), row("x")])])[0]
    assert len({problem.id for problem in one.problems}) == 3
    assert [p.id for p in one.problems] == [p.id for p in other.problems]
    assert one.prompts_hash == other.prompts_hash and one.golds_hash != other.golds_hash


def test_a_limit_is_spread_over_the_file(tmp_path):
    path = write(tmp_path / "sums.parquet", [row(str(i)) for i in range(10)])
    found = data.load([path], limit=4)[0]
    assert [problem.index for problem in found.problems] == [0, 2, 5, 7]
    assert found.rows == 10
    assert len(data.load([path], limit=99)[0].problems) == 10


def test_names_tell_files_apart(tmp_path):
    paths = [tmp_path / "gsm8k" / "test.parquet", tmp_path / "maths" / "test.parquet", tmp_path / "aime24.parquet"]
    assert data.names(paths) == ["gsm8k-test", "maths-test", "aime24"]
    with pytest.raises(EvaluationError, match="same name"):
        data.names([tmp_path / "1" / "a" / "test.parquet", tmp_path / "2" / "a" / "test.parquet"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"question": "1+1", "answer": "2"}], "no column data_source, prompt, reward_model.*agpo data prepare"),
        ([row(reward_model={"style": "rule", "ground_truth": None})], "row 0: reward_model has no ground_truth"),
        ([row(prompt=[])], "row 0: prompt must be"),
    ],
)
def test_files_of_another_form_are_refused_in_words(tmp_path, rows, says):
    with pytest.raises(EvaluationError, match=says):
        data.load([write(tmp_path / "bad.parquet", rows)])


def test_missing_broken_and_repeated_files(tmp_path):
    good = write(tmp_path / "good.parquet", [row()])
    with pytest.raises(EvaluationError, match="no data file"):
        data.load([good, tmp_path / "none.parquet"])
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(EvaluationError, match="cannot be read as parquet"):
        data.load([tmp_path / "broken.parquet"])
    with pytest.raises(EvaluationError, match="named twice"):
        data.load([good, tmp_path / "." / "good.parquet"])
    with pytest.raises(EvaluationError, match="limit must be at least 1"):
        data.load([good], limit=0)
