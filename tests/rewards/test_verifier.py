# SPDX-License-Identifier: Apache-2.0
"""One call, the same keys whatever happens, for verl and for everybody else."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.agpo.rewards import (
    KINDS,
    STATUSES,
    UNJUDGED,
    Item,
    UnknownKind,
    Verifier,
    compute_score,
    compute_score_sync,
    kind_of,
    sandbox,
)
from recipe.agpo.rewards import maths as maths_module
from recipe.agpo.rewards.pool import WorkerPool
from recipe.agpo.rewards.self_test import confinement, main, self_test
from recipe.agpo.rewards.verdict import Judgement, Work

KEYS = ["score", "outcome", "acc", "format", "vote_key", "status", "seconds"]
TESTS = json.dumps({"tests": [{"input": "1 2", "output": "3"}, {"input": "5 -5", "output": "0.0"}]})
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def verifier():
    running = Verifier(workers=2, time_limit_s=10.0)
    yield running
    running.close()


def program(body: str) -> str:
    return f"Here it is:\n```python\n{body}\n```\nDone."


ADDS = program("a, b = map(int, input().split())\nprint(a + b)")


@pytest.mark.parametrize(
    ("kind", "response", "gold", "args"),
    [
        ("math", "\\boxed{\\sqrt{8}}", "2\\sqrt{2}", {}),
        ("math", "", "7", {}),
        ("math", "#### 7", "", {}),
        ("choice", "B", "B", {"options": ["1", "2"]}),
        ("numeric", "1.6 km", "1600", {"unit": "m"}),
        ("text", "paris", "Paris", {}),
        ("code", ADDS, TESTS, {}),
        ("code", program("while True: pass"), TESTS, {"time_limit_s": 0.3}),
        ("gym", "<answer>5</answer>", "not json", {}),
    ],
)
def test_the_same_keys_whatever_happens(verifier: Verifier, kind, response, gold, args) -> None:
    found = verifier.verify(response, gold, kind, args).to_dict()
    assert list(found) == KEYS
    assert found["status"] in STATUSES
    assert all(isinstance(found[key], float) for key in ("score", "outcome", "acc", "format", "seconds"))
    assert math.isfinite(found["score"]) and math.isfinite(found["acc"])
    assert math.isnan(found["outcome"]) == (found["status"] in UNJUDGED)


@pytest.mark.parametrize(
    ("body", "outcome", "status"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", 1.0, "ok"),
        ("a, b = map(int, input().split())\nprint(float(a + b), end='')", 0.0, "ok"),
        ("a, b = map(int, input().split())\nprint(a - b)", 0.0, "ok"),
        ("print(3)", 0.0, "ok"),
        ("raise SystemExit(1)", 0.0, "ok"),
        ("while True: pass", 0.0, "limit"),
        ("x = bytearray(10**10)", 0.0, "limit"),
        ("while True: print('x' * 10**6)", 0.0, "limit"),
        ("import os\nwhile True: os.fork()", 0.0, "ok"),
        ("print(", 0.0, "ok"),
    ],
)
def test_programs(verifier: Verifier, body: str, outcome: float, status: str) -> None:
    seconds = 1.0 if body == "while True: pass" else 20.0
    found = verifier.verify(program(body), TESTS, "code", {"time_limit_s": seconds})
    assert (found.outcome, found.status) == (outcome, status)


def test_which_program_of_a_response_counts(verifier: Verifier) -> None:
    wrong = program("a, b = map(int, input().split())\nprint(0)")
    assert verifier.verify(wrong + ADDS, TESTS, "code").outcome == 1.0
    assert verifier.verify(ADDS + wrong, TESTS, "code").outcome == 0.0
    bare = verifier.verify("a, b = map(int, input().split())\nprint(a + b)", TESTS, "code")
    assert (bare.outcome, bare.format) == (1.0, 0.0), "only code: right, without the form"
    assert verifier.verify("I would add them.", TESTS, "code").status == "no_answer"
    shell = verifier.verify("```bash\necho 3\n```", TESTS, "code")
    assert shell.status == "no_answer"


def test_programs_that_behave_alike_vote_alike(verifier: Verifier) -> None:
    key = {
        body: verifier.verify(program(body), TESTS, "code").vote_key
        for body in (
            "print(sum(map(int, input().split())))",
            "a, b = input().split()\nprint(int(a) + int(b))",
            "print(4)",
            "print(2 + 2)",
            "print(5)",
        )
    }
    keys = list(key.values())
    assert keys[0] == keys[1] and keys[2] == keys[3] and len(set(keys)) == 3


def test_another_sandbox_can_be_plugged_in() -> None:
    remote = Verifier(workers=1, runner="tests.rewards.remote:says_three")
    try:
        one = json.dumps({"tests": [{"input": "", "output": "3"}]})
        assert remote.verify(program("whatever"), one, "code").outcome == 1.0
        assert remote.verify(program("whatever"), TESTS, "code").outcome == 0.0
    finally:
        remote.close()


def test_reasoning_gyms_own_scorer(verifier: Verifier) -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", seed=3, size=1)[0]
    gold = json.dumps({"dataset": "chain_sum", "config": {"seed": 3, "size": 1}, "entry": entry})
    right = verifier.verify(f"<answer>{entry['answer']}</answer>", gold, "gym")
    wordy = verifier.verify(f"<answer>it is {entry['answer']}, I think</answer>", gold, "gym")
    marks = verifier.verify(f"<answer>it is {entry['answer']}, I think</answer>", gold, "gym", {"full_marks": False})
    assert (right.outcome, wordy.outcome) == (1.0, 0.0)
    assert 0.0 < marks.outcome < 1.0, "partial credit, if it is asked for"
    assert right.vote_key == f"n:{entry['answer']}"


def test_right_answers_share_one_vote(verifier: Verifier) -> None:
    spellings = ("\\boxed{2\\sqrt2}", "\\boxed{\\sqrt{8}}", "The answer is $2\\sqrt{2}$.")
    keys = {verifier.verify(response, "2\\sqrt{2}", "math").vote_key for response in spellings}
    assert keys == {"x:2\\sqrt{2}"}


def test_equal_wrong_answers_are_merged_within_a_group(verifier: Verifier) -> None:
    keys = ["x:\\sqrt{18}", "n:3", "x:3\\sqrt{2}", "", "x:\\sqrt{9}", "c:B", "x:\\sqrt{18}", "x:\\sqrt{19}"]
    merged = verifier.merge_vote_keys(keys)
    assert merged == ["x:3\\sqrt{2}" if k in (keys[0], keys[2]) else "n:3" if k == "x:\\sqrt{9}" else k for k in keys]
    assert asyncio.run(verifier.merge_vote_keys_async(keys)) == merged
    shuffled = [5, 2, 7, 0, 3, 6, 1, 4]
    assert verifier.merge_vote_keys([keys[i] for i in shuffled]) == [merged[i] for i in shuffled]


def test_nothing_is_compared_where_nothing_could_be_equal() -> None:
    lazy = Verifier()
    for keys in ([], ["n:1", "n:2"], ["", "", "c:A"], ["x:y", "x:y"], ["t:a", "x:y"]):
        assert lazy.merge_vote_keys(keys) == keys
    assert lazy._pool is None, "no worker was started"


def test_a_comparison_that_hangs_leaves_the_keys_alone() -> None:
    with WorkerPool(workers=1, time_limit_s=0.2) as pool:
        slow = Verifier(pool)
        keys = ["x:(x+1)^{3000}-(x+2)^{2999}", "x:(x+1)^{2999}-(x+2)^{3000}"]
        assert slow.merge_vote_keys(keys) == keys


def test_order_of_many_is_kept_and_hanging_ones_change_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(response, gold, args):
        if response == "hang":
            return Work("tests.rewards.jobs:busy", [], lambda value: Judgement(1.0, True, ""), 0.3)
        return Judgement(float(response == gold), True, f"n:{response}")

    monkeypatch.setattr(maths_module, "judge", judge)
    with WorkerPool(workers=2) as pool:
        items = [Item("hang" if i % 10 == 0 else str(i), "7", "math") for i in range(40)]
        found = Verifier(pool).verify_many(items)
    assert [v.status for v in found] == ["timeout" if i % 10 == 0 else "ok" for i in range(40)]
    assert [i for i, v in enumerate(found) if v.outcome == 1.0] == [7]


def test_a_grader_that_breaks_is_a_status(monkeypatch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    def judge(response, gold, args):
        raise RecursionError("too deep")

    monkeypatch.setattr(maths_module, "judge", judge)
    found = verifier.verify("#### 7", "7", "math")
    assert found.status == "raised" and math.isnan(found.outcome)


def test_a_response_that_breaks_the_grader_is_wrong(monkeypatch: pytest.MonkeyPatch, verifier: Verifier) -> None:
    def judge(response, gold, args):
        if response.startswith("(((("):
            raise RecursionError("too deep")
        return Judgement(1.0, True, "n:7")

    monkeypatch.setattr(maths_module, "judge", judge)
    found = verifier.verify("((((7", "7", "math")
    assert (found.status, found.outcome, found.judged) == ("crashed", 0.0, True)


@pytest.mark.parametrize(
    ("job", "response", "gold", "status", "outcome"),
    [
        ("hang_on", "slow", "7", "timeout", 0.0),
        ("fail_on", "slow", "7", "crashed", 0.0),
        ("hang_on", "slow", "slow", "bad_gold", math.nan),
        ("fail_on", "slow", "slow", "raised", math.nan),
        ("hang_on", "7", "slow", "ok", 1.0),
    ],
)
def test_whose_fault_it_is(monkeypatch: pytest.MonkeyPatch, job, response, gold, status, outcome) -> None:
    """What the response causes is wrong; what the reference answer alone causes too is nobody's verdict."""

    def judge(response, gold, args):
        wrong = Judgement(0.0, True, f"x:{response}")
        arguments, control = [response, "slow"], [gold, "slow"]
        return Work("tests.rewards.jobs:" + job, arguments, lambda _: Judgement(1.0, True, ""), 0.2, control, wrong)

    monkeypatch.setattr(maths_module, "judge", judge)
    with WorkerPool(workers=1) as pool:
        found = Verifier(pool).verify(response, gold, "math")
    assert found.status == status and found.judged != math.isnan(outcome)
    assert found.outcome == outcome or (math.isnan(found.outcome) and math.isnan(outcome))
    if outcome == 0.0:
        assert (found.vote_key, found.format, found.score) == ("x:slow", 1.0, 0.0)


