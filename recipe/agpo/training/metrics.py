# SPDX-License-Identifier: Apache-2.0
"""Metrics under ``agpo/``. The docs are generated from ``GLOSSARY``; a test compares it with the logged keys."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from agpo_core import ControllerState, Reason
from recipe.agpo.rewards.verdict import OK, RESPONSE_STATUSES
from recipe.agpo.settings import RunConfig
from recipe.agpo.training.batch import StepGroups

_SIGNALS = ("dispersion", "skewness", "vote_entropy")
GLOSSARY: dict[str, str] = {
    "agpo/tau/{mean,min,max}": "temperature of the training responses of this step",
    "agpo/tau/share_at_{min,max}": "share of prompts whose temperature is at a bound",
    "agpo/tau/reason/<reason>": "number of prompts for each reason of the temperature decision",
    "agpo/eps/{mean,min,max}": "lower clip ratio of this step's prompts",
    "agpo/eps_high/{mean,min,max}": "upper clip ratio of this step's prompts",
    "agpo/eps/share_at_{min,max}": "share of prompts whose clip ratio is at a bound",
    "agpo/eps/reason/<reason>": "number of prompts for each reason of the clip decision",
    "agpo/signal/{dispersion,skewness,vote_entropy}/{mean,min,max}": "probe statistics per prompt (nats for entropy)",
    "agpo/signal/policy_entropy": "token mean of the old policy's entropy, nats, at each response's temperature",
    "agpo/state/{uncertainty,step_kl,entropy}": "running mean at the start of this step, as used by its decisions",
    "agpo/state/updates": "steps in the controller state before this one",
    "agpo/step_kl": "token mean of old minus new log-probability over this step's updates (k1, nats)",
    "agpo/step_kl_k3": "the same by the k3 estimator, never negative; over the policy entropy it is the "
    "drift that the step size controls. With one update per batch: the KL after it, from an eighth of the rows",
    "agpo/step_size/scale": "factor on the learning rate of this step's updates (actor/lr is without it)",
    "agpo/step_size/lr": "effective learning rate of this step's updates: the schedule's times the scale",
    "agpo/step_size/stopped": "share of this step's updates left out because the drift was ten times its target",
    "agpo/clip_fraction/{low,high}": "share of tokens clipped at the lower / upper side (loss_mode vanilla)",
    "agpo/nonfinite_tokens": "tokens left out of the loss because a log-probability was not finite",
    "agpo/nonfinite_steps": "steps in a row, up to this one, whose gradient was not finite; the run stops at three",
    "agpo/zero_variance_share": "share of prompts whose valid outcomes are all equal",
    "agpo/masked_share": "share of prompts left out of the loss because their outcomes are all equal",
    "agpo/loss/{weight_mean,floored_share}": "adaptive loss, over responses and updates: mean weight of their group; "
    "share whose group lies below the floor",
    "agpo/length/part": "mean absolute advantage from the length reward, over correct responses",
    "agpo/group_size/{mean,min,max}": "scored responses per prompt, when allocation is on",
    "agpo/outcome/mean": "mean verifier outcome of the training responses",
    "agpo/outcome/probe_mean": "mean verifier outcome of the probes",
    "agpo/tokens/{generated,probe,discarded}": "tokens generated in this step: all, in probes, in discarded probes",
    "agpo/tokens/validation": "tokens generated in validation since the last step; not part of the others",
    "agpo/tokens/{generated,probe,discarded,validation}_cumulative": "the same since the run began, over restarts",
    "agpo/tokens/budget_left": "generated tokens left of algorithm.agpo.token_budget",
    "agpo/verifier/seconds_{mean,max}": "seconds from handing a response to the verifier to its verdict",
    "agpo/verifier/<status>": f"responses by verifier status ({', '.join(RESPONSE_STATUSES)})",
    "agpo/rollout/lost_sessions_cumulative": "sessions lost in the rollout since the start of the run",
    "agpo/overhead_s": "seconds that AGPO took in the driver for this step's metrics and state",
}


def step_metrics(groups: StepGroups, state: ControllerState, config: RunConfig) -> dict[str, float]:
    """The metrics under ``agpo/`` that are known in the driver; ``state`` is that of this step's decisions."""
    out: dict[str, float] = {}
    real, stats = list(groups.real), groups.stats
    valid = [row for row in real if row.valid]
    _spread(out, "agpo/tau", [row.tau for row in real])
    _reasons(out, "agpo/tau", [prompt.tau_reason for prompt in groups.prompts])
    if any(row.clip_low is not None for row in real):
        _spread(out, "agpo/eps", [row.clip_low for row in real])
        _spread(out, "agpo/eps_high", [row.clip_high for row in real])
        _reasons(out, "agpo/eps", [prompt.clip_reason for prompt in groups.prompts])
    if config.adaptive:
        for name in _SIGNALS:
            _spread(out, f"agpo/signal/{name}", getattr(stats, name))
        out["agpo/state/updates"] = float(state.step)
        for name in ("uncertainty", "step_kl", "entropy"):
            running = getattr(state, name)
            if running.updates:
                out[f"agpo/state/{name}"] = running.mean
    if config.step_size.enabled:
        out["agpo/step_size/scale"] = state.step_size.scale
    if groups.policy_entropy is not None:
        out["agpo/signal/policy_entropy"] = groups.policy_entropy

    out["agpo/outcome/mean"] = fmean(row.outcome for row in valid) if valid else 0.0
    probe_means = stats.mean[stats.count > 0]
    if len(probe_means):
        out["agpo/outcome/probe_mean"] = float(probe_means.mean())
    out["agpo/zero_variance_share"] = _zero_variance_share(groups)
    if config.masks_groups:
        masked = {row.prompt for row in real if row.masked}
        out["agpo/masked_share"] = len(masked) / max(1, len(groups.prompts))
    if config.length.weight > 0.0:
        parts = [abs(row.length) for row in valid if row.outcome >= config.advantage.outcome_max]
        out["agpo/length/part"] = fmean(parts) if parts else 0.0
    if config.allocation.enabled:
        _spread(out, "agpo/group_size", groups.sizes)

    if real:
        out["agpo/verifier/seconds_mean"] = fmean(row.seconds for row in real)
        out["agpo/verifier/seconds_max"] = max(row.seconds for row in real)
    counts = Counter(row.status for row in groups.rows if row.final)
    for prompt in groups.prompts:
        if prompt.record is not None and prompt.record.discarded:
            counts.update(prompt.record.statuses)
    for status in RESPONSE_STATUSES:
        if counts[status] or status == OK:
            out[f"agpo/verifier/{status}"] = float(counts[status])
    return out


