# SPDX-License-Identifier: Apache-2.0
"""One number per check of a run's health; None if the log lacks it.

"Recent" is the last fifth of the training steps, at least five of them; "early" is the first fifth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.read import TOKENS, Record, Run, Series
from recipe.agpo.rewards.verdict import JUDGED, NO_ANSWER, RESPONSE_STATUSES

SHARE, LEAST = 5, 5
ACCURACY = r"val-core/.+/acc/mean@\d+"
REWARD = ("critic/score/mean", "agpo/outcome/mean")
OUTCOME = ("agpo/outcome/mean", "critic/score/mean")
ENTROPY = ("agpo/signal/policy_entropy", "actor/entropy")
STEP_KL = ("agpo/step_kl", "actor/ppo_kl")
STEP_KL_K3 = "agpo/step_kl_k3"
STEP_SIZE, EFFECTIVE_RATE = "agpo/step_size/scale", "agpo/step_size/lr"
PROBS_DIFF = ("rollout_corr/log_ppl_abs_diff",)
CORE = ("actor/grad_norm", "actor/pg_loss", "actor/entropy", "actor/ppo_kl", "critic/score/mean", "critic/rewards/mean")
NOISE = 2.0  # standard errors that a gain or a fall must exceed
PROBLEMS = 200  # behind a validation, where the run does not say how many
FEWEST = 10  # training steps before a missing gain says anything
EARLY = 0.1  # and this share of the planned ones
SATURATED = 0.95  # a validation that starts there has no room for a gain beyond its noise
KL_LIMIT = 0.01  # step KL in nats per token that runs without a target of their own are compared with


def recent(run: Run) -> list[Record]:
    """The last fifth of the training steps, at least five."""
    return run.training[-max(LEAST, len(run.training) // SHARE) :]


def early(run: Run) -> list[Record]:
    """The first fifth of the training steps, at least five."""
    return run.training[: max(LEAST, len(run.training) // SHARE)]


def mean(records: Sequence[Record], *keys: str) -> float | None:
    """Mean over steps of the first of ``keys`` that is logged."""
    for key in keys:
        values = [value for _, data in records if (value := finite(data.get(key))) is not None]
        if values:
            return sum(values) / len(values)
    return None


def tau_at_bound(run: Run) -> float | None:
    return _sum(mean(recent(run), "agpo/tau/share_at_min"), mean(recent(run), "agpo/tau/share_at_max"))


def eps_at_bound(run: Run) -> float | None:
    return _sum(mean(recent(run), "agpo/eps/share_at_min"), mean(recent(run), "agpo/eps/share_at_max"))


def no_probe(run: Run) -> float | None:
    """Share of recent decisions without a probe that has two valid outcomes."""
    return _share(recent(run), "agpo/tau/reason/", "no_probe")


def clip_fraction(run: Run) -> float | None:
    """Share of recent tokens that were clipped, at either side."""
    both = _sum(mean(recent(run), "agpo/clip_fraction/low"), mean(recent(run), "agpo/clip_fraction/high"))
    return mean(recent(run), "actor/pg_clipfrac") if both is None else both


def clip_idle(run: Run) -> float | None:
    """1 if no token was clipped in the recent steps, 0 if one was."""
    share = clip_fraction(run)
    return None if share is None else float(share == 0.0)


def drift(run: Run) -> float | None:
    """Recent drift in multiples of its target; without a step-size controller, step KL in multiples of its own.

    The drift is the k3 step KL over the policy entropy. A run without any target is compared with ``KL_LIMIT``.
    """
    target = run.settings.number("step_size.drift_target") if run.settings.on("step_size") else None
    if target:
        kl, entropy = mean(recent(run), STEP_KL_K3), mean(recent(run), *ENTROPY)
        return max(0.0, kl) / entropy / target if kl is not None and entropy and entropy > 0.0 else None
    kl = mean(recent(run), *STEP_KL)
    target = run.settings.number("clip.kl_target") if run.settings.on("clip") else None
    return None if kl is None else max(0.0, kl) / (target or KL_LIMIT)


def no_drift(run: Run) -> float | None:
    """1 if the policy has hardly moved in the recent steps: less than a thousandth of the drift's target."""
    share = drift(run)
    return None if share is None else float(share < 1e-3)


def entropy_lost(run: Run) -> float | None:
    """Share of the early policy entropy that was lost."""
    before, now = mean(early(run), *ENTROPY), mean(recent(run), *ENTROPY)
    return None if before is None or now is None or before <= 0.0 else max(0.0, 1.0 - now / before)


def entropy_grown(run: Run) -> float | None:
    """Recent policy entropy in multiples of the early one."""
    before, now = mean(early(run), *ENTROPY), mean(recent(run), *ENTROPY)
    return None if before is None or now is None or before <= 0.0 else now / before


