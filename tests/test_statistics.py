from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_env.statistics
from search_env.errors import ConfigurationError
from search_env.statistics import Interval, bootstrap_mean


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
    found = bootstrap_mean([1.0] * ones + [0.0] * (n - ones), resamples=20_000)
    assert found.mean == pytest.approx(ones / n)
    assert found.count == n
    assert abs(found.low * n - binomial_quantile(n, ones / n, 0.025)) <= 1
    assert abs(found.high * n - binomial_quantile(n, ones / n, 0.975)) <= 1


def test_one_level_of_two_values():
    """Means of two draws from {0, 1} are 0, 1/2, 1 with 1/4, 1/2, 1/4: the middle half is 1/2."""
    found = bootstrap_mean([0.0, 1.0], level=0.4)
    assert (found.low, found.high) == (0.5, 0.5)
    assert bootstrap_mean([0.0, 1.0]) == Interval(0.5, 0.0, 1.0, 2)


def test_close_to_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap_mean(values.tolist(), resamples=10_000)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(0, 5))
def test_ordered_bounded_and_repeatable(values, seed):
    found = bootstrap_mean(values, resamples=200, seed=seed)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found == bootstrap_mean(values, resamples=200, seed=seed)


def test_chunks_give_as_many_resamples(monkeypatch):
    monkeypatch.setattr(search_env.statistics, "_DRAWS_AT_ONCE", 7)  # two resamples at a time
    found = bootstrap_mean([0.0, 1.0, 1.0], resamples=2001)
    assert found.mean == pytest.approx(2 / 3)
    assert (found.low, found.high) == (0.0, 1.0)  # P(0) = P(X = 0) = 1/27 > 0.025


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_to_average(values):
    with pytest.raises(ConfigurationError, match="at least one value"):
        bootstrap_mean(values)
