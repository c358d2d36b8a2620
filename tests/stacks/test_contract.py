# SPDX-License-Identifier: Apache-2.0
"""The contract for integrations: it accepts this package and its integrations, and it finds what is wrong."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agpo_core import (
    AGPOConfig,
    ControllerState,
    ProbeStats,
    StepSignals,
    decide_clip,
    decide_temperature,
    group_advantages,
    policy_loss,
    probe_statistics,
    state_from_dict,
    state_to_dict,
    update_state,
    vote_classes,
)
from agpo_core.testing import Integration, Keys, Outcomes, check_integration
from examples.stacks import roll, skyrl
from examples.stacks.probe_gate import ProbeGate

STATISTICS = ("count", "mean", "dispersion", "skewness", "vote_entropy")


def measured(outcomes: Outcomes, keys: Keys, config: AGPOConfig | None = None) -> ProbeStats:
    values = torch.tensor(outcomes, dtype=torch.float64)
    return probe_statistics(values, vote_classes(keys), config=config or AGPOConfig())


def as_lists(stats: ProbeStats) -> dict[str, list[float]]:
    return {name: getattr(stats, name).tolist() for name in STATISTICS}


def core_temperature(
    outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float
) -> list[float]:
    return decide_temperature(measured(outcomes, keys, config), state, config, base).tau.tolist()


def core_clip(
    outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig, *bases: float
) -> tuple[list[float], list[float]]:
    decision = decide_clip(measured(outcomes, keys, config), signals, state, config, *bases)
    return decision.low.tolist(), decision.high.tolist()


def core_update(
    outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig
) -> ControllerState:
    return update_state(measured(outcomes, keys, config), signals, state, config)


def own_log_probs(logits: torch.Tensor, tokens: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    return picked(logits / tau.view(-1, 1, 1), tokens)


def picked(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def core_loss(mode: str, dual_clip: float | None) -> Callable[..., torch.Tensor]:
    def loss(log_prob: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return policy_loss(log_prob, *others, dual_clip=dual_clip, mode=mode)[0]  # type: ignore[arg-type]

    return loss


CORE = Integration(
    statistics=lambda outcomes, keys: as_lists(measured(outcomes, keys)),
    temperature=core_temperature,
    clip=core_clip,
    update=core_update,
    round_trip=lambda state: state_from_dict(state_to_dict(state)),
    advantages=group_advantages,
    log_probs=own_log_probs,
    loss=core_loss("token-mean", 3.0),
    dual_clip=3.0,
)


# ---- this package --------------------------------------------------------------------------------------


def test_the_package_itself() -> None:
    assert check_integration(CORE) == []


@pytest.mark.parametrize("dual_clip", [None, 3.0])
@pytest.mark.parametrize(
    "mode", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "token-sum", "seq-mean-token-sum-norm"]
)
def test_every_aggregation(mode: Any, dual_clip: float | None) -> None:
    loss = core_loss(mode, dual_clip)
    assert check_integration(Integration(loss=loss, loss_mode=mode, dual_clip=dual_clip)) == []


# ---- what it finds -------------------------------------------------------------------------------------


def population_std(outcomes: Outcomes, keys: Keys) -> dict[str, list[float]]:
    stats = as_lists(measured(outcomes, keys))
    n = [max(2.0, count) for count in stats["count"]]
    return stats | {"dispersion": [d * math.sqrt((c - 1) / c) for d, c in zip(stats["dispersion"], n, strict=True)]}


def failed_is_wrong(outcomes: Outcomes, keys: Keys) -> dict[str, list[float]]:
    return as_lists(measured([[0.0 if math.isnan(x) else x for x in row] for row in outcomes], keys))


def folded_prompt_by_prompt(
    outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float
) -> list[float]:
    taus = []
    for row, names in zip(outcomes, keys, strict=True):
        stats = measured([row], [names], config)
        taus.append(float(decide_temperature(stats, state, config, base).tau[0]))
        state = update_state(stats, StepSignals(), state, config)
    return taus


def first_members_eps(log_prob: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    *rest, low, high = others
    return policy_loss(log_prob, *rest, float(low[0]), float(high[0]), dual_clip=None)[0]


def broken(*args: Any) -> Any:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"statistics": population_std}, "dispersion of the probe 'half right' is 0.5, expected 0.57735"),
        ({"statistics": failed_is_wrong}, "count of the probe 'one failed' is 4, expected 3"),
        ({"statistics": lambda o, k: {}}, "statistics: vote_entropy is missing"),
        ({"temperature": folded_prompt_by_prompt}, "temperature: temperature depends on the order of prompts"),
        ({"temperature": lambda o, k, s, c, base: [base] * len(o)}, "temperature after two steps of the probe"),
        ({"temperature": lambda o, k, s, c, base: [base]}, "1 values for 7 prompts"),
        ({"clip": lambda o, k, g, s, c, low, high: ([low] * 7, [high] * 7)}, "lower clip ratio after two steps"),
        ({"clip": lambda o, k, g, s, c, low, high: (core_clip(o, k, g, s, c, low, high)[0],) * 2}, "clip: upper clip"),
        ({"update": lambda o, k, g, s, c: core_update(o, k, g, core_update(o, k, g, s, c), c)}, "went from 2 to 4"),
        ({"update": lambda o, k, g, s, c: core_update(o, k, StepSignals(), s, c)}, "entropy was folded 0 times"),
        ({"round_trip": lambda s: dataclasses.replace(s, step=0)}, "step does not survive: 0, was 2"),
        ({"advantages": lambda r, i: group_advantages(r, ["all"] * len(r))}, "reward 1.0 in [1.0, 0.0, 0.0, 0.0]"),
        ({"log_probs": lambda logits, tokens, tau: picked(logits, tokens)}, "log-prob at tau 0.7"),
        ({"loss": first_members_eps}, "gradient of a token with ratio 0.85, advantage -0.5 and clip ratios (0.2, 0.4)"),
        ({"loss": core_loss("token-sum", None)}, "loss: the loss is"),
        ({"loss": broken}, "loss: raised RuntimeError: out of memory"),
    ],
)
def test_departures_are_found_and_named(part: dict[str, Any], words: str) -> None:
    problems = check_integration(Integration(**part))
    assert any(words in problem for problem in problems), problems


def test_an_empty_integration_is_no_success() -> None:
    assert check_integration(Integration()) == ["nothing to check: every part is None"]


# ---- verl ----------------------------------------------------------------------------------------------


def test_verl(tmp_path: Path) -> None:
    from verl.workers.config import ActorConfig
    from verl.workers.config.actor import PolicyLossConfig

    from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW, PROBE
    from recipe.agpo.rollout import outcomes as scoring
    from recipe.agpo.rollout.probe import decide
    from recipe.agpo.settings import RunConfig
    from recipe.agpo.training import checkpoint
    from recipe.agpo.training.actor_loss import agpo_policy_loss
    from recipe.agpo.training.advantages import agpo_advantage
    from recipe.agpo.training.batch import StepGroups
    from recipe.agpo.training.decisions import clip_columns
    from tests.recipe.steps import Row, gather, settings

    def scored(outcome: float, key: str | None) -> scoring.Scored:
        if math.isnan(outcome):
            return scoring.failed("lost", "no reward")
        return scoring.Scored(outcome, outcome, key or "")

    def temperature(
        outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float
    ) -> list[float]:
        groups = [[scored(*pair) for pair in zip(*group, strict=True)] for group in zip(outcomes, keys, strict=True)]
        return [decide(group, state, config, base).tau for group in groups]

    def groups_of(outcomes: Outcomes, keys: Keys, signals: StepSignals, config: AGPOConfig) -> StepGroups:
        rows = [
            Row(
                uid=f"{p:03d}",
                session=g,
                outcome=outcomes[p][g],
                vote_key=keys[p][g] or "",
                role=PROBE,
                status="lost" if math.isnan(outcomes[p][g]) else "ok",
                entropy=signals.policy_entropy or 0.0,
            )
            for p in range(len(outcomes))
            for g in range(len(outcomes[p]))
        ]
        return gather(rows, config)

    def clip(
        outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig, *bases: float
    ) -> tuple[list[float], list[float]]:
        groups = groups_of(outcomes, keys, signals, config)
        columns = clip_columns(groups, state, config, settings(config))
        first = [groups.prompt_of_row.index(p) for p in range(len(outcomes))]
        return columns[CLIP_LOW][first].tolist(), columns[CLIP_HIGH][first].tolist()

    def update(
        outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig
    ) -> ControllerState:
        groups = groups_of(outcomes, keys, signals, config)
        return update_state(groups.stats, groups.signals(signals.step_kl, signals.step_kl_k3), state, config)

    def round_trip(state: ControllerState) -> ControllerState:
        checkpoint.write_state(tmp_path, state, RunConfig())
        return checkpoint.read_state(tmp_path, RunConfig())

    def advantages(rewards: torch.Tensor, index: list[str]) -> torch.Tensor:
        column = rewards.unsqueeze(-1)
        return agpo_advantage(column, torch.ones_like(column), index)[0].squeeze(-1)

    def loss(log_prob: torch.Tensor, old: torch.Tensor, adv: torch.Tensor, mask: torch.Tensor, *eps: Any) -> Any:
        config = ActorConfig(
            strategy="fsdp2",
            rollout_n=4,
            ppo_mini_batch_size=4,
            ppo_micro_batch_size_per_gpu=4,
            policy_loss=PolicyLossConfig(loss_mode="agpo"),
        )
        for name, column in zip(("clip_ratio_low", "clip_ratio_high"), eps, strict=True):
            object.__setattr__(config, name, column.unsqueeze(-1))
        return agpo_policy_loss(old, log_prob, adv.unsqueeze(-1).expand_as(old), mask, "token-mean", config)[0]

    verl = Integration(
        statistics=lambda o, k: as_lists(groups_of(o, k, StepSignals(), AGPOConfig()).stats),
        temperature=temperature,
        clip=clip,
        update=update,
        round_trip=round_trip,
        advantages=advantages,
        loss=loss,
        dual_clip=3.0,
    )
    assert check_integration(verl) == []


# ---- TRL -----------------------------------------------------------------------------------------------


def test_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed", exc_type=ImportError)
    from agpo_core import Resolved
    from examples.trl.agpo_grpo_trainer import EPS_HIGH, EPS_LOW, TAU
    from examples.trl.row_temperature import RowTemperature
    from examples.trl.step import GroupStep
    from examples.trl.train import build_trainer

    trainer = build_trainer(str(tmp_path), loss_type="grpo", max_steps=2, save_strategy="no")
    trainer.train()
    trainer.current_gradient_accumulation_steps = 1

    def step_of(outcomes: Outcomes, keys: Keys, base: float = 1.0) -> GroupStep:
        settings = Resolved(tau_base=base, clip_low=0.2, clip_high=0.28, probe_size=4, group_size=8)
        step = GroupStep([{}] * 8 * len(outcomes), settings, 0, lambda completion: completion)
        step.take_probe(torch.tensor(outcomes).view(-1, 1), [key for row in keys for key in row])
        return step

    def temperature(
        outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float
    ) -> list[float]:
        step = step_of(outcomes, keys, base)
        step.decide(decide_temperature(step.measure(config), state, config, base))
        assert bool((step.tau.view(-1, 8)[:, :4] == base).all())
        return step.tau.view(-1, 8)[:, 7].tolist()

    def round_trip(state: ControllerState) -> ControllerState:
        trainer.controller = state
        trainer._save_checkpoint(trainer.model, None)
        trainer.controller = ControllerState.initial(trainer.agpo)
        trainer._load_optimizer_and_scheduler(str(tmp_path / "checkpoint-2"))
        return trainer.controller

    def log_probs(logits: torch.Tensor, tokens: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """The backbone's hidden state is the logits, and the head does nothing."""

        class Backbone(torch.nn.Module):
            def forward(self, hidden: torch.Tensor) -> Any:
                return SimpleNamespace(last_hidden_state=hidden)

        model = SimpleNamespace(base_model=Backbone())
        with RowTemperature(model, base=1.0).at(tau):
            halves = [model.base_model(part).last_hidden_state for part in (logits[:2], logits[2:])]
        return picked(torch.cat(halves), tokens)

    def loss(log_prob: torch.Tensor, old: torch.Tensor, adv: torch.Tensor, mask: torch.Tensor, *eps: Any) -> Any:
        scored = (log_prob, torch.zeros_like(old), None)
        monkeypatch.setattr(trl.GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *args, **kwargs: scored)
        columns = {
            "prompt_ids": torch.zeros(4, 1).long(),
            "prompt_mask": torch.ones(4, 1).long(),
            "completion_ids": torch.zeros(4, 3).long(),
            "completion_mask": mask,
            "old_per_token_logps": old,
            "advantages": adv,
            TAU: torch.ones(4),
            EPS_LOW: eps[0],
            EPS_HIGH: eps[1],
        }
        return trainer._compute_loss(trainer.model, columns)

    in_trl = Integration(
        statistics=lambda o, k: as_lists(step_of(o, k).measure(AGPOConfig())),
        temperature=temperature,
        clip=lambda o, k, signals, state, config, low, high: tuple(  # type: ignore[arg-type, return-value]
            side.tolist() for side in _sides(step_of(o, k).measure(config), signals, state, config, low, high)
        ),
        update=lambda o, k, signals, state, config: update_state(step_of(o, k).measure(config), signals, state, config),
        round_trip=round_trip,
        log_probs=log_probs,
        loss=loss,
        loss_mode="seq-mean-token-mean",
    )
    assert check_integration(in_trl) == []


