# SPDX-License-Identifier: Apache-2.0
"""Every check with a run that triggers it; the run as it comes triggers none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agpo_core.config import iter_fields
from recipe.agpo.report.health import CHECKS, Finding, Unit, Verdict, findings, overall
from recipe.agpo.report.measures import STEP_SIZE
from recipe.agpo.report.read import Run, read_run
from recipe.agpo.run_folder import write_launch
from recipe.agpo.settings import RunConfig
from tests.report import runs

MIN, MAX = RunConfig().step_size.min, RunConfig().step_size.max
BUDGET = RunConfig.from_dict({"token_budget": 12_000})


def finding(run: Run, name: str) -> Finding:
    return next(f for f in findings(run) if f.check.name == name)


def put(**values: Any) -> runs.Change:
    """A change that sets logged values; ``__`` stands for the slash."""

    def change(step: int, data: dict[str, Any]) -> None:
        data.update({key.replace("__", "/"): value for key, value in values.items()})

    return change


def late(key: str, factor: float) -> runs.Change:
    """A change that multiplies a value in the second half of the run."""

    def change(step: int, data: dict[str, Any]) -> None:
        if step > 15 and key in data:
            data[key] *= factor

    return change


def tau_bounds(share: float) -> runs.Change:
    return put(agpo__tau__share_at_min=share / 2, agpo__tau__share_at_max=share / 2)


def cut_off(share: float) -> runs.Change:
    return put(response_length__max=512.0, response_length__clip_ratio=share)


def flat(step: int, data: dict[str, Any]) -> None:
    """A change: nothing rises."""
    data["critic/score/mean"] = 0.4 + 0.01 * (step % 2)
    if runs.ACCURACY in data:
        data[runs.ACCURACY] = 0.41


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(runs.agpo_run(tmp_path_factory.mktemp("healthy"), 30, config=BUDGET))


def test_a_run_without_trouble_is_healthy(healthy: Run) -> None:
    found = findings(healthy)
    assert {f.check.name: f.verdict for f in found} == {check.name: Verdict.OK for check in CHECKS}
    assert overall(found) is Verdict.OK


TRIGGERS = [
    ("accuracy", late(runs.ACCURACY, 0.6), Verdict.LOOK),
    ("accuracy", late(runs.ACCURACY, 0.1), Verdict.BAD),
    ("zero_variance", put(agpo__zero_variance_share=0.7), Verdict.LOOK),
    ("zero_variance", put(agpo__zero_variance_share=0.95), Verdict.BAD),
    ("entropy_lost", late("agpo/signal/policy_entropy", 0.3), Verdict.LOOK),
    ("entropy_lost", late("agpo/signal/policy_entropy", 0.01), Verdict.BAD),
    ("entropy_grown", late("agpo/signal/policy_entropy", 4.0), Verdict.LOOK),
    ("entropy_grown", late("agpo/signal/policy_entropy", 40.0), Verdict.BAD),
    ("drift", put(agpo__step_kl_k3=0.0012), Verdict.LOOK),
    ("drift", put(agpo__step_kl_k3=0.0024), Verdict.BAD),
    ("no_drift", put(agpo__step_kl_k3=0.0), Verdict.LOOK),
    ("no_gain", flat, Verdict.BAD),
    ("validation_flat", flat, Verdict.LOOK),
    ("reward_flat", flat, Verdict.LOOK),
    ("reward_lost", late("critic/score/mean", 0.6), Verdict.LOOK),
    ("reward_lost", late("critic/score/mean", 0.1), Verdict.BAD),
    ("failing", put(agpo__outcome__mean=0.04), Verdict.LOOK),
    ("failing", put(agpo__outcome__mean=0.0), Verdict.BAD),
    ("solved", put(agpo__outcome__mean=0.96), Verdict.LOOK),
    ("solved", put(agpo__outcome__mean=1.0), Verdict.BAD),
    ("still", lambda step, data: data.update({"actor/grad_norm": 0.0 if step % 2 else 0.1}), Verdict.LOOK),
    ("still", put(actor__grad_norm=0.0), Verdict.BAD),
    ("step_at_min", lambda step, data: data.update({STEP_SIZE: MIN if step % 2 else 0.1}), Verdict.LOOK),
    ("step_at_min", put(agpo__step_size__scale=MIN), Verdict.BAD),
    ("step_at_max", put(agpo__step_size__scale=MAX), Verdict.LOOK),
    ("step_far", put(agpo__step_size__scale=0.005), Verdict.LOOK),
    ("clip_fraction", put(agpo__clip_fraction__low=0.2, agpo__clip_fraction__high=0.1), Verdict.LOOK),
    ("clip_fraction", put(agpo__clip_fraction__low=0.5), Verdict.BAD),
    ("clip_idle", put(agpo__clip_fraction__low=0.0, agpo__clip_fraction__high=0.0), Verdict.LOOK),
    ("tau_bound", tau_bounds(0.3), Verdict.LOOK),
    ("tau_bound", tau_bounds(0.6), Verdict.BAD),
    ("eps_bound", put(agpo__eps__share_at_min=0.3), Verdict.LOOK),
    ("eps_bound", put(agpo__eps__share_at_max=0.6), Verdict.BAD),
    ("no_probe", put(agpo__tau__reason__no_probe=1.0), Verdict.LOOK),
    ("no_probe", put(agpo__tau__reason__no_probe=9.0), Verdict.BAD),
    ("unjudged", put(agpo__verifier__lost=1.0), Verdict.LOOK),
    ("unjudged", put(agpo__verifier__raised=9.0), Verdict.BAD),
    ("no_answer", put(agpo__verifier__no_answer=6.0), Verdict.LOOK),
    ("no_answer", put(agpo__verifier__no_answer=60.0), Verdict.BAD),
    ("cut_off", cut_off(0.2), Verdict.LOOK),
    ("cut_off", cut_off(0.5), Verdict.BAD),
    ("lost_sessions", put(agpo__rollout__lost_sessions_cumulative=1.0), Verdict.LOOK),
    ("lost_sessions", put(agpo__rollout__lost_sessions_cumulative=40.0), Verdict.BAD),
    ("learner_gap", put(rollout_corr__log_ppl_abs_diff=0.05), Verdict.LOOK),
    ("learner_gap", put(rollout_corr__log_ppl_abs_diff=0.5), Verdict.BAD),
    ("not_finite", lambda step, data: runs.nan(step, data) if step == 3 else None, Verdict.LOOK),
    ("not_finite", runs.nan, Verdict.BAD),
    ("not_finite", put(critic__score__mean=None), Verdict.BAD),
    ("discarded", put(agpo__tokens__discarded_cumulative=6000.0), Verdict.LOOK),
]


@pytest.mark.parametrize(("name", "change", "expected"), TRIGGERS, ids=[f"{n}-{v.value}" for n, _, v in TRIGGERS])
def test_a_check_that_triggers(name: str, change: runs.Change, expected: Verdict, tmp_path: Path) -> None:
    found = finding(read_run(runs.agpo_run(tmp_path, 30, config=BUDGET, change=change)), name)
    assert found.verdict is expected, found.value


@pytest.mark.parametrize(("budget", "expected"), [(11_000, Verdict.LOOK), (8_000, Verdict.BAD)])
def test_budget(budget: int, expected: Verdict, tmp_path: Path) -> None:
    run = read_run(runs.agpo_run(tmp_path, 30, config=RunConfig.from_dict({"token_budget": budget})))
    found = finding(run, "budget")
    assert found.verdict is expected and found.value == pytest.approx(12_000 / budget - 1.0)


def test_steps_beyond_the_plan(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 12)
    assert finding(read_run(folder), "past_plan").verdict is Verdict.OK
    write_launch(folder, {"planned": {"steps": 10}})
    found = finding(read_run(folder), "past_plan")
    assert found.verdict is Verdict.LOOK and found.value == pytest.approx(0.2)


def test_drift_is_compared_with_the_runs_own_target(tmp_path: Path) -> None:
    """The same log, with the controllers on and off: drift over its target, step KL over its target, and over ours."""
    values = {"agpo/signal/policy_entropy": 0.1, "agpo/step_kl_k3": 0.002, "agpo/step_kl": 0.003}
    expected = {"agpo": 2.0, "clip only": 0.3 / 4, "grpo": 0.3}
    for name, given in {
        "agpo": {"step_size": {"drift_target": 0.01}},
        "clip only": {"step_size": {"enabled": False}, "clip": {"kl_target": 0.04}},
        "grpo": {"preset": "grpo"},
    }.items():
        (tmp_path / name).mkdir()
        config = RunConfig.from_dict(given)
        run = read_run(runs.agpo_run(tmp_path / name, 6, config=config, change=lambda step, data: data.update(values)))
        assert finding(run, "drift").value == pytest.approx(expected[name]), name


def test_missing_steps_and_bad_lines(tmp_path: Path) -> None:
    file = runs.agpo_run(tmp_path, 30) / "metrics.000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:10], *lines[12:], b'{"step": 31']))
    run = read_run(tmp_path)
    assert (finding(run, "missing_steps").value, finding(run, "bad_lines").value) == (2.0, 1.0)
    assert finding(run, "missing_steps").verdict is finding(run, "bad_lines").verdict is Verdict.LOOK


def test_every_check_is_triggered_somewhere_above() -> None:
    elsewhere = {"budget", "missing_steps", "bad_lines", "past_plan"}
    assert {name for name, _, _ in TRIGGERS} | elsewhere == {check.name for check in CHECKS}
    assert {name for name, _, verdict in TRIGGERS if verdict is Verdict.BAD} | {"budget"} == {
        check.name for check in CHECKS if check.bad is not None
    }


def test_longest_batch_response_is_not_the_limit(tmp_path: Path) -> None:
    """verl counts the longest of each batch as cut off; only what reaches the longest of the run is."""

    def growing(step: int, data: dict[str, Any]) -> None:
        data |= {"response_length/max": 100.0 + step % 10, "response_length/clip_ratio": 1.0}

    run = read_run(runs.agpo_run(tmp_path, 30, change=growing))
    assert finding(run, "cut_off").value == pytest.approx(1 / 6), "one of the six recent steps reached 109"


def test_baseline_answers_what_verl_logs(tmp_path: Path) -> None:
    found = findings(read_run(runs.grpo_run(tmp_path)))
    measured = {f.check.name for f in found if f.verdict is not Verdict.UNKNOWN}
    assert measured == {
        "no_gain",
        "reward_flat",
        "reward_lost",
        "failing",
        "solved",
        "still",
        "entropy_lost",
        "entropy_grown",
        "drift",
        "no_drift",
        "clip_fraction",
        "clip_idle",
        "cut_off",
        "learner_gap",
        "not_finite",
        "missing_steps",
        "bad_lines",
    }
    assert overall(found) is Verdict.OK


def test_empty_run_measures_nothing(tmp_path: Path) -> None:
    found = findings(read_run(tmp_path))
    assert {f.verdict for f in found} == {Verdict.UNKNOWN} and overall(found) is Verdict.UNKNOWN


def test_thresholds_are_ordered_and_shown() -> None:
    for check in CHECKS:
        assert 0.0 <= check.look and (check.bad is None or check.look < check.bad), check.name
        assert "look" in check.limits and math.isfinite(check.look) and check.advice
    assert Unit.SHARE.show(0.00123) == "0.12\u00a0%" and Unit.TIMES.show(12.3) == "12\u00a0×"


def overrides() -> Iterator[str]:
    return (line for check in CHECKS for line in check.override.splitlines())


def test_advised_overrides_are_keys_of_the_configuration() -> None:
    """Ours by the schema, verl's by its own composed configuration."""
    from omegaconf import OmegaConf

    from recipe.agpo.plan.compose import compose

    config, ours = compose("quickstart"), {f"algorithm.agpo.{key}" for key, *_ in iter_fields(RunConfig)}
    for line in overrides():
        key = line.split("=")[0]
        if key.startswith("+"):
            assert compose("quickstart", [line]) is not None
        elif key.startswith("algorithm.agpo."):
            assert key in ours, key
        else:
            assert OmegaConf.select(config, key, default="absent") != "absent", key
