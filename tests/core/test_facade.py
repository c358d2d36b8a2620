# SPDX-License-Identifier: Apache-2.0
"""`Controller` is the functions in their order: same decisions and states, sizes that add up, files that are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from agpo_core import (
    AGPOConfig,
    Controller,
    ControllerState,
    OtherSettings,
    StateError,
    StepSignals,
    decide_clip,
    decide_temperature,
    probe_statistics,
    save_state,
    update_state,
    vote_classes,
)
from tests.core.strategies import NAN, same_bits

OUTCOMES = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, 0.0]])
KEYS = [["4", "5", "4", "4"], ["1", None, "2", ""], ["7", "8", None, "9"]]
SIGNALS = StepSignals(policy_entropy=0.8, step_kl=0.02, step_kl_k3=0.01)


def controller(group: int = 8, **settings: Any) -> Controller:
    return Controller(AGPOConfig.from_dict(settings), temperature=1.0, clip_low=0.2, clip_high=0.28, group_size=group)


@pytest.mark.parametrize("preset", ["agpo", "agpo_d", "reference", "grpo"])
def test_it_is_the_functions_in_their_order(preset: str) -> None:
    run = controller(preset=preset, clip={"base": 0.2})
    config, state = run.config, ControllerState.initial(run.config)
    for step in range(4):
        outcomes = OUTCOMES.roll(step, 1)
        stats = probe_statistics(outcomes, vote_classes(KEYS), config=config)
        mine = run.probe(outcomes, KEYS)
        for item in dataclasses.fields(stats):
            assert same_bits(getattr(mine, item.name), getattr(stats, item.name))
        assert same_bits(run.decide_temperature(mine).tau, decide_temperature(stats, state, config, 1.0).tau)
        clip = decide_clip(stats, SIGNALS, state, config, run.settings.clip_low, run.settings.clip_high)
        assert same_bits(run.decide_clip(mine, SIGNALS).high, clip.high)
        assert run.state == state and run.lr_scale == state.step_size.scale, "deciding changes nothing"
        run.update([mine.select(slice(0, 1)), mine.select(slice(1, 3))], SIGNALS)
        state = update_state(stats, SIGNALS, state, config)
    assert run.state == state and state.step == 4


def test_votes_as_classes_or_none() -> None:
    run = controller()
    classes = run.probe(OUTCOMES, vote_classes(KEYS))
    assert torch.equal(classes.vote_entropy, run.probe(OUTCOMES, KEYS).vote_entropy)
    assert run.probe(OUTCOMES).vote_entropy.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [4, 4, 4]),
        ({"preset": "grpo"}, [0, 0, 0]),
        ({"preset": "agpo_d"}, [8, 8, 8]),
        ({"probe": {"size": 6}}, [2, 2, 2]),
    ],
)
def test_sizes_of_the_second_phase(settings: dict, expected: list[int]) -> None:
    run = controller(**settings)
    assert run.sizes(run.probe(OUTCOMES)) == expected
    assert run.sizes(run.probe(torch.zeros(0, 4))) == []


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (2.0, 5.0)])
def test_allocation_spends_the_same_total_where_the_outcome_is_open(scale: tuple[float, float]) -> None:
    low, high = scale
    run = controller(allocation={"enabled": True}, advantage={"outcome_min": low, "outcome_max": high})
    sizes = run.sizes(run.probe(low + (high - low) * OUTCOMES))
    assert sum(sizes) == 12 and sizes[1] == min(sizes) < max(sizes)
    plain = controller(allocation={"enabled": True})
    assert sizes == plain.sizes(plain.probe(OUTCOMES))


def test_a_saved_run_goes_on(tmp_path: Path) -> None:
    run, path = controller(), tmp_path / "state.json"
    run.update(run.probe(OUTCOMES, KEYS), SIGNALS)
    run.save(path, {"run": 7})
    again = controller()
    again.load(path)
    assert again.state == run.state


def test_a_state_of_other_settings_is_refused_or_kept_within_bounds(tmp_path: Path) -> None:
    run, path = controller(step_size={"max": 1e5, "start": 8e4}), tmp_path / "state.json"
    run.save(path)
    other = controller(clip={"kl_gain": 0.1})
    before = other.state
    with pytest.raises(OtherSettings, match="other settings"):
        other.load(path)
    assert other.state is before
    other.load(path, keep=True)
    assert other.lr_scale == 1e4 and other.state.uncertainty == run.state.uncertainty


def test_a_step_size_that_these_settings_cannot_have_led_to_is_refused(tmp_path: Path) -> None:
    run, path = controller(), tmp_path / "state.json"
    far = dataclasses.replace(run.state, step_size=dataclasses.replace(run.state.step_size, scale=5e4))
    save_state(path, far, run.config.fingerprint())
    for keep in (False, True):
        with pytest.raises(StateError, match=r"step_size.scale=50000.0: must be within \[1e-06, 10000.0\]"):
            run.load(path, keep=keep)


def test_its_messages_carry_the_prefix() -> None:
    with pytest.raises(ValueError, match=r"set trainer\.agpo\.temperature\.max=5"):
        Controller(AGPOConfig(), temperature=5.0, clip_low=0.2, clip_high=0.2, group_size=8, prefix="trainer.agpo")
