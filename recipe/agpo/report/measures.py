# SPDX-License-Identifier: Apache-2.0
"""One number per check of a run's health; None if the log lacks it.

"Recent" is the last fifth of the training steps, at least five of them; "early" is the first fifth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.agpo.report.jsonl import finite
from recipe.agpo.report.read import TOKENS, Record, Run
from recipe.agpo.rewards.verdict import JUDGED, NO_ANSWER, RESPONSE_STATUSES
from recipe.agpo.settings import RunConfig

SHARE, LEAST = 5, 5
ACCURACY = r"val-core/.+/acc/mean@\d+"
ENTROPY = ("agpo/signal/policy_entropy", "actor/entropy")
STEP_KL = ("agpo/step_kl", "actor/ppo_kl")
PROBS_DIFF = ("rollout_corr/log_ppl_abs_diff",)


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
    """Recent step KL in multiples of its target."""
    kl = mean(recent(run), *STEP_KL)
    target = (run.settings or RunConfig()).clip.kl_target
    return None if kl is None else max(0.0, kl) / target


def entropy_lost(run: Run) -> float | None:
    """Share of the early policy entropy that was lost."""
    before, now = mean(early(run), *ENTROPY), mean(recent(run), *ENTROPY)
    return None if before is None or now is None or before <= 0.0 else max(0.0, 1.0 - now / before)


def entropy_grown(run: Run) -> float | None:
    """Recent policy entropy in multiples of the early one."""
    before, now = mean(early(run), *ENTROPY), mean(recent(run), *ENTROPY)
    return None if before is None or now is None or before <= 0.0 else now / before


def accuracy_lost(run: Run) -> float | None:
    """Share of the best validation accuracy that the last validation has lost; the worst of all data sources."""
    falls = []
    for key in run.keys(ACCURACY):
        values = [value for _, value in run.series(key)]
        if len(values) > 1 and max(values) > 0.0:
            falls.append(1.0 - values[-1] / max(values))
    return max(falls, default=None)


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


def bad_gradients(run: Run) -> float | None:
    """Share of all steps whose gradient was not finite; JSON has null for it."""
    seen = [data["actor/grad_norm"] for _, data in run.training if "actor/grad_norm" in data]
    return sum(finite(value) is None for value in seen) / len(seen) if seen else None


def token_budget(run: Run) -> int | None:
    """The run's token budget: tokens left and tokens spent add up to it until it is reached."""
    for _, data in run.training:
        left, spent = finite(data.get("agpo/tokens/budget_left")), finite(data.get(TOKENS))
        if left and spent is not None:
            return round(left + spent)
    return run.settings.token_budget if run.settings else None


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
