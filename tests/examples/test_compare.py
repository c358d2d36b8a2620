# SPDX-License-Identifier: Apache-2.0
"""The comparison: what is finished is not run again, and its statistics are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agpo_core import AGPOConfig
from benchmarks.compare import summary
from benchmarks.compare.cells import METHODS, Cell
from benchmarks.compare.run import LRS, append, cells, check_start, done
from examples.inprocess_grpo import LoopConfig


def record(method: str, seed: int, accuracy: float, **other: Any) -> dict[str, Any]:
    means = {name: 0.1 for name in ("length", "entropy", "zero_variance", "clipped", "gradient_cosine")}
    return {
        "task": "spell_backward",
        "method": method,
        "seed": seed,
        "lr": 1e-4,
        "clip": 0.2,
        "steps": 3,
        "seconds": 1.0,
        "curve": [[0, 0.2], [100, accuracy - 0.1], *[[200, accuracy]] * 3],
        "means": means,
        "last": means,
    } | other


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_valid_setting(method: str) -> None:
    settings, changes = METHODS[method]
    AGPOConfig.from_dict(settings)
    LoopConfig(**changes)


def test_cells_are_balanced_over_seeds_and_resume(tmp_path: Path) -> None:
    wanted = cells(["grpo", "agpo"], ["spell_backward"], [0, 1], None)
    assert [c.seed for c in wanted] == [0, 0, 1, 1]
    assert len(cells(["grpo"], ["spell_backward"], [0], "lr")) == len(LRS)
    assert [c.lr for c in cells(["grpo"], ["spell_backward"], [0], "lr", [1e-6, 1e-1])] == [1e-6, 1e-1]
    path = tmp_path / "results.jsonl"
    append(path, record("grpo", 0, 0.5))
    with path.open("ab") as file:
        file.write(b'{"task": "spell_backward", "me')  # killed in the middle of a line
    append(path, record("agpo", 0, 0.6))
    finished = done(path)
    assert [c.key in finished for c in wanted] == [True, True, False, False]
    assert len(path.read_bytes().splitlines()) == 3


def test_models_of_two_machines_are_not_compared() -> None:
    here = record("grpo", 0, 0.5)
    elsewhere = record("agpo", 0, 0.5, curve=[[0, 0.25], [100, 0.5]])
    check_start(here, [record("agpo", 0, 0.6), elsewhere | {"seed": 1}, elsewhere | {"task": "chain_sum"}])
    with pytest.raises(ValueError, match=r"seed 0: starts at 0\.2000 here and at 0\.2500.*--seeds"):
        check_start(here, [elsewhere])


def test_area_and_tokens_to_a_target() -> None:
    one = record("grpo", 0, 0.6, curve=[[0, 0.2], [100, 0.5], [200, 0.6]])
    assert summary.final(one) == pytest.approx((0.2 + 0.5 + 0.6) / 3)
    assert summary.area(one) == pytest.approx((100 * 0.35 + 100 * 0.55) / 200)
    assert summary.tokens_to(one, 0.55) == pytest.approx(150)
    assert summary.tokens_to(one, 0.1) == 0 and summary.tokens_to(one, 0.7) is None


def test_intervals_and_paired_tests() -> None:
    """p as of scipy.stats.permutation_test with permutation_type="samples"."""
    assert summary._span([0.1, 0.2, 0.3], ".3f") == "-", "no interval of three seeds"
    low, high = map(float, summary._span([0.1, 0.2, 0.3, 0.4, 0.5], ".3f").split(" to "))
    assert 0.1 < low < 0.3 < high < 0.5
    assert summary.paired_p([0.42, 0.55, 0.61, 0.48, 0.5], [0.4, 0.5, 0.63, 0.41, 0.47]) == 0.1875
    assert summary.paired_p([1.0] * 5, [0.0] * 5) == 2 / 32
    assert summary.paired_p([1.0, 0.0], [0.0, 1.0]) == 1.0


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ({1e-4: 0.5, 3e-4: 0.8, 1e-3: 0.79, 3e-3: 0.6}, (3e-4, 1e-3)),
        ({1e-4: 0.8, 3e-4: 0.7, 1e-3: 0.8}, (1e-4, 1e-4)),
        ({1e-4: 0.8, 3e-4: 0.8, 1e-3: 0.8}, (1e-4, 1e-3)),
    ],
)
def test_the_range_that_works_is_unbroken(accuracy: dict[float, float], expected: tuple[float, float]) -> None:
    assert summary.working_range(accuracy) == expected


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("results", "docs"):
        (tmp_path / folder).mkdir()
    records = [record(m, s, a + s / 100) for m, a in (("grpo", 0.5), ("agpo", 0.6)) for s in range(3)]
    records += [record("grpo", 0, 0.3, lr=lr) for lr in (3e-4, 1e-3)]
    summary.write(records, tmp_path / "results/compare.jsonl", tmp_path / "docs/page.md")
    table = (tmp_path / "docs/page.md").read_text()
    assert "(../results/compare_lr.png)" in table and (tmp_path / "results/compare_lr.png").exists()
    assert "| `agpo` | 3 | 0.610 |" in table and "+0.100" in table and "Final accuracy over the learning rate" in table
    assert (tmp_path / "results/compare.png").stat().st_size > 5_000


def test_all_tasks_together_and_where_the_rate_ended() -> None:
    tasks = ("spell_backward", "chain_sum")
    records = [
        record(m, s, a + s / 100, task=task)
        for task in tasks
        for m, a in (("grpo", 0.5), ("agpo", 0.6))
        for s in range(2)
    ]
    records += [record("clip", 0, 0.9)]
    records += [record("agpo", 0, 0.6, lr=lr, last={"lr_scale": 3e-5 / lr}) for lr in (3e-4, 1e-3, 3e-3)]
    page = summary.pooled_table(records, tasks)
    # Finals: 0.6 and 0.61 on both tasks. The interquartile mean leaves out the lowest and the highest.
    assert [line for line in page if "`" in line] == ["| `agpo` | 4 | +0.100 | - | 4 of 4 | 0.605 | - | 0.505 |"]
    many = [
        record(m, s, a + s / 100, task=t) for t in tasks for m, a in (("grpo", 0.5), ("agpo", 0.6)) for s in range(4)
    ]
    (line,) = [line for line in summary.pooled_table(many, tasks) if "`" in line]
    assert line.startswith("| `agpo` | 8 | +0.100 | +0.100 to +0.100 | 8 of 8 | 0.615 | 0.6")
    ended = summary.rate_table(records)
    assert "| spell_backward | `agpo` | 3.0e-05 | 3.0e-05 | 3.0e-05 |" in ended
    assert summary.rate_table(records[:5]) == []


def test_the_picture_compares_methods_on_the_same_seeds() -> None:
    many = {s: record("grpo", s, 0.5) for s in range(8)}
    few = {"grpo": many, "agpo": {s: many[s] for s in range(3, 8)}, "form": {0: many[0]}}
    assert {m: sorted(r) for m, r in summary._on_the_same_seeds(few).items()} == {
        "grpo": [3, 4, 5, 6, 7],
        "agpo": [3, 4, 5, 6, 7],
    }
    assert set(summary._on_the_same_seeds({"grpo": {0: many[0]}, "agpo": {1: many[1]}})) == {"grpo", "agpo"}


def test_a_cell_runs_and_says_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell end to end, with a budget of a few hundred tokens and the smallest warm start."""
    from benchmarks.compare import cells as module

    monkeypatch.setitem(module.TASKS, "spell_backward", module.Setting(0.0, 400, 1e-3))
    found = module.run_cell(Cell("spell_backward", "agpo+average", 0, 1e-3), tmp_path)
    assert found["curve"][0][0] == 0 and found["curve"][-1][0] >= 400
    assert [tokens for tokens, _ in found["curve_raw"]] == [tokens for tokens, _ in found["curve"]]
    assert {"tau", "eps", "kl", "kl_k3", "lr_scale", "entropy", "length"} <= set(found["means"])
    json.dumps(found)


