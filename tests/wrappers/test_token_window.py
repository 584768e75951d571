"""Token windows: places by hand, contracts, equality of single and vector form."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import search_env  # noqa: F401 - registers the ids
from search_env.errors import ConfigurationError
from search_env.testing import check_vector_env, check_wrapper
from search_env.wrappers.staged_reward import StagedReward, VectorStagedReward
from search_env.wrappers.token_window import TokenWindow, VectorTokenWindow

ID = "SearchQA-Toy-v0"
EPISODE = "<q>key1 key1 </q>"  # 3 tokens before it, 3 of a document after it


def windows(size, keep):
    """The window after reset and after each token of a search."""
    env = TokenWindow(gym.make(ID), size, keep=keep)
    observation, _ = env.reset(options={"index": 9})
    yield observation.tolist()
    for token in env.unwrapped.tokenizer.encode(EPISODE):
        observation, *_ = env.step(token)
        yield observation.tolist()


def ids(text):
    return gym.make(ID).unwrapped.tokenizer.encode(text).tolist()


def test_the_first_tokens_stand_where_they_stand_in_the_episode():
    seen = list(windows(6, "first"))
    prompt, query = ids("find key1 key1 "), ids(EPISODE)
    assert seen[0] == [*prompt, 24, 24, 24]
    assert seen[1] == [*prompt, query[0], 24, 24]
    assert seen[3:] == [[*prompt, *query[:3]]] * 2


def test_the_last_tokens_end_with_the_newest():
    seen = list(windows(6, "last"))
    prompt, query = ids("find key1 key1 "), ids(EPISODE)
    assert seen[0] == [24, 24, 24, *prompt]
    assert seen[1] == [24, 24, *prompt, query[0]]
    assert seen[3] == [*prompt, *query[:3]]
    assert seen[4][:3] == query[1:]
    assert [seen[4][3], seen[4][5]] == ids("<d></d>")  # the value between them


@pytest.mark.parametrize("keep", ["first", "last"])
def test_the_whole_context_holds_every_token_once(keep):
    env = TokenWindow(gym.make(ID), keep=keep)
    observation, _ = env.reset(seed=3)
    tokens = env.unwrapped.transcript().tokens.tolist()
    assert observation.shape == (16,)
    empty = [24] * (16 - len(tokens))
    assert observation.tolist() == (tokens + empty if keep == "first" else empty + tokens)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_it_keeps_gymnasiums_contract(keep):
    check_wrapper(functools.partial(TokenWindow, size=5, keep=keep), picklable=True)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_the_vector_form_is_the_single_one_in_each_row(keep):
    def make(num_envs, autoreset_mode):
        envs = gym.make_vec(ID, num_envs=num_envs, autoreset_mode=autoreset_mode)
        return VectorTokenWindow(envs, 7, keep=keep)

    check_vector_env(make, single=lambda: TokenWindow(gym.make(ID), 7, keep=keep))


@pytest.mark.parametrize("form", [{}, {"vectorization_mode": "sync"}])
def test_final_observations_are_windows(form):
    vector_kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
    if form:
        envs = gym.make_vec(ID, num_envs=2, **form, vector_kwargs=vector_kwargs)
    else:
        envs = gym.make_vec(ID, num_envs=2, **vector_kwargs)
    envs = VectorTokenWindow(envs, 4)
    envs.reset(options={"index": 9} if form else {"index": [9, 9]})
    _, _, terminations, _, infos = envs.step(np.array([0, 7]))  # the end of sequence; a key
    assert terminations.tolist() == [True, False]
    assert infos["final_obs"][0].tolist() == [*ids("find key1 key1 "), 0]
    assert infos["final_obs"][1] is None


def test_phases_work_through_it():
    env = StagedReward(TokenWindow(gym.make(ID)), after_episodes=1)
    env.reset(seed=0)
    env.step(0)
    assert env.unwrapped.reward.name == "r1-searcher-stage2"
    envs = VectorTokenWindow(gym.make_vec(ID, num_envs=2))
    staged = VectorStagedReward(envs, after_episodes=1)
    staged.reset(seed=0)
    staged.step(np.array([0, 0]))
    assert envs.env.reward.name == "r1-searcher-stage2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "Expected size to be an integer from 1 to 16, the context, got 0"),
        ({"size": 17}, "got 17"),
        ({"size": 2.0}, r"got 2\.0"),
        ({"size": True}, "got True"),
        ({"keep": "newest"}, "Expected keep among"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        TokenWindow(gym.make(ID), **arguments)
    with pytest.raises(ConfigurationError, match=message):
        VectorTokenWindow(gym.make_vec(ID, num_envs=2), **arguments)


def test_other_observations_are_refused():
    env = gym.make(ID)
    for other in (TokenWindow(env), gym.wrappers.FlattenObservation(env)):
        with pytest.raises(ConfigurationError, match="Expected the observations of SearchQAEnv"):
            TokenWindow(other)
