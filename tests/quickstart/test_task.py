# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pandas
import pytest

from recipe.agpo.quickstart import task
from recipe.agpo.quickstart.model import END, START, ModelConfig, build_model, build_tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    train, val = task.make_data(tmp_path_factory.mktemp("data"), seed=3, n_train=300, n_val=64)
    return pandas.read_parquet(train), pandas.read_parquet(val)


def questions(frame: pandas.DataFrame) -> list[str]:
    return [prompt[0]["content"] for prompt in frame["prompt"]]


def test_rows_follow_verls_schema(data: tuple[pandas.DataFrame, pandas.DataFrame]) -> None:
    train, val = data
    assert (len(train), len(val)) == (300, 64)
    for frame, split in ((train, "train"), (val, "val")):
        assert set(frame.columns) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
        row = frame.iloc[5]
        assert row["data_source"] == "chain_sum"
        assert len(row["prompt"]) == 1 and row["prompt"][0]["role"] == "user"
        assert row["reward_model"]["style"] == "rule"
        assert row["extra_info"]["split"] == split and row["extra_info"]["index"] == 5
        assert json.loads(row["extra_info"]["metadata"])["source_dataset"] == "chain_sum"


def test_ground_truth_is_the_value_of_the_expression(data: tuple[pandas.DataFrame, pandas.DataFrame]) -> None:
    for _, row in data[0].iterrows():
        expression = row["prompt"][0]["content"].removesuffix("=")
        assert eval(expression) == int(row["reward_model"]["ground_truth"])


def test_splits_are_disjoint_and_without_repeats(data: tuple[pandas.DataFrame, pandas.DataFrame]) -> None:
    train, val = (questions(frame) for frame in data)
    warm = [p.prompt for p in task.take("warm_start", 3, 300)]
    assert len(set(train) | set(val) | set(warm)) == 300 + 64 + 300


def test_splits_stay_disjoint_across_seeds() -> None:
    val = {p.prompt for seed in range(3) for p in task.take("val", seed, 100)}
    train = {p.prompt for seed in range(3) for p in task.take("train", seed, 100)}
    assert not val & train


def test_same_seed_same_rows_and_other_seed_other_rows(
    tmp_path: Path, data: tuple[pandas.DataFrame, pandas.DataFrame]
) -> None:
    again, _ = task.make_data(tmp_path / "a", seed=3, n_train=300, n_val=2)
    other, _ = task.make_data(tmp_path / "b", seed=4, n_train=300, n_val=2)
    assert questions(pandas.read_parquet(again)) == questions(data[0])
    assert len(set(questions(pandas.read_parquet(other))) & set(questions(data[0]))) < 30
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["train.parquet", "val.parquet"]


def test_too_small_a_task_says_so() -> None:
    tiny = task.TaskConfig(min_terms=2, max_terms=2)  # 200 sums in all
    with pytest.raises(ValueError, match="raise max_terms"):
        task.take("train", 0, 200, tiny)


def test_written_solution() -> None:
    assert task.written_solution("7+9-4=") == "7+9=16\n16-4=12\n#12"
    assert task.written_solution("0-9-9+8=") == "0-9=-9\n-9-9=-18\n-18+8=-10\n#-10"


def test_written_solutions_get_full_marks_and_fit_the_token_limits() -> None:
    tokenizer = build_tokenizer()
    for problem in islice(task.problems("warm_start", 1), 200):
        verdict = task.compute_score("chain_sum", problem.solution, problem.answer, {"metadata": problem.metadata})
        assert verdict == {
            "score": 1.0,
            "acc": 1.0,
            "vote_key": problem.answer,
            "format": 1.0,
            "status": "ok",
        }
        assert len(tokenizer.encode(problem.solution + END)) <= 48
        assert len(tokenizer.encode(f"{START}{problem.prompt}{END}{START}")) <= task.TaskConfig().max_prompt_tokens


@pytest.mark.parametrize(
    ("response", "score", "key", "status"),
    [
        ("#12", 1.0, "12", "ok"),
        ("7+9=17\n#12", 1.0, "12", "ok"),  # only the answer is judged
        ("#+012\n\n", 1.0, "12", "ok"),
        ("#12.0", 1.0, "12", "ok"),
        ("#13", 0.0, "13", "ok"),
        ("#-12", 0.0, "-12", "ok"),
        ("#112", 0.0, "112", "ok"),  # contains the right answer: reasoning-gym gives partial marks, we none
        ("7+9=16\n16-4=12", 0.0, "", "no_answer"),
        ("#12\n7+9", 0.0, "", "no_answer"),
        ("#12 or 13", 0.0, "", "no_answer"),
        ("#", 0.0, "", "no_answer"),
        ("", 0.0, "", "no_answer"),
        ("\n \n", 0.0, "", "no_answer"),
        ("\ufffd\x00##NaN", 0.0, "", "no_answer"),
        ("#NaN", 0.0, "", "no_answer"),
        ("#1e1", 0.0, "", "no_answer"),
        ("#" + "9" * 5000, 0.0, "9" * 5000, "ok"),
    ],
)
def test_verdicts(response: str, score: float, key: str, status: str) -> None:
    verdict = task.compute_score("chain_sum", response, "12", {"metadata": "{}"})
    assert verdict["score"] == verdict["acc"] == score
    assert verdict["status"] == status
    assert verdict["format"] == float(status == "ok")
    assert verdict["vote_key"] == key


@pytest.mark.parametrize(
    ("answer", "key"),
    [("-0", "0"), ("0.0", "0"), ("007.50", "7.5"), ("-012.0", "-12"), ("+100", "100"), ("0.5", "0.5")],
)
def test_vote_key(answer: str, key: str) -> None:
    assert task.vote_key(answer) == key


def test_verdict_without_extra_info_and_for_another_data_source() -> None:
    assert task.compute_score("chain_sum", "#5", "5")["score"] == 1.0
    with pytest.raises(ValueError, match="chain_sum"):
        task.compute_score("gsm8k", "#5", "5")


def test_tokenizer_keeps_verls_newline_rule_after_reloading(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    build_model(ModelConfig(), seed=0).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded.encode("\n")) == 1
    assert len(loaded.encode("1\n2")) == 3
    text = "7+9=16\n16-4=12\n#12 é 答案"
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.eos_token, loaded.pad_token) == (END, "<|endoftext|>")
    chat = loaded.apply_chat_template([{"role": "user", "content": "1+1="}], tokenize=False, add_generation_prompt=True)
    assert chat == f"{START}1+1={END}{START}"
    assert len(loaded.encode(chat)) == 4 + 3


def test_model_is_decided_by_its_seed() -> None:
    first, again, other = (build_model(ModelConfig(), seed=s).state_dict() for s in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.weight"
    assert first[name].equal(again[name])
    assert not first[name].equal(other[name])
