# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recipe.agpo.data import BENCHMARKS, DataError, Options, benchmark, mix, prepare, prepare_gym
from recipe.agpo.data.manifest import read_manifest
from recipe.agpo.data.rows import RowWriter, iter_rows, make_row, schema
from recipe.agpo.data.sources import Record, Source, split_named
from recipe.agpo.data.templates import TEMPLATES, without_instruction
from recipe.agpo.rewards.verdict import Judgement
from tests.data.samples import IDS, SAMPLES, Sample, gsm8k, prepare_few, write_jsonl
from tests.standins import tokenizers as standins

CUSTOM = Options(custom=True)
prepare_module = importlib.import_module("recipe.agpo.data.prepare")


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return list(iter_rows(folder / f"{split}.parquet"))


def adds_up(manifest: dict[str, Any]) -> bool:
    counts = manifest["counts"]
    return bool(counts["read"] == counts["written"] + sum(counts["skipped"].values()))


# ---- the formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_each_public_format(sample: Sample, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in" / "test.jsonl", [sample.record])
    (manifest,) = prepare_few(sample.name, str(source), tmp_path)
    assert manifest["counts"]["written"] == 1, manifest["skipped"]
    (row,) = rows_of(tmp_path / sample.name, "test")
    assert row["data_source"] == sample.name
    assert [message["role"] for message in row["prompt"]] == ["user"]
    assert row["reward_model"] == {"style": "rule", "ground_truth": sample.gold}
    info = row["extra_info"]
    assert (info["split"], info["index"], info["verifier"]) == ("test", 0, sample.kind)
    args = json.loads(info["verifier_args"])
    assert args == (sample.args or {})
    grader = importlib.import_module(f"recipe.agpo.rewards.{'maths' if sample.kind == 'math' else sample.kind}")
    if sample.kind != "code":  # programs run in the sandbox, which has tests of its own
        right, wrong = (grader.judge(text, sample.gold, args) for text in (sample.right, sample.wrong))
        assert isinstance(right, Judgement) and right.outcome == 1.0 and right.found_format
        assert not isinstance(wrong, Judgement) or wrong.outcome == 0.0


def test_every_benchmark_has_a_sample() -> None:
    assert {sample.name for sample in SAMPLES} == set(BENCHMARKS)


def test_columns_are_verls(tmp_path: Path) -> None:
    prepare_few("gsm8k", str(write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)])), tmp_path)
    file = pq.ParquetFile(tmp_path / "gsm8k" / "train.parquet")
    assert file.schema_arrow.equals(schema())
    assert file.schema_arrow.names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]


def test_options_stand_in_the_prompt(tmp_path: Path) -> None:
    sample = next(s for s in SAMPLES if s.name == "sat_math")
    prepare_few("sat_math", str(write_jsonl(tmp_path / "x.jsonl", [sample.record])), tmp_path)
    content = rows_of(tmp_path / "sat_math", "test")[0]["prompt"][0]["content"]
    assert content.startswith("What is $2+2$?\n\nA. $3$\nB. $4$\nC. $5$\nD. $6$\n\n")
    assert without_instruction(content).endswith("D. $6$")


def test_chinese_benchmarks_are_asked_in_chinese() -> None:
    for bench in BENCHMARKS.values():
        assert ("请" in TEMPLATES[bench.template].instruction) == (bench.language == "zh")