def pop_update_sums(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Take the workers' token sums out of ``metrics``; sums of several batches add up."""
    return {key[len(prefix) :]: float(metrics.pop(key)) for key in [k for k in metrics if k.startswith(prefix)]}


def update_shares(sums: Mapping[str, float]) -> dict[str, float]:
    """The logged metrics from the sums of a step's updates."""
    tokens = sums.get("tokens", 0.0)
    if not tokens:
        return {}
    out = {
        "agpo/step_kl": sums["kl_sum"] / tokens,
        "agpo/step_kl_k3": sums["kl_k3_sum"] / tokens,
        "agpo/nonfinite_tokens": sums["nonfinite_tokens"],
    }
    if measured := sums.get("after_tokens", 0.0):
        out["agpo/step_kl_k3"] = sums["after_kl_k3_sum"] / measured
    if rows := sums.get("adaptive_rows", 0.0):
        out["agpo/loss/weight_mean"] = sums["adaptive_weight_sum"] / rows
        out["agpo/loss/floored_share"] = sums["floored_rows"] / rows
    for side in ("low", "high"):
        if f"clip_{side}_tokens" in sums:
            out[f"agpo/clip_fraction/{side}"] = sums[f"clip_{side}_tokens"] / tokens
    return {key: value for key, value in out.items() if math.isfinite(value)}


def scheduled_lr(sums: Mapping[str, float]) -> float | None:
    """The schedule's learning rate in a step's updates, without the step size; None if no worker said it."""
    return sums["lr_sum"] / sums["updates"] if sums.get("updates") else None


def rate_metrics(sums: Mapping[str, float], state: ControllerState) -> dict[str, float]:
    """What the step size made of the learning rate; ``state`` is that of this step's updates."""
    scheduled = scheduled_lr(sums)
    if scheduled is None:
        return {}
    return {
        "agpo/step_size/lr": scheduled * state.step_size.scale,
        "agpo/step_size/stopped": sums["stopped"] / sums["updates"],
    }


def _zero_variance_share(groups: StepGroups) -> float:
    outcomes = [{row.outcome for row in group if row.valid} for group in groups.members]
    return sum(len(seen) <= 1 for seen in outcomes) / max(1, len(outcomes))


def _spread(out: dict[str, float], name: str, values: Any) -> None:
    values = torch.as_tensor(values, dtype=torch.float64)
    values = values[torch.isfinite(values)]
    if len(values):
        out |= {
            f"{name}/mean": float(values.mean()),
            f"{name}/min": float(values.min()),
            f"{name}/max": float(values.max()),
        }


def _reasons(out: dict[str, float], name: str, reasons: list[str]) -> None:
    counts, total = Counter(reasons), max(1, len(reasons))
    out[f"{name}/share_at_min"] = counts[Reason.AT_MIN.label] / total
    out[f"{name}/share_at_max"] = counts[Reason.AT_MAX.label] / total
    for reason, count in sorted(counts.items()):
        out[f"{name}/reason/{reason}"] = float(count)


def in_glossary(key: str) -> bool:
    """Whether ``GLOSSARY`` defines a logged key."""
    return any(re.fullmatch(_pattern(entry), key) for entry in GLOSSARY)


def _pattern(entry: str) -> str:
    """A glossary entry as a regular expression: ``{a,b}`` are alternatives, ``<x>`` is one name."""
    text = re.escape(entry).replace(r"\{", "(?:").replace(r"\}", ")").replace(",", "|")
    return re.sub(r"<\w+>", r"\\w+", text)


# The first ten curves for a dashboard; the keys without agpo/ are verl's.
DASHBOARD = {
    "val-core/<source>/<metric>": "the result: accuracy on the validation files",
    "critic/score/mean": "reward of the training responses; near 0 or 1 there is little to learn",
    "agpo/step_size/scale": "factor on the learning rate; at a bound for long: change it ([tuning.md](tuning.md))",
    "agpo/step_kl_k3": "over agpo/signal/policy_entropy this is the drift, which the step size keeps at its target",
    "agpo/signal/policy_entropy": "falls slowly; a fall to 0 is a collapse",
    "agpo/tau/mean": "sampling temperature",
    "agpo/eps/mean": "clip ratio",
    "agpo/zero_variance_share": "groups of equal outcomes, from which nothing is learned",
    "response_length/clip_ratio": "responses that were cut off at the token limit",
    "agpo/tokens/generated_cumulative": "cost so far; the axis on which methods are compared",
}


def glossary_markdown() -> str:
    """``docs/metrics.md``."""
    head = (
        "# Metrics\n\n"
        "Every key that AGPO logs, without verl's own. Generated from `recipe/agpo/training/metrics.py`\n"
        "(`GLOSSARY`). `{a,b}` stands for several keys, `<x>` for a name. Decisions per prompt are in\n"
        "`agpo_decisions.jsonl` in the checkpoint folder.\n\n"
        "Words used here: the *probe* is the first responses of a prompt's group, scored before the rest is sampled.\n"
        "*Drift* is the KL divergence of a step divided by the policy entropy. The token *ledger* counts generated\n"
        "tokens; its keys start with `agpo/tokens/`.\n\n"
        "| key | meaning |\n|---|---|\n"
    )
    dashboard = (
        "\n## Ten curves for a dashboard\n\n"
        "For wandb, trackio, TensorBoard and the others of `LOGGERS` ([launch.md](launch.md#trackers)). Keys without\n"
        "`agpo/` are verl's.\n\n"
        "| key | what it shows |\n|---|---|\n"
    )
    return head + _table(GLOSSARY) + dashboard + _table(DASHBOARD)


def _table(entries: Mapping[str, str]) -> str:
    return "".join(f"| `{key}` | {meaning} |\n" for key, meaning in entries.items())
