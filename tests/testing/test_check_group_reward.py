"""check_group_reward: valid ones pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import random

import pytest

from search_env.errors import ConfigurationError, ConformanceError
from search_env.rewards import F1, GroupReward, Score
from search_env.testing import check_group_reward, failed_episode, sample_episodes
from search_env.testing.episodes import PROTOCOLS
from tests.rewards.groups import FEWEST, SPREAD, played


@pytest.mark.parametrize("reward", [FEWEST, SPREAD])
def test_valid_ones_pass(reward):
    scores = check_group_reward(reward)
    assert {len(group) for group in scores} >= {1, 2}
    assert sum(map(len, scores)) == 2 * len(sample_episodes()) + 2 * len(PROTOCOLS)


def test_own_groups_come_first_without_failed_episodes():
    own = played("<a>{gold}</a>", "<q>key1 key1 </q><a>{gold}</a>")
    scores = check_group_reward(FEWEST, [[failed_episode()], [own[1], failed_episode(), own[0]]])
    assert [score.total for score in scores[0]] == [0.0, 1.0]


def test_bad_arguments_are_reported():
    with pytest.raises(ConfigurationError, match="Expected protocols among"):
        check_group_reward(FEWEST, protocols=["r1"])
    mixed = [*played("<a></a>", index=3), *played("<a></a>")]
    with pytest.raises(ConfigurationError, match="episodes of one question"):
        check_group_reward(FEWEST, [mixed])


def pays(function) -> GroupReward:
    return GroupReward("mine", ("x",), function)


def rounds_in_order(group):
    """Sums whose last bits depend on the order are valid."""
    total = sum(0.1 * len(member.tokens) for member in group)
    return [{"x": total} for _ in group]


def writes_tokens(group):
    group[0].tokens[0] += 1
    return [{"x": 1.0} for _ in group]


class Counting:
    def __init__(self):
        self.count = 0

    def __call__(self, group):
        self.count += 1
        return [{"x": float(self.count)} for _ in group]


class ForgetsInPickle:
    def __init__(self, bonus=1.0):
        self.bonus = bonus

    def __call__(self, group):
        return [{"x": self.bonus} for _ in group]

    def __reduce__(self):
        return (ForgetsInPickle, (0.0,))


class AnotherTotal(GroupReward):
    def __call__(self, transcripts):
        return tuple(Score(2.0, {"x": 1.0}) for _ in transcripts)


def ones(group):
    return [{"x": 1.0} for _ in group]


@pytest.mark.parametrize(
    ("rule", "reward"),
    [
        ("type", F1),
        ("order", pays(lambda group: [{"x": float(i == 0)} for i in range(len(group))])),
        ("score", pays(lambda group: [{"x": 1.0 / len(group)} for _ in group[1:]])),
        ("score", pays(lambda group: [{"x": 1.0 / (len(group) - 1)} for _ in group])),
        ("transcript", pays(writes_tokens)),
        ("random", pays(lambda group: [{"x": float(random.random() >= 0)} for _ in group])),
        ("pure", pays(Counting())),
        ("picklable", pays(ForgetsInPickle())),
        ("picklable", pays(lambda group: ones(group))),
        ("sum", AnotherTotal("mine", ("x",), ones)),
    ],
)
def test_each_rule_can_break(rule, reward):
    with pytest.raises(ConformanceError, match=rf"^\[{rule}\]"):
        check_group_reward(reward)


def test_rounding_passes():
    check_group_reward(pays(rounds_in_order))
