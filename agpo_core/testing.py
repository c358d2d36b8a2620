# SPDX-License-Identifier: Apache-2.0
"""Contract tests for integrations: does a training stack compute what the method defines?

Wrap the parts of your stack in an `Integration` and assert `check_integration(it) == []`. The expected values come from
`agpo_core.expected`, in plain Python arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agpo_core.config import AGPOConfig
from agpo_core.expected import (
    BASE_EPS,
    BASE_EPS_HIGH,
    BASE_TAU,
    CASES,
    SIGNALS,
    GroupCase,
    LossCase,
    contract_config,
    contract_state,
    expected_scale,
    expected_tau,
    expected_uncertainty,
    normalised,
    within,
)
from agpo_core.losses import AggregationMode
from agpo_core.records import ControllerState, StepSignals

__all__ = ["Integration", "Keys", "Outcomes", "check_integration"]

Outcomes = list[list[float]]  # per prompt, per probe response; NaN: no trustworthy reward
Keys = list[list[str | None]]  # per prompt, per probe response: its canonical answer, None or "" if it has none


CLOSE = 1e-5


@dataclass(frozen=True)
class Integration:
    """The parts of one stack. Parts that are None are not checked.

    Attributes:
        statistics: (outcomes, keys) -> lists `count`, `mean`, `dispersion`, `skewness` (signed), `vote_entropy` (nats),
            one value per prompt.
        temperature: (outcomes, keys, state, config, base) -> the temperature of each prompt's further responses.
        clip: (outcomes, keys, signals, state, config, base_low, base_high) -> the lower and the upper clip ratios.
        update: (outcomes, keys, signals, state, config) -> the state of the next step.
        round_trip: a state -> the same state, saved and loaded again.
        advantages: (rewards [N], prompt of each response) -> [N]: (r - mean)/std within the prompt, exactly 0 where all
            rewards are equal.
        log_probs: (logits [B, T, V], tokens [B, T], tau [B]) -> the log-prob of each token at its row's temperature.
        loss: (log_prob, old_log_prob [B, T], advantages [B], mask [B, T], clip_low, clip_high [B]) -> the loss, with a
            gradient to `log_prob`.
        loss_mode: how the loss is aggregated.
        dual_clip: as in `clipped_surrogate`.
    """

    statistics: Callable[[Outcomes, Keys], Mapping[str, Sequence[float]]] | None = None
    temperature: Callable[[Outcomes, Keys, ControllerState, AGPOConfig, float], Sequence[float]] | None = None
    clip: (
        Callable[
            [Outcomes, Keys, StepSignals, ControllerState, AGPOConfig, float, float],
            tuple[Sequence[float], Sequence[float]],
        ]
        | None
    ) = None
    update: Callable[[Outcomes, Keys, StepSignals, ControllerState, AGPOConfig], ControllerState] | None = None
    round_trip: Callable[[ControllerState], ControllerState] | None = None
    advantages: Callable[[Tensor, list[str]], Tensor] | None = None
    log_probs: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    loss_mode: AggregationMode = "token-mean"
    dual_clip: float | None = None


def check_integration(integration: Integration) -> list[str]:
    """Compare an integration with the method.

    Returns:
        One sentence per difference; an empty list if there is none. An exception in the stack's own code is a
        difference.
    """
    parts: list[tuple[str, Callable[[Integration], Iterator[str]]]] = [
        ("statistics", _statistics),
        ("temperature", _temperature),
        ("clip", _clip),
        ("update", _update),
        ("round_trip", _round_trip),
        ("advantages", _advantages),
        ("log_probs", _log_probs),
        ("loss", _loss),
    ]
    given = [(name, check) for name, check in parts if getattr(integration, name) is not None]
    if not given:
        return ["nothing to check: every part is None"]
    problems: list[str] = []
    for name, check in given:
        try:
            problems += [f"{name}: {problem}" for problem in check(integration)]
        except Exception as error:  # whatever a stack's own code raises is a finding
            problems.append(f"{name}: raised {type(error).__name__}: {error}")
    return problems


# ---- checks ---------------------------------------------------------------------------------------------


def _batch(cases: Sequence[GroupCase] = CASES) -> tuple[Outcomes, Keys]:
    return [list(map(float, case.outcomes)) for case in cases], [list(case.keys) for case in cases]


def _compare(what: str, found: Sequence[float], wanted: Sequence[float], tolerance: float = CLOSE) -> Iterator[str]:
    found = [float(value) for value in found]
    if len(found) != len(wanted):
        yield f"{what}: {len(found)} values for {len(wanted)} prompts"
        return
    for case, value, right in zip(CASES, found, wanted, strict=True):
        if not abs(value - right) <= tolerance:  # a NaN is a problem too
            yield f"{what} of the probe '{case.name}' is {value:.6g}, expected {right:.6g}"


def _same_in_any_order(what: str, decide: Callable[[Outcomes, Keys], Sequence[float]]) -> Iterator[str]:
    """Prompts reversed, members of each group rotated: the same values bit for bit, reversed."""
    outcomes, keys = _batch()
    turned = [row[1:] + row[:1] for row in outcomes[::-1]], [row[1:] + row[:1] for row in keys[::-1]]
    straight, other = decide(outcomes, keys), decide(*turned)
    if [float(value) for value in straight] != [float(value) for value in other][::-1]:
        yield f"{what} depends on the order of prompts or of responses"


def _statistics(integration: Integration) -> Iterator[str]:
    measure = integration.statistics
    assert measure is not None
    found = measure(*_batch())
    for name in ("count", "mean", "dispersion", "skewness", "vote_entropy"):
        if name not in found:
            yield f"{name} is missing"
            continue
        yield from _compare(name, found[name], [float(getattr(case, name)) for case in CASES])
        yield from _same_in_any_order(name, lambda outcomes, keys, name=name: measure(outcomes, keys)[name])  # type: ignore[misc]


def _temperature(integration: Integration) -> Iterator[str]:
    decide, config = integration.temperature, contract_config()
    assert decide is not None
    for state in (ControllerState.initial(config), contract_state(config)):
        when = "in the first step" if state.step == 0 else "after two steps"
        found = decide(*_batch(), state, config, BASE_TAU)
        yield from _compare(f"temperature {when}", found, [expected_tau(case, state, config) for case in CASES])
    yield from _same_in_any_order("temperature", lambda outcomes, keys: decide(outcomes, keys, state, config, BASE_TAU))
    off = AGPOConfig.from_preset("grpo")
    yield from _compare("temperature with the controller off", decide(*_batch(), state, off, 0.9), [0.9] * len(CASES))


def _clip(integration: Integration) -> Iterator[str]:
    decide, config = integration.clip, contract_config()
    assert decide is not None
    for state in (ControllerState.initial(config), contract_state(config)):
        when = "in the first step" if state.step == 0 else "after two steps"
        scales = [expected_scale(case, state, config) for case in CASES]
        found = decide(*_batch(), SIGNALS, state, config, BASE_EPS, BASE_EPS_HIGH)
        for side, values, base in zip(("lower", "upper"), found, (BASE_EPS, BASE_EPS_HIGH), strict=True):
            wanted = [within(base * scale, config.clip.min, config.clip.max) for scale in scales]
            yield from _compare(f"{side} clip ratio {when}", values, wanted)
    yield from _same_in_any_order(
        "the clip ratio", lambda outcomes, keys: decide(outcomes, keys, SIGNALS, state, config, 0.2, 0.28)[0]
    )
    off = decide(*_batch(), SIGNALS, state, AGPOConfig.from_preset("grpo"), 0.2, 0.28)
    yield from _compare("upper clip ratio with the controller off", off[1], [0.28] * len(CASES))


def _update(integration: Integration) -> Iterator[str]:
    fold, config = integration.update, contract_config()
    assert fold is not None
    before = contract_state(config)
    frozen = dataclasses.asdict(before)
    after = fold(*_batch(), SIGNALS, before, config)
    if dataclasses.asdict(before) != frozen:
        yield "the old state was changed in place"
    if after.step != before.step + 1:
        yield f"the step went from {before.step} to {after.step}"
    counted = [case for case in CASES if case.count >= 2]
    wanted = {
        "uncertainty": [expected_uncertainty(case) for case in counted],
        "dispersion": [normalised(case)[0] for case in counted],
        "vote_entropy": [normalised(case)[1] for case in counted],
        "entropy": [SIGNALS.policy_entropy or 0.0],
        "step_kl": [SIGNALS.step_kl or 0.0],
    }
    for name, values in wanted.items():
        old, new = getattr(before, name), getattr(after, name)
        mean = (0.9 * old.mean_acc + 0.1 * math.fsum(values) / len(values)) / (0.9 * old.weight + 0.1)
        if new.updates != old.updates + 1:
            yield f"{name} was folded {new.updates - old.updates} times in one step"
        elif not abs(new.mean - mean) <= CLOSE:
            yield f"the running mean of {name} is {new.mean:.6g}, expected {mean:.6g}"
    turned = fold(*_batch(CASES[::-1]), SIGNALS, before, config)
    if turned != after:
        yield "the next state depends on the order of prompts"


def _round_trip(integration: Integration) -> Iterator[str]:
    turn, config = integration.round_trip, contract_config()
    assert turn is not None
    for state in (ControllerState.initial(config), contract_state(config)):
        back = turn(state)
        for field in dataclasses.fields(state):
            if getattr(back, field.name) != getattr(state, field.name):
                yield f"{field.name} does not survive: {getattr(back, field.name)}, was {getattr(state, field.name)}"


def _advantages(integration: Integration) -> Iterator[str]:
    compute = integration.advantages
    assert compute is not None
    groups = {"p": [1.0, 0.0, 0.0, 0.0], "q": [0.2, 0.8, 0.5, 0.1], "r": [0.3, 0.3, 0.3, 0.3]}
    rewards, index, wanted = [], [], []
    for member in range(4):  # interleaved: members of a prompt need not be neighbours
        for name, values in groups.items():
            mean = math.fsum(values) / 4
            std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / 3)
            rewards.append(values[member])
            index.append(name)
            wanted.append((values[member] - mean) / std if std > 1e-12 else 0.0)
    found = compute(torch.tensor(rewards), index).tolist()
    for name, reward, value, right in zip(index, rewards, found, wanted, strict=True):
        # frameworks add different small numbers to the deviation; equal rewards leave no room for that
        if not abs(value - right) <= (1e-3 * abs(right) if right else 0.0):
            yield f"reward {reward} in {groups[name]} has advantage {value:.6g}, expected {right:.6g}"


def _log_probs(integration: Integration) -> Iterator[str]:
    score = integration.log_probs
    assert score is not None
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1)) * 3.0
    tokens = torch.tensor([[0, 3, 6, 2], [1, 1, 4, 5], [6, 0, 2, 3]])
    tau = [0.7, 1.0, 1.3]
    found = score(logits, tokens, torch.tensor(tau))
    for row, temperature in enumerate(tau):
        for place in range(4):
            scaled = [value / temperature for value in logits[row, place].tolist()]
            highest = max(scaled)
            norm = highest + math.log(math.fsum(math.exp(value - highest) for value in scaled))
            right = scaled[int(tokens[row, place])] - norm
            value = float(found[row, place])
            if not abs(value - right) <= 1e-4:
                yield f"log-prob at tau {temperature} is {value:.6g}, expected {right:.6g}"


def _loss(integration: Integration) -> Iterator[str]:
    compute, case = integration.loss, LossCase()
    assert compute is not None
    old = torch.full((4, 3), -1.5)
    log_prob = (old + torch.tensor(case.ratios).log()).requires_grad_()
    columns = (torch.tensor(column) for column in (case.advantages, case.mask, case.low, case.high))
    advantages, mask, low, high = columns
    loss = compute(log_prob, old, advantages, mask.float(), low, high)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    total = 0.0
    for row in range(4):
        for place in range(3):
            value, slope = case.token(row, place, integration.dual_clip)
            share = case.mask[row][place] * case.weight(row, integration.loss_mode)
            total += share * value
            found = float(gradient[row, place])
            if not abs(found - share * slope) <= CLOSE:
                yield (
                    f"gradient of a token with ratio {case.ratios[row][place]}, advantage {case.advantages[row]} and "
                    f"clip ratios ({case.low[row]}, {case.high[row]}) is {found:.6g}, expected {share * slope:.6g}"
                )
    if not abs(float(loss.detach()) - total) <= CLOSE:
        yield f"the loss is {float(loss.detach()):.6g}, expected {total:.6g} ({integration.loss_mode})"