def test_a_bad_reference_answer_costs_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(response, gold, args):
        return Work(
            "tests.rewards.jobs:hang_on", ["slow", "slow"], lambda _: Judgement(1.0, True, ""), 0.2, ["slow", "slow"]
        )

    monkeypatch.setattr(maths_module, "judge", judge)
    with WorkerPool(workers=1) as pool:
        verifier = Verifier(pool)
        assert verifier.verify("a", "slow", "math").status == "bad_gold"
        pool.close()
        assert verifier.verify("b", "slow", "math").status == "bad_gold", "no worker was asked again"


def test_without_a_control_an_exception_is_the_graders_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(response, gold, args):
        return Work(f"tests.rewards.jobs:{response}", ["slow", "slow"], lambda _: Judgement(1.0, True, ""), 0.2)

    monkeypatch.setattr(maths_module, "judge", judge)
    with WorkerPool(workers=1) as pool:
        verifier = Verifier(pool)
        raised, hung = verifier.verify("fail_on", "", "math"), verifier.verify("hang_on", "", "math")
        pool.close()
        lost = verifier.verify("fail_on", "", "math")
    assert raised.status == "raised" and math.isnan(raised.outcome)
    assert hung.status == "timeout" and hung.outcome == 0.0
    assert lost.status == "lost" and math.isnan(lost.outcome)


