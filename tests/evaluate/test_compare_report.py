# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from recipe.agpo.evaluate import report
from recipe.agpo.evaluate.compare import compare
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.protocols import protocol
from tests.evaluate.standin import SAMPLED, Judge, Model, benchmark, evaluate, task

OTHER_SEED = protocol("sampled", samples=4, max_tokens=100, seed=1)


@pytest.fixture
def two(tmp_path):
    evaluate(tmp_path / "a", task([benchmark(40)]), Model(), Judge())
    evaluate(tmp_path / "b", task([benchmark(50)], OTHER_SEED), Model(OTHER_SEED), Judge())
    return tmp_path / "a", tmp_path / "b"


def test_comparison_is_over_the_common_problems_and_mirrored(two):
    a, b = two
    forth, back = compare(a, b), compare(b, a)
    row, mirrored = forth["benchmarks"][0], back["benchmarks"][0]
    assert row["problems"] == row["wins"] + row["losses"] + row["ties"] == 40
    assert (row["only_here"], row["only_there"]) == (0, 10)
    assert (mirrored["wins"], mirrored["losses"]) == (row["losses"], row["wins"])
    assert mirrored["difference"]["value"] == pytest.approx(-row["difference"]["value"])
    assert mirrored["p_value"] == row["p_value"]
    assert forth["same_protocol"] is False and forth["same_judging"] is True


def test_difference_is_the_difference_of_the_accuracies(tmp_path):
    a = evaluate(tmp_path / "a", task([benchmark(40)]), Model(), Judge())
    b = evaluate(tmp_path / "b", task([benchmark(40)], OTHER_SEED), Model(OTHER_SEED), Judge())
    means = [found["benchmarks"][0]["accuracy"]["value"] for found in (a, b)]
    row = compare(tmp_path / "a", tmp_path / "b")["benchmarks"][0]
    assert row["difference"]["value"] == pytest.approx(means[0] - means[1])


def test_refusals(tmp_path, two):
    a, b = two
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        compare(a, tmp_path / "nowhere")
    evaluate(tmp_path / "gold", task([benchmark(40, gold="1")]), Model(), Judge())
    with pytest.raises(EvaluationError, match="40 problems were judged against other reference answers"):
        compare(a, tmp_path / "gold")
    evaluate(tmp_path / "name", task([benchmark(40, "else")]), Model(), Judge())
    with pytest.raises(EvaluationError, match="no common benchmark"):
        compare(a, tmp_path / "name")
    (b / "eval.json").unlink()
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        compare(a, b)


def test_report_of_several_files_with_a_comparison(tmp_path, two):
    both = [benchmark(20, "first"), benchmark(30, "second|odd")]
    found = evaluate(tmp_path / "both", task(both), Model(), Judge())
    text = (tmp_path / "both" / "eval.md").read_text()
    assert "Protocol sampled: temperature 1" in text
    assert f"| pass@{SAMPLED.samples} | maj@{SAMPLED.samples} |" in text
    assert "| first | 20 |" in text and "second\\|odd" in text
    accuracies = [row["accuracy"]["value"] for row in found["benchmarks"]]
    assert found["average_accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert f"equal weight: {found['average_accuracy']:.3f}." in text
    report.write(tmp_path / "both", found)
    assert (tmp_path / "both" / "eval.png").stat().st_size > 5_000
    assert (tmp_path / "both" / "eval.md").read_text() == text

    a, b = two
    result = json.loads((a / "eval.json").read_text()) | {"comparison": compare(a, b)}
    compared = report.markdown(result)
    assert "## Against model" in compared and "**The protocols differ**" in compared and "| 0 / 10 |" in compared


def test_every_row_of_a_table_has_as_many_cells_as_its_head(two):
    lines = (two[0] / "eval.md").read_text().splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|")


def test_a_greedy_report_has_no_pass_at_k(tmp_path):
    greedy = protocol("greedy", max_tokens=100)
    evaluate(tmp_path, task([benchmark(5)], greedy), Model(greedy), Judge())
    text = (tmp_path / "eval.md").read_text()
    assert "pass@" not in text and "maj@" not in text and "| made_up | 5 |" in text
    found = json.loads((tmp_path / "eval.json").read_text())
    assert found["benchmarks"][0]["pass_at"]["1"] == found["benchmarks"][0]["accuracy"]
