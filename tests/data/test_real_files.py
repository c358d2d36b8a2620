# SPDX-License-Identifier: Apache-2.0
"""Every real file that is at hand prepares without a row lost. Skipped where there are none."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.data import check_training_files, prepare
from recipe.agpo.data.rows import iter_rows

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
# folder: benchmark and {split: (rows in the file, most that may be skipped)}
FILES = {
    "gsm8k": ("gsm8k", {"train": (7473, 0), "test": (1319, 0)}),
    "mmlu_stem": ("mmlu_stem", {"test": (3018, 12)}),
    "cmath": ("cmath", {"test": (600, 0)}),
    "sat_math": ("sat_math", {"test": (32, 0)}),
    "gaokao_math_qa": ("gaokao_math_qa", {"test": (351, 3)}),
    "gaokao_math_cloze": ("gaokao_math_cloze", {"test": (118, 3)}),
    "minerva_math": ("ocw", {"test": (272, 4)}),
    "aime24": ("aime24", {"test": (30, 0)}),
    "amc23": ("amc23", {"test": (40, 0)}),
}


@pytest.mark.parametrize("folder", FILES)
def test_no_row_is_lost(folder: str, tmp_path: Path) -> None:
    source = DATA / folder
    if not source.is_dir():
        pytest.skip("no real files here")
    name, splits = FILES[folder]
    manifests = {manifest["split"]: manifest for manifest in prepare(name, str(source), tmp_path)}
    assert manifests.keys() == splits.keys()
    for split, (rows, most_skipped) in splits.items():
        counts = manifests[split]["counts"]
        skipped = (tmp_path / name / f"{split}.skipped.jsonl").read_text(encoding="utf-8").splitlines()
        assert counts["read"] == rows and counts["written"] + len(skipped) == rows
        assert len(skipped) == sum(counts["skipped"].values()) <= most_skipped
        assert counts["skipped"]["bad_json"] == counts["skipped"]["bad_row"] == 0
        rows_written = list(iter_rows(tmp_path / name / f"{split}.parquet"))
        assert all(judged_right(row) for row in rows_written)
        written = [row["extra_info"]["index"] for row in rows_written]
        # Written and listed together are every row of the file, each once.
        assert sorted(written + [json.loads(line)["index"] for line in skipped]) == list(range(rows))
        problems = check_training_files([tmp_path / name / f"{split}.parquet"])
        assert bool(problems) == (split != "train")


def judged_right(row: dict[str, Any]) -> bool:
    """Whether the verifier takes the row's own gold in a box for right, without a worker."""
    kind, gold = row["extra_info"]["verifier"], row["reward_model"]["ground_truth"]
    grader = importlib.import_module(f"recipe.agpo.rewards.{'maths' if kind == 'math' else kind}")
    judged = grader.judge(f"So \\boxed{{{gold}}}.", gold, json.loads(row["extra_info"]["verifier_args"]))
    return bool(judged.outcome == 1.0)


def test_the_counts_in_the_docs_are_the_counts(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("no real files here")
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (manifest,) = prepare("gaokao_math_cloze", str(DATA / "gaokao_math_cloze"), tmp_path)
    counts = manifest["counts"]
    row = next(line for line in page.splitlines() if re.match(r"\| `gaokao_math_cloze` \| test \|", line))
    assert f"| {counts['read']} | {counts['written']} |" in row
