"""Budgets and endings of frames."""

import pytest

from search_env.rendering import Budget
from search_env.types import Source, StopReason

from .episodes import Writer, episode


def test_budgets():
    frame = episode().frame(max_policy_tokens=200)
    policy = frame.transcript.num_policy_tokens
    total = len(frame.transcript.tokens)
    assert frame.budgets == (
        Budget("tokens", total, 4096),
        Budget("policy tokens", policy, 200),
        Budget("searches", 2, 4),
    )
    assert [budget.name for budget in episode().frame().budgets] == ["tokens", "searches"]


@pytest.mark.parametrize(
    ("used", "limit", "fraction", "text"),
    [
        (0, 10, 0.0, "0 / 10"),
        (5, 4, 1.0, "5 / 4"),
        (0, 0, 1.0, "0 / 0"),
        (1234, None, 0.0, "1,234"),
    ],
)
def test_budget(used, limit, fraction, text):
    budget = Budget("searches", used, limit)
    assert budget.fraction == fraction
    assert str(budget) == text


def test_running():
    frame = episode().frame(30)
    assert frame.running
    assert frame.ending == "running"
    assert not episode().frame().running


def test_every_stop_reason_has_its_ending():
    endings = {Writer().write(Source.POLICY, "x").end(r).frame().ending for r in StopReason}
    assert len(endings) == len(StopReason)