def test_the_expected_best_of_k_runs_over_a_grid_of_rates() -> None:
    """One seed a rate; all sets of k different rates equally probable."""
    grid = {10.0**-i: [value] for i, value in enumerate((0.594, 0.562, 0.535, 0.0, 0.0, 0.0))}
    assert summary.expected_best(grid, 1) == pytest.approx(sum(v for (v,) in grid.values()) / 6)
    # Of the 15 pairs 5 hold the best, 4 more the second, 3 more the third.
    assert summary.expected_best(grid, 2) == pytest.approx((5 * 0.594 + 4 * 0.562 + 3 * 0.535) / 15)
    assert summary.expected_best(grid, 6) == 0.594
    # Several seeds: every one of a rate is equally probable.
    assert summary.expected_best({1.0: [0.2, 0.4], 2.0: [0.3]}, 1) == pytest.approx(0.3)
    assert summary.expected_best({1.0: [0.2, 0.4], 2.0: [0.3]}, 2) == pytest.approx((0.3 + 0.4) / 2)
    assert summary.expected_best({1.0: [0.5], 2.0: [0.5], 3.0: [0.5]}, 2) == pytest.approx(0.5)


def test_the_interval_of_the_effort_needs_four_seeds_and_is_repeatable() -> None:
    def finals(seeds: int) -> dict[float, dict[int, float]]:
        bases = {1e-4: 0.6, 1e-3: 0.5, 1e-2: 0.1}
        return {rate: {s: base + 0.01 * s for s in range(seeds)} for rate, base in bases.items()}

    assert summary.best_interval(finals(3), 2) is None
    low, high = summary.best_interval(finals(4), 2) or (1.0, 0.0)
    assert summary.best_interval(finals(4), 2) == (low, high)
    mean = summary.expected_best({rate: list(found.values()) for rate, found in finals(4).items()}, 2)
    assert 0.1 <= low < mean < high <= 0.63
    alike = {rate: dict.fromkeys(range(4), 0.7) for rate in (1e-4, 1e-3, 1e-2)}
    assert summary.best_interval(alike, 3) == pytest.approx((0.7, 0.7))


