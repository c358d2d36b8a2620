# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import combinations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.agpo.evaluate import metrics
from recipe.agpo.evaluate.metrics import Sample


def sample(right: float | None, key: str = "", status: str = "ok", tokens: int = 10, truncated: bool = False) -> Sample:
    return Sample(right, key, status, 1.0 if right is not None else None, tokens, truncated)


def by_hand(n, right, k):
    """Share of the subsets of k samples with at least one right one."""
    subsets = list(combinations([1] * right + [0] * (n - right), k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize(
    ("n", "right", "k", "expected"),
    [(8, 0, 4, 0.0), (8, 8, 1, 1.0), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (5, 3, 3, 1.0), (10, 3, 1, 0.3)],
)
def test_pass_at_k_closed_form(n, right, k, expected):
    assert metrics.pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-15)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets(case):
    assert metrics.pass_at_k(*case) == pytest.approx(by_hand(*case), abs=1e-12)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_is_a_share_that_grows_with_k_and_starts_at_the_accuracy(case):
    n, right = case
    values = [metrics.pass_at_k(n, right, k) for k in range(1, n + 1)]
    assert values[0] == pytest.approx(right / n)
    assert all(0.0 <= value <= 1.0 for value in values)
    assert all(later >= earlier - 1e-12 for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] == (1.0 if right else 0.0)


def test_pass_at_k_stays_exact_for_many_samples():
    exact = 1 - math.comb(9_999, 5_000) / math.comb(10_000, 5_000)
    assert metrics.pass_at_k(10_000, 1, 5_000) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("case", [(4, 2, 5), (4, 5, 1), (4, 2, 0), (4, -1, 1)])
def test_pass_at_k_refuses(case):
    with pytest.raises(ValueError):
        metrics.pass_at_k(*case)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_closed_form(right, n, low, high):
    """0 of n ends at z²/(n + z²); the last is Newcombe's (1998) example, published with four digits."""
    found = metrics.wilson(right, n)
    assert (found.value, found.low, found.high) == pytest.approx((right / n, low, high), abs=2e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_is_mirrored(case):
    right, n = case
    found, mirror = metrics.wilson(right, n), metrics.wilson(n - right, n)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low == pytest.approx(1 - mirror.high, abs=1e-9)


def test_one_sample_a_problem_is_plain_wilson():
    shares = [1.0] * 7 + [0.0] * 13
    found, plain = metrics.clustered(shares, 1), metrics.wilson(7, 20)
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_cluster_interval_between_full_dependence_and_independence():
    agreeing = metrics.clustered([1.0] * 10 + [0.0] * 10, 8)
    independent = metrics.clustered([0.5] * 20, 8)
    assert agreeing.low == pytest.approx(metrics.wilson(10, 20).low)
    assert independent.low == pytest.approx(metrics.wilson(80, 160).low)
    # p = 1/2; the shares 0.25 and 0.75 have variance 0.0625 * 20 / 19: n_eff = 0.25 * 20 / 0.0658 = 76.
    between = metrics.clustered([0.25, 0.75] * 10, 8)
    assert between.low == pytest.approx(metrics.wilson(38, 76).low)


def test_cluster_interval_covers_as_it_promises():
    """600 evaluations of 40 problems of different difficulty: 95 % of the intervals hold the true mean."""
    random = numpy.random.default_rng(0)
    held = 0
    for _ in range(600):
        difficulty = random.beta(0.5, 0.5, size=40)
        shares = random.binomial(4, difficulty) / 4
        found = metrics.clustered(list(shares), 4)
        held += found.low <= 0.5 <= found.high
    assert 0.92 <= held / 600 <= 0.985


@pytest.mark.parametrize("shares", [[], [0.0], [1.0, 1.0]])
def test_cluster_interval_of_degenerate_data(shares):
    found = metrics.clustered(shares, 4)
    if not shares:
        assert found == metrics.NOTHING
    else:
        assert found.high - found.low > 0.3  # few problems say little


@pytest.mark.parametrize(
    ("keys", "winner"),
    [
        (["a", "b", "b"], 1),
        (["a", "b"], 0),  # a tie: the class that occurs first
        (["b", "a", "a", "b"], 0),
        (["", "", "", "a"], 3),  # no answer is no class
        (["", ""], 0),
        (["", "a", "b", "b"], 2),
    ],
)
def test_majority(keys, winner):
    assert metrics.majority(keys) == winner


def test_maj_at_k_votes_in_disjoint_blocks():
    row = [sample(1.0, "r"), sample(0.0, "w"), sample(0.0, "w"), sample(1.0, "r"), sample(1.0, "r"), sample(0.0, "w")]
    assert metrics.maj_at_k(row, 1) == 0.5
    assert metrics.maj_at_k(row, 2) == pytest.approx(2 / 3)  # ties: r, w, r
    assert metrics.maj_at_k(row, 3) == 0.5  # w, r
    assert metrics.maj_at_k(row, 4) == 1.0  # one block: a tie that r opens; the last two are left out
    assert metrics.maj_at_k(row, 6) == 1.0
    with pytest.raises(ValueError, match="maj@7 needs at least 7"):
        metrics.maj_at_k(row, 7)


def test_maj_at_k_without_an_answer_is_wrong():
    assert metrics.maj_at_k([sample(0.0), sample(0.0)], 2) == 0.0
    assert metrics.maj_at_k([sample(0.0), sample(0.0), sample(1.0, "r")], 3) == 1.0


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=8))
def test_pass_at_1_and_maj_at_1_are_the_accuracy(outcomes_PK):
    rows = [[sample(outcome, "r" if outcome else "w") for outcome in row] for row in outcomes_PK]
    found = metrics.summarise(rows, samples=4, pass_at=(1, 4), maj_at=(1,))
    mean = sum(map(sum, outcomes_PK)) / (4 * len(outcomes_PK))
    assert found["accuracy"]["value"] == pytest.approx(mean)
    assert found["pass_at"]["1"]["value"] == pytest.approx(mean)
    assert found["maj_at"]["1"]["value"] == pytest.approx(mean)
    assert found["pass_at"]["4"]["value"] >= mean - 1e-12


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_quantile_is_numpys(values, share):
    assert metrics.quantile(values, share) == pytest.approx(float(numpy.quantile(values, share)), abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024), (9, 1, 22 / 1024)]
)
def test_sign_test_closed_form(wins, losses, expected):
    assert metrics.sign_test(wins, losses) == pytest.approx(expected, rel=1e-12)


