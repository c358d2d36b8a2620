# SPDX-License-Identifier: Apache-2.0
"""Batch rows -> groups, probe statistics, clip columns and decision rows."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from agpo_core import AGPOConfig, ControllerState, RunningStat, StepSignals, update_state
from agpo_core.temperature import uncertainty
from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW, PROBE, ProbeRecord
from recipe.agpo.rollout.outcomes import Scored, failed
from recipe.agpo.rollout.probe import decide
from recipe.agpo.training.batch import merged
from recipe.agpo.training.decisions import clip_columns, decision_rows
from tests.recipe.steps import Row, gather, record, settings, two_prompts

PAD = Row("padabc", 0, outcome=0.3, padding=True, record=record(), length=1, entropy=9.0)


def warm_state(config: AGPOConfig) -> ControllerState:
    """A state after two steps of other prompts, so that every controller acts."""
    state = ControllerState.initial(config)
    for outcome in (0.0, 1.0):
        rows = two_prompts()
        rows[4] = replace(rows[4], outcome=outcome)
        signals = StepSignals(policy_entropy=0.4 + outcome / 10, step_kl=0.02, step_kl_k3=0.02)
        state = update_state(gather(rows, config).stats, signals, state, config)
    return state


def test_statistics_come_from_the_probe() -> None:
    """Prompt a: outcomes 1, 0 -> sample deviation 1/sqrt 2, two votes -> ln 2. Prompt b: all equal."""
    groups = gather(two_prompts())
    assert [prompt.uid for prompt in groups.prompts] == ["a", "b"]
    assert groups.stats.count.tolist() == [2, 2]
    assert groups.stats.dispersion.tolist() == pytest.approx([math.sqrt(0.5), 0.0])
    assert groups.stats.vote_entropy.tolist() == pytest.approx([math.log(2), 0.0])
    assert groups.stats.mean.tolist() == [0.5, 1.0]
    assert groups.prompt_of_row == [0] * 4 + [1] * 4 and groups.valid_rows == 8
    assert groups.policy_entropy == 0.5


def test_entropy_is_a_token_mean_over_valid_rows() -> None:
    """3 tokens of 1.0 and 1 token of 3.0: 1.5; the failed row and padding do not count."""
    rows = [
        Row("a", 0, entropy=1.0),
        Row("a", 1, entropy=3.0, length=1),
        Row("b", 0, entropy=7.0, status="lost"),
        PAD,
    ]
    groups = gather(rows)
    assert groups.policy_entropy == 1.5
    by_prompt = groups.signals().policy_entropy_P
    assert by_prompt is not None and by_prompt[0] == 1.5 and bool(by_prompt[1].isnan())
    assert gather(rows, entropy=False).policy_entropy is None
    assert gather([replace(r, status="raised") for r in rows]).policy_entropy is None


@pytest.mark.parametrize("preset", ["agpo", "grpo"])
def test_any_order_of_rows_gives_the_same_bits(preset: str) -> None:
    config = AGPOConfig.from_preset(preset)
    state = warm_state(config)
    rows = [replace(r, entropy=0.1 + i / 7, length=2 + i) for i, r in enumerate(two_prompts())] + [PAD]
    shuffler = random.Random(0)
    seen = set()
    for _ in range(6):
        groups = gather(rows, config, state)
        columns = clip_columns(groups, state, config, settings(config))
        after = update_state(groups.stats, groups.signals(0.01, 0.01), state, config)
        decisions = sorted(
            (row.key, float(low), float(high))
            for row, low, high in zip(rows, columns[CLIP_LOW], columns[CLIP_HIGH], strict=True)
        )
        seen.add((repr(decisions), repr(after)))
        shuffler.shuffle(rows)
    assert len(seen) == 1
    if preset == "agpo":
        assert decisions[0][1] != decisions[-2][1], "prompts a and b must differ, or nothing was tested"


@pytest.mark.parametrize("rows_first", [4, 5])
def test_batches_of_one_step_merge_into_what_one_batch_would_be(rows_first: int) -> None:
    """separate_async trains several batches on one rollout version."""
    config = AGPOConfig()
    state = warm_state(config)
    rows = [replace(r, entropy=0.25 + i / 8, length=2 + i) for i, r in enumerate(two_prompts())]
    pad = [PAD] * (rows_first - 4)  # a padding row in the middle
    parts = []
    for part in (rows[:4] + pad, rows[4:]):
        groups = gather(part, config, state)
        clip_columns(groups, state, config, settings(config))
        parts.append(groups)
    whole, both = gather(rows[:4] + pad + rows[4:], config, state), merged(parts)
    assert repr(both.stats) == repr(whole.stats) and both.prompt_of_row == whole.prompt_of_row
    assert repr(both.signals(0.01, 0.01)) == repr(whole.signals(0.01, 0.01)) and both.policy_entropy is not None
    # What each batch decided stays; one batch of both would have decided with its own entropy.
    assert both.rows == parts[0].rows + parts[1].rows and both.prompts == parts[0].prompts + parts[1].prompts
    clip_columns(whole, state, config, settings(config))
    assert [replace(row, clip_low=None, clip_high=None) for row in both.rows if row.prompt] == [
        replace(row, clip_low=None, clip_high=None) for row in whole.rows if row.prompt
    ]
    blind = merged([gather(part, config, state, entropy=False) for part in (rows[:4], rows[4:])])
    assert blind.policy_entropy is None and blind.signals().policy_entropy_P is None


def test_padding_rows_take_part_in_nothing() -> None:
    config = AGPOConfig()
    state = warm_state(config)
    bare, padded = gather(two_prompts(), state=state), gather([*two_prompts(), PAD], state=state)
    assert padded.prompts == bare.prompts
    last = padded.rows[-1]
    assert padded.prompt_of_row[-1] == -1 and not last.valid and (last.status, last.tokens) == ("padding", 0)
    assert repr(padded.stats) == repr(bare.stats) and padded.policy_entropy == bare.policy_entropy
    columns = clip_columns(padded, state, config, settings(config))
    assert columns[CLIP_LOW][-1] == pytest.approx(0.2) and columns[CLIP_HIGH][-1] == pytest.approx(0.28)
    assert [row["prompt"] for row in decision_rows(padded, 1)] == ["a", "b"]


def test_clip_columns_give_all_rows_of_a_prompt_its_ratio() -> None:
    config = AGPOConfig()
    state = warm_state(config)
    groups = gather(two_prompts(), config, state)
    columns = clip_columns(groups, state, config, settings(config))
    for column in columns.values():
        assert column.dtype == torch.float32 and column.shape == (8,)
        assert len(set(column[:4].tolist())) == len(set(column[4:].tolist())) == 1
    ratio = columns[CLIP_HIGH] / columns[CLIP_LOW]
    assert ratio.tolist() == pytest.approx([1.4] * 8, rel=1e-4), "both sides move together: 0.28/0.2"


def test_a_discarded_probe_speaks_through_its_record() -> None:
    """Its rows are not in the batch; outcomes without a reward do not count."""
    config = AGPOConfig.from_dict({"probe": {"reuse": False, "size": 3}})
    probe = record(
        outcomes=[1.0, None, 0.0],
        vote_keys=["5", "", "6"],
        statuses=["ok", "lost", "ok"],
        discarded=True,
    )
    rows = [Row("a", i, record=probe, tau=1.1) for i in range(4)]
    groups = gather(rows, config)
    assert groups.stats.count.tolist() == [2]
    assert groups.stats.dispersion.tolist() == pytest.approx([math.sqrt(0.5)])


def test_failed_rows_leave_statistics_and_validity() -> None:
    rows = two_prompts()
    rows[1] = replace(rows[1], status="lost")
    groups = gather(rows)
    assert groups.stats.count.tolist() == [1, 2]
    assert groups.column("valid") == [True, False, *[True] * 6]
    assert groups.first_failure == "lost"
    assert math.isnan(groups.rows[1].outcome)


def test_a_row_without_a_token_is_not_valid() -> None:
    assert gather([Row("a", 0), replace(Row("a", 1), length=0)]).column("valid") == [True, False]


def test_outputs_of_one_session_count_once() -> None:
    """Three outputs of session 0, in any order; session 10 comes after session 2."""
    rows = [
        Row("a", 0, output=2, role=PROBE),
        Row("a", 0, output=0, role=PROBE),
        Row("a", 0, output=1, role=PROBE),
        Row("a", 10, outcome=0.0, role=PROBE),
    ]
    groups = gather(rows)
    assert groups.column("final") == [True, False, False, True]
    assert groups.column("session") == ["a_0", "a_0", "a_0", "a_10"]
    assert groups.stats.count.tolist() == [2]
    assert groups.column("tokens") == [3, 0, 0, 3], "verl gives every output the session's columns"


def test_decision_rows_are_json_and_say_everything() -> None:
    rows = two_prompts()
    rows[7] = replace(rows[7], status="raised", vote_key="")
    config = AGPOConfig()
    groups = gather(rows)
    clip_columns(groups, ControllerState.initial(config), config, settings(config))
    a, b = json.loads(json.dumps(decision_rows(groups, 7), allow_nan=False))
    assert (a["step"], a["prompt"], a["tau"], a["tau_reason"]) == (7, "a", 1.1, "heated")
    assert (a["eps_low"], a["eps_high"], a["eps_reason"]) == (0.2, 0.28, "warmup")
    assert a["outcomes"] == [1.0, 0.0, 1.0, 1.0] and a["roles"] == ["probe", "probe", "rest", "rest"]
    assert a["probe_vote_entropy"] == pytest.approx(math.log(2), abs=1e-6)
    assert a["tokens"] == [3, 3, 3, 5]
    assert b["outcomes"] == [1.0, 1.0, 1.0, None] and b["statuses"][3] == "raised"


def test_the_trainer_reads_the_statistics_that_the_rollout_decided_with() -> None:
    """The outcome column is float32; measured again from it, U would differ in the 9th digit."""
    config, state = AGPOConfig(), ControllerState.initial(AGPOConfig())
    rows = [replace(row, outcome=0.1 + 0.7 * i / 3) for i, row in enumerate(two_prompts()[:4])]
    groups = gather(rows, config, state)
    probe = decide([scored(row.outcome, row.vote_key) for row in rows[:2]], state, config, 1.0)
    assert groups.prompts[0].record is not None and groups.prompts[0].record.stats == probe.stats
    assert uncertainty(groups.stats, config).tolist() == [probe.uncertainty]
    assert groups.rows[1].outcome != rows[1].outcome, "this one went through float32"
    after = update_state(groups.stats, groups.signals(), state, config)
    assert after.uncertainty.mean == probe.uncertainty


def test_without_clip_and_records() -> None:
    (row,) = decision_rows(gather([Row("a", 0, tau=0.9), Row("a", 1, tau=0.9)]), 1)
    assert (row["tau"], row["tau_reason"], row["eps_low"], row["eps_reason"]) == (0.9, "off", None, "off")


# ---- the decision of one prompt ----------------------------------------------------------------------


def scored(outcome: float, key: str) -> Scored:
    return Scored(reward=outcome, outcome=outcome, vote_key=key)


def test_a_prompt_that_is_less_certain_than_usual_is_heated() -> None:
    """U of a split pair: 1 + 1; running mean 1, deviation at the floor 0.05: tau at its bound."""
    config = AGPOConfig()
    usual = RunningStat.empty(0.1).update([1.0]).update([1.0])
    state = replace(ControllerState.initial(config), uncertainty=usual)
    split = decide([scored(1, "5"), scored(0, "6")], state, config, 1.0)
    same = decide([scored(1, "5"), scored(1, "5")], state, config, 1.0)
    assert (split.tau, split.reason, split.uncertainty) == (1.4, "at_max", pytest.approx(2.0))
    assert (same.tau, same.reason, same.uncertainty) == (0.7, "at_min", 0.0)
    assert ProbeRecord.from_json(split.to_json()) == split


def test_no_probe_response_with_a_reward_means_the_base_temperature() -> None:
    config = AGPOConfig()
    for nothing in ([], [failed("lost", ""), failed("raised", "")]):
        found = decide(nothing, warm_state(config), config, 0.9)
        assert (found.tau, found.reason) == (0.9, "no_probe")
        assert found.outcomes == [None] * len(nothing)
        json.loads(found.to_json())