@pytest.mark.parametrize(
    "answer",
    [
        r"(x+1)^{9999}",
        r"\Gamma(10^9)",
        r"\exp(\exp(\exp(99)))",
        r"\binom{10^9}{5\cdot 10^8}",
        "(" * 450 + "x" + ")" * 450,
        r"\sqrt{" * 200 + "x" + "}" * 200,
        "-" * 900 + "x",
        "{" * 450 + "x" + "}" * 450,
        "\\left(" * 450 + "x",
    ],
)
def test_no_wrong_answer_hides_behind_its_cost(answer: str) -> None:
    with WorkerPool(workers=1, time_limit_s=0.5) as pool:
        found = Verifier(pool).verify(f"\\boxed{{{answer}}}", "\\sqrt{2}", "math")
    assert found.outcome == 0.0 and found.judged, found


def test_shaping_is_added_to_the_score_only() -> None:
    shaped = Verifier(format_weight=0.1)
    right, formless = shaped.verify("#### 7", "7", "math"), shaped.verify("so it is 7", "7", "math")
    assert (right.score, right.outcome, right.acc) == (1.1, 1.0, 1.0)
    assert (formless.score, formless.outcome) == (1.0, 1.0)
    assert shaped.verify("#### 8", "7", "math").outcome == 0.0


