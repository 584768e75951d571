"""The rule of phases against a second implementation of it, and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.rewards.phases import PhaseRule, PhaseState, PhaseSwitch
from tests.wrappers.staged_play import OUTCOMES, episodes, expected_history, rules


@given(st.lists(st.lists(episodes, min_size=1, max_size=3), max_size=15), rules, st.integers(1, 4))
def test_the_rule_equals_its_second_implementation(groups, rule, phases):
    pure, state = PhaseRule(phases, **rule), PhaseState()
    for group in groups:
        state, _ = pure.observe(state, [OUTCOMES[kind] for kind in group])
    assert state.history == expected_history(groups, rule, phases)
    assert state.total == sum(OUTCOMES[kind].valid for group in groups for kind in group)


def test_a_phase_may_have_a_length():
    state, rule = PhaseState(), PhaseRule(2, after_episodes=350 * 16)
    for _ in range(5_600):
        assert state.phase == 0
        state, _ = rule.observe(state, [OUTCOMES["answers"]])
    assert state.history == (PhaseSwitch(1, 5_600, "episodes"),)


@pytest.mark.parametrize("searching", range(11))
def test_a_threshold_that_is_met_exactly_counts(searching):
    rule, state = PhaseRule(2, search_rate=0.7, window=10), PhaseState()
    for i in range(10):
        state, seen = rule.observe(state, [OUTCOMES["searches" if i < searching else "answers"]])
    assert seen[0] == (10, searching / 10, 1.0, searching >= 7)


def test_both_rates_must_hold_after_the_same_episode():
    rule = PhaseRule(2, search_rate=0.5, format_rate=0.5, window=2)
    state, stream = PhaseState(), ["searches badly", "rambles", "answers", "searches badly"]
    for kind in stream:
        state, _ = rule.observe(state, [OUTCOMES[kind]])
    # Shares of (search, format): (1/2, 0), (0, 1/2), (1/2, 1/2).
    assert state.history == (PhaseSwitch(1, 4, "metric"),)


def test_rates_are_of_the_window_and_of_the_phase():
    rule, state = PhaseRule(3, search_rate=1, window=2), PhaseState()
    seen = []
    for kind in ["answers", "searches", "searches", "searches", "searches"]:
        state, progress = rule.observe(state, [OUTCOMES[kind]])
        seen.append(progress[0][:2])
    assert seen == [(1, 0.0), (2, 0.5), (3, 1.0), (1, 1.0), (2, 1.0)]
    assert [switch.episode for switch in state.history] == [3, 5]


def test_later_rows_of_the_switching_step_do_not_count_for_the_new_phase():
    rule = PhaseRule(3, after_episodes=2)
    state, seen = rule.observe(PhaseState(), [OUTCOMES["answers"]] * 7)
    assert [progress.switched for progress in seen] == [False, True] + [False] * 5
    assert (state.phase, state.total, state.episodes) == (1, 7, 0)
    assert state.history == (PhaseSwitch(1, 2, "episodes"),)