def accuracy_lost(run: Run) -> float | None:
    """Share of the best validation accuracy that the last one has lost beyond its noise; the worst of all sources."""
    falls = []
    for key in run.keys(ACCURACY):
        values = [value for _, value in run.series(key)]
        if len(values) > 1 and max(values) > 0.0:
            fall = max(values) - values[-1]
            beyond = fall > NOISE * _accuracy_error(run, key, max(values), values[-1])
            falls.append(fall / max(values) if beyond else 0.0)
    return max(falls, default=None)


def reward_lost(run: Run) -> float | None:
    """Share of the best reward that the recent steps have lost beyond noise; best and recent are means of a fifth."""
    values = [value for _, value in _reward(run)]
    size = max(LEAST, len(values) // SHARE)
    if len(values) < max(FEWEST, 2 * size) or min(values) < 0.0:
        return None
    means = [fmean(values[i : i + size]) for i in range(len(values) - size + 1)]
    best, last = max(means), means[-1]
    if best <= 0.0 or best - last <= NOISE * _step_noise(values) * math.sqrt(2 / size):
        return 0.0
    return 1.0 - last / best


def validation_flat(run: Run) -> float | None:
    """1 if no validation accuracy has risen beyond its noise, 0 if one has, or began where it cannot."""
    risen = [_accuracy_risen(run, key) for key in run.keys(ACCURACY) if len(run.series(key)) > 1]
    return _flat(run, not any(risen)) if risen else None


def reward_flat(run: Run) -> float | None:
    """1 if the reward has not risen beyond its noise; 0 if it has, or if a validation accuracy has.

    The early steps are compared with the recent ones.
    """
    values = [value for _, value in _reward(run)]
    if len(values) < FEWEST:
        return None
    size = min(len(values) // 2, max(LEAST, len(values) // SHARE))
    gain = fmean(values[-size:]) - fmean(values[:size])
    risen = gain > 0.0 and gain > NOISE * _step_noise(values) * math.sqrt(2 / size)
    return _flat(run, not risen and fmean(values[:size]) < SATURATED and validation_flat(run) != 0.0)


def no_gain(run: Run) -> float | None:
    """Training steps without any gain beyond noise, as a share of the planned steps (of those taken, if unknown).

    0 if validation or reward has risen. None in the first steps, which show nothing either way.
    """
    signs = [sign for sign in (validation_flat(run), reward_flat(run)) if sign is not None]
    if 0.0 in signs:
        return 0.0
    if not signs:
        return None
    done = progress(run)
    return 1.0 if done is None else done


def failing(run: Run) -> float | None:
    """Share of wrong responses in the whole run, where outcomes are from 0 to 1."""
    right = _outcome(run)
    return None if right is None else 1.0 - right


def solved(run: Run) -> float | None:
    """Share of correct responses in the whole run, where outcomes are from 0 to 1."""
    return _outcome(run)


def step_at_min(run: Run) -> float | None:
    return _share_near(run, run.settings.number("step_size.min"))


def step_at_max(run: Run) -> float | None:
    return _share_near(run, run.settings.number("step_size.max"))


def step_far(run: Run) -> float | None:
    """How far the recent step size lies from 1, in either direction, as a factor."""
    scales = [scale for scale in _recent_scales(run) if scale > 0.0]
    if not scales:
        return None
    return math.exp(abs(fmean(math.log(scale) for scale in scales)))


def still(run: Run) -> float | None:
    """Share of the recent steps whose gradient is 0."""
    norms = [finite(data.get("actor/grad_norm")) for _, data in recent(run)]
    known = [norm for norm in norms if norm is not None]
    return sum(norm == 0.0 for norm in known) / len(known) if known else None


def unjudged(run: Run) -> float | None:
    """Share of recent responses that no verifier could judge."""
    return _share(recent(run), "agpo/verifier/", *(status for status in RESPONSE_STATUSES if status not in JUDGED))


def no_answer(run: Run) -> float | None:
    """Share of recent responses without an answer that the verifier could read."""
    return _share(recent(run), "agpo/verifier/", NO_ANSWER)


def zero_variance(run: Run) -> float | None:
    return mean(recent(run), "agpo/zero_variance_share")


def cut_off(run: Run) -> float | None:
    """Share of recent responses as long as the longest of the whole run, which is the limit where many reach it.

    verl's ``response_length/clip_ratio`` counts the responses as long as the longest of their own batch, so it means
    something only in steps whose longest is the run's longest.
    """
    longest = max((value for _, value in run.series("response_length/max")), default=None)
    if longest is None:
        return None
    return mean(
        [
            (step, {"share": data.get("response_length/clip_ratio") if data["response_length/max"] == longest else 0.0})
            for step, data in recent(run)
            if finite(data.get("response_length/max")) is not None
        ],
        "share",
    )


def lost_sessions(run: Run) -> float | None:
    """Sessions lost in the rollout over responses that came through."""
    lost = run.series("agpo/rollout/lost_sessions_cumulative")
    if not lost:
        return None
    done = sum(_counts(data, "agpo/verifier/") for _, data in run.training)
    return lost[-1][1] / max(1.0, done + lost[-1][1])


def learner_gap(run: Run) -> float | None:
    """Recent difference between the sampler's and the learner's mean log-probability of a response, nats per token."""
    return mean(recent(run), *PROBS_DIFF)


def not_finite(run: Run) -> float | None:
    """Share of all steps in which a gradient, loss, entropy, KL or reward was not finite; JSON has null for it."""
    seen = [[finite(data[key]) is None for key in CORE if key in data] for _, data in run.training]
    return sum(map(any, seen)) / len(seen) if any(seen) else None


def token_budget(run: Run) -> int | None:
    """The run's token budget: tokens left and tokens spent add up to it until it is reached."""
    for _, data in run.training:
        left, spent = finite(data.get("agpo/tokens/budget_left")), finite(data.get(TOKENS))
        if left and spent is not None:
            return round(left + spent)
    budget = run.settings.number("token_budget")
    return round(budget) if budget else None


def over_budget(run: Run) -> float | None:
    """Tokens generated beyond the budget, as a share of it."""
    budget, spent = token_budget(run), run.series(TOKENS)
    return max(0.0, spent[-1][1] / budget - 1.0) if budget and spent else None


def discarded(run: Run) -> float | None:
    """Share of the generated tokens in discarded probes."""
    spent, thrown = run.series(TOKENS), run.series("agpo/tokens/discarded_cumulative")
    return thrown[-1][1] / spent[-1][1] if spent and thrown and spent[-1][1] > 0 else None


def bad_lines(run: Run) -> float | None:
    """Lines of all files that could not be used."""
    return float(sum(len(note.bad) + bool(note.error) for note in run.files)) if run.files else None


def missing_steps(run: Run) -> float | None:
    """Training steps between the first and the last that no file has."""
    if not run.training:
        return None
    return float(run.steps - run.training[0][0] + 1 - len(run.training))


def past_plan(run: Run) -> float | None:
    """Steps beyond those that the launch announced, as a share of them."""
    planned = run.planned_steps
    return max(0.0, run.steps / planned - 1.0) if planned and run.training else None


def _reward(run: Run) -> Series:
    """The reward of each training step."""
    last = run.steps
    return [(x, y) for x, y in run.series(*REWARD) if x <= last]


def _outcome(run: Run) -> float | None:
    values = [value for _, value in run.series(*OUTCOME)]
    return fmean(values) if len(values) >= LEAST and 0.0 <= min(values) <= max(values) <= 1.0 else None


def early_days(run: Run) -> bool:
    """Whether the run is too young for a missing gain to say anything."""
    done = progress(run)
    return run.steps < FEWEST or (done is not None and done < EARLY)


def progress(run: Run) -> float | None:
    """Share of the plan that is done, by steps or by the token budget, whichever ends first; None without a plan."""
    budget, spent = token_budget(run), run.series(TOKENS)
    shares = [run.steps / run.planned_steps] if run.planned_steps else []
    shares += [spent[-1][1] / budget] if budget and spent else []
    return min(1.0, max(shares)) if shares else None


def _flat(run: Run, flat: bool) -> float | None:
    return None if flat and early_days(run) else float(flat)


def _accuracy_risen(run: Run, key: str) -> bool:
    values = [value for _, value in run.series(key)]
    end = fmean(values[-max(1, len(values) // SHARE) :])
    gain = end - values[0]
    return gain > NOISE * _accuracy_error(run, key, values[0], end) or min(values[0], end) >= SATURATED


def _accuracy_error(run: Run, key: str, *shares: float) -> float:
    """Standard error of the difference of two accuracies, each of as many problems; at least that of one problem."""
    problems = run.problems_of(key) or PROBLEMS
    inside = [min(1.0 - 0.5 / problems, max(0.5 / problems, share)) for share in shares]
    return math.sqrt(sum(share * (1.0 - share) for share in inside) / problems)


def _step_noise(values: Sequence[float]) -> float:
    """Standard deviation from step to step, from the median difference of neighbours: a trend does not add to it."""
    return median(abs(b - a) for a, b in zip(values, values[1:], strict=False)) / 0.954


def _recent_scales(run: Run) -> list[float]:
    known = (finite(data.get(STEP_SIZE)) for _, data in recent(run))
    return [scale for scale in known if scale is not None]


def _share_near(run: Run, bound: float | None) -> float | None:
    """Share of the recent steps whose step size is within 1 % of a bound."""
    scales = _recent_scales(run)
    if not scales or not bound:
        return None
    return sum(abs(scale / bound - 1.0) < 0.01 for scale in scales) / len(scales)


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _counts(data: Mapping[str, Any], prefix: str, *names: str) -> float:
    wanted = names or RESPONSE_STATUSES
    return sum(finite(data.get(prefix + name)) or 0.0 for name in wanted)


def _share(records: Sequence[Record], prefix: str, *names: str) -> float | None:
    """Counts under ``prefix`` with one of ``names``, as a share of all counts there."""
    total = part = 0.0
    for _, data in records:
        for key in data:
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and not name.startswith("seconds_"):
                count = finite(data[key]) or 0.0
                total += count
                part += count if name in names else 0.0
    return part / total if total else None
