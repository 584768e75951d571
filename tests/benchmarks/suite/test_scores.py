"""Curves, scores and comparisons, by hand and beside SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.benchmarks.suite.scores import (
    Run,
    by_algorithm,
    differences,
    holm,
    of_experiment,
    overall,
    sign_flip_test,
    training_curve,
)
from search_env.benchmarks.suite.task import Ended
from search_env.metrics.statistics import Interval


def run(algorithm="one", experiment="search", seed=0, curve=0.125, final=0.125):
    return Run(algorithm, experiment, seed, (curve,) * 20, (final,) * 4, 100, 1.0)


def test_a_score_is_the_mean_of_area_and_end_between_chance_and_best():
    assert run().score == 0.0
    assert run(curve=1.0, final=1.0).score == 1.0
    assert run(curve=0.5625, final=1.0).score == pytest.approx(0.75)
    assert run(curve=0.0, final=0.0).score == 0.0  # below chance is no worse than chance
    assert run(experiment="restraint", curve=0.85, final=0.9).score == pytest.approx(0.75)


def test_a_training_curve_has_the_mean_of_each_twentieth():
    episodes = [Ended(10, 1.0), Ended(50, 0.0), Ended(51, 1.0), Ended(1000, 0.5)]
    curve = training_curve(episodes, 1000)
    assert curve[:3] == (0.5, 1.0, 1.0)
    assert curve[-2:] == (1.0, 0.5)
    assert training_curve([], 1000) == (0.0,) * 20


def test_every_experiment_counts_the_same_and_a_seed_that_lacks_one_is_left_out():
    runs = [run(seed=s, curve=1.0, final=1.0) for s in range(3)]
    runs += [run(experiment="credit", seed=s, curve=0.0, final=0.0) for s in range(2)]
    assert overall(runs) == Interval(0.5, 0.5, 0.5, 2)
    assert of_experiment(runs, "search").count == 3
    assert of_experiment(runs, "stopping") is None


def test_differences_are_paired_by_experiment_and_seed():
    random = np.random.default_rng(0)
    levels = random.random(41)
    runs = [run("one", seed=s, curve=levels[s], final=1.0) for s in range(40)]
    runs += [run("two", seed=s, curve=levels[s] - 0.05, final=1.0) for s in range(41)]
    runs += [run("three", seed=s, curve=levels[s], final=1.0) for s in range(40)]
    found = {(d.first, d.second): d for d in differences(by_algorithm(runs))}
    assert found["one", "two"].gain.count == 40
    assert found["one", "two"].p_value < 0.001
    assert found["one", "three"].gain.mean == 0.0
    assert found["one", "three"].p_value == 1.0


@given(st.lists(st.integers(-5, 5), min_size=6, max_size=9))
def test_the_sign_flip_test_agrees_with_an_exact_one(gaps):
    sums = [
        abs(sum(sign * gap for sign, gap in zip(signs, gaps, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(gaps))
    ]
    exact = sum(total >= abs(sum(gaps)) for total in sums) / len(sums)
    assert sign_flip_test(gaps) == pytest.approx(exact, abs=0.02)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holms_correction_keeps_the_order_and_is_never_smaller(p_values):
    corrected = holm(p_values)
    assert all(0 <= p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    if p_values:
        smallest = min(p_values)
        assert corrected[order[0]] == min(1.0, smallest * len(p_values))
