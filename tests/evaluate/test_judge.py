# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from recipe.agpo.evaluate.data import Problem
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.judge import RowJudge, from_reward, load_function
from recipe.agpo.rewards.verdict import LOST, OK, RAISED, Verdict


def problem(source="made_up", gold="4", **info):
    return Problem("id", 0, source, ({"role": "user", "content": "2+2"},), gold, info)


class Verifier:
    def __init__(self):
        self.items, self.closed = [], False

    def verify_many(self, items):
        self.items += items
        return [Verdict(1.0, 1.0, 1.0, 1.0, f"n:{item.response}", OK, 0.0) for item in items]

    def merge_vote_keys(self, keys):
        return [key.upper() for key in keys]

    def close(self):
        self.closed = True


def test_rows_go_to_the_verifier_of_their_kind_in_order():
    made = Verifier()
    judge = RowJudge(make_verifier=lambda: made)
    rows = [(problem(verifier="math"), "a"), (problem("gsm8k"), "b")]
    rows.append((problem(verifier="numeric", verifier_args='{"rel_tol": 0.1}'), "c"))
    assert [verdict.vote_key for verdict in judge(rows)] == ["n:a", "n:b", "n:c"]
    assert [item.kind for item in made.items] == ["math", "math", "numeric"]
    assert made.items[2].args == {"rel_tol": 0.1} and made.items[0].gold == "4"
    assert judge.merge(["x:a", "x:b"]) == ["X:A", "X:B"]
    assert judge.merge(["a", "b"]) == ["a", "b"]
    judge.close()
    assert made.closed


def test_a_row_without_a_verifier_is_refused_before_anything_runs():
    with pytest.raises(EvaluationError, match="'unheard_of' name no known kind.*agpo data prepare.*--reward"):
        RowJudge().check([problem("gsm8k"), problem("unheard_of")])


def test_the_quickstarts_rows_are_judged_by_its_own_reward_function():
    row = problem("chain_sum", "12", metadata="{}")
    verdicts = RowJudge()([(row, "7+5=12\n#12"), (row, "7+5=13\n#13"), (row, "7+5=12")])
    assert [verdict.outcome for verdict in verdicts] == [1.0, 0.0, 0.0]
    assert [verdict.vote_key for verdict in verdicts] == ["12", "13", ""]
    assert [verdict.status for verdict in verdicts] == ["ok", "ok", "no_answer"]


def test_a_reward_function_of_a_file_takes_the_place_of_the_verifiers(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "async def later(data_source, solution_str, ground_truth, extra_info):\n"
        "    if solution_str == 'raise':\n"
        "        raise ValueError('no')\n"
        "    return {'score': 0.5, 'acc': float(solution_str == ground_truth), 'vote_key': solution_str}\n"
        "def plain(data_source, solution_str, ground_truth, extra_info):\n"
        "    return 1.0\n"
    )
    later = RowJudge(f"{path}:later")
    verdicts = later([(problem(verifier="math"), text) for text in ("4", "raise", "5")])
    assert [verdict.status for verdict in verdicts] == [OK, RAISED, OK]
    assert (verdicts[0].score, verdicts[0].outcome, verdicts[2].outcome) == (0.5, 1.0, 0.0)
    assert math.isnan(verdicts[1].outcome)
    plain = RowJudge(f"{path}:plain")([(problem(), "?")])[0]
    assert (plain.outcome, plain.vote_key) == (1.0, "") and math.isnan(plain.format)
    assert later.identity()["reward"] == f"{path}:later"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nothing", "expected pkg://module:function"),
        ("no.such.module:f", "cannot be imported"),
        ("/no/such/file.py:f", "cannot be imported"),
        ("pkg://recipe.agpo.quickstart.task:no_such", "has no function no_such"),
    ],
)
def test_a_reward_function_that_cannot_be_loaded_is_refused(spec, says):
    with pytest.raises(EvaluationError, match=says):
        load_function(spec)


def test_what_a_reward_function_could_not_judge_is_not_wrong():
    assert math.isnan(from_reward({"score": 0.0, "status": LOST, "vote_key": "a"}, 0.0).outcome)
    assert from_reward({"score": 0.0, "status": LOST, "vote_key": "a"}, 0.0).vote_key == ""
    assert from_reward({"score": 0.0, "outcome": math.nan}, 0.0).status == RAISED
