"""Arguments of any type and value: accepted, or refused at once in the usual form."""

from __future__ import annotations

import inspect
import math
import re
from fractions import Fraction
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env import SearchQAEnv, SearchQAVectorEnv
from search_env.core.dynamics import Dynamics
from search_env.envs.config import EnvConfig
from search_env.errors import ConfigurationError, InvalidActionError, SearchEnvError
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import F1, search_cost
from search_env.wrappers.token_window import TokenWindow

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
VALUES = {
    "None": None,
    "3": 3,
    "3.5": 3.5,
    "3.0": 3.0,
    "x": "x",
    "empty": "",
    "bytes": b"x",
    "list": [],
    "dict": {},
    "object": object(),
    "class": FakeRetriever,
    "nan": math.nan,
    "-1": -1,
    "0": 0,
    "True": True,
    "np True": np.bool_(True),
    "np 3": np.int64(3),
    "np 3.0": np.float64(3.0),
    "array": np.array([1, 2]),
    "Path": Path("x"),
    "huge": 10**400,
}
COUNTS = ("vocab_size", "top_k", "max_tokens", "max_policy_tokens", "max_searches")
FLAGS = ("action_mask", "box_length", "stable_infos")
USUAL = re.compile(r"Expected .+ got .+\. .+\.", re.DOTALL)
CASES = [
    (kind, name)
    for kind in (SearchQAEnv, SearchQAVectorEnv)
    for name in inspect.signature(kind).parameters
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_c6_each_argument_takes_any_value_or_says_why_not(kind, name):
    for what, value in VALUES.items():
        if what == "huge" and name in (*COUNTS, "num_envs", "retrieval_threads"):
            continue  # right as a type; memory decides
        error = _error_of(lambda value=value: kind(**{**TOY, name: value}))
        if error is None:
            assert _fits(kind, name, value), f"{name}={what} was accepted"
        else:
            assert USUAL.match(str(error)) or name == "tokenizer", f"{name}={what}: {error}"


def _error_of(call):
    try:
        call()
    except SearchEnvError as error:
        return error


def _fits(kind, name, value):
    default = inspect.signature(kind).parameters[name].default
    is_count = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is None:
        return default is None
    if name in FLAGS or name == "copy":
        return isinstance(value, bool | np.bool_)
    if name in ("num_envs", "retrieval_threads", "max_episode_steps", *COUNTS):
        return is_count and value >= (0 if name == "max_searches" else 1)
    if name == "render_row":
        return is_count and value == 0
    if name in ("dataset_options", "chat_template_kwargs"):
        return value == {}  # none for the toy and its prompt
    return False


def test_c6_numpys_integers_become_plain_ones():
    arguments = {
        **TOY,
        "vocab_size": np.int32(40),
        "top_k": np.uint8(2),
        "max_tokens": np.int64(20),
    }
    arguments |= {"max_policy_tokens": np.int16(9), "max_searches": np.int64(0)}
    env = SearchQAVectorEnv(np.int64(4), group_size=np.int64(2), render_row=np.int8(3), **arguments)
    config = env.components.config
    for name in COUNTS:
        value = vars(config)[name]
        assert type(value) is int
        assert value == arguments[name]
    assert EnvConfig(**arguments) == EnvConfig(
        **{k: getattr(v, "item", lambda v=v: v)() for k, v in arguments.items()}
    )
    assert (type(env.num_envs), type(env.group_size), type(env.render_row)) == (int, int, int)
    protocol = get_protocol("toy").limited(top_k=np.int64(2))
    assert (protocol.top_k, type(protocol.top_k)) == (2, int)
    assert search_cost(np.float32(0.5), free=np.int64(1)).parts == ("search_cost",)
    assert (np.float32(0.5) * F1).name == (Fraction(1, 2) * F1).name == "0.5*f1"
    space = TokenWindow(gym.make("SearchQA-Toy-v0"), np.int64(3)).observation_space
    assert space.shape == (3,)
    assert Dynamics(protocol, env.tokenizer).protocol is protocol


def test_c6_numpys_integers_choose_seeds_questions_and_tokens():
    for env in (SearchQAEnv(**TOY), SearchQAVectorEnv(2, **TOY)):
        first, _ = env.reset(seed=7)
        again, _ = env.reset(seed=np.int64(7))
        np.testing.assert_array_equal(first["tokens"], again["tokens"])
        by_index, _ = env.reset(options={"index": 5})
        again, _ = env.reset(options={"index": np.uint16(5)})
        np.testing.assert_array_equal(by_index["tokens"], again["tokens"])
    listed, _ = env.reset(seed=np.array([7, 8]))
    np.testing.assert_array_equal(first["tokens"], listed["tokens"])
    single = SearchQAEnv(**TOY)
    single.reset(seed=0)
    for action in (np.int64(1), np.uint8(1), np.array(1), np.int32(1)):
        assert single.step(action)[0]["tokens"][single.transcript().tokens.size - 1] == 1


ACTIONS = [True, False, np.bool_(True), 3.0, np.float64(3), "3", b"3", None, [3], (3,), {}, -1, 24]
ACTIONS += [np.array([3]), np.array(3.0), np.array(True), np.array([[3]]), 10**30, math.nan, 1j]


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_c6_a_step_takes_ids_only(action):
    env = SearchQAEnv(**TOY)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="Expected a token id from 0 to 23"):
        env.step(action)
    env.step(3)
    assert env.transcript().tokens[-1] == 3


