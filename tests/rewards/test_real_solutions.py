# SPDX-License-Identifier: Apache-2.0
"""The published solutions of real benchmarks, taken as responses, are right. Skipped where the files are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.agpo.data import prepare
from recipe.agpo.data.rows import iter_rows
from recipe.agpo.rewards import Item, Verifier

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# file: benchmark, key of the written solution, most that may be judged wrong
SOLUTIONS = {
    "gsm8k/test.jsonl": ("gsm8k", "answer", 0),
    "gsm8k/train.jsonl": ("gsm8k", "answer", 0),
    "aime24/test.jsonl": ("aime24", "solution", 0),
    # One answers in the language of a plotting library.
    "minerva_math/test.jsonl": ("ocw", "solution", 1),
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_written_solutions_are_right(name: str, tmp_path: Path) -> None:
    path = DATA / name
    if not path.is_file():
        pytest.skip("no real files here")
    bench, key, allowed = SOLUTIONS[name]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    prepare(bench, str(path), tmp_path)
    (parquet,) = tmp_path.rglob("*.parquet")
    rows = list(iter_rows(parquet))
    items = [
        Item(
            records[row["extra_info"]["index"]][key],
            row["reward_model"]["ground_truth"],
            row["extra_info"]["verifier"],
            json.loads(row["extra_info"]["verifier_args"]),
        )
        for row in rows
    ]
    verifier = Verifier(time_limit_s=20.0)
    found = verifier.verify_many(items)
    verifier.close()
    wrong = [item.gold for item, verdict in zip(items, found, strict=True) if verdict.outcome != 1.0]
    assert len(wrong) <= allowed, wrong
    assert len(rows) > 0.98 * len(records)