def test_sign_test_of_many_problems_does_not_overflow():
    assert 0.0 <= metrics.sign_test(2_000, 3_000) < 1e-40


def test_paired_counts_and_difference():
    a = {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.5, "only a": 1.0}
    b = {"4": 0.0, "3": 1.0, "2": 1.0, "1": 0.0, "only b": 0.0}
    found = metrics.paired(a, b)
    assert (found.problems, found.wins, found.losses, found.ties) == (4, 2, 1, 1)
    assert found.difference.value == pytest.approx(0.125)
    assert found.p_value == 1.0


def test_paired_bootstrap_is_decided_by_its_seed_and_not_by_the_order():
    random = numpy.random.default_rng(1)
    a = {str(i): float(random.integers(0, 2)) for i in range(200)}
    b = {str(i): float(random.integers(0, 2)) for i in range(200)}
    shuffled = dict(sorted(a.items(), reverse=True))
    assert metrics.paired(a, b, seed=3) == metrics.paired(shuffled, b, seed=3)
    three, four = (metrics.paired(a, b, seed=seed, resamples=50).difference for seed in (3, 4))
    assert three != four


def test_paired_bootstrap_is_the_known_interval():
    """Differences of +1 and 0 with share 0.3 among 400: nearly normal, 0.3 ± 1.96 sqrt(0.21 / 400)."""
    a = {str(i): float(i % 10 < 3) for i in range(400)}
    found = metrics.paired(a, dict.fromkeys(a, 0.0)).difference
    half = 1.96 * math.sqrt(0.21 / 400)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_paired_of_equal_runs_is_exactly_nothing():
    a = {str(i): 1.0 for i in range(10)}
    found = metrics.paired(a, dict(a))
    assert (found.difference.value, found.difference.low, found.difference.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_paired_refuses_runs_without_a_common_problem():
    with pytest.raises(ValueError, match="no problem in common"):
        metrics.paired({"a": 1.0}, {"b": 1.0})


def test_unjudged_and_too_long_are_wrong_in_the_headline_and_left_out_beside_it():
    rows = [
        [sample(1.0, "r"), sample(None, status="lost")],
        [sample(None, status="raised"), sample(None, status="lost")],
        [sample(0.0, "w", truncated=True), sample(1.0, "r", tokens=30)],
    ]
    found = metrics.summarise(rows, samples=2, pass_at=(1, 2), maj_at=(2,), too_long=1)
    assert found["problems"] == 4 and found["responses"] == 6
    assert found["accuracy"]["value"] == pytest.approx(2 / 8)
    assert found["accuracy_judged"]["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["pass_at"]["2"]["value"] == pytest.approx(2 / 4)
    assert found["maj_at"]["2"]["value"] == pytest.approx(1 / 4)  # r; nothing; the tie goes to w; not asked
    assert (found["unjudged"], found["prompts_too_long"]) == (3, 1)
    assert found["statuses"] == {"raised": 1, "ok": 3, "lost": 2}
    assert found["truncated"] == pytest.approx(1 / 6)
    assert found["tokens"]["mean"] == pytest.approx(80 / 6) and found["tokens"]["max"] == 30
    assert found["format"] == 1.0 and found["no_answer"] == 0.0


def test_partial_credit_is_not_right():
    found = metrics.summarise([[sample(0.5, "k")], [sample(1.0, "r")]], samples=1, pass_at=(1,), maj_at=())
    assert found["accuracy"]["value"] == 0.5
    assert found["mean_outcome"] == 0.75


def test_no_majority_without_vote_keys():
    found = metrics.summarise([[sample(1.0), sample(1.0)]], samples=2, pass_at=(1,), maj_at=(1, 2))
    assert found["maj_at"] == {} and found["no_answer"] is None


def test_nothing_but_prompts_that_are_too_long():
    found = metrics.summarise([], samples=1, pass_at=(1,), maj_at=(1,), too_long=3)
    assert found["accuracy"]["value"] == 0.0 and found["tokens"] == {} and found["truncated"] is None


# Computed with scipy 1.17.1: binomtest(right, n).proportion_ci(confidence, "wilson") and binomtest(wins, n).pvalue.
@pytest.mark.parametrize(
    ("right", "n", "confidence", "low", "high"),
    [
        (0, 10, 0.95, 0.0, 0.27753279986288926),
        (3, 10, 0.95, 0.10779126740630102, 0.6032218525388546),
        (10, 10, 0.95, 0.7224672001371109, 1.0),
        (487, 1319, 0.95, 0.34358999429169257, 0.395607777520233),
        (12, 30, 0.9, 0.26712616957413493, 0.5494186920508849),
    ],
)
def test_wilson_is_scipys(right, n, confidence, low, high):
    found = metrics.wilson(right, n, confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [(0, 1, 1.0), (3, 9, 0.14599609375), (20, 8, 0.03569813817739487), (60, 40, 0.05688793364098089), (5, 5, 1.0)],
)
def test_sign_test_is_scipys(wins, losses, expected):
    assert metrics.sign_test(wins, losses) == pytest.approx(expected, rel=1e-12)


TWO_TASKS = [[0.1, 0.2, 0.3, 0.4, 0.9], [0.5, 0.55, 0.6, 0.7, 0.75]]


def test_intervals_over_seeds_are_those_of_scipy_and_rliable():
    """scipy.stats.bootstrap, method percentile, with 200,000 resamples; rliable's aggregate_iqm with 50,000."""
    one = metrics.seed_interval(TWO_TASKS[:1])
    assert (one.value, one.low, one.high) == pytest.approx((0.38, 0.18, 0.66), abs=0.021)
    both = metrics.seed_interval(TWO_TASKS, "iqm")
    assert both.value == pytest.approx(0.5083333333333333, abs=1e-12)
    assert (both.low, both.high) == pytest.approx((0.3833, 0.675), abs=0.021)
    assert metrics.seed_interval(TWO_TASKS, "iqm") == both, "the same resamples every time"


def test_resampling_within_a_task_leaves_out_the_difference_of_the_tasks():
    """Tasks without noise have no interval, however different they are."""
    found = metrics.seed_interval([[0.1] * 4, [0.9] * 4])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("strata", [[[0.1]], [[0.1, 0.2, 0.3]], [[0.1] * 9, [0.2] * 3]])
def test_fewer_than_four_seeds_have_no_interval(strata):
    found = metrics.seed_interval(strata)
    assert found.low is None and found.high is None
    assert found.value == pytest.approx(sum(map(sum, strata)) / sum(map(len, strata)))


@pytest.mark.parametrize(("strata", "statistic"), [([], "mean"), ([[0.1], []], "mean"), ([[0.1]], "median")])
def test_intervals_over_seeds_refuse(strata, statistic):
    with pytest.raises(ValueError):
        metrics.seed_interval(strata, statistic)