ROWS = [
    True,
    [True, 3],
    [True, False],
    (3, True),
    np.array([True, False]),
    [3.0, 3.0],
    [3],
    [3, 3, 3],
]
ROWS += [[[3, 3]], [[3], [3, 3]], None, "33", 3, {}, [None, 3], ["3", "3"], [-1, 3], [3, 24]]
ROWS += [np.array([3, 2**63], np.uint64), np.array([3, 3], object), np.ones((2, 1), int), [1j, 3]]
ROWS += [np.array([3, 3], "m8[s]"), np.ma.masked, [np.array([3]), np.array([3, 3])]]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_c6_a_vector_step_takes_ids_only(number):
    env = SearchQAVectorEnv(2, **TOY)
    env.reset(seed=0)
    for move in (env.step, env.send):
        with pytest.raises(InvalidActionError, match="Expected"):
            move(ROWS[number])
    env.step([3, 3])
    assert env.transcript(0).tokens[-1] == 3


OPTIONS = [
    3,
    "index",
    [],
    ["index"],
    [("index", 3)],
    {"indx": 3},
    {3: 3},
    {"index": True},
    object(),
]
OPTIONS += [{"index": 3.0}, {"index": "3"}, {"index": None}, {"index": -1}, {"index": 64}, b"", 0]
OPTIONS += [{"question_id": 3}, {"question_id": None}, {"question_id": {}}, {"index": {}}, False]
OPTIONS += [{"question_id": b"x"}, {"index": math.nan}, {"index": 10**30}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda value: type(value).__name__)
def test_c6_options_of_reset(options):
    for env in (SearchQAEnv(**TOY), SearchQAVectorEnv(2, **TOY)):
        env.reset(seed=0)
        with pytest.raises(ConfigurationError, match=USUAL):
            env.reset(options=options)


@pytest.mark.parametrize(
    "seed", [True, -1, 3.0, "3", b"3", {}, object(), np.float64(3), np.bool_(1)]
)
def test_c6_seeds(seed):
    for env in (SearchQAEnv(**TOY), SearchQAVectorEnv(2, **TOY)):
        with pytest.raises(ConfigurationError, match="Expected seed to be an integer"):
            env.reset(seed=seed)
    with pytest.raises(ConfigurationError, match="Expected seed to be an integer"):
        env.reset(seed=[seed, 1])


@pytest.mark.parametrize("row", [3, -1, True, 1.0, "0", None])
def test_c6_rows_that_there_are(row):
    with pytest.raises(ConfigurationError, match="Expected render_row from 0 to 2"):
        SearchQAVectorEnv(3, render_row=row, **TOY)
    env = SearchQAVectorEnv(3, **TOY)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="Expected render_row from 0 to 2"):
        env.render_row = row
    with pytest.raises(ConfigurationError, match="Expected row from 0 to 2"):
        env.transcript(row)
    assert env.render_row == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "world", "dataset_options": {"questions": 0}}, "Expected questions"),
        ({"dataset": "world", "dataset_options": {"questions": True}}, "Expected"),
        ({"dataset": "world", "dataset_options": {"questions": "9"}}, "Expected"),
        ({"dataset": "world", "dataset_options": {"seed": 1.5}}, "Expected"),
        ({"dataset": "world", "dataset_options": {"articles": object()}}, "Expected"),
        ({"dataset": "world", "dataset_options": {"hops": 2}}, "Expected hops"),
        ({"dataset": "world", "dataset_options": {"hops": object()}}, "Expected"),
        ({"dataset": "world", "dataset_options": {3: 3}}, "dataset_options"),
        ({"corpus": "/nope"}, "Expected no corpus"),
        ({"corpus": "/nope", "retriever": FakeRetriever()}, "Expected no corpus"),
        ({"corpus": "/nope", "retriever": "bm25"}, "Expected"),
        ({"retriever": 3}, "Expected retriever to be a name or an object"),
        ({"retriever": FakeRetriever}, "Expected retriever to be a name or an object"),
        ({"corpus": Path("c.jsonl")}, r"Pass str\(path\)"),
        ({"render_mode": "video"}, "Expected render_mode among"),
    ],
)
def test_c6_what_would_be_ignored_or_fail_later(arguments, message):
    for kind in (SearchQAEnv, SearchQAVectorEnv):
        with pytest.raises(SearchEnvError, match=message):
            kind(**{**TOY, **arguments})


def test_c6_world_options_of_numpy():
    options = {"articles": np.int64(100), "questions": np.int64(3), "hops": np.array([1, 2])}
    env = SearchQAEnv(dataset_options=options)
    assert len(env.questions) == 3


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
)


ENVS = [SearchQAEnv(**TOY), SearchQAVectorEnv(2, **TOY)]


@settings(max_examples=50)
@given(
    value=ANYTHING
    | st.lists(ANYTHING, max_size=3)
    | st.dictionaries(ANYTHING, ANYTHING, max_size=2)
)
def test_c6_any_action_and_any_options_are_taken_or_refused(value):
    for env in ENVS:
        env.reset(seed=0)
        for call in (env.step, lambda options, env=env: env.reset(options=options)):
            error = _error_of(lambda call=call: call(value))
            assert error is None or str(error).startswith("Expected")
