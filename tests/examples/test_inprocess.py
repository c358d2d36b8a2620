# SPDX-License-Identifier: Apache-2.0
"""The loop in one process: tasks, token accounts, ragged groups, and parity of its update with plain arithmetic."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch

from agpo_core import AGPOConfig
from examples.inprocess_grpo import (
    PARTS,
    GymTask,
    LoopConfig,
    Method,
    build_model,
    log_probs,
    resampled,
    running_sums,
    sample,
    train,
    warm_start,
)

SMALL = LoopConfig(prompts=6, group=4, updates=2, budget=1, eval_problems=8, train_problems=24)


class Countdown(GymTask):
    """A task without reasoning-gym's generators: repeat the first letter; what is random is right at times."""

    def __init__(self) -> None:
        self.name, self.max_tokens = "countdown", 4

    def problems(self, part: str, count: int) -> list[Any]:
        from examples.inprocess_grpo import Problem

        shift = {"train": 0, "held_out": 100, "warm_start": 200}[part]
        return [Problem(chr(97 + i % 26) + str(shift + i), "#" + chr(97 + i % 26), {}) for i in range(count)]

    def score(self, problem: Any, response: str) -> tuple[float, str]:
        return float(sum(response.encode()) % 2), response[:1]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(0, hidden=32, layers=1).eval()


def one_step(settings: dict[str, Any], model: Any, loop: LoopConfig = SMALL) -> tuple[Method, Any]:
    method = Method(AGPOConfig.from_dict(settings), loop)
    task = Countdown()
    draws = torch.Generator().manual_seed(3)
    return method, method.collect(model, task, task.problems("train", loop.prompts), draws)


