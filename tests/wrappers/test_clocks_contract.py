"""Action granularity: valid actions, wrappers below, errors, Gymnasium's contract."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from search_env.envs.search_qa import SearchQAEnv
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.retrieval.base import FakeRetriever
from search_env.testing import check_wrapper
from search_env.testing.base import first_difference, plain
from search_env.testing.runs import row_of
from search_env.types import Source
from search_env.wrappers.clocks import EpisodeAction, SegmentAction, TextAction
from search_env.wrappers.unicode_space import Unicode
from tests.wrappers.token_envs import SETTINGS, Paying, bare

WRAPPERS = (SegmentAction, TextAction, EpisodeAction)

# Actions.


@pytest.mark.parametrize("form", [tuple, list, np.array, lambda ids: np.array(ids, np.uint8)])
def test_any_sequence_of_ids_is_a_segment(form):
    env = SegmentAction(bare("toy"))
    env.reset(seed=0)
    observation, *_, info = env.step(form([8, 9]))
    assert observation["tokens"][3:6].tolist() == [8, 9, 0]
    assert info["unused_actions"] == 0


@pytest.mark.parametrize(
    "action",
    [
        (),
        [],
        3,
        None,
        "text",
        [1.0],
        [[1]],
        [[1], [1, 2]],
        [24],
        [8, -1],
        [2**70],
        [True],
        object(),
    ],
)
def test_invalid_segments_are_refused_and_write_nothing(action):
    env = SegmentAction(bare("toy"))
    env.reset(seed=0)
    before = env.unwrapped.transcript().tokens.tolist()
    with pytest.raises(InvalidActionError, match="Expected one or more token ids from 0 to 23"):
        env.step(action)
    assert env.unwrapped.transcript().tokens.tolist() == before
    env.step([8])


@pytest.mark.parametrize("action", ["", "words outside its vocabulary", "<|endoftext|>"])
def test_a_text_without_tokens_is_refused(action):
    env = TextAction(bare("toy"))
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="finds none"):
        env.step(action)


def test_other_types_than_text_are_refused():
    env = TextAction(bare("toy"))
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="Expected a text, got 3"):
        env.step(3)


def test_a_special_tokens_name_ends_the_sequence():
    env = TextAction(bare("byte"))
    env.reset(seed=0)
    *_, terminated, _, info = env.step("I do not know<|endoftext|> and so on")
    assert terminated
    assert (info["stop_reason"], info["unused_text"]) == ("end_of_sequence", " and so on")


def test_an_episode_needs_a_policy_and_a_reset():
    env = EpisodeAction(bare("toy"))
    with pytest.raises(EpisodeOverError, match=r"Call reset\(\)"):
        env.step(lambda observation: 0)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="Expected a policy, got 0"):
        env.step(0)
    env.step(lambda observation: np.int64(0))
    with pytest.raises(EpisodeOverError, match=r"Call reset\(\)"):
        env.step(lambda observation: 0)


def test_an_episode_is_over_when_its_policy_fails():
    env = EpisodeAction(bare("toy"))
    env.reset(seed=0)
    with pytest.raises(ZeroDivisionError):
        env.step(lambda observation: 1 // 0)
    with pytest.raises(EpisodeOverError):
        env.step(lambda observation: 0)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="token id from 0 to 23, got 24"):
        env.step(lambda observation: 24)


def test_ctrl_c_in_a_policy_propagates():
    env = EpisodeAction(bare("toy"))
    env.reset(seed=0)

    def policy(observation):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        env.step(policy)


@pytest.mark.parametrize("wrapper", [SegmentAction, TextAction])
def test_no_step_before_reset_or_after_the_end(wrapper):
    env = wrapper(SearchQAEnv(**SETTINGS["toy"]))
    action = [3, 15, 4] if wrapper is SegmentAction else "<a>value0 </a>"
    with pytest.raises(EpisodeOverError):
        env.step(action)
    env.reset(seed=0)
    assert env.step(action)[2]
    with pytest.raises(EpisodeOverError):
        env.step(action)


# Environments and wrappers below.


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_other_environments_are_refused(wrapper):
    with pytest.raises(ConfigurationError, match="Expected a SearchQAEnv"):
        wrapper(gym.make("CartPole-v1"))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("below", WRAPPERS)
def test_they_do_not_wrap_one_another(wrapper, below):
    with pytest.raises(ConfigurationError, match=f"Put {wrapper.__name__} below"):
        wrapper(below(bare("toy")))


def write(wrapper, env, ids: list[int]):
    """Take one step that writes these toy ids."""
    if wrapper is SegmentAction:
        return env.step(ids)
    if wrapper is TextAction:
        return env.step(env.unwrapped.tokenizer.decode(ids))
    remaining = iter(ids)
    return env.step(lambda observation: next(remaining))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_below_see_every_token(wrapper):
    below = Paying(gym.make("SearchQA-Toy-v0"))
    env = wrapper(below)
    env.reset(seed=0, options={"index": 9})
    _, reward, terminated, _, info = write(wrapper, env, [3, 15, 4])
    assert (below.count, reward, terminated) == (3, 1.75, True)
    assert (info["f1"], info["answer"]) == (1.0, "value0")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_time_limit_below_cuts_the_step(wrapper):
    env = wrapper(gym.make("SearchQA-Toy-v0", max_episode_steps=2))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = write(wrapper, env, [8, 9, 10])
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "")
    if wrapper is SegmentAction:
        assert info["unused_actions"] == 1
    elif wrapper is TextAction:
        assert info["unused_text"] == "key3 "
    else:
        assert info["trajectory"]["actions"] == [8, 9]
        assert info["trajectory"]["stop_reason"] == ""


def test_faults_of_all_tokens_are_reported():
    env = SegmentAction(bare("toy-long"))
    env.reset(seed=0)
    *_, info = env.step([2, 8, 4, 8])
    assert info["format_faults"] == ["unopened_close", "unopened_close"]
    assert info["unused_actions"] == 0


def test_a_notice_ends_the_segment():
    env = SegmentAction(bare("byte-notices"))
    env.reset(seed=0)
    ids = env.unwrapped.tokenizer.encode("<search> </search>more")
    observation, *_, info = env.step(ids)
    assert info["unused_actions"] == 4
    assert "query" not in info
    assert observation["sources"][observation["length"] - 1] == Source.NOTICE


# Errors within an action.


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("error", [RetrievalError("down"), KeyboardInterrupt()])
def test_errors_of_a_search_propagate_and_end_the_episode(wrapper, error):
    class Broken:
        def search(self, queries, top_k):
            raise error

    env = wrapper(SearchQAEnv(**SETTINGS["toy-long"], retriever=Broken()))
    query = [1, 8, 8, 2]
    env.reset(seed=0)
    with pytest.raises(type(error)):
        write(wrapper, env, [*query, 8])
    with pytest.raises(EpisodeOverError):
        write(wrapper, env, [8])
    env.reset(seed=0)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_failed_search_that_truncates(wrapper):
    arguments = {**SETTINGS["toy-long"], "retriever": FakeRetriever(error=OSError("down"))}
    env = wrapper(SearchQAEnv(**arguments, on_retrieval_error="truncate"))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = write(wrapper, env, [1, 8, 8, 2, 8])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["valid"], info["query"]) == (
        "retrieval_error",
        False,
        "key1 key1",
    )


# Gymnasium's contract.


@pytest.mark.parametrize("env_id", ["SearchQA-Toy-v0", "SearchQA-v0"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gymnasiums_contract(wrapper, env_id):
    check_wrapper(wrapper, env_id=env_id, picklable=True)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("seed", range(5))
def test_samples_are_actions(wrapper, seed):
    env = wrapper(bare("toy"))
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        action = env.action_space.sample()
        assert action in env.action_space
        observation, _, terminated, truncated, _ = env.step(action)
        assert observation in env.observation_space
        over = terminated or truncated


def actions_for(wrapper):
    if wrapper is SegmentAction:
        return [[1, 9, 9, 2], [0]]
    if wrapper is TextAction:
        return ["<q>key1 key1 </q>", "<a>value7 </a>"]
    return [Constant(0), Constant(8)]


class Constant:
    """A policy that can be sent to another process."""

    def __init__(self, token):
        self.token = token

    def __call__(self, observation):
        return self.token


def make(wrapper):
    return wrapper(gym.make("SearchQA-Toy-v0"))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("form", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_vector_environments(wrapper, form):
    """Row by row, what single environments return. Texts need shared_memory=False."""
    shared = {"shared_memory": False} if form is AsyncVectorEnv and wrapper is TextAction else {}
    envs = form([functools.partial(make, wrapper)] * 2, **shared)
    singles = [make(wrapper) for _ in range(2)]
    space = envs.observation_space
    try:
        batch = envs.reset(seed=5)
        for i, env in enumerate(singles):
            assert first_difference(row_of(space, batch, i), plain(env.reset(seed=5 + i))) == ""
        actions = actions_for(wrapper)
        batch = envs.step(actions)
        for i, (env, action) in enumerate(zip(singles, actions, strict=True)):
            assert first_difference(row_of(space, batch, i), plain(env.step(action))) == ""
    finally:
        envs.close()


def test_shared_memory_of_texts_is_refused_by_name():
    with pytest.raises(ValueError, match="shared_memory=False") as caught:
        AsyncVectorEnv([functools.partial(make, TextAction)] * 2)
    assert isinstance(caught.value.__cause__, gym.error.CustomSpaceError)
    assert "Unicode" in str(caught.value.__cause__)


def test_bounds_of_the_text_spaces():
    env = TextAction(bare("toy"))
    assert env.action_space == Unicode(pieces=env.action_space.pieces)
    # 16 tokens; the longest symbol is "<|endoftext|>".
    assert env.observation_space == Unicode(16 * 13, pieces=env.action_space.pieces)
    assert "value7 " in env.action_space.pieces
    assert "<|endoftext|>" not in env.action_space.pieces