def test_math_folder_json_parquet_and_data_layouts(tmp_path: Path) -> None:
    def record(i: int) -> dict[str, str]:
        return {"problem": f"Find the number {i}.", "solution": f"\\boxed{{{i}}}", "level": "1", "type": "Algebra"}

    folder = tmp_path / "MATH"
    for split, numbers in (("train", (10, 2, 1)), ("test", (7,))):
        for i in numbers:
            file = folder / split / "algebra" / f"{i}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record(i)))
    manifests = prepare_few("math", str(folder), tmp_path / "a")
    assert [m["split"] for m in manifests] == ["train", "test"]
    golds = [row["reward_model"]["ground_truth"] for row in rows_of(tmp_path / "a" / "math", "train")]
    assert golds == ["1", "2", "10"]  # by number, not by the order of the disk

    array, wrong_suffix, table = tmp_path / "test.json", tmp_path / "b" / "test.json", tmp_path / "c" / "test.parquet"
    array.write_text(json.dumps([record(1), 5, record(2)]))
    write_jsonl(wrong_suffix, [record(1), record(2)])
    table.parent.mkdir()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist([record(1), record(2)]), table)
    for source, bad in ((array, 1), (wrong_suffix, 0), (table, 0)):
        (manifest,) = prepare_few("math", str(source), tmp_path / "d")
        assert (manifest["rows"], manifest["counts"]["skipped"]["bad_json"]) == (2, bad)


def test_many_source_files_have_one_hash(tmp_path: Path) -> None:
    for i in range(21):
        file = tmp_path / "test" / f"{i}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"problem": f"p{i}", "solution": f"\\boxed{{{i}}}"}))
    (manifest,) = prepare_few("math", str(tmp_path), tmp_path / "out")
    assert manifest["source"]["count"] == 21 and "files" not in manifest["source"]


# ---- splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001", "train"),
        ("cmath_dev", "validation"),
        ("test", "test"),
        ("TEST", "test"),
        ("contest", None),
        ("train_test", None),
        ("latest", None),
    ],
)
def test_split_named(name: str, split: str | None) -> None:
    assert split_named(name) == split


def test_test_only_benchmark_is_test_whatever_the_file_is_called(tmp_path: Path) -> None:
    sample = next(s for s in SAMPLES if s.name == "aime24")
    source = str(write_jsonl(tmp_path / "train.jsonl", [sample.record]))
    with pytest.raises(DataError, match="looks like training data.*--split test"):
        prepare_few("aime24", source, tmp_path)
    with pytest.raises(DataError, match="looks like training data"):
        prepare_few("aime24", str(tmp_path), tmp_path / "out")
    assert not (tmp_path / "aime24").exists() and not (tmp_path / "out").exists()
    (manifest,) = prepare_few("aime24", source, tmp_path, split="test")
    assert manifest["split"] == "test"
    (manifest,) = prepare_few("aime24", str(write_jsonl(tmp_path / "x.jsonl", [sample.record])), tmp_path)
    assert manifest["split"] == "test"
    with pytest.raises(DataError, match="allow-test-for-training"):
        prepare_few("aime24", str(tmp_path / "train.jsonl"), tmp_path, split="train")


def test_split_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [gsm8k(1)])
    with pytest.raises(DataError, match="does not tell the split"):
        prepare_few("gsm8k", str(source), tmp_path)
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, split="train")
    assert manifest["split"] == "train"