def test_verls_reward_function() -> None:
    row = {"verifier": "choice", "verifier_args": json.dumps({"options": ["6", "8"]}), "num_turns": 2}
    arguments = dict(data_source="whatever", solution_str="故选：B", ground_truth="B", extra_info=row)
    assert inspect.iscoroutinefunction(compute_score), "verl then awaits it and no thread is held"
    found = asyncio.run(compute_score(**arguments, reward_router_address="ignored"))
    assert list(found) == KEYS and found["outcome"] == 1.0
    again = compute_score_sync(**arguments)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in found.items() if k != "seconds"}


@pytest.mark.parametrize(
    ("source", "info", "kind", "expected"),
    [
        ("openai/gsm8k", {}, None, "math"),
        ("DigitalLearningGmbH/x", {"verifier": "code"}, None, "code"),
        ("anything", {}, "text", "text"),
        ("mmlu_stem", None, None, "choice"),
        ("anything", {"verifier": "math"}, "text", "math"),
    ],
)
def test_which_verifier_judges_a_row(source, info, kind, expected) -> None:
    assert kind_of(source, info, kind) == expected


def test_a_row_without_a_verifier_says_what_to_set() -> None:
    with pytest.raises(UnknownKind, match="extra_info.*reward_kwargs.kind"):
        kind_of("my_data", {})
    with pytest.raises(UnknownKind, match="'essay'"):
        kind_of("my_data", {"verifier": "essay"})


def test_self_test() -> None:
    assert self_test() == []
    assert self_test(["math"], runner=None) == []
    broken = self_test(["code"], runner="tests.rewards.remote:says_three")
    assert broken and "verifier code" in broken[0]


def test_the_self_test_says_what_confines_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["code"]) == 0
    printed = capsys.readouterr().out
    assert "sandbox: " in printed and all(layer in printed for layer in sandbox.layers())
    assert "not on this machine: landlock" in sandbox.describe(("namespaces", "seccomp"))
    assert confinement(["math"]) is None and confinement(["code"], runner="elsewhere:run") is None


def test_the_package_needs_neither_torch_nor_verl() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'verl', 'ray', 'vllm', 'transformers', 'math_verify', 'reasoning_gym'):\n"
        "    sys.modules[name] = None\n"
        "from recipe.agpo import rewards\n"
        "print(rewards.compute_score_sync('gsm8k', '#### 7', '7')['outcome'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"


def test_every_kind_has_a_grader() -> None:
    verifier = Verifier()
    with pytest.raises(UnknownKind):
        verifier.verify("", "", "essay")
    assert set(KINDS) == {"math", "choice", "numeric", "text", "code", "gym"}
