# SPDX-License-Identifier: Apache-2.0
"""One step of the controllers: probe outcomes -> statistics -> decisions -> next state."""

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
    """value/largest, limited to [0, 1]; 0 where the largest is 0."""
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
    """Compute the statistics of the probe of each prompt.

    Count, mean, dispersion, skewness and vote entropy, raw and scaled to [0, 1]; see `ProbeStats`, `dispersion`,
    `skewness` and `vote_entropy` for the formulas.

    Args:
        outcomes_PG: [P, G] verifier outcomes, any float type and device, normally within [0, 1]. NaN and infinite
            outcomes are failed responses and are left out.
        vote_classes_PG: int [P, G] of `vote_classes`, negative: no vote. None: vote entropy 0.
        mask_PG: bool [P, G], responses that count; None: all.
        config: section `signals`.

    Returns:
        Statistics [P] on the CPU, float64. A group with fewer than two valid members has dispersion 0.

    Raises:
        ValueError: the outcomes are not [P, G], or the shapes differ.
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
    """Concatenate the statistics of several parts, in their order; no part gives P = 0."""
    names = [item.name for item in dataclasses.fields(ProbeStats)]
    if not parts:
        empty = torch.zeros(0, dtype=torch.float64)
        return ProbeStats(empty.long(), *([empty] * (len(names) - 1)))
    return ProbeStats(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _fold_reference(stats: ProbeStats, signals: StepSignals, old: ReferenceState, config: AGPOConfig) -> ReferenceState:
    """The public code's running values after this step, updated prompt by prompt in the given order [code]."""
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
    if not config.step_size.enabled:
        return
    off = "or set step_size.enabled=false"
    if signals.step_kl is not None and signals.step_kl_k3 is None:
        raise ValueError(
            f"StepSignals has step_kl={signals.step_kl} but no step_kl_k3, which the adaptive step size needs: "
            f"the learning rate would stay at {state.step_size.scale:g} of the configured one. Also report "
            f"step_kl_k3 (clipped_surrogate returns it), {off}"
        )
    missing = [name for name in ("step_kl_k3", "policy_entropy") if getattr(signals, name) is None]
    if missing and state.step == 0:
        warnings.warn(
            f"StepSignals has no {' and no '.join(missing)}: the adaptive step size holds the learning rate at "
            f"{state.step_size.scale:g} of the configured one until it gets both. Report them, {off}",
            stacklevel=3,
        )


def update_state(
    stats: ProbeStats, signals: StepSignals, state: ControllerState, config: AGPOConfig
) -> ControllerState:
    """The state after a step, from the whole batch of the step. Call it once per step.

    Each running statistic takes the mean over the prompts with at least two valid probe responses, so the result does
    not depend on the order of prompts or on the ranks that hold them. The form "reference" also updates its own values
    prompt by prompt, in the given order. `next_step_size` gives the step size.

    Args:
        stats: probe statistics of all prompts of the step.
        signals: measured in the updates of the step. The adaptive step size needs `step_kl_k3` and `policy_entropy`;
            without them the learning rate stays where it started.
        state: state at the start of the step.
        config: the method's settings.

    Returns:
        The next state. An unknown or non-finite signal leaves its running statistic unchanged; a negative step KL
        counts as
        0. Without prompts only `step` and the step size change.

    Raises:
        ValueError: `step_kl` is given without `step_kl_k3`.

    Warns if `step_kl_k3` or `policy_entropy` is missing in the first step.
    """
    _check_drift(signals, state, config)
    entropy = usable_entropy(signals.policy_entropy)
    step_size = next_step_size(
        signals.step_kl_k3, entropy, state.step_size, config.step_size, signals.schedule, signals.informative
    )
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