def test_test_file_cannot_be_called_train(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", [gsm8k(1)])
    with pytest.raises(DataError, match="only test"):
        prepare_few("gsm8k", str(source), tmp_path, split="train")


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepare_few("gsm8k", str(tmp_path / "nothing"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no .jsonl"):
        prepare_few("gsm8k", str(tmp_path / "empty"), tmp_path)
    with pytest.raises(DataError, match="gsm8k"):
        benchmark("gsm9k")


# ---- bad rows ----------------------------------------------------------------------------------------------


def test_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    records = [
        gsm8k(1),
        '{"question": "cut o',
        "[1, 2]",
        "",  # a blank line is no record
        {"question": "no answer key"},
        {"question": "null", "answer": None},
        {"question": "number", "answer": 5},
        {"question": "no mark", "answer": "72"},
        {"question": "  ", "answer": "#### 1"},
        {"question": "bad gold", "answer": "#### {{{"},
        '{"question": "a \\ud800 surrogate", "answer": "#### 1"}',
        "[" * 100_000,
        gsm8k(1),
        {"question": gsm8k(1)["question"].replace(" ", "  "), "answer": "#### 99"},
        gsm8k(2),
    ]
    (manifest,) = prepare_few("gsm8k", str(write_jsonl(tmp_path / "train.jsonl", records)), tmp_path)
    skipped = {reason: count for reason, count in manifest["counts"]["skipped"].items() if count}
    assert skipped == {
        "bad_json": 3,
        "bad_row": 6,
        "unparseable_gold": 1,
        "duplicate": 1,
        "conflicting_duplicate": 1,
    }
    assert manifest["counts"]["read"] == 14 and manifest["counts"]["written"] == 2 and adds_up(manifest)
    listed = [json.loads(line) for line in (tmp_path / "gsm8k" / "train.skipped.jsonl").read_text().splitlines()]
    assert len(listed) == 12 and listed == manifest["skipped"]
    assert listed[0]["place"] == "train.jsonl:2" and listed[2]["detail"] == "answer is missing"
    assert [row["extra_info"]["index"] for row in rows_of(tmp_path / "gsm8k", "train")] == [0, 13]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mmlu_stem", {"answer": 4}),
        ("mmlu_stem", {"answer": None}),
        ("mmlu_stem", {"answer": True}),
        ("mmlu_stem", {"choices": None}),
        ("sat_math", {"options": "none"}),
        ("gaokao_math_qa", {"options": {"A": "1", "C": "2"}}),
        ("gaokao_math_cloze", {"answer": None}),
        ("math", {"solution": "no box"}),
        ("ocw", {"solution": "\\boxed{"}),
        ("amc23", {"answer": []}),
        ("code_contests", {"public_tests": {"input": ["1"], "output": []}}),
        ("code_contests", {"public_tests": None, "private_tests": None, "generated_tests": None}),
        ("code_contests", {"input_file": "input.txt"}),
    ],
)
def test_bad_row_of_each_format(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    good = next(s.record for s in SAMPLES if s.name == name)
    (manifest,) = prepare_few(name, str(write_jsonl(tmp_path / "test.jsonl", [good | change, good])), tmp_path)
    assert manifest["counts"]["skipped"]["bad_row"] == 1 and manifest["rows"] == 1 and adds_up(manifest)


def test_gold_that_is_no_option_is_skipped(tmp_path: Path) -> None:
    good = next(s.record for s in SAMPLES if s.name == "sat_math")
    source = write_jsonl(tmp_path / "x.jsonl", [good | {"Answer": "E"}, good])
    (manifest,) = prepare_few("sat_math", str(source), tmp_path)
    assert manifest["counts"]["skipped"]["unparseable_gold"] == 1


def test_skipped_rows_in_the_manifest_are_capped_but_all_are_in_the_file(tmp_path: Path) -> None:
    (manifest,) = prepare_few("gsm8k", str(write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)] * 31)), tmp_path)
    assert len(manifest["skipped"]) == 20 and manifest["counts"]["skipped"]["duplicate"] == 30
    assert len((tmp_path / "gsm8k" / "train.skipped.jsonl").read_text().splitlines()) == 30


def test_duplicates_can_be_kept(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", [gsm8k(1), gsm8k(1)])
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=Options(keep_duplicates=True))
    assert manifest["rows"] == 2


# ---- options -----------------------------------------------------------------------------------------------


def test_limit_takes_the_first_and_stops_reading(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(i) for i in range(9)])
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=Options(limit=3))
    assert manifest["counts"]["read"] == manifest["counts"]["written"] == 3


def test_limit_with_a_seed_draws_rows(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(i) for i in range(40)])
    chosen = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        (manifest,) = prepare_few("gsm8k", str(source), tmp_path / out, options=Options(limit=10, seed=seed))
        assert adds_up(manifest) and manifest["counts"]["skipped"]["not_sampled"] == 30
        chosen.append([row["extra_info"]["index"] for row in rows_of(tmp_path / out / "gsm8k", "train")])
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and chosen[0] != chosen[2] and len(chosen[0]) == 10


