# SPDX-License-Identifier: Apache-2.0
"""The controllers' cycle: probe outcomes -> statistics -> (decisions) -> the next state, once a step."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from agpo_core.clipping import fold_entropy, prompt_entropies, usable_entropy
from agpo_core.config import AGPOConfig
from agpo_core.records import (
    STATE_VERSION,
    ControllerState,
    ProbeStats,
    Reason,
    ReferenceState,
    StepSignals,
    StepSize,
    read_signals,
)
from agpo_core.stats import SortedGroups, max_dispersion
from agpo_core.step_size import next_step_size
from agpo_core.temperature import enough_probe, fold_baseline, uncertainty
from agpo_core.votes import vote_entropy

__all__ = [
    "STATE_VERSION",
    "ControllerState",
    "ProbeStats",
    "Reason",
    "ReferenceState",
    "StepSignals",
    "merge_stats",
    "probe_statistics",
    "update_state",
]


def _share(value_P: Tensor, largest_P: Tensor) -> Tensor:
    """value/largest within [0, 1]; 0 where the largest is 0."""
    possible = largest_P > 0.0
    ratio = value_P / torch.where(possible, largest_P, torch.ones_like(largest_P))
    return torch.where(possible, ratio, torch.zeros_like(ratio)).clamp(0.0, 1.0)


def probe_statistics(
    outcomes_PG: Tensor,
    vote_classes_PG: Tensor | None = None,
    mask_PG: Tensor | None = None,
    *,
    config: AGPOConfig,
) -> ProbeStats:
    """Summarise the probe of each prompt.

    outcomes_PG: verifier outcomes [P, G], any float type and device, normally within [0, 1]; NaN and infinite
    ones are failed responses and do not count, nor do masked ones. vote_classes_PG: int [P, G] of
    `vote_classes`, negative = no vote, or None: vote entropy 0. mask_PG: bool [P, G], or None: all count.
    Returns statistics [P] on the CPU in float64. An empty or single-member group has zero dispersion.
    """
    if outcomes_PG.dim() != 2:
        raise ValueError(f"expected outcomes [P, G], got {tuple(outcomes_PG.shape)}")
    outcomes = outcomes_PG.detach().to("cpu", torch.float64)
    mask = torch.ones_like(outcomes, dtype=torch.bool) if mask_PG is None else mask_PG.detach().cpu().bool()
    groups = SortedGroups(outcomes, mask)
    spread = groups.dispersion(config.signals.dispersion)
    skew = groups.skewness(config.signals.skewness)
    votes = torch.zeros_like(spread)
    most = torch.zeros_like(spread)
    if vote_classes_PG is not None:
        classes = vote_classes_PG.detach().cpu()
        voted = mask & outcomes.isfinite()
        votes = vote_entropy(classes, voted)
        logs = [math.log(n) if n else 0.0 for n in range(classes.shape[1] + 1)]
        most = torch.tensor(logs, dtype=torch.float64)[(voted & (classes >= 0)).sum(dim=1)]
    return ProbeStats(
        count=groups.count_P,
        mean=groups.mean_P,
        dispersion=spread,
        skewness=skew,
        vote_entropy=votes,
        normalized_dispersion=_share(spread, max_dispersion(groups.count_P, config.signals.dispersion)),
        normalized_skewness=skew.abs() / (1.0 + skew.abs()),
        normalized_vote_entropy=_share(votes, most),
    )


def merge_stats(parts: Sequence[ProbeStats]) -> ProbeStats:
    """One record of all prompts of `parts`, in that order; of no part: no prompt."""
    names = [item.name for item in dataclasses.fields(ProbeStats)]
    if not parts:
        empty = torch.zeros(0, dtype=torch.float64)
        return ProbeStats(empty.long(), *([empty] * (len(names) - 1)))
    return ProbeStats(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _fold_reference(stats: ProbeStats, signals: StepSignals, old: ReferenceState, config: AGPOConfig) -> ReferenceState:
    """The public code's running values after this step, prompts in the given order [code]."""
    u_bar, h_ref, kl_ema = old.u_bar, old.h_ref, old.kl_ema
    if config.temperature.form == "reference":
        enough = enough_probe(stats, "reference").tolist()
        _, _, u_bar = fold_baseline(uncertainty(stats, config).tolist(), enough, u_bar, config.signals.ema_weight)
    if config.clip.form == "reference":
        entropies = prompt_entropies(signals, len(stats))
        _, _, h_ref = fold_entropy(entropies, h_ref, config.reference.entropy_ema_weight)
        if signals.step_kl is not None and math.isfinite(signals.step_kl):
            weight = config.signals.ema_weight
            kl_ema = weight * max(0.0, signals.step_kl) + (1.0 - weight) * kl_ema
    return ReferenceState(u_bar, h_ref, kl_ema)


def _check_drift(signals: StepSignals, state: ControllerState, config: AGPOConfig) -> None:
    settings = config.step_size
    if not settings.enabled:
        return
    off = "or set step_size.enabled=false"
    if signals.step_kl is not None and signals.step_kl_k3 is None:
        raise ValueError(
            f"StepSignals has step_kl={signals.step_kl} but no step_kl_k3, which the adaptive step size is steered by: "
            f"the learning rate would stay at {state.step_size.scale:g} of what was asked for. Report "
            f"clipped_surrogate's step_kl_k3 too, {off}"
        )
    missing = [name for name in ("step_kl_k3", "policy_entropy") if getattr(signals, name) is None]
    if missing and state.step_size == StepSize(settings.start):
        warnings.warn(
            f"StepSignals has no {' and no '.join(missing)}: the adaptive step size holds the learning rate at "
            f"step_size.start={settings.start:g} of what was asked for until it gets both. Report them, {off}",
            stacklevel=3,
        )


def update_state(
    stats: ProbeStats, signals: StepSignals, state: ControllerState, config: AGPOConfig
) -> ControllerState:
    """The state after a step, from its whole batch. Call it once a step.

    Running statistics take the mean over the batch's prompts (those with at least two valid probe responses),
    so that neither the order of prompts nor their spread over ranks matters. Unknown or non-finite signals
    leave theirs as it was; a negative step KL counts as 0. With no prompt only `step` and the step size go on. The
    form "reference" also folds its own values prompt by prompt, in the given order.

    The adaptive step size needs `step_kl_k3` and `policy_entropy`: without them it would hold the learning rate at
    `step_size.start` for ever. Raises ValueError if `step_kl` is given without `step_kl_k3`; warns if one of the two
    is missing altogether and the scale has never moved.
    """
    _check_drift(signals, state, config)
    entropy = usable_entropy(signals.policy_entropy)
    step_size = next_step_size(signals.step_kl_k3, entropy, state.step_size, config.step_size)
    if len(stats) == 0:
        return dataclasses.replace(state, step=state.step + 1, step_size=step_size)
    enough = enough_probe(stats, "log")
    probe = read_signals(stats, config)
    drift = signals.step_kl
    return dataclasses.replace(
        state,
        step=state.step + 1,
        uncertainty=state.uncertainty.update(uncertainty(stats, config)[enough].tolist()),
        dispersion=state.dispersion.update(probe.dispersion[enough].tolist()),
        vote_entropy=state.vote_entropy.update(probe.vote_entropy[enough].tolist()),
        skewness=state.skewness.update(probe.skewness[enough].tolist()),
        entropy=state.entropy.update([] if entropy is None else [entropy]),
        step_kl=state.step_kl.update([] if drift is None else [max(0.0, drift) if math.isfinite(drift) else drift]),
        reference=_fold_reference(stats, signals, state.reference, config),
        step_size=step_size,
    )
