# SPDX-License-Identifier: Apache-2.0
"""The step size: closed form, bounds, what unknown and broken drifts do, and that it finds a target."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agpo_core import (
    AGPOConfig,
    ControllerState,
    StepSignals,
    StepSize,
    StepSizeConfig,
    initial_step_size,
    merge_stats,
    next_step_size,
    state_from_dict,
    state_to_dict,
    stops_updates,
    update_state,
)
from tests.core.strategies import binary, statistics

CONFIG = StepSizeConfig()
ENTROPY = 0.3
TARGET = CONFIG.drift_target * ENTROPY  # of the KL


@pytest.mark.parametrize(
    ("drift", "before", "after"),
    [
        (TARGET / 1e6, StepSize(0.1), StepSize(1.0)),  # far below, never above so far: ten times
        (TARGET / 25, StepSize(0.1), StepSize(0.5)),  # the square root of what is missing
        (TARGET / 100, StepSize(0.1, True), StepSize(0.125, True)),  # far below, later: a quarter more
        (TARGET / 1.21, StepSize(0.1, True), StepSize(0.11, True)),
        (TARGET, StepSize(0.1), StepSize(0.1)),
        (TARGET * 4, StepSize(0.1), StepSize(0.05, True)),  # four times the drift is twice the step
        (TARGET * 1e6, StepSize(0.3), StepSize(0.03, True)),  # for the first time: at most to a tenth
        (TARGET * 1e6, StepSize(0.3, True), StepSize(0.1, True)),  # later: at most to a third
        (TARGET * 1e6, StepSize(2 * CONFIG.min, True), StepSize(CONFIG.min, True)),
        (TARGET / 1e6, StepSize(0.9 * CONFIG.max), StepSize(CONFIG.max)),
        (None, StepSize(0.1), StepSize(0.1)),
        (0.0, StepSize(0.1), StepSize(0.1)),
        (-1.0, StepSize(0.1, True), StepSize(0.1, True)),
        (math.nan, StepSize(0.3, True), StepSize(0.1, True)),
        (math.inf, StepSize(0.3), StepSize(0.03, True)),
    ],
)
def test_closed_form(drift: float | None, before: StepSize, after: StepSize) -> None:
    assert next_step_size(drift, ENTROPY, before, CONFIG) == after


@pytest.mark.parametrize(("lr", "scale"), [(1e-6, 1.0), (1e-1, 1e-5), (1e-12, CONFIG.max), (10.0, CONFIG.min)])
def test_the_first_step_does_not_depend_on_the_configured_rate(lr: float, scale: float) -> None:
    assert initial_step_size(CONFIG, lr) == StepSize(scale)
    assert ControllerState.initial(AGPOConfig(), lr).step_size == StepSize(scale)


def test_a_start_that_is_set_is_a_factor() -> None:
    assert initial_step_size(StepSizeConfig(start=0.03), 1e-1) == StepSize(0.03)
    assert initial_step_size(CONFIG) == StepSize(0.01)  # the framework does not say its learning rate
    assert initial_step_size(StepSizeConfig(max=0.5), 1e-6) == StepSize(0.5)
    assert initial_step_size(StepSizeConfig(enabled=False), 1e-6) == StepSize()


def test_settings_of_the_version_that_only_reduced_are_read() -> None:
    """A config file of that time, and one that set a single bound: `start` auto is within every pair of bounds."""
    old = {"drift_target": 0.005, "start": 0.03, "min": 0.001, "max": 1.0}
    assert AGPOConfig.from_dict({"step_size": old}).step_size == StepSizeConfig(**old)
    assert AGPOConfig.from_dict({"step_size": {"min": 0.2, "max": 1.0}}).step_size.start is None


@pytest.mark.parametrize("schedule", [1.0, 0.5, 0.1])
def test_a_schedule_keeps_its_meaning(schedule: float) -> None:
    """Half of the scheduled rate gives a quarter of the drift, which is what half a step should have."""
    state = StepSize(0.2, True)
    assert next_step_size(TARGET * schedule**2, ENTROPY, state, CONFIG, schedule) == state
    signals = StepSignals(policy_entropy=ENTROPY, step_kl=0.0, step_kl_k3=TARGET * schedule**2, schedule=schedule)
    config = AGPOConfig()
    before = dataclasses.replace(ControllerState.initial(config), step_size=state)
    assert update_state(merge_stats([]), signals, before, config).step_size == state


@pytest.mark.parametrize(("drift", "after"), [(0.01, 0.2), (4.0, 0.1)])
def test_without_an_advantage_the_scale_only_falls(drift: float, after: float) -> None:
    config = AGPOConfig()
    before = dataclasses.replace(ControllerState.initial(config), step_size=StepSize(0.2))
    signals = StepSignals(policy_entropy=ENTROPY, step_kl=0.0, step_kl_k3=drift * TARGET, informative=False)
    assert update_state(merge_stats([]), signals, before, config).step_size.scale == after


@pytest.mark.parametrize("schedule", [0.0, 0.05, math.nan])
def test_a_schedule_near_zero_changes_nothing(schedule: float) -> None:
    """In the first steps of a warm-up the drift is rounding alone."""
    assert next_step_size(TARGET, ENTROPY, StepSize(0.2), CONFIG, schedule) == StepSize(0.2)


@pytest.mark.parametrize(
    ("drift", "schedule", "stops"),
    [
        (4.0, 1.0, False),
        (9.9, 1.0, False),
        (10.1, 1.0, True),
        (math.nan, 1.0, True),
        (math.inf, 1.0, True),
        (2.4, 0.5, False),
        (2.6, 0.5, True),
        (0.09, 0.0, False),
    ],
)
def test_updates_stop_far_above_the_target(drift: float, schedule: float, stops: bool) -> None:
    assert stops_updates(drift * TARGET, ENTROPY, CONFIG, schedule) is stops
    assert not stops_updates(drift * TARGET, ENTROPY, StepSizeConfig(enabled=False), schedule)
    assert not stops_updates(drift * TARGET, None, CONFIG, schedule)


@given(st.floats(1e-12, 10.0), st.floats(1e-12, 10.0), st.floats(0.001, 1.0), st.booleans())
def test_more_drift_never_gives_a_larger_step(first: float, second: float, scale: float, exceeded: bool) -> None:
    state = StepSize(scale, exceeded)
    small, large = sorted((first, second))
    assert next_step_size(large, ENTROPY, state, CONFIG).scale <= next_step_size(small, ENTROPY, state, CONFIG).scale
    assert CONFIG.min <= next_step_size(large, ENTROPY, state, CONFIG).scale <= CONFIG.max


@pytest.mark.parametrize("configured", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("wanted", [1e-7, 1e-6, 1e-4, 1e-3])
def test_finds_the_target_from_any_learning_rate(configured: float, wanted: float) -> None:
    """A policy whose drift is the square of its step: the learning rate that meets the target is found in five steps;
    unless it is below the first step's, no drift is above its target on the way."""
    state = initial_step_size(CONFIG, configured)
    drifts = []
    for _ in range(10):
        drifts.append(CONFIG.drift_target * (configured * state.scale / wanted) ** 2)
        state = next_step_size(drifts[-1] * ENTROPY, ENTROPY, state, CONFIG)
    assert configured * state.scale == pytest.approx(wanted, rel=0.01)
    assert all(drift == pytest.approx(CONFIG.drift_target, rel=0.01) for drift in drifts[5:])
    if wanted >= 1e-6:
        assert max(drifts) < 1.01 * CONFIG.drift_target