def test_the_effort_counts_the_tokens_of_every_run() -> None:
    """GRPO works at one of three rates and its three runs find it; a method that works at each needs one run."""
    rates = (1e-4, 1e-3, 1e-2)
    records = [record("grpo", 0, accuracy, lr=rate) for rate, accuracy in zip(rates, (0.6, 0.3, 0.1), strict=True)]
    records += [record("agpo", 0, accuracy, lr=rate) for rate, accuracy in zip(rates, (0.6, 0.61, 0.62), strict=True)]
    records += [record("agpo", 1, 0.9, lr=1e-4)]  # a seed that did not run at every rate
    records += [record("dapo_like", 0, 0.4, lr=rate) for rate in rates]
    records += [record("reference", 0, 0.9, lr=rate) for rate in rates[:2]]  # too few rates
    records += [record("clip", 0, 0.9, lr=rate) for rate in (1.0, 2.0, 3.0)]  # not GRPO's grid
    table = summary.effort_table(records, ["spell_backward", "chain_sum"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("| spell")]
    assert rows == [
        ["spell_backward", "`agpo`", "3", "1", "0.610", "0.617", "0.620", "", "0.33"],
        ["spell_backward", "`dapo_like`", "3", "1", "0.400", "0.400", "0.400", "", "never"],
        ["spell_backward", "`grpo`", "3", "1", "0.333", "0.500", "0.600", "", "1.00"],
    ]
    assert summary.effort_table(records[3:], ["spell_backward"]) == [], "without GRPO there is nothing to reach"


def test_the_drift_of_every_rate_is_shown() -> None:
    rates = (1e-4, 1e-3, 1e-2)
    means = record("grpo", 0, 0.5)["means"] | {"kl": 0.0002, "kl_k3": 0.0004, "entropy": 0.2}
    records = [record("grpo", seed, 0.5, lr=rate, means=means) for rate in rates for seed in (0, 1)]
    records += [record("agpo", 0, 0.5, lr=rate) for rate in rates]  # of a time when k3 was not written down
    rows = [line for line in summary.drift_table(records) if line.startswith("| spell")]
    assert rows[0] == "| spell_backward | `grpo` | 0.0001 | 2 | 0.500 | 20 | 40 | 0.200 | 0.002 |"
    assert len(rows) == 3 and summary.drift_table(records[:4]) == []
