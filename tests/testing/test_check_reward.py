"""check_reward: registered rewards pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest

from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import ConfigurationError, ConformanceError
from search_env.rewards import F1, Reward, Score, get_reward, reward_names, search_cost
from search_env.testing import check_reward, failed_episode, sample_episodes
from search_env.testing.episodes import PROTOCOLS
from search_env.types import StopReason


@pytest.mark.parametrize("name", reward_names())
def test_registered_rewards_pass(name):
    """Rewards that read the tags of one system are checked on episodes of that system."""
    protocols = PROTOCOLS
    if name.startswith("r1-searcher-text"):
        protocols = ("r1-searcher",)
    elif name == "search-r1-format":
        protocols = ("r1-searcher", "search-r1")
    scores = check_reward(get_reward(name), protocols=protocols)
    assert len(scores) == sum(episode.protocol in protocols for episode in sample_episodes())


def test_unknown_protocols_are_refused():
    with pytest.raises(ConfigurationError, match="Expected protocols among"):
        check_reward(F1, protocols=["r1"])


def test_the_samples_have_every_valid_stop_reason():
    endings = {episode.stop_reason for episode in sample_episodes()}
    assert endings == set(StopReason) - {StopReason.RETRIEVAL_ERROR}
    assert failed_episode().stop_reason is StopReason.RETRIEVAL_ERROR
    assert {episode.protocol for episode in sample_episodes()} == {
        "toy",
        "r1-searcher",
        "r1-searcher++",
        "search-r1",
    }
    assert {len(episode.searches) for episode in sample_episodes()} >= {0, 1, 2, 4}
    assert sum(bool(episode.faults) for episode in sample_episodes()) >= 5


def test_scores_by_hand():
    scores = [score.total for score in check_reward(F1 + 0.5 * search_cost(0.1))]
    # Right after a search, right without, wrong, empty, right after faults, right among 3 words.
    assert scores[:5] == pytest.approx([0.95, 1.0, -0.05, 0.0, 0.95])
    assert scores[6] == pytest.approx(0.5 - 0.1)
    assert scores[-1] == pytest.approx(-0.2)


def pays(function) -> Reward:
    return Reward("mine", ("part",), function)


def writes_tokens(transcript):
    transcript.tokens[0] += 1
    return {"part": 1.0}


def writes_sources(transcript):
    transcript.sources[:] = 2
    return {"part": 1.0}


class Counting:
    """Pays more each time."""

    def __init__(self):
        self.count = 0

    def __call__(self, transcript):
        self.count += 1
        return {"part": float(self.count)}


class ForgetsInPickle:
    """Pays its bonus only where it was made."""

    def __init__(self, bonus=1.0):
        self.bonus = bonus

    def __call__(self, transcript):
        return {"part": self.bonus}

    def __reduce__(self):
        return (ForgetsInPickle, (0.0,))


@dataclasses.dataclass(frozen=True)
class Unchecked(Reward):
    """Returns a score that ``Reward`` itself would refuse."""

    score: Score | None = None

    def __call__(self, transcript):
        return self.score


def constant(transcript):
    return {"part": 1.0}


BROKEN = [
    (constant, "type"),
    (pays(lambda transcript: {"part": float(len(transcript.answer.strip()))}), "score"),
    (pays(lambda transcript: {"part": 1 / len(transcript.searches)}), "score"),
    (pays(lambda t: {"part": 1.0 if t.stop_reason.terminated else float("nan")}), "score"),
    (pays(lambda transcript: {} if transcript.answer is None else {"part": 1.0}), "score"),
    (pays(lambda transcript: {"part": 1.0, "other": 0.0}), "score"),
    (pays(lambda transcript: {"part": "much"}), "score"),
    (Unchecked("mine", ("part",), constant, Score(1.0, {"other": 1.0})), "score"),
    (Unchecked("mine", ("part",), constant, Score(math.inf, {"part": math.inf})), "score"),
    (Unchecked("mine", ("part",), constant, Score(2.0, {"part": 1.0})), "sum"),
    (pays(writes_tokens), "transcript"),
    (pays(writes_sources), "transcript"),
    (pays(lambda transcript: {"part": float(random.randint(1, 64) > 0)}), "random"),
    (pays(lambda transcript: {"part": float(np.random.rand() >= 0)}), "random"),
    (pays(Counting()), "pure"),
    (pays(lambda transcript: {"part": 1.0}), "picklable"),
    (pays(ForgetsInPickle()), "picklable"),
]


@pytest.mark.parametrize(("reward", "rule"), BROKEN)
def test_each_rule_can_break(reward, rule):
    with pytest.raises(ConformanceError, match=rf"^\[{rule}\] Expected (.|\n)+, got "):
        check_reward(reward)


def test_a_broken_reward_does_not_spoil_the_samples():
    before = [episode.tokens.copy() for episode in sample_episodes()]
    with pytest.raises(ConformanceError):
        check_reward(pays(writes_tokens))
    for tokens, episode in zip(before, sample_episodes(), strict=True):
        np.testing.assert_array_equal(tokens, episode.tokens)


def test_pickling_can_be_waived():
    check_reward(pays(lambda transcript: {"part": 1.0}), picklable=False)


def refuses_failures(transcript):
    if not transcript.stop_reason.valid:
        raise ValueError("scored a failure")
    return {"part": 1.0}


def test_failed_retrieval_is_not_scored():
    episodes = [failed_episode(), sample_episodes()[0]]
    assert len(check_reward(pays(refuses_failures), episodes)) == len(sample_episodes()) + 1


def test_own_episodes_come_first_and_must_have_ended():
    scores = check_reward(F1, sample_episodes()[:2])
    assert len(scores) == len(sample_episodes()) + 2
    env = SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy")
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="1 that still run"):
        check_reward(F1, [env.transcript()])
