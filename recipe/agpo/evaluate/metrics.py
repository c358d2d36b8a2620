# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation: pure functions of the verdicts.

Shapes: P problems, K samples of each. A sample is *correct* if its outcome is 1; partial credit does not count as
correct and is reported separately (``mean_outcome``). All intervals are for the problems as a sample of their
benchmark's population: 95 % by default.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

FULL_MARKS = 1.0 - 1e-9
QUANTILES = (0.5, 0.9, 0.99)
FEWEST_SEEDS = 4  # of which an interval over seeds is given


@dataclass(frozen=True)
class Sample:
    """One judged response.

    Attributes:
        outcome: 0 to 1; None if it could not be judged.
        vote_key: its vote class within the problem, ``""`` without an answer.
        status: the verifier's status.
        format: whether the answer had the requested form; None if not judged.
        tokens: generated tokens.
        truncated: whether it was cut off by the token limit.
    """

    outcome: float | None
    vote_key: str
    status: str
    format: float | None
    tokens: int
    truncated: bool

    @property
    def right(self) -> bool:
        return self.outcome is not None and self.outcome >= FULL_MARKS


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence bounds; None without data."""

    value: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


@dataclass(frozen=True)
class Paired:
    """Run A against run B on the same problems.

    Attributes:
        problems: how many both runs have.
        difference: mean over problems of (accuracy of A - accuracy of B), with a bootstrap percentile interval.
        wins, losses, ties: problems on which A is better, worse, equal.
        p_value: two-sided exact sign test of wins against losses; with one sample per problem it is McNemar's exact
            test. 1.0 if all are ties.
    """

    problems: int
    difference: Interval
    wins: int
    losses: int
    ties: int
    p_value: float


def wilson(right: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = right / n``.

    Args:
        right: successes, 0 to n; may be fractional (effective counts).
        n: trials; 0 gives an interval of None.
        confidence: between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if not 0 <= right <= n:
        raise ValueError(f"right must lie between 0 and n, got {right} of {n}")
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # In exact arithmetic the bounds contain p; make sure that rounding keeps this.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def clustered(shares_P: Sequence[float], samples: int, confidence: float = 0.95) -> Interval:
    """Interval of the mean of problem-level shares: Wilson's with an effective number of trials.

    The problems are the clusters. With ``p`` the mean of the shares and ``v`` their variance over P - 1,
    ``n_eff = p (1 - p) / (v / P)``, kept between P (samples of a problem all agree) and P K (all independent). With
    one sample per problem ``n_eff = P``: plain Wilson. If all samples are correct or all are wrong, their dependence
    is unknown, and the conservative ``n_eff = P`` is used.

    Args:
        shares_P: one number in [0, 1] for each problem.
        samples: K, samples behind each share.
        confidence: between 0 and 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if any(not 0.0 <= share <= 1.0 for share in shares_P):
        raise ValueError("shares must lie between 0 and 1")
    count = len(shares_P)
    if count == 0:
        return NOTHING
    p = min(1.0, math.fsum(shares_P) / count)
    spread = p * (1.0 - p)
    effective = float(count)
    if spread > 0.0 and count > 1:
        variance = math.fsum((share - p) ** 2 for share in shares_P) / (count - 1)
        most = float(count * samples)
        effective = most if variance == 0.0 else min(most, max(float(count), spread * count / variance))
    return wilson(p * effective, effective, confidence)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples is correct: ``1 - C(n-c, k) / C(n, k)``.

    Computed as ``1 - prod_{i=n-c+1}^{n} (1 - k/i)``, which never forms a large binomial.

    Args:
        n: samples drawn.
        right: c, how many of them are right.
        k: 1 to n.
    """
    if not 0 <= right <= n:
        raise ValueError(f"right must lie between 0 and n, got {right} of {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {n}")
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - right + 1, n + 1))


def majority(keys: Sequence[str]) -> int:
    """Index of the first member of the winning vote class.

    The largest class wins; of equal ones the class that occurs first. Responses without an answer (``""``) are no
    class: they win only if there is no other.
    """
    if not keys:
        raise ValueError("a vote needs at least one response")
    counts = Counter(key for key in keys if key)
    if not counts:
        return 0
    first = {key: keys.index(key) for key in counts}
    return first[min(counts, key=lambda key: (-counts[key], first[key]))]


def maj_at_k(samples: Sequence[Sample], k: int) -> float:
    """Share of votes of k samples whose winning class is correct.

    The votes are the ``n // k`` disjoint blocks of k samples in sampling order; the ``n % k`` last samples are left
    out. ``maj_at_k(samples, 1)`` is the accuracy, ``maj_at_k(samples, n)`` one vote of all.
    """
    if not 1 <= k <= len(samples):
        raise ValueError(f"maj@{k} needs at least {k} samples, got {len(samples)}")
    blocks = [samples[start : start + k] for start in range(0, len(samples) - k + 1, k)]
    return sum(block[majority([s.vote_key for s in block])].right for block in blocks) / len(blocks)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between order statistics, as numpy's default."""
    if not values:
        raise ValueError("a quantile needs at least one value")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins against losses: ``min(1, 2 P(X <= min(wins, losses)))``, X ~ Bin(n, 1/2)."""
    if wins < 0 or losses < 0:
        raise ValueError(f"counts cannot be negative, got {wins} and {losses}")
    n = wins + losses
    # Integers until the last division: exact for any n.
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n)


def paired(
    a: Mapping[str, float], b: Mapping[str, float], *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> Paired:
    """Compare two runs on the problems that both have.

    The interval resamples problems with replacement (percentile bootstrap). Problems with equal differences are
    interchangeable, so a resample is one multinomial draw over the distinct differences.

    Args:
        a, b: problem -> problem-level accuracy; order does not matter.
        seed: of the bootstrap; same seed, same interval.
        resamples: bootstrap repetitions.
        confidence: of the interval.

    Raises:
        ValueError: no common problem.
    """
    import numpy

    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError("the two runs have no problem in common")
    # Rounded, so that 0.7 - 0.4 and 0.6 - 0.3 are one value.
    counts = Counter(round(a[problem] - b[problem], 12) for problem in common)
    values = numpy.array(sorted(counts))
    weights = numpy.array([counts[float(value)] for value in values], dtype=float)
    draws = numpy.random.default_rng(seed).multinomial(len(common), weights / len(common), size=resamples)
    tail = (1.0 - confidence) / 2
    low, high = numpy.quantile(draws @ values / len(common), [tail, 1.0 - tail])
    wins = sum(count for value, count in counts.items() if value > 0)
    losses = sum(count for value, count in counts.items() if value < 0)
    mean = math.fsum(value * count for value, count in counts.items()) / len(common)
    difference = Interval(mean, float(low), float(high))
    return Paired(len(common), difference, wins, losses, len(common) - wins - losses, sign_test(wins, losses))


def seed_interval(
    strata: Sequence[Sequence[float]], statistic: str = "mean", *, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """A statistic over runs with a percentile bootstrap that resamples the seeds within each stratum (task).

    With one stratum it is the usual bootstrap over seeds. Always the same resamples. Source of the stratified form:
    Agarwal et al. 2021, arXiv 2108.13264 (rliable).

    Args:
        strata: results of each task, one number a seed.
        statistic: ``mean`` of all results, or ``iqm``, their interquartile mean.
        confidence: of the interval.
        resamples: bootstrap repetitions.

    Returns:
        No bounds where a stratum has fewer than ``FEWEST_SEEDS`` results: a bootstrap of three has 10 different
        resamples and is far too narrow.

    Raises:
        ValueError: no results, or another statistic.
    """
    import numpy

    if not strata or not all(strata):
        raise ValueError("every task needs at least one result")
    if statistic not in ("mean", "iqm"):
        raise ValueError(f"statistic must be mean or iqm, got {statistic!r}")

    def of(values: Any) -> Any:
        """Over the last axis; iqm leaves out a quarter, rounded down, at each end."""
        cut = values.shape[-1] // 4 if statistic == "iqm" else 0
        return numpy.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)

    arrays = [numpy.asarray(stratum, dtype=float) for stratum in strata]
    value = float(of(numpy.concatenate(arrays)))
    if min(map(len, arrays)) < FEWEST_SEEDS:
        return Interval(value, None, None)
    generator = numpy.random.default_rng(0)
    drawn = [array[generator.integers(len(array), size=(resamples, len(array)))] for array in arrays]
    tail = (1.0 - confidence) / 2
    low, high = numpy.quantile(of(numpy.concatenate(drawn, axis=1)), [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def summarise(
    samples_PK: Sequence[Sequence[Sample]],
    *,
    samples: int,
    pass_at: Sequence[int],
    maj_at: Sequence[int],
    too_long: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """All figures of one benchmark, JSON-able.

    ``accuracy`` is over all problems: responses that could not be judged, and problems whose prompt is too long for the
    model, count as wrong. ``accuracy_judged`` leaves both out.

    Args:
        samples_PK: for each problem that was asked, its K samples in sampling order.
        samples: K.
        pass_at, maj_at: values of k, each at most K.
        too_long: problems whose prompt does not fit.
        confidence: of all intervals.
    """
    if any(len(row) != samples for row in samples_PK):
        raise ValueError(f"every problem needs {samples} samples")
    none = [0.0] * too_long
    every = [sample for row in samples_PK for sample in row]
    judged_P = [[sample for sample in row if sample.outcome is not None] for row in samples_PK]
    judged = [sample for row in judged_P for sample in row]
    right_P = [sum(sample.right for sample in row) for row in samples_PK]

    def over_problems(shares: list[float]) -> dict[str, Any]:
        return vars(clustered(shares + none, samples, confidence))

    has_votes = any(sample.vote_key for sample in every)
    shares_judged = [sum(s.right for s in row) / len(row) for row in judged_P if row]
    return {
        "problems": len(samples_PK) + too_long,
        "responses": len(every),
        "accuracy": over_problems([right / samples for right in right_P]),
        "accuracy_judged": vars(clustered(shares_judged, samples, confidence)),
        # The mean outcome differs from the accuracy only where a task gives partial credit.
        "mean_outcome": _mean([sample.outcome or 0.0 for sample in every] + none * samples),
        "pass_at": {str(k): over_problems([pass_at_k(samples, right, k) for right in right_P]) for k in pass_at},
        "maj_at": {str(k): over_problems([maj_at_k(row, k) for row in samples_PK]) for k in maj_at}
        if has_votes
        else {},
        "unjudged": len(every) - len(judged),
        "prompts_too_long": too_long,
        "truncated": _mean([float(sample.truncated) for sample in every]),
        "format": _mean([sample.format for sample in judged if sample.format is not None]),
        "no_answer": _mean([float(not sample.vote_key) for sample in judged]) if has_votes else None,
        "tokens": _tokens([sample.tokens for sample in every]),
        "statuses": dict(sorted(Counter(sample.status for sample in every).items())),
    }


def _tokens(tokens: Sequence[int]) -> dict[str, float | int]:
    if not tokens:
        return {}
    quantiles = {f"p{round(100 * share)}": quantile(tokens, share) for share in QUANTILES}
    return {"mean": sum(tokens) / len(tokens), **quantiles, "max": max(tokens), "total": sum(tokens)}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
