from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_env.metrics.statistics
from search_env.errors import ConfigurationError
from search_env.metrics.statistics import (
    Interval,
    bootstrap_crossed,
    bootstrap_mean,
    compare_paired,
    majority_vote,
    pass_at_k,
    sign_test,
)


def binomial_quantile(n, p, level):
    """Smallest k with P(X <= k) >= level."""
    total = 0.0
    for k in range(n + 1):
        total += comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= level:
            return k
    return n


@pytest.mark.parametrize(("n", "ones"), [(10, 3), (40, 20), (200, 14)])
def test_of_zeros_and_ones_it_is_the_binomial_interval(n, ones):
    """A resample's sum is Binomial(n, ones / n), whose quantiles can be computed exactly."""
    result = bootstrap_mean([1.0] * ones + [0.0] * (n - ones), resamples=20_000)
    assert result.mean == pytest.approx(ones / n)
    assert result.count == n
    assert abs(result.low * n - binomial_quantile(n, ones / n, 0.025)) <= 1
    assert abs(result.high * n - binomial_quantile(n, ones / n, 0.975)) <= 1


def test_one_level_of_two_values():
    """Means of two draws from {0, 1} are 0, 1/2, 1 with 1/4, 1/2, 1/4: the middle half is 1/2."""
    result = bootstrap_mean([0.0, 1.0], level=0.4)
    assert (result.low, result.high) == (0.5, 0.5)
    assert bootstrap_mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0, 2)


def test_close_to_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    result = bootstrap_mean(values.tolist(), resamples=10_000)
    half = 1.96 * values.std() / 20
    assert result.low == pytest.approx(values.mean() - half, abs=0.02)
    assert result.high == pytest.approx(values.mean() + half, abs=0.02)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(0, 5))
def test_ordered_bounded_and_repeatable(values, seed):
    result = bootstrap_mean(values, resamples=200, seed=seed)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= result.low <= result.high <= max(values) + slack
    assert result == bootstrap_mean(values, resamples=200, seed=seed)


def test_chunks_give_as_many_resamples(monkeypatch):
    monkeypatch.setattr(
        search_env.metrics.statistics, "_DRAWS_AT_ONCE", 7
    )  # two resamples at a time
    result = bootstrap_mean([0.0, 1.0, 1.0], resamples=2001)
    assert result.mean == pytest.approx(2 / 3)
    assert (result.low, result.high) == (0.0, 1.0)  # P(0) = P(X = 0) = 1/27 > 0.025


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_to_average(values):
    with pytest.raises(ConfigurationError, match="at least one value"):
        bootstrap_mean(values)


# Two agents, several samples.


@pytest.mark.parametrize(
    ("more", "less", "p_value"),
    [
        (10, 2, 2 * (1 + 12 + 66) / 2**12),  # by hand: C(12, 0), C(12, 1), C(12, 2)
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
        (1, 0, 1.0),
        (20, 0, 2 / 2**20),
        (4, 4, 1.0),
    ],
)
def test_the_sign_test_by_hand(more, less, p_value):
    assert sign_test(more, less) == pytest.approx(p_value)


@given(st.integers(0, 12), st.integers(0, 12))
def test_the_sign_test_counts_the_coin_flips_that_are_as_uneven(more, less):
    count = more + less
    flips = [bin(flip).count("1") for flip in range(1 << min(count, 12))]
    if count <= 12:
        as_uneven = sum(abs(2 * heads - count) >= abs(more - less) for heads in flips)
        assert sign_test(more, less) == pytest.approx(as_uneven / 2**count)


def test_the_sign_test_of_thousands_is_a_number():
    assert 0.0 <= sign_test(3000, 1000) < 1e-200
    assert sign_test(1500, 1500) == 1.0


def test_a_paired_comparison_by_hand():
    first, second = [1, 1, 1, 1, 0, 0, 0.5], [0, 0, 0, 1, 1, 0, 0.25]
    result = compare_paired(first, second)
    assert (result.first_only, result.second_only) == (4, 1)
    assert result.p_value == pytest.approx(2 * (1 + 5) / 2**5)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    assert result.difference == bootstrap_mean(differences)
    back = compare_paired(second, first)
    assert (back.p_value, back.difference.mean) == (result.p_value, -result.difference.mean)


def test_pairs_see_what_intervals_apart_do_not():
    """The second is right wherever the first is, and on twelve questions more."""
    second = [1.0] * 112 + [0.0] * 88
    first = [0.0] * 12 + second[12:]
    alone = [bootstrap_mean(scores) for scores in (first, second)]
    assert alone[0].high > alone[1].low
    result = compare_paired(second, first)
    assert result.difference.low > 0
    assert result.p_value < 0.001


def test_only_answers_to_the_same_questions_are_compared():
    with pytest.raises(ConfigurationError, match="got 2 and 1"):
        compare_paired([1, 0], [1])


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples, data):
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    outcomes = [1] * right + [0] * (samples - right)
    draws = list(combinations(outcomes, k))
    share = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k(samples, right, k) == pytest.approx(share)


@pytest.mark.parametrize("numbers", [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1)])
def test_pass_at_k_of_numbers_that_do_not_fit(numbers):
    with pytest.raises(ConfigurationError, match="Take more samples or lower k"):
        pass_at_k(*numbers)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["a", "b", "b"], "b"), (["b", "a"], "b"), ([None, "a"], "a"), ([None], None), ([], None)],
)
def test_the_majority_wins_and_silence_is_no_vote(answers, winner):
    assert majority_vote(answers) == winner


def test_an_interval_over_seeds_and_questions_covers_both():
    """Row and column effects of known spread: the interval is as wide as both together."""
    random = np.random.default_rng(3)
    rows, columns = random.normal(0, 1.0, (40, 1)), random.normal(0, 2.0, (1, 400))
    result = bootstrap_crossed((rows + columns).tolist(), resamples=4000)
    error = np.sqrt(rows.var() / 40 + columns.var() / 400)
    assert result.mean == pytest.approx((rows + columns).mean())
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * error, rel=0.08)
    assert result.count == 16_000


def test_one_seed_leaves_the_interval_over_questions():
    values = np.random.default_rng(5).integers(2, size=300).astype(float).tolist()
    alone, crossed = bootstrap_mean(values), bootstrap_crossed([values], resamples=4000)
    assert crossed.low == pytest.approx(alone.low, abs=0.01)
    assert crossed.high == pytest.approx(alone.high, abs=0.01)
    assert bootstrap_crossed([values]) == bootstrap_crossed([values])


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0], [[1.0], [1.0, 2.0]], [[float("nan")]]])
def test_other_tables_are_refused(values):
    with pytest.raises(ConfigurationError, match="a row of finite values for each seed"):
        bootstrap_crossed(values)
