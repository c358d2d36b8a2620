# SPDX-License-Identifier: Apache-2.0
"""What a step logs, and that the glossary says all of it and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from agpo_core import ControllerState, StepSignals, StepSize, TokenLedger, update_state
from recipe.agpo.rewards.verdict import RESPONSE_STATUSES
from recipe.agpo.settings import RunConfig
from recipe.agpo.training.actor_loss import METRIC_PREFIX
from recipe.agpo.training.batch import StepGroups
from recipe.agpo.training.decisions import clip_columns
from recipe.agpo.training.metrics import (
    DASHBOARD,
    GLOSSARY,
    in_glossary,
    pop_update_sums,
    rate_metrics,
    step_metrics,
    update_shares,
)
from recipe.agpo.training.token_ledger import ledger_metrics
from tests.recipe.steps import Row, gather, record, settings, two_prompts

SUMS = {
    f"{METRIC_PREFIX}{key}": value
    for key, value in {
        "tokens": 200.0,
        "clip_low_tokens": 10.0,
        "clip_high_tokens": 5.0,
        "kl_sum": 0.4,
        "kl_k3_sum": 0.2,
        "nonfinite_tokens": 1.0,
        "lr_sum": 4e-6,
        "stopped": 1.0,
        "updates": 4.0,
    }.items()
}
ADAPTIVE_LOSS = {
    f"{METRIC_PREFIX}{key}": v
    for key, v in {"adaptive_rows": 8.0, "adaptive_weight_sum": 6.0, "floored_rows": 2.0}.items()
}


def clipped(groups: StepGroups, state: ControllerState, config: RunConfig) -> StepGroups:
    clip_columns(groups, state, config, settings(config))
    return groups


def full_step() -> dict[str, float]:
    """A step that logs everything: warm state, a failed row of each kind, a discarded probe, padding."""
    config = RunConfig.from_dict(
        {"advantage": {"zero_variance": "mask"}, "length": {"weight": 0.1}, "allocation": {"enabled": True}}
    )
    state = ControllerState.initial(config)
    state = update_state(
        gather(two_prompts()).stats, StepSignals(policy_entropy=0.4, step_kl=0.02, step_kl_k3=0.02), state, config
    )
    rows = [
        *two_prompts(),
        *(replace(Row("c", i), status=status) for i, status in enumerate(RESPONSE_STATUSES[1:])),
        Row("d", 0, record=record(discarded=True, reason="at_max", tau=1.4), tau=1.4),
        Row("pad", 0, padding=True),
    ]
    groups = clipped(gather(rows, config, state), state, config)
    for row in groups.rows:
        row.length = 0.05
    sums = pop_update_sums(SUMS | ADAPTIVE_LOSS, METRIC_PREFIX)
    drift = update_shares(sums) | rate_metrics(sums, state)
    tokens = ledger_metrics(TokenLedger(26, 12), TokenLedger(126, 12, lost_sessions=2), budget=1000)
    return step_metrics(groups, state, config) | drift | tokens | {"agpo/overhead_s": 0.01, "agpo/nonfinite_steps": 0.0}


def test_every_logged_key_is_in_the_glossary_and_every_entry_is_logged() -> None:
    logged = full_step()
    assert [key for key in logged if not in_glossary(key)] == []
    for entry in GLOSSARY:
        pattern = re.sub(r"<[a-z]+>", "[a-z_]+", entry)
        pattern = re.sub(r"\{([^}]*)\}", lambda m: f"({m[1].replace(',', '|')})", pattern)
        assert any(re.fullmatch(pattern, key) for key in logged), entry
    assert not in_glossary("agpo/nonsense") and not in_glossary("agpo/tau/median")
    assert all(isinstance(value, float) for value in logged.values())


def test_figures_of_a_hand_made_step() -> None:
    """a: outcomes 1, 0, 1, 1; b: all 1. 3 tokens a row, 5 in one."""
    config, state = RunConfig(), ControllerState.initial(RunConfig())
    groups = clipped(gather(two_prompts()), state, config)
    logged = step_metrics(groups, state, config)
    expected = {
        "agpo/outcome/mean": 7 / 8,
        "agpo/outcome/probe_mean": 3 / 4,
        "agpo/zero_variance_share": 0.5,
        "agpo/tau/min": 0.9,
        "agpo/tau/max": 1.1,
        "agpo/tau/reason/heated": 1.0,
        "agpo/tau/reason/cooled": 1.0,
        "agpo/tau/share_at_max": 0.0,
        "agpo/eps/mean": 0.2,
        "agpo/eps_high/mean": 0.28,
        "agpo/eps/reason/warmup": 2.0,
        "agpo/signal/policy_entropy": 0.5,
        "agpo/state/updates": 0.0,
        "agpo/verifier/ok": 8.0,
        "agpo/verifier/seconds_mean": 0.25,
    }
    assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert "agpo/verifier/lost" not in logged and "agpo/state/uncertainty" not in logged


def test_discarded_probes_count_for_the_verifier_and_padding_does_not() -> None:
    config = RunConfig.from_dict({"probe": {"reuse": False}})
    probe = record(discarded=True, statuses=["ok", "lost"], outcomes=[1.0, None], vote_keys=["5", ""])
    groups = gather([Row("a", 0, record=probe), Row("pad", 0, padding=True)], config)
    logged = step_metrics(groups, ControllerState.initial(config), config)
    assert (logged["agpo/verifier/ok"], logged["agpo/verifier/lost"]) == (2.0, 1.0)


def test_outputs_of_one_session_count_once() -> None:
    config = RunConfig()
    groups = gather([Row("a", 0, output=i) for i in range(3)])
    logged = step_metrics(groups, ControllerState.initial(config), config)
    assert logged["agpo/verifier/ok"] == 1.0


def test_preset_grpo_logs_no_controller() -> None:
    config = RunConfig.from_preset("grpo")
    groups = gather([Row("a", i, outcome=float(i)) for i in range(4)], config)
    logged = step_metrics(groups, ControllerState.initial(config), config)
    assert not [k for k in logged if k.startswith(("agpo/eps", "agpo/state", "agpo/signal/disp"))]
    assert logged["agpo/tau/reason/off"] == 1.0


def test_a_step_in_which_everything_failed_still_logs() -> None:
    config = RunConfig()
    groups = gather([replace(r, status="lost", record=None) for r in two_prompts()])
    logged = step_metrics(groups, ControllerState.initial(config), config)
    assert (logged["agpo/verifier/lost"], logged["agpo/verifier/ok"]) == (8.0, 0.0)
    assert all(torch.isfinite(torch.tensor(list(logged.values()))).tolist())


def test_update_sums_leave_the_metrics_and_become_shares() -> None:
    metrics = dict(SUMS) | {"actor/pg_loss": 0.1}
    sums = pop_update_sums(metrics, METRIC_PREFIX)
    shares = {
        "agpo/step_kl": 0.002,
        "agpo/step_kl_k3": 0.001,
        "agpo/clip_fraction/low": 0.05,
        "agpo/clip_fraction/high": 0.025,
        "agpo/nonfinite_tokens": 1.0,
    }
    assert update_shares(sums) == pytest.approx(shares)
    scaled = replace(ControllerState.initial(RunConfig()), step_size=StepSize(0.25))
    rates = {"agpo/step_size/lr": 2.5e-7, "agpo/step_size/stopped": 0.25}
    assert rate_metrics(sums, scaled) == pytest.approx(rates) and rate_metrics({}, scaled) == {}
    one_update = sums | {"after_kl_k3_sum": 0.8, "after_tokens": 20.0}
    assert update_shares(one_update) == pytest.approx(shares | {"agpo/step_kl_k3": 0.04})
    adaptive = update_shares(pop_update_sums(SUMS | ADAPTIVE_LOSS, METRIC_PREFIX))
    assert (adaptive["agpo/loss/weight_mean"], adaptive["agpo/loss/floored_share"]) == (0.75, 0.25)
    twice = {key: 2 * value for key, value in sums.items()}
    assert update_shares(twice) == pytest.approx(shares | {"agpo/nonfinite_tokens": 2.0})
    assert metrics == {"actor/pg_loss": 0.1}
    assert pop_update_sums({}, METRIC_PREFIX) == {}
    assert update_shares({}) == update_shares({"tokens": 0.0}) == {}


def test_what_masks_lengths_and_allocation_log() -> None:
    logged = full_step()
    assert logged["agpo/masked_share"] == 0.0 and logged["agpo/length/part"] == pytest.approx(0.05)
    groups = gather(two_prompts())
    for row in groups.rows[:4]:
        row.masked = True
    config = RunConfig.from_dict({"advantage": {"zero_variance": "mask"}})
    assert step_metrics(groups, ControllerState.initial(config), config)["agpo/masked_share"] == 0.5
    sizes = {key: logged[f"agpo/group_size/{key}"] for key in ("min", "max")}
    assert sizes == {"min": 1.0, "max": 4.0}
    plain = step_metrics(groups, ControllerState.initial(RunConfig()), RunConfig())
    assert not {key for key in plain if key.startswith(("agpo/masked", "agpo/length", "agpo/group_size", "agpo/loss"))}


def test_the_dashboard_has_ten_curves_that_are_logged() -> None:
    assert len(DASHBOARD) == 10
    assert [key for key in DASHBOARD if key.startswith("agpo/") and key not in GLOSSARY and not in_glossary(key)] == []
    verls = {key for key in DASHBOARD if not key.startswith("agpo/")}
    assert verls == {"val-core/<source>/<metric>", "critic/score/mean", "response_length/clip_ratio"}
