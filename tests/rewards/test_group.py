"""Group rewards: numbers by hand, what is left out, what is refused, any order of members."""

from __future__ import annotations

import dataclasses
import functools
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError, RewardError
from search_env.registry import Registry
from search_env.rewards import (
    F1,
    GroupReward,
    Score,
    get_group_reward,
    group_reward_names,
    group_scores,
    register_group_reward,
)
from search_env.rewards import group as group_module
from search_env.testing import failed_episode
from tests.rewards.groups import FEWEST, SCRIPTS, SPREAD, played


@functools.cache
def episodes():
    return played(*SCRIPTS)


def totals(reward, members):
    return [score.total for score in reward(members)]


@pytest.mark.parametrize(
    ("scripts", "fewest", "spread"),
    [
        ([1, 3], [1, 0], [2, 0]),  # counts 1 and 3: variance 1
        ([0, 1], [1, 0], [0.5, 0]),
        ([0, 3], [1, 0], [2, 0]),  # variance 2.25, cut off at 2
        ([1, 1, 2, 2], [1, 1, 0, 0], [0.5, 0.5, 0, 0]),
        ([2, 2], [1, 1], [0, 0]),  # equal counts
        ([4, 2, 5], [0, 1, 0], [0, 0, 0]),  # one is right; the wrong ones searched less
        ([4, 6], [0, 0], [0, 0]),
        ([1], [1], [0]),
        ([6], [0], [0]),
    ],
)
def test_numbers_by_hand(scripts, fewest, spread):
    members = [episodes()[script] for script in scripts]
    assert totals(FEWEST, members) == fewest
    assert totals(SPREAD, members) == spread
    assert [score.parts for score in FEWEST(members)] == [{"frugal": worth} for worth in fewest]


@given(st.permutations(range(len(SCRIPTS))), st.sampled_from([FEWEST, SPREAD]))
def test_each_member_gets_the_same_in_any_order(order, reward):
    members = episodes()
    scores = reward(members)
    for i, score in zip(order, reward([members[i] for i in order]), strict=True):
        assert math.isclose(score.total, scores[i].total, abs_tol=1e-12)


def test_members_whose_retrieval_failed_are_left_out():
    failed = dataclasses.replace(failed_episode(), question=episodes()[0].question)
    members = [failed, episodes()[2], failed, episodes()[1]]
    scores = FEWEST(members)
    assert scores[0] == scores[2] == Score(0.0, {})
    assert (scores[1], scores[3]) == FEWEST([episodes()[2], episodes()[1]])

    def never(group):
        raise AssertionError

    assert GroupReward("never", ("x",), never)([failed]) == (Score(0.0, {}),)


def test_a_member_is_worth_both_rewards():
    members = [episodes()[i] for i in (1, 2, 4)]
    worth = group_scores(FEWEST, members, [F1(member) for member in members])
    assert worth == (
        Score(2.0, {"f1": 1.0, "frugal": 1.0}),
        Score(1.0, {"f1": 1.0, "frugal": 0.0}),
        Score(0.0, {"f1": 0.0, "frugal": 0.0}),
    )
    with pytest.raises(ConfigurationError, match=r"got \['frugal'\] in both"):
        group_scores(FEWEST, members[:1], [Score(1.0, {"frugal": 1.0})])


def test_what_is_no_complete_group_of_one_question_is_refused():
    with pytest.raises(ConfigurationError, match="at least one episode, got none"):
        FEWEST([])
    with pytest.raises(ConfigurationError, match="episodes of one question"):
        FEWEST([*played(SCRIPTS[0], index=3), episodes()[0]])
    running = dataclasses.replace(episodes()[0], events=())
    with pytest.raises(ConfigurationError, match="still runs"):
        FEWEST([episodes()[0], running])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda group: 1 / 0, "it raised ZeroDivisionError"),
        (lambda group: [{"x": 1.0}], "for each of 2 episodes"),
        (lambda group: None, "for each of 2 episodes"),
        (lambda group: "ab", "for each of 2 episodes"),
        (lambda group: [1.0, 2.0], "a mapping of its parts"),
        (lambda group: [{"x": 1.0}, {"y": 1.0}], r"to return the parts \['x'\], got \['y'\]"),
        (lambda group: [{"x": 1.0}, {"x": math.nan}], "part 'x' of reward 'mine'"),
    ],
)
def test_functions_that_fail_are_named(function, message):
    with pytest.raises(RewardError, match=message):
        GroupReward("mine", ("x",), function)(episodes()[:2])


@pytest.mark.parametrize("parts", [(), ("x", "x")])
def test_parts_have_names_of_their_own(parts):
    with pytest.raises(ConfigurationError, match="parts with unique names"):
        GroupReward("mine", parts, len)


def test_group_rewards_are_known_by_name(monkeypatch):
    monkeypatch.setattr(group_module, "_GROUP_REWARDS", Registry("group_reward", ""))
    assert register_group_reward(FEWEST) is FEWEST
    assert get_group_reward("test-fewest-searches") is FEWEST is get_group_reward(FEWEST)
    assert group_reward_names() == ("test-fewest-searches",)
    with pytest.raises(ConfigurationError, match="is registered"):
        register_group_reward(FEWEST)
    other = GroupReward(FEWEST.name, ("y",), len)
    assert register_group_reward(other, replace=True) is get_group_reward(FEWEST.name)
    with pytest.raises(ConfigurationError, match="Did you mean 'test-fewest-searches'"):
        get_group_reward("fewest-searches")
    with pytest.raises(ConfigurationError, match=r"got \['f1'\] in both"):
        get_group_reward(GroupReward("mine", ("f1",), len), beside=F1)


def test_group_rewards_survive_pickling():
    assert pickle.loads(pickle.dumps(FEWEST)) == FEWEST
