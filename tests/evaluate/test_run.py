# SPDX-License-Identifier: Apache-2.0
"""Resuming, refusing, judging again: with a model and a judge that stand in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.protocols import protocol
from recipe.agpo.evaluate.store import Store, read_lines
from tests.evaluate.standin import SAMPLED, Judge, Model, benchmark, evaluate, task

ROOT = Path(__file__).resolve().parents[2]


def test_a_killed_evaluation_resumes_to_the_same_result_byte_for_byte(tmp_path):
    problems = 30
    evaluate(tmp_path / "whole", task([benchmark(problems)]), Model(), Judge())

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.evaluate.standin", str(killed), str(problems), "0.05"]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(read_lines(killed / "verdicts.jsonl")) < 8:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(read_lines(killed / "responses.jsonl"))
    assert 8 <= done < problems and not (killed / "eval.json").exists()

    model = Model()
    evaluate(killed, task([benchmark(problems)]), model, Judge())
    assert sorted(model.asked) == list(range(done, problems))  # nothing is asked twice
    assert (killed / "eval.json").read_bytes() == (tmp_path / "whole" / "eval.json").read_bytes()
    assert (killed / "eval.md").read_bytes() == (tmp_path / "whole" / "eval.md").read_bytes()


@pytest.mark.parametrize("name", ["responses.jsonl", "verdicts.jsonl"])
@pytest.mark.parametrize("cut", [1, 40, "newline"])
def test_a_torn_last_line_is_dropped(tmp_path, name, cut):
    whole = evaluate(tmp_path / "run", task([benchmark(6)]), Model(), Judge())
    path = tmp_path / "run" / name
    content = path.read_bytes()
    path.write_bytes(content[:-40] + b"\n" if cut == "newline" else content[:-cut])
    model, judge = Model(), Judge()
    assert evaluate(tmp_path / "run", task([benchmark(6)]), model, judge) == whole
    assert model.asked == ([5] if name == "responses.jsonl" else [])
    assert judge.judged == SAMPLED.samples
    for line in path.read_bytes().splitlines():
        json.loads(line)


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    evaluate(tmp_path, task([benchmark(4)]), Model(), Judge())
    path = tmp_path / "responses.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"benchmark"\n' + b"".join(lines[2:]))
    with pytest.raises(EvaluationError, match="line 2 is broken"):
        evaluate(tmp_path, task([benchmark(4)]), Model(), Judge())


def test_a_finished_evaluation_starts_no_model(tmp_path):
    first = evaluate(tmp_path, task([benchmark(4)]), Model(), Judge())
    model, judge = Model(), Judge()
    assert evaluate(tmp_path, task([benchmark(4)]), model, judge) == first
    assert model.asked == [] and judge.judged == 0


def test_chunks_do_not_change_the_result(tmp_path):
    by_chunk = [
        evaluate(tmp_path / str(chunk), task([benchmark(7)], chunk=chunk), Model(), Judge()) for chunk in (1, 3, 100)
    ]
    assert by_chunk[0] == by_chunk[1] == by_chunk[2]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (task([benchmark(4)], protocol("sampled", samples=4, max_tokens=99)), "protocol: .*100 tokens.* there, .*99"),
        (task([benchmark(5)]), "prompts of made_up: "),
        (task([benchmark(4)], limit=4), "limit: none there, 4 here"),
        (task([benchmark(4), benchmark(1, "more")]), "prompts of more: absent there"),
    ],
)
def test_another_evaluation_is_refused_with_the_difference(tmp_path, other, says):
    evaluate(tmp_path, task([benchmark(4)]), Model(), Judge())
    before = (tmp_path / "responses.jsonl").read_bytes()
    with pytest.raises(EvaluationError, match=f"(?s)another evaluation.*--out.*{says}"):
        evaluate(tmp_path, other, Model(), Judge())
    assert (tmp_path / "responses.jsonl").read_bytes() == before and (tmp_path / "eval.json").exists()


def test_other_reference_answers_or_rules_need_rejudge(tmp_path):
    first = evaluate(tmp_path, task([benchmark(6, gold="0")]), Model(), Judge())
    corrected, judge = benchmark(6, gold="1"), Judge(rules="another")
    with pytest.raises(EvaluationError, match="(?s)--rejudge.*rules: last word there, another here.*reference answers"):
        evaluate(tmp_path, task([corrected], judge=judge), Model(), judge)
    model = Model()
    again = evaluate(tmp_path, task([corrected], judge=judge), model, judge, rejudge=True)
    assert model.asked == [] and judge.judged == 6 * SAMPLED.samples
    assert again["benchmarks"][0]["accuracy"] != first["benchmarks"][0]["accuracy"]
    assert evaluate(tmp_path, task([corrected], judge=judge), Model(), judge) == again  # now it belongs to these
    fresh = evaluate(tmp_path / "fresh", task([corrected], judge=judge), Model(), judge)
    assert fresh == again


def test_interrupted_rejudging_leaves_no_result_of_the_old_rules(tmp_path):
    evaluate(tmp_path, task([benchmark(6)]), Model(), Judge())

    class Broken(Judge):
        def __call__(self, items):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, task([benchmark(6)]), Model(), Broken(), rejudge=True)
    assert not (tmp_path / "eval.json").exists()
    judge = Judge()
    evaluate(tmp_path, task([benchmark(6)]), Model(), judge)
    assert judge.judged == 6 * SAMPLED.samples


def test_an_interrupt_during_generation_keeps_the_finished_chunks(tmp_path):
    class Interrupted(Model):
        def __call__(self, problems):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().__call__(problems)

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, task([benchmark(8)]), Interrupted(), Judge())
    model = Model()
    evaluate(tmp_path, task([benchmark(8)]), model, Judge())
    assert model.asked == [4, 5, 6, 7]


def test_unjudged_responses_and_long_prompts_are_listed(tmp_path):
    found = evaluate(tmp_path, task([benchmark(12)]), Model(too_long=[3, 7]), Judge(hang="2"))["benchmarks"][0]
    lines = read_lines(tmp_path / "verdicts.jsonl").values()
    verdicts = [verdict for line in lines for verdict in line["verdicts"]]
    hung = [verdict for verdict in verdicts if verdict["status"] == "lost"]
    assert hung and all(verdict["outcome"] is None for verdict in hung)
    assert found["unjudged"] == len(hung) == found["statuses"]["lost"]
    assert found["responses"] == 10 * SAMPLED.samples == len(verdicts)
    assert [row["row"] for row in found["rows_too_long"]] == [3, 7]
    assert found["problems"] == 12
    right = sum(verdict["outcome"] or 0.0 for verdict in verdicts)
    assert found["accuracy"]["value"] == pytest.approx(right / (12 * SAMPLED.samples))
    assert found["accuracy_judged"]["value"] > found["accuracy"]["value"]
    assert {"row", "statuses"} == set(found["rows_unjudged"][0])
    notes = (tmp_path / "eval.md").read_text()
    assert "could not be judged and count as wrong" in notes and "Rows 3, 7." in notes


def test_responses_keep_any_text(tmp_path):
    awkward = 'a\nb\r\u2028\ud800\x00"{'

    class Awkward(Model):
        def __call__(self, problems):
            answers = super().__call__(problems)
            return [
                type(one)(one.prompt_tokens, one.max_tokens, tuple(type(r)(awkward, 1, "stop") for r in one.responses))
                for one in answers
            ]

    class Reading(Judge):
        def __call__(self, items):
            assert all(text == awkward for _, text in items)
            return super().__call__([(one, "it is 0") for one, _ in items])

    found = evaluate(tmp_path, task([benchmark(3)]), Awkward(), Reading())
    assert found["benchmarks"][0]["accuracy"]["value"] == 1.0
    again = evaluate(tmp_path, task([benchmark(3)]), Awkward(), Reading(), rejudge=True)
    assert again == found


def test_a_folder_is_used_by_one_process_at_a_time(tmp_path):
    the_task = task([benchmark(2)])
    store = Store(tmp_path, the_task.header)
    with pytest.raises(EvaluationError, match="in use"):
        Store(tmp_path, the_task.header)
    store.close()
    Store(tmp_path, the_task.header).close()


def test_a_folder_with_strange_responses_is_refused(tmp_path):
    (tmp_path / "responses.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match="no header.json"):
        Store(tmp_path, task([benchmark(2)]).header)
    (tmp_path / "header.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(EvaluationError, match="version 99"):
        Store(tmp_path, task([benchmark(2)]).header)


def test_the_moved_model_is_still_the_same(tmp_path):
    the_task = task([benchmark(2)])
    Store(tmp_path, the_task.header).close()
    moved = type(the_task.header)("elsewhere", the_task.header.generation, the_task.header.judging)
    Store(tmp_path, moved).close()
    assert os.listdir(tmp_path)
