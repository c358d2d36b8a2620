# SPDX-License-Identifier: Apache-2.0
"""Every kind of verifier through verl's own reward loop, as training calls it: rows, statuses, outcomes, votes.

One prompt for each kind, with four written responses. Ray and the rollout are left out: verl's reward worker and our
reading of its answer run in this process, the verifiers in processes of their own.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from recipe.agpo import rewards
from recipe.agpo.main import CONFIG_FOLDER
from recipe.agpo.quickstart.model import build_tokenizer
from recipe.agpo.rewards.verdict import BAD_GOLD, LIMIT, NO_ANSWER, OK, UNJUDGED
from recipe.agpo.rollout import outcomes
from recipe.agpo.settings import RunConfig

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
            "math",
            "\\frac{1}{2}",
            ("So it is $\\boxed{\\sqrt{18}}$.", "Hence \\boxed{3\\sqrt{2}}", "The answer is 50\\%.", "#### 0.5"),
            (0.0, 0.0, 1.0, 1.0),
        ),
        "choice": Case(
            "choice",
            "B",
            ("因此，故选：B", "答案为C", "The answer is (B).", "The result is 8, so 8 cm."),
            (1.0, 0.0, 1.0, 1.0),
            options,
        ),
        "numeric": Case(
            "numeric",
            "1.6e3",
            (
                "The answer is $1.6 \\times 10^{3}$ m",
                "The answer is 1.7e3 m",
                "\\boxed{1.6\\text{ km}}",
                "I don't know.",
            ),
            (1.0, 0.0, 1.0, 0.0),
            {"rel_tol": 0.01, "abs_tol": 0, "unit": "m"},
            (OK, OK, OK, NO_ANSWER),
        ),
        "text": Case(
            "text",
            "Lake Geneva",
            ("The answer is lake  geneva.", "The answer is Lake Zurich", "\\boxed{LAKE GENEVA}", "The answer is lake."),
            (1.0, 0.0, 1.0, 0.0),
            {"normalise": True},
        ),
        "code": Case(
            "code",
            tests,
            (PRINT_SUM, ENDLESS, OPENS_FILE, "print it yourself"),
            (1.0, 0.0, 0.0, 0.0),
            {"language": "python3", "time_limit_s": 5.0, "memory_limit_mb": 256},
            (OK, LIMIT, OK, NO_ANSWER),
        ),
        "gym": Case(
            "gym",
            gym,
            (
                f"<answer>{answer}</answer>",
                "<answer>no number</answer>",
                f"The answer is {answer}",
                "<answer>-1</answer>",
            ),
            (1.0, 0.0, 1.0, 0.0),
        ),
        "gold": Case("math", "", ("\\boxed{1}",) * 4, (None,) * 4, {}, (BAD_GOLD,) * 4),
        "costly": Case(
            "math",
            "x^2+1",
            ("\\boxed{x^2+1}", COSTLY, "\\boxed{x^2-1}", "\\boxed{1+x^2}"),
            (1.0, 0.0, 0.0, 1.0),
        ),
    }


# An ordinary looking answer that sympy would expand for more than 40 s: wrong, and not "not judged".
COSTLY = "\\boxed{(x+1)^{9999}-(x+2)^{9998}}"
TOKENS = 128


def row(case: Case, text: str, tokenizer: Any) -> Any:
    """One response as verl's agent loop hands it to its reward worker."""
    from tensordict import TensorDict
    from verl import DataProto

    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]])
    assert ids.shape[1] <= TOKENS
    columns = {
        "data_source": "made_up",
        "reward_model": {"style": "rule", "ground_truth": case.gold},
        "extra_info": {"split": "train", "index": 0, "verifier": case.kind, "verifier_args": json.dumps(case.args)},
        "tool_extra_fields": {},
    }
    batch = TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1)
    return DataProto(batch, {name: np.array([value], dtype=object) for name, value in columns.items()})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[outcomes.Scored]]:
    """All responses of all cases at a time, by case."""
    from hydra import compose, initialize_config_dir
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        config = compose(
            "quickstart",
            [
                "hydra.searchpath=[pkg://verl.trainer.config]",
                f"actor_rollout_ref.model.path={folder}",
                "reward.custom_reward_function.path=pkg://recipe.agpo.rewards",
                "+reward.custom_reward_function.reward_kwargs={time_limit_s:6.0}",
            ],
        )
    agpo = RunConfig()

    async def score_all() -> dict[str, list[outcomes.Scored]]:
        worker = RewardLoopWorker(config)

        async def score(case: Case, text: str) -> outcomes.Scored:
            answer = await worker.compute_score(row(case, text, worker.input_tokenizer))
            return outcomes.judge(
                answer["reward_score"],
                answer["reward_extra_info"],
                text,
                outcome_key=agpo.outcome_key,
                vote_key=agpo.vote_key,
            )

        groups = [asyncio.gather(*(score(case, text) for text in case.responses)) for case in cases().values()]
        return dict(zip(cases(), map(list, await asyncio.gather(*groups)), strict=True))

    return asyncio.run(score_all())


@pytest.mark.parametrize("name", list(cases()))
def test_verdicts(scored: dict[str, list[outcomes.Scored]], name: str) -> None:
    case, found = cases()[name], scored[name]
    assert [each.status for each in found] == list(case.statuses)
    judged = [i for i, status in enumerate(case.statuses) if status not in UNJUDGED]
    assert [found[i].outcome for i in judged] == [case.outcomes[i] for i in judged]
    assert [each.valid for each in found] == [status not in UNJUDGED for status in case.statuses]


def test_equal_wrong_answers_are_one_vote(scored: dict[str, list[outcomes.Scored]]) -> None:
    keys = asyncio.run(rewards.merge_vote_keys([each.vote_key for each in scored["math"]]))
    assert keys[0] == keys[1] and keys[2] == "n:1/2"