@pytest.mark.parametrize(
    ("tokenizer", "extra"),
    [
        # With a template: its text. Without one: BOS if the model has one, and a line for each message.
        (standins.qwen(), len("<>user\n<>\n<>assistant\n") - 3),
        (standins.gemma2(), len("<><>user\n<>\n<>model\n") - 4),
        (standins.qwen(None), len("\n")),
        (standins.gemma2(None), len("<>\n") - 1),
    ],
)
def test_prompts_that_are_too_long(tokenizer: Any, extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "load_tokenizer", lambda name: tokenizer)
    tokens = len("\n\n" + TEMPLATES["boxed-1"].instruction) + extra
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(1, "one two three"), gsm8k(2, "one two three four")])
    options = Options(max_prompt_tokens=tokens + len("one two three"), tokenizer="/somewhere/tiny")
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=options)
    assert manifest["rows"] == 1 and manifest["counts"]["skipped"]["too_long"] == 1
    long = len("one two three four")
    assert manifest["skipped"][0]["detail"] == f"{tokens + long} tokens, at most {options.max_prompt_tokens}"
    assert manifest["options"]["tokenizer"] == "tiny"  # no path of this machine


def test_a_template_that_raises_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "load_tokenizer", lambda name: standins.qwen("{{ raise_exception('no') }}"))
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)])
    with pytest.raises(DataError, match="chat template raises TemplateError: no"):
        prepare_few("gsm8k", str(source), tmp_path, options=Options(max_prompt_tokens=9, tokenizer="tiny"))


def test_options_are_checked() -> None:
    for bad in ({"limit": 0}, {"max_prompt_tokens": 5}, {"n": 0}):
        with pytest.raises(DataError):
            Options(**bad)


def test_template_can_be_chosen(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)])
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=Options(template="boxed-zh-1"))
    assert manifest["template"]["name"] == "boxed-zh-1" and manifest["template"]["version"] == 1
    assert "请" in rows_of(tmp_path / "gsm8k", "train")[0]["prompt"][0]["content"]
    with pytest.raises(DataError, match="boxed-1"):
        prepare_few("gsm8k", str(source), tmp_path, options=Options(template="boxed-9"))
    with pytest.raises(DataError, match="options"):
        prepare_few("gsm8k", str(source), tmp_path, options=Options(template="letter-1"))


def test_a_system_message_and_solved_examples_stand_before_every_question(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(1), gsm8k(2), gsm8k(1)])
    options = Options(template="question-1", system="", examples=(("1 + 1?", "2"), ("2 + 3?", "5")))
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=options)
    assert manifest["counts"]["written"] == 2 and manifest["counts"]["skipped"]["duplicate"] == 1
    before = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": "5"},
    ]
    assert manifest["before"] == before
    for index, row in enumerate(rows_of(tmp_path / "gsm8k", "train"), start=1):
        # The template adds nothing, and an empty instruction is not taken off the end of every prompt.
        assert row["prompt"] == [*before, {"role": "user", "content": gsm8k(index)["question"].strip()}]
        assert without_instruction(row["prompt"][-1]["content"]) == row["prompt"][-1]["content"]


def test_rows_that_overlap_an_evaluation_set_are_left_out(tmp_path: Path) -> None:
    text = "A farmer sells twelve crates of apples on Monday and nine crates on Tuesday at the market"
    prepare_few("gsm8k", str(write_jsonl(tmp_path / "test.jsonl", [gsm8k(1, text)])), tmp_path)
    source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(2, text + ", how many?"), gsm8k(3)])
    options = Options(against=(tmp_path / "gsm8k" / "test.parquet",))
    (manifest,) = prepare_few("gsm8k", str(source), tmp_path, options=options)
    assert manifest["rows"] == 1 and manifest["counts"]["skipped"]["overlap"] == 1
    assert "gsm8k/test.parquet row 0" in manifest["skipped"][0]["detail"]


