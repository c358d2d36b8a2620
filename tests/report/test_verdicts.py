# SPDX-License-Identifier: Apache-2.0
"""What is said about runs of many kinds: none that learns nothing is healthy, and none that learns is sick."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe.agpo.report.health import Verdict, findings, in_words, overall
from recipe.agpo.report.read import Run, read_run
from recipe.agpo.run_folder import write_launch

ACCURACY = "val-core/sums/acc/mean@1"
SETTINGS = {
    "preset": "agpo",
    "step_size": {"enabled": True, "drift_target": 0.005, "min": 0.001, "max": 1.0},
    "clip": {"enabled": True, "kl_target": 0.01, "min": 0.05, "max": 0.4},
    "temperature": {"enabled": True, "min": 0.7, "max": 1.4},
}
WIDE = SETTINGS | {"step_size": {"enabled": True, "drift_target": 0.005, "min": 1e-6, "max": 1e4}}
Shape = Callable[[float], float]  # of the progress of the run, from 0 to 1


def rising(start: float, end: float) -> Shape:
    return lambda x: start + (end - start) * (1.0 - math.exp(-3.0 * x)) / (1.0 - math.exp(-3.0))


def constant(value: float) -> Shape:
    return lambda x: value


def up_and_down(top: float, end: float) -> Shape:
    return lambda x: 0.3 + (top - 0.3) * x / 0.4 if x < 0.4 else top + (end - top) * (x - 0.4) / 0.6


VALIDATION, REWARD, SCALE, DRIFT = rising(0.4, 0.75), rising(0.35, 0.7), constant(0.3), constant(0.005)


def made_up(
    folder: Path,
    *,
    steps: int = 60,
    planned: int | None = 60,
    validation: Shape | None = VALIDATION,
    reward: Shape = REWARD,
    scale: Shape = SCALE,
    drift: Shape = DRIFT,
    noise: float = 0.03,
    problems: int = 256,
    change: Callable[[int, dict[str, Any]], None] | None = None,
    adaptive: bool = True,
    settings: dict[str, Any] = SETTINGS,
) -> Run:
    """A run's log with noise as of 256 problems and of 256 responses a step; ``change`` edits a logged step."""
    rng, lines = random.Random(0), []

    def share(value: float, deviation: float) -> float:
        return min(1.0, max(0.0, rng.gauss(value, deviation))) if 0.03 < value < 0.97 else value

    for step in range(steps + 1):
        x = step / (planned or steps or 1)
        data: dict[str, Any] = {}
        if validation is not None and step % 10 == 0:
            value = validation(x)
            data[ACCURACY] = round(share(value, math.sqrt(value * (1 - value) / problems)) * problems) / problems
        if step:
            score = share(reward(x), noise)
            data |= {"training/global_step": step, "critic/score/mean": score, "actor/entropy": 0.2}
            data |= {"actor/grad_norm": 0.5, "actor/ppo_kl": 0.2 * drift(x), "actor/pg_clipfrac": 0.01}
            data |= {"response_length/mean": 30.0, "response_length/max": 40.0, "response_length/clip_ratio": 0.01}
            if adaptive:
                data |= {"agpo/outcome/mean": score, "agpo/step_kl": 0.2 * drift(x), "agpo/step_kl_k3": 0.2 * drift(x)}
                data |= {"agpo/signal/policy_entropy": 0.2, "agpo/step_size/scale": scale(x)}
                data |= {"agpo/zero_variance_share": 1.0 if score in (0.0, 1.0) else 0.3}
                data |= {"agpo/clip_fraction/low": 0.005, "agpo/clip_fraction/high": 0.005}
        if change is not None:
            change(step, data)
        if data:
            lines.append(json.dumps({"step": step, "data": data}))
    folder.mkdir(exist_ok=True)
    (folder / "metrics.000.jsonl").write_text("".join(line + "\n" for line in lines))
    if planned is not None:
        write_launch(
            folder,
            {"planned": {"steps": planned, "validation_problems": {"sums": problems}}}
            | ({"settings": settings} if adaptive else {}),
        )
    return read_run(folder)


