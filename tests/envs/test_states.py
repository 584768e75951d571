"""Saved states: what cannot step stays so, and a state of other rules is refused unchanged."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

import search_env
from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.errors import ConfigurationError, EpisodeOverError, RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards.group import GroupReward

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 16}
QUERY = "<q>key1 key1 </q>"


def vector(**arguments):
    return SearchQAVectorEnv(2, **{**TOY, **arguments})


def copied(state):
    return pickle.loads(pickle.dumps(state))


def play(env, text):
    for token in env.tokenizer.encode(text):
        env.step([token] * 2)


def moves(env):
    """The calls that make rows move, by name."""
    return {
        "step": lambda: env.step([1, 1]),
        "send": lambda: env.send([1, 1]),
        "recv": env.recv,
        "partial reset": lambda: env.reset(options={"reset_mask": np.array([True, False])}),
    }


def assert_dead(env, words):
    for move in moves(env).values():
        with pytest.raises(EpisodeOverError, match=words):
            move()
    env.reset(seed=0)
    env.step([1, 1])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_b10_a_state_from_before_reset_cannot_be_stepped(mode):
    state = copied(vector(autoreset_mode=mode).get_state())
    env = vector(autoreset_mode=mode)
    env.reset(seed=3)
    env.step([1, 1])
    env.set_state(state)
    assert_dead(env, "reset\\(\\) has not been called")
    alone, other = SearchQAEnv(**TOY), SearchQAEnv(**TOY)
    other.reset(seed=0)
    other.set_state(alone.get_state())
    with pytest.raises(EpisodeOverError):
        other.step(1)


def fails_in_search(env):
    env.retriever = FakeRetriever(error=OSError("down"))
    with pytest.raises(RetrievalError):
        play(env, QUERY)


def fails_in_reward(env):
    env.set_reward(search_env.Reward("broken", ("broken",), len))
    with pytest.raises(search_env.SearchEnvError):
        env.step([max(env.tokenizer.eos_ids)] * 2)


@pytest.mark.parametrize("fails", [fails_in_search, fails_in_reward])
@pytest.mark.parametrize("how", ["itself", "another"])
def test_b10_rows_of_an_interrupted_step_stay_dead(fails, how):
    env = vector()
    env.reset(seed=0)
    fails(env)
    state = copied(env.get_state()) if fails is fails_in_search else env.get_state()
    other = env if how == "itself" else vector()
    other.set_state(state)
    for move in moves(other).values():
        with pytest.raises(EpisodeOverError, match="interrupted"):
            move()


def test_b10_rows_that_have_ended_stay_ended():
    env = vector(autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step([max(env.tokenizer.eos_ids), 1])
    other = vector(autoreset_mode="Disabled")
    other.set_state(copied(env.get_state()))
    with pytest.raises(EpisodeOverError, match=r"rows \[0\]"):
        other.step([1, 1])
    other.reset(options={"reset_mask": np.array([True, False])})
    other.step([1, 1])


PROTOCOL = dataclasses.replace(
    search_env.get_protocol("toy"), name="toy-other-layout", document_body="{text} "
)
search_env.register_protocol(PROTOCOL, replace=True)
OTHER = [
    ("split", {"split": "test"}, "questions"),
    ("dataset", {"dataset": "must-search"}, "questions"),
    ("protocol", {"protocol": "toy-other-layout"}, "protocol"),
    ("larger context", {"max_tokens": 20}, "max_tokens"),
    ("budget", {"max_policy_tokens": 9}, "max_policy_tokens"),
    ("searches", {"max_searches": 7}, "max_searches"),
    ("documents", {"top_k": 2}, "top_k"),
    ("tokenizer", {"tokenizer": "byte", "max_tokens": 200}, "max_tokens"),
    ("padded tokenizer", {"vocab_size": 40}, "number of ids"),
]
ROWS = [
    ("mode", {"autoreset_mode": "SameStep"}, "autoreset_mode"),
    ("group", {"group_size": 2}, "group_size"),
    ("group reward", {"group_reward": GroupReward("len", ("len",), len)}, "group_reward"),
]


def assert_refused(env, state, words):
    env.reset(seed=5)
    before = pickle.dumps(env.get_state()) if "group reward" not in words else None
    with pytest.raises(ConfigurationError, match=f"the same {words}"):
        env.set_state(state)
    assert before is None or pickle.dumps(env.get_state()) == before


@pytest.mark.parametrize(("name", "arguments", "words"), [*OTHER, *ROWS])
def test_b10_states_of_other_arguments_are_refused(name, arguments, words):
    env = vector()
    env.reset(seed=0)
    play(env, "<q>key1 ")
    assert_refused(vector(**arguments), copied(env.get_state()), words)
    if name in [case[0] for case in OTHER]:
        alone = SearchQAEnv(**TOY)
        alone.reset(seed=0)
        assert_refused(SearchQAEnv(**{**TOY, **arguments}), copied(alone.get_state()), words)


def test_b10_other_rows_and_other_kinds_of_state_are_refused():
    env, alone = vector(), SearchQAEnv(**TOY)
    env.reset(seed=0)
    alone.reset(seed=0)
    with pytest.raises(ConfigurationError, match="the same num_envs, 3, got one with 2"):
        SearchQAVectorEnv(3, **TOY).set_state(env.get_state())
    for state in (None, 3, {}, alone.get_state()):
        with pytest.raises(ConfigurationError, match="Expected a state of get_state"):
            env.set_state(state)
    for state in (None, 3, {}, env.get_state()):
        with pytest.raises(ConfigurationError, match="Expected a state of get_state"):
            alone.set_state(state)


def test_b10_what_does_not_shape_an_episode_may_differ():
    env = vector(action_mask=True)
    env.reset(seed=0)
    play(env, "<q>key1 ")
    other = vector(reward="exact-match", retriever=FakeRetriever(), stable_infos=True)
    other.set_state(copied(env.get_state()))
    assert other.reward_name == "f1"
    play(other, "key1 </q>")


@pytest.mark.parametrize("moment", ["before recv", "after recv of the other row"])
def test_b10_states_around_a_search_under_way(moment):
    """The restored environment searches again; the answer for the old one is dropped."""
    env = vector()
    env.reset(seed=0)
    *first, last = env.tokenizer.encode(QUERY)
    word = env.tokenizer.encode("key1")[0]
    for token in first:
        env.step([token, word])
    env.send([last, word])
    if moment != "before recv":
        env.recv(1)
    state = copied(env.get_state())
    expected = env.recv(2) if moment == "before recv" else None
    other = vector()
    other.set_state(state)
    other.set_state(state)  # while its own search runs
    if expected is not None:
        again = other.recv(2)
        assert again[-1]["document_ids"].tolist() == expected[-1]["document_ids"].tolist()
        np.testing.assert_array_equal(again[0]["tokens"], expected[0]["tokens"])
    twin = SearchQAEnv(**TOY)
    twin.reset(seed=0)
    clone = twin.clone()
    assert clone.get_state().origin is twin.get_state().origin
    env.close()
    other.close()