# ---- determinism, atomicity, memory ------------------------------------------------------------------------


def test_same_input_same_manifest_and_rows(tmp_path: Path) -> None:
    texts = []
    for name in ("here", "there"):
        source = write_jsonl(tmp_path / name / "train.jsonl", [gsm8k(i) for i in range(20)] + [gsm8k(3)])
        prepare_few("gsm8k", str(source), tmp_path / name)
        folder = tmp_path / name / "gsm8k"
        texts.append([(folder / f"train.{end}").read_bytes() for end in ("manifest.json", "skipped.jsonl", "parquet")])
    assert texts[0] == texts[1]


def few(folder: Path, rows: list[Any], **options: Any) -> list[dict[str, Any]]:
    """Prepares gsm8k as a user does, from a training file."""
    return prepare("gsm8k", str(write_jsonl(folder / "in" / "train.jsonl", rows)), folder, options=Options(**options))


def test_what_does_not_look_like_the_benchmark_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"train": (50,), "test": (50,)}
    monkeypatch.setitem(BENCHMARKS, "gsm8k", dataclasses.replace(BENCHMARKS["gsm8k"], sizes=size))
    good = [gsm8k(i) for i in range(46)]
    assert few(tmp_path, [*good, "{", "[]"])[0]["rows"] == 46
    folder = tmp_path / "gsm8k"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for rows, words in (
        (["{"] * 50, "not a single row of 50 was usable.*train.jsonl:1"),
        ([{"problem": "x"}] * 50, "not a single row of 50.*question is missing"),
        (["{"] * 6 + good, "6 of 52 records are unreadable, more than 10%.*--custom"),
        ([gsm8k(i) for i in range(44)], "44 records, the benchmark 50.*--custom"),
        ([gsm8k(i) for i in range(56)], "56 records, the benchmark 50"),
        ([], "not a single row of 0"),
    ):
        with pytest.raises(DataError, match=words):
            few(tmp_path, rows)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, words
    write_jsonl(tmp_path / "in" / "test.jsonl", ["{"])
    with pytest.raises(DataError, match="gsm8k/test: not a single row"):
        write_jsonl(tmp_path / "in" / "train.jsonl", [gsm8k(i) for i in range(49)])
        prepare("gsm8k", str(tmp_path / "in"), tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "one bad split, so neither is written"
    assert few(tmp_path, [gsm8k(i) for i in range(3)] + ["{"], custom=True)[0]["rows"] == 3
    assert few(tmp_path, good + ["{"], limit=2)[0]["rows"] == 2, "with --limit the rest is not read"


def test_a_failure_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a single row"):
        prepare("gsm8k", str(write_jsonl(tmp_path / "train.jsonl", ["{"])), tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_set_is_not_written_over_its_source(tmp_path: Path) -> None:
    few(tmp_path, [gsm8k(1)], custom=True)
    with pytest.raises(DataError, match="over its own source"):
        prepare_few("gsm8k", str(tmp_path / "gsm8k" / "train.parquet"), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        "a/b",
        "/tmp/x",
        "reasoning_gym:../x",
        "reasoning_gym:a/b",
        "reasoning_gym:..",
        "reasoning_gym:a:..",
        "",
        ".",
        ".x",
        "a\x00b",
        "x" * 300,
    ],
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare_gym(name, out, size=2)
    with pytest.raises(DataError):
        prepare_few(name, str(write_jsonl(tmp_path / "in" / "train.jsonl", [gsm8k(1)])), out)
    with pytest.raises(DataError):
        mix({name: 1.0}, tmp_path / "in", out, size=1)
    with pytest.raises(DataError):
        mix({"gsm8k": 1.0}, tmp_path / "in", out, size=1, split=f"../{name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    lines = "\r\n".join(json.dumps(gsm8k(i)) for i in range(3)) + "\r\n"
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (manifest,) = prepare_few("gsm8k", str(tmp_path / "train.jsonl"), tmp_path)
    assert manifest["counts"] == {"read": 3, "written": 3, "skipped": dict.fromkeys(manifest["counts"]["skipped"], 0)}
    (tmp_path / "test.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([gsm8k(1)]).encode())
    assert prepare_few("gsm8k", str(tmp_path / "test.json"), tmp_path)[0]["rows"] == 1


def test_content_hash_follows_the_rows(tmp_path: Path) -> None:
    hashes = []
    for numbers in ([1, 2], [2, 1], [1, 2, 3]):
        source = write_jsonl(tmp_path / "train.jsonl", [gsm8k(i) for i in numbers])
        hashes.append(prepare_few("gsm8k", str(source), tmp_path)[0]["content_sha256"])
    assert len(set(hashes)) == 3


def test_a_failure_leaves_the_earlier_files_and_no_parts(tmp_path: Path) -> None:
    bench = benchmark("gsm8k")

    def records(fail: bool) -> Iterator[Record]:
        yield Record("x:1", gsm8k(1))
        if fail:
            raise OSError("disk")

    prepare_module.prepare_sources(bench, [Source("train", {}, lambda: records(False))], tmp_path, CUSTOM)
    before = {path.name: path.read_bytes() for path in (tmp_path / "gsm8k").iterdir()}
    with pytest.raises(OSError, match="disk"):
        prepare_module.prepare_sources(bench, [Source("train", {}, lambda: records(True))], tmp_path, CUSTOM)
    assert {path.name: path.read_bytes() for path in (tmp_path / "gsm8k").iterdir()} == before


def test_manifest_that_does_not_fit_its_file_is_refused(tmp_path: Path) -> None:
    prepare_few("gsm8k", str(write_jsonl(tmp_path / "train.jsonl", [gsm8k(1)])), tmp_path)
    path = tmp_path / "gsm8k" / "train.parquet"
    assert (read_manifest(path) or {})["rows"] == 1
    writer = RowWriter(path)
    writer.close()
    with pytest.raises(DataError, match="0 rows, its manifest says 1"):
        read_manifest(path)


def test_a_stream_of_many_rows_holds_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers: list[RowWriter] = []
    alive = 0

    class Watched(RowWriter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            writers.append(self)

    def records() -> Iterator[Record]:
        nonlocal alive
        for i in range(5_000):
            alive = max(alive, i - writers[0].rows)
            yield Record(f"x:{i}", gsm8k(i))

    monkeypatch.setattr(prepare_module, "RowWriter", Watched)
    source = Source("train", {}, records)
    (manifest,) = prepare_module.prepare_sources(benchmark("gsm8k"), [source], tmp_path, CUSTOM, max_rows=100)
    assert manifest["rows"] == 5_000
    assert writers[0].peak_rows == 100  # never more than one row group
    assert alive <= 1  # the source is never read ahead of the writer
    assert pq.ParquetFile(tmp_path / "gsm8k" / "train.parquet").num_row_groups == 50


def test_large_rows_are_written_early(tmp_path: Path) -> None:
    example = benchmark("gsm8k").read(gsm8k(1, "x" * 1000))
    writer = RowWriter(tmp_path / "a.parquet", max_rows=1000, max_bytes=5_000)
    for i in range(12):
        writer.add(make_row("gsm8k", "train", i, example, TEMPLATES["boxed-1"]))
    writer.close()
    assert writer.peak_rows <= 5


# ---- hub ---------------------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    datasets, hub = types.ModuleType("datasets"), types.ModuleType("huggingface_hub")

    class HfApi:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            return types.SimpleNamespace(sha=revision or "c0ffee")

    def load_dataset(name: str, config: str | None, **settings: Any) -> list[dict[str, Any]]:
        calls.append({"name": name, "config": config} | settings)
        return splits[settings["split"]]

    datasets.get_dataset_split_names = lambda *a, **k: list(splits)  # type: ignore[attr-defined]
    datasets.load_dataset = load_dataset  # type: ignore[attr-defined]
    hub.HfApi = HfApi  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return calls


def test_hub_is_streamed_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, {"train": [gsm8k(1), gsm8k(2)], "test": [gsm8k(3)], "train_zh_test": []})
    manifests = prepare_few("gsm8k", "hub", tmp_path)
    assert [(m["split"], m["rows"]) for m in manifests] == [("train", 2), ("test", 1)]
    assert calls[0] == {
        "name": "openai/gsm8k",
        "config": "main",
        "split": "train",
        "revision": "c0ffee",
        "streaming": True,
    }
    assert manifests[0]["source"] == {
        "kind": "hub",
        "id": "openai/gsm8k",
        "config": "main",
        "revision": "c0ffee",
        "splits": ["train"],
    }


def test_hub_split_of_a_test_only_benchmark_is_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, {"train": [next(s.record for s in SAMPLES if s.name == "aime24")]})
    with pytest.raises(DataError, match="no split for test among train.*--split test"):
        prepare_few("aime24", "some/aime", tmp_path)
    (manifest,) = prepare_few("aime24", "some/aime", tmp_path, split="test")
    assert manifest["split"] == "test" and not manifest["training_allowed"]


def test_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, {})
    monkeypatch.delattr(sys.modules["huggingface_hub"], "HfApi")
    with pytest.raises(DataError, match="cannot reach openai/gsm8k .*--from PATH"):
        prepare_few("gsm8k", "hub", tmp_path)
    with pytest.raises(DataError, match="no public copy"):
        prepare_few("sat_math", "hub", tmp_path)


# ---- reasoning-gym -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gym() -> None:
    pytest.importorskip("reasoning_gym")


def test_generated_task(gym: None, tmp_path: Path) -> None:
    from recipe.agpo.rewards.gym import score

    config = {"min_terms": 2, "max_terms": 3}
    manifest = prepare_gym("reasoning_gym:chain_sum", tmp_path, size=30, seed=3, config=config)
    again = prepare_gym("reasoning_gym:chain_sum", tmp_path / "b", size=30, seed=3, config=config)
    other = prepare_gym("reasoning_gym:chain_sum", tmp_path / "c", size=30, seed=4, config=config)
    assert manifest == again and manifest["content_sha256"] != other["content_sha256"]
    assert manifest["seed"] == 3 and manifest["source"]["config"] == config and adds_up(manifest)
    rows = rows_of(tmp_path / "reasoning_gym" / "chain_sum", "train")
    assert len(rows) == 30 and rows[0]["data_source"] == "reasoning_gym:chain_sum"
    gold = rows[0]["reward_model"]["ground_truth"]
    assert score(json.loads(gold)["entry"]["answer"], gold) == 1.0


def test_splits_of_a_generated_task_are_disjoint(gym: None, tmp_path: Path) -> None:
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    prompts = []
    for split in ("train", "validation", "test"):
        prepare_gym("reasoning_gym:chain_sum", tmp_path, size=12, split=split, config=config)
        rows = rows_of(tmp_path / "reasoning_gym" / "chain_sum", split)
        prompts.append({row["prompt"][0]["content"] for row in rows})
    assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]


def test_generated_task_errors(gym: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "GYM_PATIENCE", 500)
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(DataError, match="distinct train problems"):
        prepare_gym("reasoning_gym:chain_sum", tmp_path, size=5_000, config=tiny)
    for name, config in (("reasoning_gym:no_such", {}), ("reasoning_gym:chain_sum", {"no_such": 1})):
        with pytest.raises(DataError, match="reasoning-gym task"):
            prepare_gym(name, tmp_path, size=1, config=config)
    with pytest.raises(DataError, match="no generated task"):
        prepare_gym("gsm8k", tmp_path, size=1)
    with pytest.raises(DataError, match="takes no source"):
        prepare_few("reasoning_gym:chain_sum", "x", tmp_path)