def _sides(stats: ProbeStats, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    decision = decide_clip(stats, *others)
    return decision.low, decision.high


# ---- the adapters for other stacks ---------------------------------------------------------------------


def gate_after(outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float) -> ProbeGate:
    """A gate whose groups have all been through it, with two responses after each probe."""
    gate = ProbeGate(config, temperature=base, clip_low=0.2, clip_high=0.28, group_size=len(outcomes[0]) + 2)
    gate.settings = dataclasses.replace(gate.settings, probe_size=len(outcomes[0]))
    gate.state = state

    async def main() -> None:
        async def answer(tau: float, p: int, g: int) -> tuple[float, str | None]:
            return (outcomes[p][g], keys[p][g]) if g < len(outcomes[p]) else (0.0, None)

        await asyncio.gather(
            *(
                gate.run(p, g, lambda tau, p=p, g=g: answer(tau, p, g), lambda pair: pair)  # type: ignore[misc]
                for p in range(len(outcomes))
                for g in range(len(outcomes[p]) + 2)
            )
        )

    asyncio.run(asyncio.wait_for(main(), 10))
    return gate


def test_the_probe_gate() -> None:
    def temperature(
        outcomes: Outcomes, keys: Keys, state: ControllerState, config: AGPOConfig, base: float
    ) -> list[float]:
        gate = gate_after(outcomes, keys, state, config, base)
        return [gate.temperature(p, len(outcomes[p])) for p in range(len(outcomes))]

    def clip(
        outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig, *bases: float
    ) -> tuple[list[float], list[float]]:
        gate = gate_after(outcomes, keys, state, config, 1.0)
        low, high = zip(*(gate.clip_ratios(p, signals) for p in range(len(outcomes))), strict=True)
        return list(low), list(high)

    def update(
        outcomes: Outcomes, keys: Keys, signals: StepSignals, state: ControllerState, config: AGPOConfig
    ) -> ControllerState:
        gate = gate_after(outcomes, keys, state, config, 1.0)
        gate.close_step(signals)
        return gate.state

    def round_trip(state: ControllerState) -> ControllerState:
        one = ProbeGate(AGPOConfig(), temperature=1.0, clip_low=0.2, clip_high=0.2, group_size=4)
        two = copy.copy(one)
        one.state = state
        with tempfile.TemporaryDirectory() as folder:
            one.save(Path(folder) / "state.json")
            two.load(Path(folder) / "state.json")
        return two.state

    gate = Integration(temperature=temperature, clip=clip, update=update, round_trip=round_trip)
    assert check_integration(gate) == []


def test_skyrl() -> None:
    def advantages(rewards: torch.Tensor, index: list[str]) -> torch.Tensor:
        return skyrl.agpo_advantage(rewards.unsqueeze(-1), torch.ones(len(rewards), 1), index)[0].squeeze(-1)

    def loss(log_prob: torch.Tensor, old: torch.Tensor, adv: torch.Tensor, mask: torch.Tensor, *eps: Any) -> Any:
        config = SimpleNamespace(eps_clip_low=eps[0], eps_clip_high=eps[1])
        return skyrl.agpo_policy_loss(log_prob, old, adv.unsqueeze(-1), config, mask)[0]

    assert check_integration(Integration(advantages=advantages, loss=loss, loss_mode="token-sum")) == []


def test_roll() -> None:
    class Worker(roll.RowSettings):
        """ROLL's clamp, in its own words of configuration."""

        pipeline_config = SimpleNamespace(pg_clip_low=0.2, pg_clip_high=0.2)

    class Base:
        def loss_func(self, data: Any, output_tensor: torch.Tensor) -> torch.Tensor:
            ratio = (data.batch["new"] - data.batch["old"]).exp()
            config = self.pipeline_config  # type: ignore[attr-defined]
            held = ratio.clamp(1 - config.pg_clip_low, 1 + config.pg_clip_high)
            advantages = data.batch["advantages"].unsqueeze(-1)
            return (-torch.min(ratio * advantages, held * advantages) * data.batch["mask"]).sum()

    worker = type("Worker", (Worker, Base), {})()

    def loss(log_prob: torch.Tensor, old: torch.Tensor, adv: torch.Tensor, mask: torch.Tensor, *eps: Any) -> Any:
        columns = {"new": log_prob, "old": old, "advantages": adv, "mask": mask}
        columns |= {roll.EPS_LOW: eps[0].unsqueeze(-1), roll.EPS_HIGH: eps[1].unsqueeze(-1)}
        return worker.loss_func(SimpleNamespace(batch=columns), torch.zeros(4, 3, 2))

    def log_probs(logits: torch.Tensor, tokens: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        data = SimpleNamespace(batch={roll.TAU: tau.unsqueeze(-1)})
        return picked(roll.at_own_temperature(data, logits), tokens)

    assert check_integration(Integration(log_probs=log_probs, loss=loss, loss_mode="token-sum")) == []
