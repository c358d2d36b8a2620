# SPDX-License-Identifier: Apache-2.0
"""One prompt for each kind of verifier, with four written responses: what the model would have said.

The quickstart's model can only do sums, so the responses are replayed. This stands in for the sampling only: the
rows are real rows of verl's schema, and verl's reward loop calls the real verifiers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.rewards.verdict import BAD_GOLD, LIMIT, NO_ANSWER, OK, TIMEOUT
from tests.realstack.replay import WrittenAgentLoop

PRINT_SUM = "```python\nprint(int(input()) + int(input()))\n```"
ENDLESS = "```python\nwhile True: pass\n```"
OPENS_FILE = "```python\nprint(open('/etc/passwd').read())\n```"


@dataclass(frozen=True)
class Case:
    """Responses of the sessions 0 to 3 of one prompt, and what the verifier has to say of them."""

    kind: str
    gold: str
    responses: tuple[str, str, str, str]
    outcomes: tuple[float | None, float | None, float | None, float | None]
    args: dict[str, Any] = field(default_factory=dict)
    statuses: tuple[str, str, str, str] = (OK, OK, OK, OK)


def gym_gold() -> str:
    import reasoning_gym

    config = {"seed": 7, "size": 1}
    entry = reasoning_gym.create_dataset("chain_sum", **config)[0]
    return json.dumps({"dataset": "chain_sum", "config": config, "entry": entry})


def cases() -> dict[str, Case]:
    """Prompt -> case."""
    gym = gym_gold()
    answer = json.loads(gym)["entry"]["answer"]
    options = {"options": ["6 cm", "8 cm", "10 cm", "12 cm"], "letters": "ABCD"}
    tests = json.dumps({"tests": [{"input": "1\n2\n", "output": "3\n"}, {"input": "5\n-5\n", "output": "0\n"}]})
    return {
        # The two wrong answers are one vote: only symbolic comparison can tell.
        "math": Case(
            "math", "\\frac{1}{2}",
            ("So it is $\\boxed{\\sqrt{18}}$.", "Hence \\boxed{3\\sqrt{2}}", "The answer is 50\\%.", "#### 0.5"),
            (0.0, 0.0, 1.0, 1.0),
        ),
        "choice": Case(
            "choice", "B", ("因此，故选：B", "答案为C", "The answer is (B).", "The result is 8, so 8 cm."),
            (1.0, 0.0, 1.0, 1.0), options,
        ),
        "numeric": Case(
            "numeric", "1.6e3",
            ("The answer is $1.6 \\times 10^{3}$ m", "The answer is 1.7e3 m",
             "\\boxed{1.6\\text{ km}}", "I don't know."),
            (1.0, 0.0, 1.0, 0.0), {"rel_tol": 0.01, "abs_tol": 0, "unit": "m"}, (OK, OK, OK, NO_ANSWER),
        ),
        "text": Case(
            "text", "Lake Geneva",
            ("The answer is lake  geneva.", "The answer is Lake Zurich", "\\boxed{LAKE GENEVA}", "The answer is lake."),
            (1.0, 0.0, 1.0, 0.0), {"normalise": True},
        ),
        "code": Case(
            "code", tests, (PRINT_SUM, ENDLESS, OPENS_FILE, "print it yourself"),
            (1.0, 0.0, 0.0, 0.0), {"language": "python3", "time_limit_s": 5.0, "memory_limit_mb": 256},
            (OK, LIMIT, OK, NO_ANSWER),
        ),
        "gym": Case(
            "gym", gym,
            (f"<answer>{answer}</answer>", "<answer>no number</answer>", f"The answer is {answer}",
             "<answer>-1</answer>"),
            (1.0, 0.0, 1.0, 0.0),
        ),
        "gold": Case("math", "", ("\\boxed{1}",) * 4, (None,) * 4, {}, (BAD_GOLD,) * 4),
        "hang": Case(
            "math", "x^2+1",
            ("\\boxed{x^2+1}", HANGS, "\\boxed{x^2-1}", "\\boxed{1+x^2}"),
            (1.0, 0.0, 0.0, 1.0), {}, (OK, TIMEOUT, OK, OK),
        ),
    }  # fmt: skip


# An ordinary looking answer that sympy expands for more than 40 s.
HANGS = "\\boxed{(x+1)^{9999}-(x+2)^{9998}}"


def write_rows(path: Path) -> Path:
    """All cases as rows of verl's schema."""
    import pandas

    rows = [
        {
            "data_source": "made_up",
            "prompt": [{"role": "user", "content": name}],
            "ability": "reasoning",
            "reward_model": {"style": "rule", "ground_truth": case.gold},
            "extra_info": {
                "split": "train", "index": index, "verifier": case.kind, "verifier_args": json.dumps(case.args),
            },
        }
        for index, (name, case) in enumerate(cases().items())
    ]  # fmt: skip
    pandas.DataFrame(rows).to_parquet(path)
    return path


class KindsAgentLoop(WrittenAgentLoop):
    """The responses of ``cases`` in session order."""

    def written(self, prompt: str, step: int, session: int) -> str:
        return cases()[prompt].responses[session]