def nan_from(first: int) -> Callable[[int, dict[str, Any]], None]:
    def change(step: int, data: dict[str, Any]) -> None:
        if step >= first:
            data.update({key: None for key in data if key != "training/global_step"})

    return change


def only(*keys: str) -> Callable[[int, dict[str, Any]], None]:
    def change(step: int, data: dict[str, Any]) -> None:
        for key in [key for key in data if key not in ("training/global_step", *keys)]:
            del data[key]

    return change


def no_updates(step: int, data: dict[str, Any]) -> None:
    if step:
        data |= {"actor/grad_norm": 0.0, "agpo/zero_variance_share": 1.0}


DEAD = {"validation": constant(0.0), "reward": constant(0.02), "scale": constant(0.001), "drift": constant(0.0)}
NEAR_ZERO = {"validation": constant(0.0), "reward": constant(0.0)}
TO_ALL = {"validation": rising(0.5, 0.99), "reward": rising(0.5, 0.99)}
FROM_NOTHING = {"validation": rising(0.0, 0.3), "reward": rising(0.01, 0.3)}
ALL = ACCURACY, "critic/score/mean"
# name -> (the run, its verdict, words of the headline, checks that must be beyond their limits)
KINDS: dict[str, tuple[dict[str, Any], Verdict, str, set[str]]] = {
    "rising": ({}, Verdict.OK, "Healthy", set()),
    "rising, of the baseline": ({"adaptive": False}, Verdict.OK, "Healthy", set()),
    "rising to all correct": (
        {"validation": rising(0.5, 0.99), "reward": rising(0.5, 0.99)},
        Verdict.OK,
        "Healthy",
        set(),
    ),
    "rising, without a record of its launch": ({"planned": None}, Verdict.OK, "Healthy", set()),
    "rising, without validation": ({"validation": None}, Verdict.OK, "Healthy", set()),
    "rising slowly": ({"validation": rising(0.4, 0.55), "reward": rising(0.4, 0.5)}, Verdict.OK, "Healthy", set()),
    "rising from nothing": (
        {"validation": rising(0.0, 0.3), "reward": rising(0.01, 0.3)},
        Verdict.OK,
        "Healthy",
        set(),
    ),
    "interrupted": ({"steps": 25}, Verdict.OK, "Healthy, 25 of 60 steps", set()),
    "begun": ({"steps": 12, "planned": 500}, Verdict.UNKNOWN, "Too early to say, 12 of 500 steps", set()),
    "begun, of a long run, flat": (
        {"steps": 40, "planned": 400, "validation": constant(0.4), "reward": constant(0.4)},
        Verdict.LOOK,
        "Worth a look, 40 of 400 steps",
        {"validation_flat", "reward_flat"},
    ),
    "dead": (DEAD, Verdict.BAD, "Not healthy: no gain", {"no_gain", "failing", "step_at_min", "no_drift", "step_far"}),
    "dead, of the baseline": ({**NEAR_ZERO, "adaptive": False}, Verdict.BAD, "Not healthy: no gain", {"failing"}),
    "dead, without a record": ({**DEAD, "planned": None}, Verdict.BAD, "Not healthy: no gain", {"no_gain", "failing"}),
    "flat": (
        {"validation": constant(0.4), "reward": constant(0.4)},
        Verdict.BAD,
        "Not healthy: no gain",
        {"no_gain", "validation_flat", "reward_flat"},
    ),
    "flat, without validation": ({"validation": None, "reward": constant(0.4)}, Verdict.BAD, "no gain", {"no_gain"}),
    "flat validation": ({"validation": constant(0.4)}, Verdict.LOOK, "Worth a look", {"validation_flat"}),
    "collapsed": (
        {"validation": up_and_down(0.7, 0.05), "reward": up_and_down(0.7, 0.05)},
        Verdict.BAD,
        "Not healthy",
        {"accuracy", "reward_lost"},
    ),
    "collapsed, without validation": (
        {"validation": None, "reward": up_and_down(0.7, 0.05)},
        Verdict.BAD,
        "Not healthy",
        {"reward_lost"},
    ),
    "falling": ({"validation": rising(0.6, 0.3), "reward": rising(0.6, 0.3)}, Verdict.BAD, "Not healthy", {"accuracy"}),
    "diverged": ({"drift": constant(0.2)}, Verdict.BAD, "Not healthy", {"drift"}),
    "not a number": ({"change": nan_from(20)}, Verdict.BAD, "Not healthy", {"not_finite"}),
    "not a number from the start": ({"change": nan_from(0)}, Verdict.BAD, "Not healthy", {"not_finite"}),
    "all correct": (
        {"validation": constant(1.0), "reward": constant(1.0)},
        Verdict.BAD,
        "Not healthy",
        {"solved", "zero_variance"},
    ),
    "all wrong": (NEAR_ZERO, Verdict.BAD, "Not healthy: no gain", {"failing", "zero_variance"}),
    "no updates": (
        {"change": no_updates, "reward": constant(0.4), "validation": constant(0.4)},
        Verdict.BAD,
        "no gain",
        {"still", "zero_variance"},
    ),
    "step size at its minimum": ({"scale": constant(0.001)}, Verdict.BAD, "Not healthy", {"step_at_min", "step_far"}),
    "step size at its maximum": ({"scale": constant(1.0)}, Verdict.LOOK, "Worth a look", {"step_at_max"}),
    "step size far from 1": ({"scale": constant(0.002)}, Verdict.LOOK, "Worth a look", {"step_far"}),
    "step size that found its rate": ({"scale": constant(20.0), "settings": WIDE}, Verdict.OK, "Healthy", set()),
    "one step": ({"steps": 1}, Verdict.UNKNOWN, "Too early to say", set()),
    "four steps": ({"steps": 4}, Verdict.UNKNOWN, "Too early to say", set()),
    "nothing but steps": ({"change": only()}, Verdict.UNKNOWN, "Too little is logged to say", set()),
    "no reward and no validation": ({"change": only("actor/grad_norm")}, Verdict.UNKNOWN, "Too little", set()),
    "nothing but reward and validation": ({"change": only(*ALL), "adaptive": False}, Verdict.OK, "Healthy", set()),
    "more steps than planned": ({"steps": 60, "planned": 50}, Verdict.LOOK, "Worth a look", {"past_plan"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_verdict(name: str, tmp_path: Path) -> None:
    given, verdict, words, wanted = KINDS[name]
    run = made_up(tmp_path / "run", **given)
    found = findings(run)
    beyond = {f.check.name: f.shown for f in found if f.verdict in (Verdict.BAD, Verdict.LOOK)}
    assert overall(found) is verdict, beyond
    assert words in in_words(run, found)
    assert wanted <= set(beyond), beyond
    if verdict is Verdict.OK:
        assert beyond == {}


def test_a_run_that_its_token_budget_ends_is_whole(tmp_path: Path) -> None:
    """30 of 60 steps, and all of the budget; then half of it."""
    for left, words in ((0.0, "Healthy"), (3000.0, "Healthy, 30 of 60 steps, 50 % of the plan")):

        def budget(step: int, data: dict[str, Any], left: float = left) -> None:
            spent = 100.0 * step
            data |= {"agpo/tokens/generated_cumulative": spent, "agpo/tokens/budget_left": 3000.0 + left - spent}

        run = made_up(tmp_path / str(left), steps=30, change=budget)
        assert in_words(run, findings(run)) == words


def test_before_the_first_step(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", steps=0)
    assert in_words(run, findings(run)) == "No training step yet"


def test_one_problem_of_few_is_no_fall(tmp_path: Path) -> None:
    """Of 30 problems, 3 right and then 2 is noise; of 3,000, 300 and then 200 is none."""
    few, many = (made_up(tmp_path / str(n), problems=n, validation=constant(0.1)) for n in (30, 3000))
    for run, expected in ((few, 0.0), (many, 1 / 3)):
        run.records[-1][1][ACCURACY] = 2 / 30  # type: ignore[index]
        best = max(value for _, value in run.series(ACCURACY))
        fall = next(f.value for f in findings(run) if f.check.name == "accuracy")
        assert fall == pytest.approx(expected and 1 - 2 / 30 / best)
