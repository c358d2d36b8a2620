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
    merge_stats,
    next_step_size,
    state_from_dict,
    state_to_dict,
    update_state,
)
from tests.core.strategies import binary, statistics

CONFIG = StepSizeConfig()
ENTROPY = 0.3
TARGET = CONFIG.drift_target * ENTROPY  # of the KL


@pytest.mark.parametrize(
    ("drift", "before", "after"),
    [
        (TARGET / 100, StepSize(0.1), StepSize(0.2)),  # far below, never above so far: doubled
        (TARGET / 100, StepSize(0.1, True), StepSize(0.125, True)),  # far below, later: a quarter more
        (TARGET / 1.21, StepSize(0.1), StepSize(0.11)),  # near: the square root of what is missing
        (TARGET, StepSize(0.1), StepSize(0.1)),
        (TARGET * 4, StepSize(0.1), StepSize(0.05, True)),  # four times the drift is twice the step
        (TARGET * 1e6, StepSize(0.3), StepSize(0.1, True)),  # at most to a third
        (TARGET * 1e6, StepSize(0.002), StepSize(CONFIG.min, True)),
        (TARGET / 100, StepSize(0.9), StepSize(CONFIG.max)),
        (None, StepSize(0.1), StepSize(0.1)),
        (0.0, StepSize(0.1), StepSize(0.1)),
        (-1.0, StepSize(0.1, True), StepSize(0.1, True)),
        (math.nan, StepSize(0.3), StepSize(0.1, True)),
        (math.inf, StepSize(0.3), StepSize(0.1, True)),
    ],
)
def test_closed_form(drift: float | None, before: StepSize, after: StepSize) -> None:
    assert next_step_size(drift, ENTROPY, before, CONFIG) == after


@given(st.floats(1e-12, 10.0), st.floats(1e-12, 10.0), st.floats(0.001, 1.0), st.booleans())
def test_more_drift_never_gives_a_larger_step(first: float, second: float, scale: float, exceeded: bool) -> None:
    state = StepSize(scale, exceeded)
    small, large = sorted((first, second))
    assert next_step_size(large, ENTROPY, state, CONFIG).scale <= next_step_size(small, ENTROPY, state, CONFIG).scale
    assert CONFIG.min <= next_step_size(large, ENTROPY, state, CONFIG).scale <= CONFIG.max


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 1.0, 30.0])
def test_finds_the_target_from_any_learning_rate(rate: float) -> None:
    """A policy whose drift is the square of its step: the learning rate hardly matters where both bounds are wide."""
    config = StepSizeConfig(min=1e-6, max=1e4)
    state = StepSize(config.start)
    for _ in range(60):
        drift = (rate * state.scale) ** 2
        state = next_step_size(drift, ENTROPY, state, config)
    assert (rate * state.scale) ** 2 == pytest.approx(config.drift_target * ENTROPY, rel=0.01)


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
    state = ControllerState.initial(config)
    assert state.step_size == StepSize(config.step_size.start)
    stats = statistics([binary(row) for row in range(prompts)], config) if prompts else merge_stats([])
    after = update_state(stats, StepSignals(policy_entropy=ENTROPY, step_kl_k3=TARGET * 4), state, config)
    assert after.step_size == StepSize(config.step_size.start / 2, True) and after.step == 1
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
        ({"start": 2.0}, "step_size.start=2.0.*set step_size.start=1.0"),
        ({"start": 1e-4}, "set step_size.start=0.001"),
        ({"drift_target": 0.0}, "drift_target=0.0"),
        ({"min": 2.0}, "min"),
    ],
)
def test_bad_settings(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("known", [StepSignals(), StepSignals(policy_entropy=1.0)])
def test_a_stack_that_cannot_steer_the_step_size_is_told(known: StepSignals) -> None:
    config = AGPOConfig()
    stats, state = merge_stats([]), ControllerState.initial(config)
    with pytest.warns(UserWarning, match="no step_kl_k3.*step_size.start=0.03.*step_size.enabled=false"):
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
