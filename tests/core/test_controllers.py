# SPDX-License-Identifier: Apache-2.0
"""Both controllers: closed forms, signs, symmetry, bounds, reasons, and independence of order and batch."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agpo_core import (
    AGPOConfig,
    ControllerState,
    Reason,
    RunningStat,
    StepSignals,
    decide_clip,
    decide_temperature,
    merge_stats,
    probe_statistics,
    update_state,
)
from agpo_core.clipping import clip_bounds
from agpo_core.temperature import exp_exact
from tests.core.strategies import (
    INF,
    NAN,
    binary,
    probes,
    same_bits,
    statistics,
    stats_of,
    trained_state,
    with_kl,
)

AGPO = AGPOConfig()
REFERENCE = AGPOConfig.from_preset("reference")
GRPO = AGPOConfig.from_preset("grpo")
STATE = trained_state(AGPO)
unit = st.floats(0, 1)
entropies = st.one_of(st.none(), st.sampled_from([NAN, INF, 0.0, -1.0]), st.floats(1e-3, 20))


def label(reason: torch.Tensor) -> list[str]:
    assert reason.dtype == torch.int8
    return [Reason(value).label for value in reason.tolist()]


def clip(stats, signals=None, state=STATE, config=AGPO, low=0.2, high=0.2):  # type: ignore[no-untyped-def]
    return decide_clip(stats, signals or StepSignals(policy_entropy=1.0), state, config, low, high)


# --- probe statistics


def test_probe_statistics_closed_form() -> None:
    stats = statistics([binary(4), binary(1), binary(0)], AGPO)
    assert stats.count.tolist() == [8, 8, 8]
    assert stats.mean.tolist() == [0.5, 0.125, 0.0]
    assert stats.dispersion.tolist() == pytest.approx([math.sqrt(2 / 7), math.sqrt(1 / 8), 0.0])
    assert stats.normalized_dispersion.tolist() == pytest.approx([1.0, math.sqrt(7 / 16), 0.0])
    assert stats.vote_entropy[0].item() == pytest.approx(math.log(2))
    assert stats.normalized_vote_entropy[0].item() == pytest.approx(1 / 3)
    k = stats.skewness[1].item()
    assert stats.normalized_skewness[1].item() == pytest.approx(k / (1 + k)) and k > 0


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_probe_statistics_take_any_type(dtype: torch.dtype) -> None:
    stats = probe_statistics(torch.tensor([[1, 0, 0, 1]]).to(dtype), config=AGPO)
    assert stats.dispersion.dtype == torch.float64
    assert stats.normalized_dispersion.item() == pytest.approx(1.0)
    assert stats.vote_entropy.item() == 0.0


@pytest.mark.parametrize("config", [AGPO, REFERENCE], ids=["agpo", "reference"])
def test_failed_responses_count_nowhere(config: AGPOConfig) -> None:
    failed = [(NAN, "x"), (INF, "y"), (-INF, None)]
    dirty, clean = statistics([binary(3) + failed], config), statistics([binary(3)], config)
    for item in dataclasses.fields(dirty):
        assert same_bits(getattr(dirty, item.name), getattr(clean, item.name)), item.name


def test_no_prompt() -> None:
    stats = merge_stats([])
    assert len(stats) == len(probe_statistics(torch.zeros(0, 8), config=AGPO)) == 0
    for config in (AGPO, REFERENCE, GRPO):
        state = ControllerState.initial(config)
        assert decide_temperature(stats, state, config, 1.0).tau.shape == (0,)
        assert decide_clip(stats, StepSignals(policy_entropy=1.0), state, config, 0.2, 0.2).low.shape == (0,)
        after = update_state(stats, StepSignals(policy_entropy=1.0, step_kl=0.1, step_kl_k3=0.0), state, config)
        assert after == dataclasses.replace(state, step=1)


def test_merge_is_concatenation() -> None:
    a, b = statistics([binary(3)], AGPO), statistics([binary(5), binary(8)], AGPO)
    whole = statistics([binary(3), binary(5), binary(8)], AGPO)
    for item in dataclasses.fields(whole):
        assert same_bits(getattr(merge_stats([a, b]), item.name), getattr(whole, item.name))


def test_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"expected outcomes \[P, G\]"):
        probe_statistics(torch.zeros(4), config=AGPO)


# --- temperature, form log


def level_state(mean: float, deviation: float) -> ControllerState:
    """A state whose running uncertainty has the given mean and deviation."""
    stat = RunningStat.empty(0.1).update([mean - deviation, mean + deviation])
    return dataclasses.replace(ControllerState.initial(AGPO), uncertainty=stat)


def test_temperature_closed_form() -> None:
    stats = stats_of(AGPO, [0.5, 0.9], [0.3, 0.4], [0.0, 0.0])
    got = decide_temperature(stats, level_state(1.0, 0.2), AGPO, 0.9)
    assert got.uncertainty.tolist() == pytest.approx([0.8, 1.3])
    assert got.centred.tolist() == pytest.approx([-1.0, 1.5])
    assert got.tau.tolist() == pytest.approx([0.9 * math.exp(-0.15), 0.9 * math.exp(0.225)], abs=5e-7)
    assert label(got.reason) == ["cooled", "heated"]


@given(st.floats(0, 2), unit)
def test_heating_and_cooling_are_symmetric_in_log_temperature(z: float, dispersion: float) -> None:
    state = level_state(dispersion + 1.0, 0.2)
    config = AGPOConfig.from_dict({"temperature": {"weight_vote_entropy": 2.0}})
    half = 0.1 * z
    stats = stats_of(config, [dispersion] * 2, [0.5 + half, 0.5 - half], [0.0, 0.0])
    hot, cold = decide_temperature(stats, state, config, 1.0).tau.tolist()
    assert math.log(hot) == pytest.approx(-math.log(cold), abs=3e-6)


def test_both_bounds_of_tau_are_reached() -> None:
    stats = stats_of(AGPO, [0.0, 1.0], [0.0, 1.0], [0.0, 0.0])
    got = decide_temperature(stats, level_state(1.0, 0.05), AGPO, 1.0)
    assert got.tau.tolist() == [0.7, 1.4]
    assert label(got.reason) == ["at_min", "at_max"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(unit, unit, st.floats(0, 0.9)), min_size=1, max_size=5), unit, unit)
def test_tau_is_bounded_and_rises_with_each_signal(signals: list, more: float, mean: float) -> None:
    config = AGPOConfig.from_dict({"temperature": {"weight_skewness": 0.5, "max": 1.2345678901}})
    columns = [list(column) for column in zip(*signals, strict=True)]
    state = level_state(mean * 2, 0.3)
    before = decide_temperature(stats_of(config, *columns), state, config, 1.0).tau
    assert ((before >= 0.7) & (before <= 1.2345678901)).all()
    for which in range(3):
        raised = [[min(0.99, v + more) if i == which else v for v in c] for i, c in enumerate(columns)]
        lowest = [[min(v, 0.99) if i == which else v for v in c] for i, c in enumerate(columns)]
        after = decide_temperature(stats_of(config, *raised), state, config, 1.0).tau
        assert (after >= decide_temperature(stats_of(config, *lowest), state, config, 1.0).tau).all()


def test_temperature_reasons_and_degenerate_prompts() -> None:
    stats = statistics([[], [(1.0, "a")], binary(8), binary(4)], AGPO)
    initial = decide_temperature(stats, ControllerState.initial(AGPO), AGPO, 0.95)
    assert initial.tau.tolist() == [0.95] * 4
    assert label(initial.reason) == ["no_probe", "no_probe", "warmup", "warmup"]
    later = decide_temperature(stats, STATE, AGPO, 0.95)
    assert label(later.reason) == ["no_probe", "no_probe", "zero_dispersion", "heated"]
    assert later.tau[:2].tolist() == [0.95] * 2 and later.tau[2] < 0.95
    off = decide_temperature(stats, STATE, GRPO, 1 / 3)
    assert label(off.reason) == ["off"] * 4 and off.tau.tolist() == [1 / 3] * 4


def test_no_gain_is_exactly_the_base() -> None:
    config = AGPOConfig.from_dict({"temperature": {"gain": 0}})
    got = decide_temperature(statistics([binary(3)], config), STATE, config, 0.123456789 * 8)
    assert got.tau.item() == 0.123456789 * 8 and label(got.reason) == ["neutral"]


# --- clip, form log


def test_clip_closed_form() -> None:
    state = dataclasses.replace(
        ControllerState.initial(AGPO),
        dispersion=RunningStat.empty(0.1).update([0.3, 0.7]),
        vote_entropy=RunningStat.empty(0.1).update([0.2, 0.4]),
        skewness=RunningStat.empty(0.1).update([0.5]),
        entropy=RunningStat.empty(0.1).update([0.8]),
        step_kl=RunningStat.empty(0.1).update([0.03]),
    )
    got = clip(stats_of(AGPO, [0.6], [0.5], [0.9]), StepSignals(policy_entropy=0.6), state, low=0.2, high=0.28)
    s = -0.1 * 0.5 + 0.1 * 2.0 + 0.5 * math.log(0.75) - 0.5 * math.log(3)
    assert got.log_scale.item() == pytest.approx(s, abs=1e-12)
    assert got.low.item() == pytest.approx(0.2 * math.exp(s), abs=5e-7)
    assert got.high.item() == pytest.approx(0.28 * math.exp(s), abs=5e-7)
    assert label(got.reason) == ["tightened"]


def test_drift_of_twice_the_target_visibly_tightens() -> None:
    stats = statistics([binary(4), binary(0)], AGPO)
    calm = clip(stats, state=with_kl(STATE, 0.01))
    drifting = clip(stats, state=with_kl(STATE, 0.02))
    # kl_gain 0.5: by the square root of 2
    assert (calm.low / drifting.low).tolist() == pytest.approx([math.sqrt(2)] * 2, abs=1e-5)
    below = clip(stats, state=with_kl(STATE, 0.0001))
    assert same_bits(below.low, calm.low)


def test_both_bounds_of_eps_are_reached_by_each_controller_input() -> None:
    stats = stats_of(AGPO, [0.5], [0.5], [0.0])
    assert clip(stats, state=with_kl(STATE, 1.0)).low.item() == 0.05
    assert label(clip(stats, state=with_kl(STATE, 1.0)).reason) == ["at_min"]
    votes = dataclasses.replace(STATE, vote_entropy=RunningStat.empty(0.1).update([0.0]))
    wide = clip(stats_of(AGPO, [0.5], [1.0], [0.0]), state=votes)
    assert wide.low.item() == wide.high.item() == 0.4
    assert label(wide.reason) == ["at_max"]


ONLY_KL = AGPOConfig.from_dict({"clip": {"dispersion_gain": 0.0, "vote_entropy_gain": 0.0, "entropy_gain": 0.0}})
PUBLISHED = {"GSPO": (3e-4, 4e-4), "a narrow clip": (0.01, 0.04), "a wide clip": (0.6, 5.0)}


@pytest.mark.parametrize(("low", "high"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_bounds_move_with_a_base_outside_of_them(low: float, high: float) -> None:
    """The same scale as around 0.2, within a quarter and twice the base: both sides keep their proportion."""
    stats = stats_of(AGPO, [0.5], [0.5], [0.0])
    for kl, factor in ((0.02, 2**-0.5), (0.04, 0.5), (1.0, 0.25)):
        state = with_kl(STATE, kl)
        got, usual = clip(stats, state=state, config=ONLY_KL, low=low, high=high), clip(stats, None, state, ONLY_KL)
        assert (got.low / low).tolist() == pytest.approx([factor], rel=1e-5)
        assert (got.high / high).tolist() == pytest.approx([factor], rel=1e-5)
        assert (usual.low / 0.2).tolist() == pytest.approx([factor], rel=1e-5)
        assert same_bits(got.reason, usual.reason)
    assert clip_bounds(AGPO.clip, low) == pytest.approx((low / 4, 2 * low), rel=1e-12)
    votes = dataclasses.replace(STATE, vote_entropy=RunningStat.empty(0.1).update([0.0]))
    wide = clip(stats_of(AGPO, [0.5], [1.0], [0.0]), state=votes, low=low, high=high)
    assert [wide.low.item() / low, wide.high.item() / high] == pytest.approx([2.0, 2.0], rel=1e-12)
    assert label(wide.reason) == ["at_max"]
    calm = clip(stats, state=ControllerState.initial(AGPO), low=low, high=high)
    assert (calm.low.item(), calm.high.item()) == (low, high)


def test_bounds_within_which_the_base_lies_are_taken_as_they_are() -> None:
    narrow = AGPOConfig.from_dict({"clip": {"min": 1e-4, "max": 5e-4}})
    assert clip_bounds(narrow.clip, 3e-4) == (1e-4, 5e-4)
    assert clip_bounds(AGPO.clip, 0.05) == clip_bounds(AGPO.clip, 0.2) == clip_bounds(AGPO.clip, 0.4) == (0.05, 0.4)
    for bounds in ({"min": 0.25, "max": 0.3}, {"min": 0.01, "max": 0.1}):  # 0.2 is outside
        low, high = clip_bounds(AGPOConfig.from_dict({"clip": bounds}).clip, 0.001)
        assert low <= 0.001 <= high


def test_the_form_reference_moves_its_bounds_too() -> None:
    config = AGPOConfig.from_dict({"preset": "reference", "clip": {"base": "auto"}})
    stats = statistics([binary(4)], config)
    usual = decide_clip(stats, StepSignals(policy_entropy=1.0), trained_state(config), config, 0.2, 0.28)
    small = decide_clip(stats, StepSignals(policy_entropy=1.0), trained_state(config), config, 0.0002, 0.00028)
    assert (small.low * 1000).tolist() == pytest.approx(usual.low.tolist(), rel=1e-9)
    assert (small.high * 1000).tolist() == pytest.approx(usual.high.tolist(), rel=1e-9)


def test_without_a_lower_clip_only_the_upper_one_is_adapted() -> None:
    """CISPO in verl: a lower clip ratio of 10, so the ratio is bounded above only."""
    stats = stats_of(AGPO, [0.5], [0.5], [0.0])
    for kl, reason in ((0.02, "tightened"), (1.0, "at_min")):
        state = with_kl(STATE, kl)
        got, usual = clip(stats, None, state, ONLY_KL, low=10.0), clip(stats, None, state, ONLY_KL)
        assert got.low.tolist() == [10.0]
        assert same_bits(got.high, usual.high)
        assert label(got.reason) == [reason]


SIGNS = {"dispersion": -1, "vote_entropy": 1, "skewness": 1, "policy_entropy": 1, "step_kl": -1}
ALL_GAINS = AGPOConfig.from_dict({"clip": {"skewness_gain": 0.1}})


@settings(max_examples=60, deadline=None)
@given(
    unit,
    unit,
    st.floats(0, 0.9),
    st.floats(0.1, 3),
    st.floats(0, 0.1),
    st.floats(0, 1),
    st.sampled_from(list(SIGNS)),
)
def test_clip_is_bounded_and_monotone_in_each_signal_with_its_documented_sign(
    d: float, e: float, k: float, entropy: float, kl: float, more: float, which: str
) -> None:
    def eps(raise_by: float) -> torch.Tensor:
        value = {"dispersion": d, "vote_entropy": e, "skewness": k, "policy_entropy": entropy, "step_kl": kl}
        value[which] += raise_by
        stats = stats_of(
            ALL_GAINS,
            [min(value["dispersion"], 1.0)],
            [min(value["vote_entropy"], 1.0)],
            [min(value["skewness"], 0.95)],
        )
        state = with_kl(trained_state(ALL_GAINS), value["step_kl"])
        got = clip(stats, StepSignals(policy_entropy=value["policy_entropy"]), state, ALL_GAINS, 0.2, 0.28)
        return torch.stack([got.low, got.high])

    before, after = eps(0.0), eps(more)
    assert ((before >= 0.05) & (before <= 0.4)).all()
    assert (SIGNS[which] * (after - before) >= 0).all()


@pytest.mark.parametrize("which", list(SIGNS))
def test_each_signal_moves_the_clip(which: str) -> None:
    value = {"dispersion": 0.5, "vote_entropy": 0.5, "skewness": 0.3, "policy_entropy": 1.0, "step_kl": 0.012}

    def eps() -> float:
        stats = stats_of(ALL_GAINS, [value["dispersion"]], [value["vote_entropy"]], [value["skewness"]])
        state = with_kl(trained_state(ALL_GAINS), value["step_kl"])
        return float(clip(stats, StepSignals(policy_entropy=value["policy_entropy"]), state, ALL_GAINS).low)

    before = eps()
    value[which] *= 1.3
    assert SIGNS[which] * (eps() - before) > 1e-3


@given(entropies)
def test_unusable_policy_entropy_contributes_nothing(entropy: float | None) -> None:
    stats = statistics([binary(4)], AGPO)
    got, without = clip(stats, StepSignals(policy_entropy=entropy)), clip(stats, StepSignals())
    if entropy is None or not math.isfinite(entropy) or entropy <= 0:
        assert same_bits(got.low, without.low)
    assert abs(got.log_scale.item() - without.log_scale.item()) <= 0.5 * math.log(2) + 1e-12


def test_clip_reasons_and_degenerate_prompts() -> None:
    stats = statistics([[], binary(8), binary(4)], AGPO)
    initial = clip(stats, state=ControllerState.initial(AGPO), low=0.2, high=0.28)
    assert label(initial.reason) == ["no_probe", "warmup", "warmup"]
    assert initial.low.tolist() == [0.2] * 3 and initial.high.tolist() == [0.28] * 3
    drifting = clip(stats, StepSignals(), with_kl(STATE, 0.02))
    assert drifting.low[0].item() == pytest.approx(0.2 / math.sqrt(2), abs=1e-6)  # no probe: the KL term alone
    assert label(drifting.reason)[:2] == ["no_probe", "zero_dispersion"]
    off = clip(stats, config=GRPO, low=0.2, high=0.9)
    assert label(off.reason) == ["off"] * 3 and off.high.tolist() == [0.9] * 3


@given(st.floats(-1e3, 1e3), st.floats(0, 1e6))
def test_extreme_gains_stay_within_bounds(gain: float, kl: float) -> None:
    config = AGPOConfig.from_dict({"clip": {"dispersion_gain": gain}, "temperature": {"gain": gain}})
    stats = statistics([binary(4), binary(0)], config)
    got = clip(stats, state=with_kl(STATE, kl), config=config)
    assert ((got.low >= 0.05) & (got.high <= 0.4)).all()
    tau = decide_temperature(stats, STATE, config, 1.0).tau
    assert ((tau >= 0.7) & (tau <= 1.4)).all()


# --- form reference (figures of METHOD 1.3)


def reference_eps(right: int, classes: bool = False, kl: float = 0.0) -> float:
    state = ControllerState.initial(REFERENCE)
    state = dataclasses.replace(state, reference=dataclasses.replace(state.reference, h_ref=1.0, kl_ema=kl))
    group = torch.tensor([[1.0] * right + [0.0] * (8 - right)])
    votes = torch.arange(8).unsqueeze(0) if classes else None
    stats = probe_statistics(group, votes, config=REFERENCE)
    return float(decide_clip(stats, StepSignals(policy_entropy=1.0), state, REFERENCE, 0.2, 0.2).low)


def test_reference_clip_on_a_mixed_group() -> None:
    assert reference_eps(4) == pytest.approx(0.1303, abs=5e-5)
    assert reference_eps(4) == pytest.approx(0.2 / (1 + math.sqrt(2 / 7)), rel=1e-14)
    assert reference_eps(4, kl=0.01) == pytest.approx(0.1299, abs=5e-5)
    assert reference_eps(0) == reference_eps(8) == 0.2


def test_reference_clip_never_reaches_its_bounds() -> None:
    """Binary outcomes, G = 8: from half right with the entropy gate at 0.5 to eight answers with the gate at
    1.5."""
    values = []
    for right in range(9):
        for entropy in (0.01, 1.0, 100.0):
            for votes in (torch.zeros(1, 8).long(), torch.arange(8).unsqueeze(0)):
                state = ControllerState.initial(REFERENCE)
                state = dataclasses.replace(state, reference=dataclasses.replace(state.reference, h_ref=1.0))
                stats = probe_statistics(torch.tensor([[1.0] * right + [0.0] * (8 - right)]), votes, config=REFERENCE)
                values.append(
                    float(decide_clip(stats, StepSignals(policy_entropy=entropy), state, REFERENCE, 0.2, 0.2).low)
                )
    assert min(values) == pytest.approx(0.0652, abs=5e-5)
    assert max(values) == pytest.approx(0.3624, abs=5e-5)


@given(probes(max_prompts=8), st.floats(0, 5))
def test_reference_temperature_never_cools_below_085(groups: list, u_bar: float) -> None:
    state = ControllerState.initial(REFERENCE)
    state = dataclasses.replace(state, reference=dataclasses.replace(state.reference, u_bar=u_bar))
    got = decide_temperature(statistics(groups, REFERENCE), state, REFERENCE, 1.0)
    assert ((got.tau >= 0.85 - 1e-12) & (got.tau <= 1.5)).all()


def test_reference_baseline_is_folded_in_order() -> None:
    outcomes = torch.tensor([[1.0] * 4 + [0.0] * 4, [1.0] + [0.0] * 7, [0.0] * 8])
    stats = probe_statistics(outcomes, config=REFERENCE)
    u1, u2 = math.sqrt(2 / 7), math.sqrt(1 / 8)
    bar2 = 0.1 * u2 + 0.9 * u1
    state = ControllerState.initial(REFERENCE)
    got = decide_temperature(stats, state, REFERENCE, 1.0)
    expected = [0.0, (u2 - u1) / (u1 + 1e-8), -bar2 / (bar2 + 1e-8)]
    assert got.centred.tolist() == pytest.approx(expected, rel=1e-12)
    assert got.tau.tolist() == pytest.approx([1 + 0.15 * c for c in expected], rel=1e-12)
    assert label(got.reason) == ["warmup", "cooled", "zero_dispersion"]
    after = update_state(stats, StepSignals(), state, REFERENCE)
    assert after.reference.u_bar == pytest.approx(0.9 * bar2, rel=1e-12)


def test_reference_entropy_is_folded_in_order() -> None:
    stats = probe_statistics(torch.zeros(3, 8), config=REFERENCE)
    signals = StepSignals(
        policy_entropy=9.0, step_kl=0.02, step_kl_k3=0.02, policy_entropy_P=torch.tensor([1.0, 2.0, NAN])
    )
    state = ControllerState.initial(REFERENCE)
    got = decide_clip(stats, signals, state, REFERENCE, 0.2, 0.2)
    assert same_bits(got.low, got.high)
    # gates: seeded by itself 1; 2/1 held at 1.5; the third falls back to the step's 9, held at 1.5
    assert got.low.tolist() == pytest.approx([0.2, 0.3, 0.3], rel=1e-14)
    after = update_state(stats, signals, state, REFERENCE)
    assert after.reference.h_ref == pytest.approx(0.01 * 9 + 0.99 * (0.01 * 2 + 0.99 * 1.0), rel=1e-12)
    assert after.reference.kl_ema == pytest.approx(0.1 * 0.02, rel=1e-12)
    falling = update_state(stats, StepSignals(step_kl=-5.0, step_kl_k3=-5.0), after, REFERENCE)
    assert falling.reference.kl_ema == pytest.approx(0.9 * after.reference.kl_ema)
    with pytest.raises(ValueError, match="policy_entropy_P"):
        decide_clip(stats, StepSignals(policy_entropy=1.0, policy_entropy_P=torch.ones(2)), state, REFERENCE, 0.2, 0.2)


# --- state


def test_update_counts_and_leaves_unknown_signals_alone() -> None:
    stats = statistics([binary(4), binary(2)], AGPO)
    once = update_state(
        stats, StepSignals(policy_entropy=1.0, step_kl=0.02, step_kl_k3=0.02), ControllerState.initial(AGPO), AGPO
    )
    twice = update_state(stats, StepSignals(step_kl=NAN, step_kl_k3=NAN), once, AGPO)
    assert (twice.step, twice.uncertainty.updates) == (2, 2)
    assert twice.entropy == once.entropy and twice.step_kl == once.step_kl
    assert once.step_kl.mean == pytest.approx(0.02)
    assert (
        update_state(stats, StepSignals(policy_entropy=1.0, step_kl=-0.3, step_kl_k3=-0.3), once, AGPO).step_kl.mean
        < once.step_kl.mean
    )
    assert once.reference == ControllerState.initial(AGPO).reference


def test_a_run_of_certain_prompts_does_not_reset_the_baseline() -> None:
    state = trained_state(AGPO)
    for _ in range(50):
        state = update_state(statistics([binary(8)], AGPO), StepSignals(policy_entropy=1.0), state, AGPO)
    assert 0 < state.uncertainty.mean < 0.01 and state.uncertainty.updates == 51


def test_prompts_without_a_probe_do_not_enter_the_baseline() -> None:
    with_gaps = statistics([binary(4), [], [(1.0, "a")], [(NAN, "a")] * 3], AGPO)
    initial = ControllerState.initial(AGPO)
    full = update_state(statistics([binary(4)], AGPO), StepSignals(policy_entropy=1.0), initial, AGPO)
    assert update_state(with_gaps, StepSignals(policy_entropy=1.0), initial, AGPO) == full


# --- independence of order and batch, bit for bit

CONFIGS = [
    AGPO,
    AGPOConfig.from_dict(
        {
            "signals": {"dispersion": "mad", "normalize": False},
            "temperature": {"weight_skewness": 0.7},
            "clip": {"skewness_gain": 0.2},
        }
    ),
    AGPOConfig.from_dict({"signals": {"dispersion": "iqr", "skewness": "reference"}}),
]


@settings(max_examples=60, deadline=None)
@given(probes(), st.randoms(use_true_random=False), st.sampled_from(CONFIGS), entropies)
def test_same_decisions_in_any_order_and_any_batch(
    groups: list, shuffle: random.Random, config: AGPOConfig, entropy: float | None
) -> None:
    state, signals = trained_state(config), StepSignals(policy_entropy=entropy, step_kl=0.02, step_kl_k3=0.02)
    order = list(range(len(groups)))
    shuffle.shuffle(order)
    mixed = [shuffle.sample(groups[row], len(groups[row])) for row in order]
    stats, other = statistics(groups, config), statistics(mixed, config, width=11)
    tau, other_tau = (decide_temperature(s, state, config, 1.0) for s in (stats, other))
    eps, other_eps = (decide_clip(s, signals, state, config, 0.2, 0.28) for s in (stats, other))
    for left, right in ((tau, other_tau), (eps, other_eps)):
        for item in dataclasses.fields(left):
            assert same_bits(getattr(left, item.name)[order], getattr(right, item.name)), item.name
    assert update_state(stats, signals, state, config) == update_state(other, signals, state, config)
    for row, group in enumerate(groups):
        alone = statistics([group], config)
        assert same_bits(decide_temperature(alone, state, config, 1.0).tau, tau.tau[row : row + 1])
        assert same_bits(decide_clip(alone, signals, state, config, 0.2, 0.28).high, eps.high[row : row + 1])


def test_large_batch_has_the_decisions_of_single_prompts() -> None:
    shuffle = random.Random(5)
    groups = [[(shuffle.random(), shuffle.choice("abcdef")) for _ in range(16)] for _ in range(517)]
    stats = statistics(groups, AGPO)
    tau, eps = decide_temperature(stats, STATE, AGPO, 1.0).tau, clip(stats, low=0.2, high=0.28)
    for row in range(0, 517, 11):
        alone = statistics(groups[row : row + 1], AGPO)
        assert same_bits(decide_temperature(alone, STATE, AGPO, 1.0).tau, tau[row : row + 1])
        single = clip(alone, low=0.2, high=0.28)
        assert same_bits(single.low, eps.low[row : row + 1]) and same_bits(single.high, eps.high[row : row + 1])
    halves = merge_stats([stats.select(slice(300, 517)), stats.select(slice(0, 300))])
    assert update_state(
        stats, StepSignals(policy_entropy=1.0, step_kl=0.01, step_kl_k3=0.01), STATE, AGPO
    ) == update_state(halves, StepSignals(policy_entropy=1.0, step_kl=0.01, step_kl_k3=0.01), STATE, AGPO)


def test_exp_has_the_bits_of_the_scalar_library_in_every_batch_size() -> None:
    values = torch.linspace(-60, 60, 1237, dtype=torch.float64)
    expected = [math.exp(max(-50.0, min(50.0, value))) for value in values.tolist()]
    assert exp_exact(values).tolist() == expected
    assert all(exp_exact(values[i : i + 1]).item() == expected[i] for i in range(0, 1237, 13))


def test_reasons_have_labels() -> None:
    order = "off no_probe warmup at_min at_max zero_dispersion heated cooled widened tightened neutral"
    assert [reason.label for reason in Reason] == order.split()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_outcomes_give_the_bits_of_the_cpu() -> None:
    outcomes = torch.rand(64, 8)
    here, there = (probe_statistics(outcomes.to(device), config=AGPO) for device in ("cpu", "cuda"))
    assert same_bits(clip(here).low, clip(there).low)
