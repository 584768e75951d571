"""A few seconds of the fuzzer; ``python -m tests.fuzz`` plays as long as you like."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.core.dynamics import Dynamics
from tests.fuzz.checks import Budget
from tests.fuzz.draw import draw
from tests.fuzz.run import SCENARIOS, FuzzError, play_case


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_cases_of_each_scenario(scenario):
    counts: Counter[str] = Counter()
    for number in range(3):
        play_case(18, number, counts, scenario=scenario, steps=150)
    assert counts["steps"] >= 3 * 150
    assert counts["episodes"]


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=12)
def test_cases_of_any_seed(seed):
    play_case(seed, 0, Counter(), steps=120)


def test_the_cases_search_answer_and_fail():
    counts: Counter[str] = Counter()
    for number in range(12):
        play_case(5, number, counts, steps=100)
    assert min(counts[kind] for kind in ("searches", "answers", "restores")) > 0
    assert len([kind for kind in counts if kind.startswith("fault ")]) >= 4


def test_a_case_is_a_pure_function_of_its_seed():
    first, second = Counter(), Counter()
    for counts in (first, second):
        play_case(3, 4, counts, steps=100)
    assert first == second
    assert draw(random.Random(1), large=False).arguments == (
        draw(random.Random(1), large=False).arguments
    )


def test_a_fault_is_found_and_the_message_says_how_to_see_it_again(monkeypatch):
    """A budget that is not heeded is noticed by the model of the rules."""
    monkeypatch.setattr(Dynamics, "_settle_budgets", lambda self, row: None)
    with pytest.raises(FuzzError, match=r"-m tests\.fuzz --seed 0 --case \d+ --steps \d+ --small"):
        _play_single_cases()


def _play_single_cases() -> None:
    for number in range(30):
        play_case(0, number, Counter(), scenario="single")


def test_a_budget_counts_steps_of_rows():
    budget = Budget(10, Counter())
    budget.spend(4)
    assert (budget.left, budget.counts["steps"]) == (6, 4)
