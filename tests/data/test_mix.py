# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.data import DataError, mix
from recipe.agpo.data.manifest import manifest_path
from recipe.agpo.data.mix import _largest, _quotas
from recipe.agpo.data.rows import RowWriter, iter_rows
from tests.data.samples import gsm8k, prepare_few, write_jsonl


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gsm8k with 60 rows and math with 10."""
    folder = tmp_path_factory.mktemp("sets")
    prepare_few("gsm8k", str(write_jsonl(folder / "train.jsonl", [gsm8k(i) for i in range(60)])), folder)
    records = [{"problem": f"Find {i}.", "solution": f"\\boxed{{{i}}}"} for i in range(10)]
    prepare_few("math", str(write_jsonl(folder / "m" / "train.jsonl", records)), folder)
    return folder


def keys(path: Path) -> list[tuple[str, int]]:
    return [(row["data_source"], row["extra_info"]["index"]) for row in iter_rows(path)]


def parts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in manifest["parts"]}


def test_shares_come_out_exactly(sets: Path, tmp_path: Path) -> None:
    manifest = mix({"gsm8k": 0.75, "math": 0.25}, sets, tmp_path, size=40, seed=1)
    drawn = keys(tmp_path / "train.parquet")
    assert Counter(name for name, _ in drawn) == {"gsm8k": 30, "math": 10}
    assert len(set(drawn)) == 40  # without replacement
    assert parts(manifest)["math"]["times_repeated"] == 0 and parts(manifest)["math"]["share"] == 0.25
    assert {name for name, _ in drawn[:20]} == {"gsm8k", "math"}  # mixed, not one after the other


def test_repeats_are_even_and_said(sets: Path, tmp_path: Path) -> None:
    manifest = mix({"gsm8k": 1, "math": 1}, sets, tmp_path, size=50)
    uses = Counter(key for key in keys(tmp_path / "train.parquet") if key[0] == "math")
    assert parts(manifest)["math"]["times_repeated"] == 2 and parts(manifest)["math"]["passes"] == 2.5
    assert set(uses.values()) == {2, 3} and len(uses) == 10


def test_no_repeat_stops_where_a_set_is_used_up(sets: Path, tmp_path: Path) -> None:
    manifest = mix({"gsm8k": 2, "math": 1}, sets, tmp_path, size=1000, repeat=False)
    drawn = keys(tmp_path / "train.parquet")
    # 20 : 10 is two to one; 21 : 10 is what 31 rows would round to as well.
    assert Counter(name for name, _ in drawn) == {"gsm8k": 21, "math": 10}
    assert len(set(drawn)) == len(drawn) and manifest["counts"] == {"asked": 1000, "written": 31}


def test_deterministic_and_independent_of_order(sets: Path, tmp_path: Path) -> None:
    first = mix({"gsm8k": 3, "math": 1}, sets, tmp_path / "a", size=30, seed=5)
    again = mix({"math": 1, "gsm8k": 3}, sets, tmp_path / "b", size=30, seed=5)
    other = mix({"gsm8k": 3, "math": 1}, sets, tmp_path / "c", size=30, seed=6)
    texts = [manifest_path(tmp_path / name / "train.parquet").read_bytes() for name in "ab"]
    assert first == again and texts[0] == texts[1] and first["content_sha256"] != other["content_sha256"]
    assert keys(tmp_path / "a" / "train.parquet") != keys(tmp_path / "c" / "train.parquet")


def test_weights_scale(sets: Path, tmp_path: Path) -> None:
    hashes = {mix({"gsm8k": w, "math": w}, sets, tmp_path, size=9)["content_sha256"] for w in (0.1, 1, 7)}
    assert len(hashes) == 1


def test_rows_are_unchanged(sets: Path, tmp_path: Path) -> None:
    mix({"gsm8k": 1}, sets, tmp_path, size=60)
    ours = sorted(iter_rows(tmp_path / "train.parquet"), key=lambda row: row["extra_info"]["index"])
    assert ours == list(iter_rows(sets / "gsm8k" / "train.parquet"))


def test_a_large_set_is_drawn_from_everywhere_and_once(tmp_path: Path) -> None:
    from recipe.agpo.data import benchmark
    from recipe.agpo.data.rows import make_row
    from recipe.agpo.data.templates import template

    (tmp_path / "gsm8k").mkdir()
    writer = RowWriter(tmp_path / "gsm8k" / "train.parquet", max_rows=10)
    for i in range(200):  # twenty row groups, of which four are held
        writer.add(make_row("gsm8k", "train", i, benchmark("gsm8k").read(gsm8k(i)), template("boxed-1")))
    writer.close()
    manifest = mix({"gsm8k": 1}, tmp_path, tmp_path / "out", size=200)
    drawn = [index for _, index in keys(tmp_path / "out" / "train.parquet")]
    assert sorted(drawn) == list(range(200)) and drawn != sorted(drawn)
    assert parts(manifest)["gsm8k"]["content_sha256"] is None and parts(manifest)["gsm8k"]["file_sha256"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1),
    st.integers(1, 500),
    st.integers(1, 50),
)
def test_quotas(weights: dict[str, float], size: int, there: int) -> None:
    quotas = _quotas(weights, size)
    assert sum(quotas.values()) == size
    for name, weight in weights.items():
        assert abs(quotas[name] - size * weight / sum(weights.values())) < 1 + 1e-9
    available = dict.fromkeys(weights, there)
    largest = _largest(weights, size, available)
    assert largest <= size and all(q <= there for q in _quotas(weights, largest).values())


def test_errors(sets: Path, tmp_path: Path) -> None:
    for weights, size, match in (
        ({"gsm8k": 0.0}, 5, "positive"),
        ({"gsm8k": float("inf")}, 5, "positive"),
        ({"gsm8k": 1.0}, 0, "at least 1"),
        ({}, 5, "at least one"),
        ({"cmath": 1.0}, 5, "prepare it first"),
    ):
        with pytest.raises(DataError, match=match):
            mix(weights, sets, tmp_path, size=size)


def test_a_mixture_does_not_replace_its_source(sets: Path) -> None:
    path = sets / "gsm8k" / "train.parquet"
    before = path.read_bytes()
    with pytest.raises(DataError, match="gsm8k itself"):
        mix({"gsm8k": 1.0, "math": 1.0}, sets, sets / "gsm8k", size=3)
    link = sets / "link"
    link.symlink_to(sets / "gsm8k")
    with pytest.raises(DataError, match="gsm8k itself"):
        mix({"gsm8k": 1.0}, sets, link, size=3)
    assert path.read_bytes() == before