@pytest.mark.parametrize("name", sorted(GymTask.KINDS))
def test_written_solutions_are_right_and_parts_do_not_overlap(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = GymTask(name)
    parts = {part: task.problems(part, 40) for part in PARTS}
    prompts = [problem.prompt for problems in parts.values() for problem in problems]
    assert len(prompts) == len(set(prompts)) == 120
    for problem in parts["held_out"]:
        assert task.score(problem, problem.solution) == (1.0, problem.solution.rpartition("#")[2])
        assert task.score(problem, "#x") == (0.0, "x") and task.score(problem, "no mark") == (0.0, "")
        assert len(problem.solution.encode()) + 1 <= task.max_tokens or name == "chain_sum"


def test_running_sums() -> None:
    assert running_sums("7+9-4") == "7+9=16\n16-4=12\n#12"


def test_responses_are_scored_at_the_temperature_that_they_were_sampled_at(model: Any) -> None:
    task = Countdown()
    problems = task.problems("train", 4)
    tau = torch.tensor([0.5, 1.0, 1.5, 1.0])
    rollout = sample(model, task, problems, tau, torch.Generator().manual_seed(0))
    scored = log_probs(model, rollout, own_temperature=True)
    width = rollout.ids_BT.shape[1] - rollout.mask_BR.shape[1]
    for row in range(4):
        keep = rollout.attention_BT[row].bool()
        ids = rollout.ids_BT[row][keep]
        logits = model(input_ids=ids[None]).logits[0].float() / tau[row]
        expected = torch.log_softmax(logits, -1)[:-1].gather(-1, ids[1:, None]).squeeze(-1)
        tokens = int(rollout.tokens_B[row])
        torch.testing.assert_close(scored[row, :tokens], expected[-tokens:], rtol=1e-4, atol=1e-5)
    assert width > 0


@pytest.mark.parametrize(
    "settings",
    [{"preset": "grpo"}, {}, {"preset": "agpo_d"}, {"preset": "reference"}, {"allocation": {"enabled": True}}],
)
def test_every_generated_token_is_counted(model: Any, settings: dict[str, Any]) -> None:
    method, step = one_step(settings, model)
    trained = int(step.rollout.tokens_B.sum())
    if method.agpo.probe.reuse:
        assert step.generated == trained and len(step.rollout.prompt_B) == 6 * 4, "GRPO's total, all of it trains"
    else:
        assert step.generated > trained and len(step.rollout.prompt_B) == 6 * 4
    assert torch.equal(step.rollout.prompt_B, step.rollout.prompt_B.sort().values)


def test_allocation_makes_ragged_groups_and_they_train(model: Any) -> None:
    settings = {"preset": "grpo", "allocation": {"enabled": True}}
    method, step = one_step(settings, model)
    sizes = torch.bincount(step.rollout.prompt_B)
    assert int(sizes.sum()) == 24 and len(set(sizes.tolist())) > 1 and int(sizes.min()) >= 2
    learner = build_model(0, hidden=32, layers=1)
    measured = method.update(learner, torch.optim.SGD(learner.parameters(), lr=1e-3), step, torch.Generator())
    assert measured["grad_norm"] > 0


def test_the_first_update_is_grpos_gradient(model: Any) -> None:
    """Ratio 1: the gradient of -mean over tokens of advantage times log-probability."""
    loop = LoopConfig(prompts=6, group=4, updates=1)
    method, step = one_step({"preset": "grpo"}, model, loop)
    learner = build_model(0, hidden=32, layers=1).eval()
    rows = torch.arange(24)
    old = log_probs(learner, step.rollout, True).detach()
    method.loss(learner, step, rows, old)[0].backward()
    got = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    outcome = step.rollout.outcome_B.reshape(6, 4)
    advantage = (outcome - outcome.mean(1, keepdim=True)) / (outcome.std(1, keepdim=True) + 1e-6)
    scored = log_probs(learner, step.rollout, True)
    (-(advantage.reshape(-1, 1) * scored).sum() / step.rollout.mask_BR.sum()).backward()
    for mine, parameter in zip(got, learner.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


class CountedAdam(torch.optim.Adam):
    """Adam that writes down the rate of every step."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.parameters(), lr=1.0)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def updated(settings: dict[str, Any], loop: LoopConfig, schedule: float = 1.0) -> tuple[Any, Method, Any, Any]:
    """One step of a fresh model: (what it measured, its method, k3 of each row over the step, the optimiser)."""
    model = build_model(0, hidden=32, layers=1).eval()
    method, step = one_step(settings, model, loop)
    step.advantage_B = torch.linspace(-1.0, 1.0, len(step.advantage_B))
    method.schedule = schedule
    optimiser = CountedAdam(model)
    order = torch.Generator().manual_seed(0)
    before = log_probs(model, step.rollout, True).detach()
    measured = method.update(model, optimiser, step, order)
    change = log_probs(model, step.rollout, True).detach() - before
    k3_B = (change.exp() - 1.0 - change).double().sum(-1)
    return measured, method, k3_B, optimiser


def test_the_drift_of_the_only_update_is_measured_after_it() -> None:
    once = dataclasses.replace(SMALL, updates=1, lr=1e-3)
    measured, _, k3_B, _ = updated({"step_size": {"start": 1.0}}, once)
    assert measured["kl"] == pytest.approx(0.0, abs=1e-6), "before the update nothing has moved"
    model = build_model(0, hidden=32, layers=1).eval()
    tokens_B = one_step({}, model, once)[1].rollout.tokens_B
    rows = torch.arange(len(k3_B))  # 24 of them: few enough for all
    expected = float(k3_B[rows].sum() / tokens_B[rows].sum())
    assert measured["kl_k3"] == pytest.approx(expected, rel=1e-3) and expected > 1e-6
    off, _, _, _ = updated({"step_size": {"enabled": False}}, once)
    assert off["kl_k3"] == pytest.approx(0.0, abs=1e-9), "nothing is measured for a step size that is off"


def test_updates_stop_when_the_policy_has_drifted_too_far() -> None:
    loop = dataclasses.replace(SMALL, updates=3, lr=0.1)
    measured, _, _, optimiser = updated({"step_size": {"start": 1.0, "drift_target": 1e-9}}, loop)
    assert measured["stopped"] == 1.0 and optimiser.rates == [0.1]
    calm, _, _, other = updated({"step_size": {"start": 1.0, "drift_target": 1e9}}, loop)
    assert calm["stopped"] == 0.0 and other.rates == [0.1] * 3


def test_the_first_step_is_the_same_at_every_configured_rate_and_a_decay_shortens_it() -> None:
    low, high = (updated({}, dataclasses.replace(SMALL, lr=lr))[3].rates for lr in (1e-6, 1e-1))
    assert low == pytest.approx([1e-6] * 2) and high == pytest.approx(low)
    assert updated({}, dataclasses.replace(SMALL, lr=1e-3), schedule=0.5)[3].rates == pytest.approx([5e-7] * 2)


def test_the_rate_of_rsl_rls_rule_follows_the_drift_of_every_update() -> None:
    loop = dataclasses.replace(SMALL, updates=3, lr=1e-4, desired_kl=1.0)
    assert updated({"preset": "grpo"}, loop)[3].rates == pytest.approx([1e-4, 1.5e-4, 2.25e-4])
    tight = dataclasses.replace(loop, desired_kl=1e-12)
    assert updated({"preset": "grpo"}, tight)[3].rates == pytest.approx([1e-4, 1e-4 / 1.5, 1e-4 / 2.25])


def test_linear_decay_reaches_zero_at_the_budget() -> None:
    records: list[dict[str, Any]] = []
    loop = dataclasses.replace(SMALL, decay="linear", budget=400, lr=1e-3)
    train(build_model(0, hidden=32, layers=1), Countdown(), AGPOConfig.from_preset("grpo"), loop, records.append)
    steps, spent = [record for record in records if record["step"]], 0
    for record in steps:
        assert record["lr"] == pytest.approx(1e-3 * (1.0 - spent / 400)), "by the tokens before the step"
        spent = record["tokens"]
    assert len(steps) > 3


def test_dynamic_sampling_keeps_mixed_groups_and_pays_for_the_others(model: Any) -> None:
    method = Method(AGPOConfig.from_preset("grpo"), SMALL)
    task = Countdown()
    stream = iter(task.problems("train", 10_000))
    step = resampled(method, model, task, stream, torch.Generator().manual_seed(0))
    for p in range(6):
        outcomes = step.rollout.outcome_B[step.rollout.prompt_B == p]
        assert len(outcomes) == 4 and len(set(outcomes.tolist())) == 2
    assert step.generated >= int(step.rollout.tokens_B.sum())
    assert len(step.stats) == 6


@pytest.mark.parametrize("settings", [{"preset": "grpo"}, {}, {"preset": "agpo_l", "length": {"weight": 0.2}}])
def test_one_seed_one_result(settings: dict[str, Any]) -> None:
    def run() -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        loop = LoopConfig(prompts=4, group=4, updates=2, budget=120, eval_every=60, eval_problems=8, train_problems=24)
        model = build_model(1, hidden=32, layers=1).eval()
        train(model, Countdown(), AGPOConfig.from_dict(settings), loop, records.append)
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records]

    first = run()
    assert first == run()
    assert first[-1]["tokens"] >= 120 and "accuracy" in first[-1] and "gradient_cosine" in first[-1]


def test_an_average_of_the_weights_changes_nothing_but_the_accuracy() -> None:
    def run(average: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
        records: list[dict[str, Any]] = []
        loop = LoopConfig(
            prompts=4, group=4, updates=2, budget=120, eval_every=60, eval_problems=8, train_problems=24, lr=3e-2
        )
        model = build_model(1, hidden=32, layers=1).eval()
        last = train(model, Countdown(), AGPOConfig.from_dict({"average": average}), loop, records.append)
        assert last == records[-1]["accuracy"]
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records], model

    plain, weights = run({})
    for settings in ({"enabled": True, "validate": False}, {"enabled": True}):
        records, same = run(settings)
        assert all(torch.equal(a, b) for a, b in zip(same.parameters(), weights.parameters(), strict=True))
        if settings.get("validate") is not False:
            assert sum("accuracy_raw" in record for record in records) == sum("accuracy" in r for r in plain) > 1
            records = [r | ({"accuracy": r.pop("accuracy_raw")} if "accuracy_raw" in r else {}) for r in records]
        assert records == plain


def test_the_warm_start_stops_at_the_accuracy_asked_for() -> None:
    reached = warm_start(build_model(0, hidden=32, layers=1), Countdown(), accuracy=0.2, seed=0, max_steps=60)
    assert reached >= 0.2