def test_last_bits_of_the_drift_do_not_matter() -> None:
    """Ranks add up in another order."""
    drift = 0.1 + 0.2
    near, far = (next_step_size(kl, ENTROPY, StepSize(0.7), CONFIG) for kl in (0.3, drift))
    assert drift != 0.3 and near == far


@pytest.mark.parametrize("entropy", [None, 0.0, -1.0, math.nan])
def test_without_an_entropy_the_scale_is_held(entropy: float | None) -> None:
    assert next_step_size(1.0, entropy, StepSize(0.3), CONFIG) == StepSize(0.3)


def test_a_policy_that_is_sure_of_its_tokens_moves_less() -> None:
    sure, open_ = (next_step_size(TARGET, entropy, StepSize(0.3), CONFIG).scale for entropy in (0.1, 0.9))
    assert sure < 0.3 < open_


@pytest.mark.parametrize("prompts", [0, 3])
def test_part_of_the_state(prompts: int) -> None:
    config = AGPOConfig()
    state = dataclasses.replace(ControllerState.initial(config), step_size=StepSize(0.4))
    stats = statistics([binary(row) for row in range(prompts)], config) if prompts else merge_stats([])
    after = update_state(stats, StepSignals(policy_entropy=ENTROPY, step_kl_k3=TARGET * 4), state, config)
    assert after.step_size == StepSize(0.2, True) and after.step == 1
    assert state_from_dict(state_to_dict(after)) == after


def test_off_is_the_framework_s_own_rate() -> None:
    config = AGPOConfig.from_dict({"step_size": {"enabled": False}})
    state = ControllerState.initial(config)
    after = update_state(merge_stats([]), StepSignals(policy_entropy=ENTROPY, step_kl_k3=100.0), state, config)
    assert state.step_size == after.step_size == StepSize()


def test_a_state_from_before_there_was_one_keeps_its_learning_rate() -> None:
    old = state_to_dict(ControllerState.initial(AGPOConfig())) | {"version": 1}
    del old["step_size"]
    read = state_from_dict(old)
    assert read.step_size == StepSize(1.0, True) and read.version == ControllerState.initial(AGPOConfig()).version


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": 2.0, "max": 1.0}, "step_size.start=2.0.*set step_size.start=1.0"),
        ({"start": 1e-7}, "set step_size.start=1e-06"),
        ({"drift_target": 0.0}, "drift_target=0.0"),
        ({"min": 2.0, "max": 1.0}, "min"),
    ],
)
def test_bad_settings(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("known", [StepSignals(), StepSignals(policy_entropy=1.0)])
def test_a_stack_that_cannot_steer_the_step_size_is_told(known: StepSignals) -> None:
    config = AGPOConfig()
    stats, state = merge_stats([]), ControllerState.initial(config)
    with pytest.warns(UserWarning, match="no step_kl_k3.*at 0.01 of the configured one.*step_size.enabled=false"):
        update_state(stats, known, state, config)
    half = dataclasses.replace(known, step_kl=0.02)
    with pytest.raises(ValueError, match="step_kl=0.02 but no step_kl_k3"):
        update_state(stats, half, state, config)
    off = AGPOConfig.from_dict({"step_size": {"enabled": False}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update_state(stats, half, ControllerState.initial(off), off)
        moved = update_state(stats, StepSignals(policy_entropy=1.0, step_kl_k3=1e-9), state, config)
        update_state(stats, known, moved, config)  # one step that measured nothing


def test_signals_go_by_name() -> None:
    with pytest.raises(TypeError):
        StepSignals(1.0, 0.02)  # type: ignore[misc]
