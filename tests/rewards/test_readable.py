"""Rewards that cannot read a protocol are refused before an episode is played."""

from __future__ import annotations

import pickle

import gymnasium as gym
import pytest

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.errors import ConfigurationError
from search_env.rewards import F1, get_reward, reward_names, search_r1_format
from search_env.rewards.group import GroupReward
from search_env.types import TagRole
from search_env.wrappers.staged_reward import StagedReward, VectorStagedReward

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}  # without tags for thoughts
FORMAT = search_r1_format()
TEXT = get_reward("r1-searcher-text-stage2-paper")
UNREADABLE = {
    "by name": "search-r1-format",
    "another by name": "r1-searcher-text-qwen-zero-released",
    "itself": FORMAT,
    "first of a sum": FORMAT + F1,
    "second of a sum": F1 + FORMAT,
    "in a sum of three": F1 + (0.5 * FORMAT.renamed("f", answer="a", format="f", retrieval="r")),
    "both of a sum": FORMAT.renamed("f", answer="a", format="b", retrieval="c") + TEXT,
    "weighted": 2 * FORMAT,
    "negative": -FORMAT,
    "renamed": FORMAT.renamed("mine"),
    "pickled": pickle.loads(pickle.dumps(F1 + FORMAT)),
}
REFUSED = "Expected a protocol with (tags for thoughts|R1-Searcher's tags), got 'toy'"

NAMES = reward_names()  # before other tests register their own


def two(group):
    return [{"two": 2.0} for _ in group]


@pytest.mark.parametrize("reward", UNREADABLE.values(), ids=UNREADABLE)
def test_c5_environments_refuse_them(reward):
    for make in (SearchQAEnv, SearchQAVectorEnv):
        with pytest.raises(ConfigurationError, match=REFUSED):
            make(reward=reward, **TOY)
        env = make(**TOY)
        with pytest.raises(ConfigurationError, match=REFUSED):
            env.set_reward(reward)
        assert env.reward_name == "f1"


@pytest.mark.parametrize("reward", [UNREADABLE["by name"], UNREADABLE["second of a sum"]])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_c5_phases_refuse_them(reward, place):
    phases = ["f1", "exact-match"]
    phases.insert(place, reward)
    arguments = {"phases": phases, "after_episodes": 5}
    with pytest.raises(ConfigurationError, match=REFUSED):
        StagedReward(gym.make("SearchQA-Toy-v0"), **arguments)
    for mode in ("vector_entry_point", "sync"):
        envs = gym.make_vec("SearchQA-Toy-v0", num_envs=2, vectorization_mode=mode)
        with pytest.raises(ConfigurationError, match=REFUSED):
            VectorStagedReward(envs, **arguments)


def test_c5_phases_begin_with_the_first_one():
    env = StagedReward(gym.make("SearchQA-Toy-v0"), ["f1", "exact-match"], phase=0)
    assert env.unwrapped.reward_name == "f1"
    env = StagedReward(gym.make("SearchQA-Toy-v0"), ["f1", "exact-match"], phase=1)
    assert env.unwrapped.reward_name == "exact-match"


def test_c5_group_rewards_are_asked_too():
    twice = GroupReward("two", ("two",), two, check=FORMAT.check)
    with pytest.raises(ConfigurationError, match=REFUSED):
        SearchQAVectorEnv(2, group_size=2, group_reward=twice, **TOY)
    SearchQAVectorEnv(
        2, group_size=2, group_reward=twice, **{**TOY, "protocol": "search-r1"}, max_tokens=2000
    )


def test_c5_every_reward_scores_an_answer_of_each_protocol_that_it_accepts():
    """What passes the check at construction does not fail when an episode ends."""
    for protocol in ("toy", "search-r1", "r1-searcher++", "r1-searcher"):
        env = SearchQAEnv(dataset="toy", protocol=protocol, tokenizer="byte", max_tokens=4000)
        answer = env.protocol.pair(TagRole.ANSWER)
        for name in NAMES:
            try:
                env.set_reward(name)
            except ConfigurationError:
                assert protocol != "r1-searcher"
                continue
            env.reset(seed=0)
            for token in env.tokenizer.encode(f"{answer.open}value0{answer.close}", special=True):
                *_, terminated, _, info = env.step(token)
            assert terminated, name
            assert "reward_parts" in info
