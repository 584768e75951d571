"""The recording wrapper writes finished episodes, changes nothing and combines with others."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from search_env.errors import ConfigurationError, EpisodeFileError, RetrievalError
from search_env.recording.files import read_episodes
from search_env.recording.replay import replay_episode, replay_episodes
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.registry import register_retriever
from search_env.rewards.answer import COVER_EXACT_MATCH, EXACT_MATCH
from search_env.testing import check_wrapper
from search_env.wrappers.record_episodes import RecordEpisodes

SEARCH_AND_ANSWER = "<q>key1 key2 </q><a>value3 </a>"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "episodes.jsonl"


def toy(**arguments):
    return gym.make("SearchQA-Toy-v0", **arguments)


def send(env, text=SEARCH_AND_ANSWER):
    """Step through a text; return the steps' results."""
    return [env.step(token) for token in env.unwrapped.tokenizer.encode(text).tolist()]


def test_finished_episodes_are_written_at_once_and_in_order(path):
    env = RecordEpisodes(toy(), path)
    for number, seed in enumerate([5, None, 7], start=1):
        env.reset(seed=seed)
        assert len(list(read_episodes(path))) == number - 1 if path.exists() else number == 1
        send(env)
        episodes = list(read_episodes(path))
        assert len(episodes) == number
        assert episodes[-1].seed == seed
        np.testing.assert_array_equal(
            episodes[-1].transcript.tokens, env.unwrapped.transcript().tokens
        )
    assert len(list(replay_episodes(read_episodes(path)))) == 3


def test_unfinished_episodes_are_not_written(path):
    env = RecordEpisodes(toy(), path)
    env.reset(seed=0)
    send(env, "<q>key1 ")
    env.reset(seed=1)
    send(env, "<q>key1 ")
    env.close()
    assert not path.exists()


def test_an_episode_interrupted_by_an_exception_is_not_written(path):
    register_retriever("down", lambda: FakeRetriever(error=OSError("down")))
    env = RecordEpisodes(toy(retriever="down"), path)
    env.reset(seed=0)
    with pytest.raises(RetrievalError):
        send(env)
    assert not path.exists()
    env = RecordEpisodes(toy(retriever="down", on_retrieval_error="truncate"), path)
    env.reset(seed=0)
    send(env, "<q>key1 </q>")
    (episode,) = read_episodes(path)
    assert not episode.valid
    assert replay_episode(episode).observations == 4


def test_an_episode_truncated_by_a_time_limit_is_not_written(path):
    env = RecordEpisodes(gym.wrappers.TimeLimit(toy(), 2), path)
    env.reset(seed=0)
    assert send(env, "<q>key1 ")[-1][3]
    assert not path.exists()
    env.reset(seed=0)
    send(env, "<a></a>")  # ends at the very step of the limit
    assert len(list(read_episodes(path))) == 1


def test_results_pass_unchanged(path):
    plain, wrapped = toy(), RecordEpisodes(toy(), path)
    first, second = plain.reset(seed=3), wrapped.reset(seed=3)
    for a, b in [(first, second), *zip(send(plain), send(wrapped), strict=True)]:
        for key in a[0]:
            np.testing.assert_array_equal(a[0][key], b[0][key])
        assert a[1:] == b[1:]
    check_wrapper(lambda env: RecordEpisodes(env, path), picklable=True)


def test_it_records_the_bare_environment_below_other_wrappers(path):
    env = gym.wrappers.TransformReward(toy(reward="exact-match"), lambda reward: 100 * reward)
    env = RecordEpisodes(gym.wrappers.FlattenObservation(env), str(path))
    env.reset(seed=0)
    gold = env.unwrapped.transcript().question.answers[0]
    assert send(env, f"<a>{gold} </a>")[-1][1] == 100
    (episode,) = read_episodes(path)
    assert (episode.reward, episode.score.total) == ("exact-match", 1.0)
    assert (episode.env_id, episode.arguments["reward"]) == ("SearchQA-Toy-v0", "exact-match")
    replay_episode(episode)


class Alternating(gym.Wrapper):
    """Changes the reward as soon as an episode has ended."""

    def step(self, action):
        result = self.env.step(action)
        if result[2]:
            self.unwrapped.set_reward(COVER_EXACT_MATCH)
        return result


def test_the_reward_that_was_paid_is_the_one_recorded(path):
    env = RecordEpisodes(Alternating(toy(reward=EXACT_MATCH)), path)
    for _ in range(2):
        env.reset(seed=0)
        send(env)
    assert [e.reward for e in read_episodes(path)] == ["exact-match", "cover-exact-match"]
    assert {e.arguments["reward"] for e in read_episodes(path)} == {"exact-match"}
    list(replay_episodes(read_episodes(path)))


def test_the_spec_survives_json_and_appends_to_the_same_file(path):
    spec = RecordEpisodes(toy(split="test"), path).spec
    env = gym.make(EnvSpec.from_json(spec.to_json()))
    assert isinstance(env, RecordEpisodes)
    assert env.spec == spec
    env.reset(seed=0)
    send(env)
    again = gym.make(EnvSpec.from_json(spec.to_json()))
    again.reset(seed=0)
    send(again)
    first, second = path.read_bytes().splitlines()
    assert first == second


def test_restored_and_copied_episodes_are_written_completely(path):
    env = RecordEpisodes(toy(), path)
    env.reset(seed=0)
    send(env, "<q>key1 key2 </q>")
    state, twin = env.unwrapped.get_state(), copy.deepcopy(env)
    env.reset(seed=1)
    env.unwrapped.set_state(state)
    send(env, "<a>value3 </a>")
    send(twin, "<a>value3 </a>")
    a, b = read_episodes(path)
    np.testing.assert_array_equal(a.transcript.tokens, b.transcript.tokens)
    assert replay_episode(a) == replay_episode(b)


@pytest.mark.parametrize("kind", ["SyncVectorEnv", "AsyncVectorEnv"])
def test_rows_of_gymnasiums_vector_environments_share_a_file(path, kind):
    envs = getattr(gym.vector, kind)([lambda: RecordEpisodes(toy(), path)] * 2)
    envs.reset(seed=4)
    for token in toy().unwrapped.tokenizer.encode(SEARCH_AND_ANSWER).tolist():
        envs.step(np.array([token, token]))
    envs.close()
    assert sorted(episode.seed for episode in read_episodes(path)) == [4, 5]


def test_unrecordable_environments_are_refused(path):
    with pytest.raises(ConfigurationError, match="got CartPoleEnv"):
        RecordEpisodes(gym.make("CartPole-v1"), path)
    with pytest.raises(ConfigurationError, match="register_retriever"):
        RecordEpisodes(toy(retriever=FakeRetriever()), path)
    path.write_text("notes\n")
    with pytest.raises(EpisodeFileError, match="choose another path"):
        RecordEpisodes(toy(), path)
    assert path.read_text() == "notes\n"
