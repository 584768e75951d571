"""check_reward: registered rewards pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

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


def raises_without_an_answer(transcript):
    return {"part": float(len(transcript.answer.strip()))}


def divides_by_searches(transcript):
    return {"part": 1 / len(transcript.searches)}


def nan_at_budgets(transcript):
    return {"part": 1.0 if transcript.stop_reason.terminated else float("nan")}


def forgets_its_part(transcript):
    return {"part": 1.0} if transcript.answer is not None else {}


def adds_a_part(transcript):
    return {"part": 1.0, "other": 0.0}


def a_word(transcript):
    return {"part": "much"}


def clears_documents(transcript):
    transcript.documents.clear()
    return {"part": 1.0}


def writes_tokens(transcript):
    transcript.tokens[0] += 1
    return {"part": 1.0}


def writes_sources(transcript):
    transcript.sources[:] = 2
    return {"part": 1.0}


def draws_by_python(transcript):
    return {"part": float(random.randint(1, 64) > 0)}


def draws_by_numpy(transcript):
    return {"part": float(np.random.rand() >= 0)}


class Counting:
    """Pays more each time."""

    def __init__(self):
        self.count = 0

    def __call__(self, transcript):
        self.count += 1
        return {"part": float(self.count)}


class ForgetsInPickle:
    """Pays its bonus only where it was made."""

    def __init__(self):
        self.bonus = 1.0

    def __call__(self, transcript):
        return {"part": self.bonus}

    def __reduce__(self):
        return (_without_bonus, ())


def _without_bonus():
    made = ForgetsInPickle()
    made.bonus = 0.0
    return made


class AnotherTotal(Reward):
    def __call__(self, transcript):
        parts = {"part": 1.0}
        return Score(2.0, parts)


class UndeclaredParts(Reward):
    def __call__(self, transcript):
        return Score(1.0, {"other": 1.0})


class InfiniteParts(Reward):
    def __call__(self, transcript):
        return Score(float("inf"), {"part": float("inf")})


def constant(transcript):
    return {"part": 1.0}


BROKEN = [
    (constant, "type"),
    (pays(raises_without_an_answer), "score"),
    (pays(divides_by_searches), "score"),
    (pays(nan_at_budgets), "score"),
    (pays(forgets_its_part), "score"),
    (pays(adds_a_part), "score"),
    (pays(a_word), "score"),
    (UndeclaredParts("mine", ("part",), constant), "score"),
    (InfiniteParts("mine", ("part",), constant), "score"),
    (AnotherTotal("mine", ("part",), constant), "sum"),
    (pays(clears_documents), "transcript"),
    (pays(writes_tokens), "transcript"),
    (pays(writes_sources), "transcript"),
    (pays(draws_by_python), "random"),
    (pays(draws_by_numpy), "random"),
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
