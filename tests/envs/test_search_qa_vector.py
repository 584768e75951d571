"""The vector environment: row by row the single one, in every mode; queries together; faults."""

from __future__ import annotations

import json
import pickle
import random
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import search_env
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
    RewardError,
)
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import Reward
from search_env.testing import check_vector_env
from search_env.types import Document, StopReason
from tests.work import HANGS_AFTER

MODES = list(AutoresetMode)
TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy", "max_tokens": 16}
WORLD = {"dataset_options": {"articles": 100, "questions": 20}, "max_tokens": 700}


class Moody:
    """Finds a document for every query but those that hold key7."""

    def __init__(self):
        self.calls = []

    def search(self, queries, k):
        self.calls.append(list(queries))
        if any("key7" in query for query in queries):
            raise RetrievalError("key7 is out of reach")
        return [[Document(query, "", "value1 value2")] for query in queries]


def assert_same(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, np.ndarray) and a.dtype != object:
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, np.ndarray):
        assert b.dtype == object
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert type(a) is type(b), where
        assert a == b, where


def assert_same_step(a, b):
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert_same(x, y, str(i))


def single(**arguments):
    return lambda: search_env.SearchQAEnv(**arguments)


def by_gymnasium(mode, count, **arguments):
    return SyncVectorEnv([single(**arguments)] * count, autoreset_mode=mode)


def likely(env):
    """Ids that make things happen: the tags' ids, and some words."""
    texts = list(env.protocol.tag_texts)
    ids = [int(i) for text in texts for i in env.tokenizer.encode(text)]
    return ids + env.tokenizer.encode(" key1 key7 value1").tolist()


def token_rows(env, rows, steps):
    """Strategy for ``steps`` lines of ``rows`` actions."""
    ids = st.one_of(
        st.sampled_from(likely(env)), st.integers(0, int(env.single_action_space.n) - 1)
    )
    line = st.lists(ids, min_size=rows, max_size=rows)
    return st.lists(line, min_size=1, max_size=steps)


def tag_texts(env):
    """Strategy for texts in which searches and answers come to pass."""
    search = env.protocol.pair(search_env.TagRole.TOOL)
    answer = env.protocol.pair(search_env.TagRole.ANSWER)
    pieces = [
        *env.protocol.tag_texts,
        "who",
        "a river",
        "\n",
        search.open + "Where is it?" + search.close,
        answer.open + "no" + answer.close,
    ]
    return st.lists(st.sampled_from(pieces), min_size=1, max_size=12).map("".join)


# Row by row the single environment.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", [{}, {"action_mask": True, "reward": "r1-searcher-stage2"}])
def test_rows_equal_single_environments_on_the_toy(mode, extra):
    rows = 3
    ours = SearchQAVectorEnv(rows, autoreset_mode=mode, **TOY, **extra)
    theirs = by_gymnasium(mode, rows, **TOY, **extra)

    @settings(max_examples=40)
    @given(st.integers(0, 99), token_rows(ours, rows, 40))
    def same(seed, lines):
        for (a, b), (c, d) in [(ours.reset(seed=seed), theirs.reset(seed=seed))]:
            assert_same(a, c)
            assert_same(b, d)
        for line in lines:
            mine, other = ours.step(np.array(line)), theirs.step(np.array(line))
            assert_same_step(mine, other)
            ended = mine[2] | mine[3]
            if mode is AutoresetMode.DISABLED and ended.any():
                again = {"reset_mask": ended}
                assert_same_step(ours.reset(options=again), theirs.reset(options=dict(again)))

    same()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", ["r1-searcher", "search-r1"])
def test_rows_equal_single_environments_on_the_world(mode, protocol):
    rows = 2
    arguments = {**WORLD, "protocol": protocol, "max_policy_tokens": 120}
    ours = SearchQAVectorEnv(rows, autoreset_mode=mode, **arguments)
    theirs = by_gymnasium(mode, rows, **arguments)

    @settings(max_examples=12)
    @given(st.integers(0, 99), st.lists(tag_texts(ours), min_size=rows, max_size=rows))
    def same(seed, texts):
        assert_same_step(ours.reset(seed=seed), theirs.reset(seed=seed))
        streams = [ours.tokenizer.encode(text).tolist() for text in texts]
        for t in range(max(map(len, streams))):
            line = np.array([stream[t % len(stream)] for stream in streams])
            mine, other = ours.step(line), theirs.step(line)
            assert_same_step(mine, other)
            ended = mine[2] | mine[3]
            if mode is AutoresetMode.DISABLED and ended.any():
                again = {"reset_mask": ended}
                assert_same_step(ours.reset(options=again), theirs.reset(options=dict(again)))

    same()


def play(env, seed, tokens):
    """What a single environment says, step by step, with automatic resets (``NextStep``)."""
    env.reset(seed=seed)
    over, said = False, []
    for token in tokens:
        if over:
            observation, info = env.reset()
            said.append((observation, 0.0, False, False, info))
            over = False
        else:
            said.append(env.step(token))
            over = said[-1][2] or said[-1][3]
    return said


def row_of(result, row):
    """One row of a vector step, as the single environment would say it."""
    observation, reward, terminated, truncated, infos = result
    mine = {key: value[row] for key, value in observation.items()}
    return (
        mine,
        float(reward[row]),
        bool(terminated[row]),
        bool(truncated[row]),
        info_of(infos, row),
    )


def info_of(infos, row):
    info = {}
    for key, value in infos.items():
        if f"_{key}" in infos and infos[f"_{key}"][row]:
            plain = info_of(value, row) if isinstance(value, dict) else value[row]
            info[key] = plain.item() if isinstance(plain, np.generic) else plain
    return info


def assert_says(mine, other):
    assert mine[1:4] == other[1:4]
    assert mine[4] == other[4]
    for key in mine[0]:
        np.testing.assert_array_equal(mine[0][key], other[0][key])


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 50), min_ready=st.integers(1, 4))
def test_send_and_recv_say_what_single_environments_say(data, seed, min_ready):
    rows, steps = 4, 24
    chance = random.Random(seed)  # not hypothesis: which rows are ready is a matter of threads
    env = SearchQAVectorEnv(rows, on_retrieval_error="truncate", retriever=Moody(), **TOY)
    ids = st.sampled_from(likely(env))
    streams = [data.draw(st.lists(ids, min_size=steps, max_size=steps)) for _ in range(rows)]
    alone = single(on_retrieval_error="truncate", retriever=Moody(), **TOY)
    expected = [play(alone(), seed + row, stream) for row, stream in enumerate(streams)]
    env.reset(seed=seed)
    at, free = [0] * rows, list(range(rows))
    while min(at) < steps:
        sendable = [row for row in free if at[row] < steps]
        chosen = [row for row in sorted(sendable) if chance.random() < 0.5]
        under_way = [row for row in range(rows) if row not in free]
        if not chosen and not under_way:
            chosen = sendable[:1]
        if chosen:
            env.send(np.array([streams[row][at[row]] for row in chosen]), chosen)
            free = [row for row in free if row not in chosen]
        result = env.recv(min_ready)
        ready = np.flatnonzero(result[4]["ready"]).tolist()
        assert len(ready) >= min(min_ready, len(chosen) + len(under_way))
        for row in ready:
            info = row_of(result, row)
            info[4].pop("ready")
            assert_says(info, expected[row][at[row]])
            at[row] += 1
            free.append(row)
    env.close()


@pytest.mark.parametrize(
    ("context", "shared_memory"), [("fork", True), ("fork", False), ("spawn", True)]
)
def test_the_same_in_sub_processes(context, shared_memory):
    make = single(**TOY)
    theirs = AsyncVectorEnv([make] * 2, shared_memory=shared_memory, context=context)
    ours = SearchQAVectorEnv(2, **TOY)
    rng = np.random.default_rng(0)
    try:
        assert_same_step(ours.reset(seed=5), theirs.reset(seed=5))
        for _ in range(60):
            line = rng.choice(likely(ours), 2)
            assert_same_step(ours.step(line), theirs.step(line))
    finally:
        theirs.close()


@pytest.mark.parametrize("mode", MODES)
def test_the_conformance_kit_finds_nothing(mode):
    def make(num_envs, autoreset_mode=mode):
        return gym.make_vec("SearchQA-Toy-v0", num_envs=num_envs, autoreset_mode=autoreset_mode)

    check_vector_env(make)


# Making one.


def test_make_vec_takes_the_vector_entry_point_and_names():
    env = gym.make_vec("SearchQA-Toy-v0", num_envs=4, autoreset_mode="SameStep", group_size=2)
    assert isinstance(env, SearchQAVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert SearchQAVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert json.loads(env.spec.to_json())["kwargs"]["group_size"] == 2
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert (again.num_envs, again.group_size) == (4, 2)
    with pytest.raises(ConfigurationError, match="SameStep"):
        gym.make_vec("SearchQA-Toy-v0", num_envs=4, autoreset_mode="Samestep")
    with pytest.raises(ConfigurationError, match="multiple of group_size=3"):
        gym.make_vec("SearchQA-Toy-v0", num_envs=4, group_size=3)
    with pytest.raises(ConfigurationError, match="num_envs"):
        SearchQAVectorEnv(0, **TOY)


def test_max_episode_steps_truncates():
    env = SearchQAVectorEnv(2, max_episode_steps=3, autoreset_mode="SameStep", **TOY)
    env.reset(seed=0)
    word = np.full(2, env.tokenizer.encode("key1")[0])
    assert not env.step(word)[3].any()
    assert not env.step(word)[3].any()
    infos = env.step(word)[4]
    assert infos["final_info"]["stop_reason"].tolist() == [StopReason.MAX_POLICY_TOKENS] * 2
    least = SearchQAVectorEnv(1, max_episode_steps=9, max_policy_tokens=4, **TOY)
    assert least.protocol.max_policy_tokens == 4


def questions_of(infos):
    return infos["question_id"].tolist()


def test_groups_ask_the_same_questions_again_and_again():
    env = SearchQAVectorEnv(6, group_size=3, autoreset_mode="SameStep", **TOY)
    end = {row: [] for row in range(6)}
    _, infos = env.reset(seed=11)
    for row, question in enumerate(questions_of(infos)):
        end[row].append(question)
    rng = np.random.default_rng(1)
    for _ in range(300):  # rows end at different times
        _, _, terminated, truncated, infos = env.step(rng.choice(likely(env), 6))
        for row in np.flatnonzero(terminated | truncated):
            end[row].append(infos["question_id"][row])
    shortest = min(map(len, end.values()))
    assert shortest > 10
    for group in ((0, 1, 2), (3, 4, 5)):
        assert len({tuple(end[row][:shortest]) for row in group}) == 1
    assert end[0][:shortest] != end[3][:shortest]
    alone = search_env.SearchQAEnv(**TOY)
    assert alone.reset(seed=12)[1]["question_id"] == end[3][0]


def test_groups_without_a_seed_still_agree():
    env = SearchQAVectorEnv(6, group_size=3, **TOY)
    drawn = [questions_of(env.reset()[1]) for _ in range(6)]
    for ids in drawn:
        assert len(set(ids[:3])) == len(set(ids[3:])) == 1
    assert any(ids != drawn[0] for ids in drawn)  # two alone are the same once in 4,096 times


def test_reset_options_for_all_rows_or_each():
    env = SearchQAVectorEnv(3, **TOY)
    assert len(set(questions_of(env.reset(options={"index": 5})[1]))) == 1
    ids = [env.questions[i].id for i in (3, 1, 2)]
    assert questions_of(env.reset(options={"index": [3, 1, 2]})[1]) == ids
    assert questions_of(env.reset(options={"question_id": ids})[1]) == ids
    options = {"index": [0, 9, 0], "reset_mask": np.array([False, True, False])}
    infos = env.reset(options=options)[1]
    assert infos["_question_id"].tolist() == [False, True, False]
    assert questions_of(infos) == [None, env.questions[9].id, None]
    assert "reset_mask" in options  # the caller's dictionary stays as it was
    assert [env.transcript(row).question.id for row in range(3)] == [
        ids[0],
        env.questions[9].id,
        ids[2],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": [1, 2]}, "seed for each of 3 rows"),
        ({"options": {"index": [1, 2]}}, "one value or 3"),
        ({"options": {"indx": 1}}, "Did you mean 'index'"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "at least one True"),
        ({"options": {"reset_mask": np.ones(3)}}, "bool array"),
        ({"options": {"reset_mask": [True, True, True]}}, "bool array"),
        ({"options": {"question_id": "nobody"}}, "id of one of 64 questions"),
    ],
)
def test_bad_resets_are_named(arguments, message):
    env = SearchQAVectorEnv(3, **TOY)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=message):
        env.reset(**arguments)


def test_seeds_may_be_a_list():
    env = SearchQAVectorEnv(4, **TOY)
    observation, infos = env.reset(seed=[7, 7, 7, 8])
    assert len(set(questions_of(infos)[:3])) == 1
    assert (observation["tokens"][0] == observation["tokens"][1]).all()
    alone = search_env.SearchQAEnv(**TOY)
    assert alone.reset(seed=8)[1]["question_id"] == questions_of(infos)[3]


# Actions and order of calls.


@pytest.mark.parametrize(
    "actions", [[1, 2], [1, 2, 10_000], [1, 2, -1], [1.0, 2.0, 3.0], [[1, 2, 3]], "abc"]
)
def test_bad_actions_change_nothing(actions):
    env = SearchQAVectorEnv(3, **TOY)
    before, _ = env.reset(seed=0)
    with pytest.raises(InvalidActionError):
        env.step(actions)
    result = env.step(np.array([5, 5, 5], np.int32))
    assert (result[0]["length"] == before["length"] + 1).all()


def test_calls_out_of_order_are_named():
    env = SearchQAVectorEnv(2, autoreset_mode="Disabled", **TOY)
    word, end = env.tokenizer.encode("key1")[0], max(env.tokenizer.eos_ids)
    with pytest.raises(EpisodeOverError, match=r"reset\(\)"):
        env.step([word, word])
    with pytest.raises(EpisodeOverError, match=r"reset\(\)"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    with pytest.raises(EpisodeOverError, match=r"send\(\)"):
        env.recv()
    env.send([word], [1])
    with pytest.raises(EpisodeOverError, match=r"recv\(\)"):
        env.step([word, word])
    with pytest.raises(EpisodeOverError, match=r"\[1\]"):
        env.send([word, word])
    for rows in ([1, 0], [0, 0], [2], [-1], []):
        with pytest.raises(InvalidActionError):
            env.send([word] * len(rows), rows)
    assert env.recv(5)[4]["ready"].tolist() == [False, True]
    env.send([word], [1])
    with pytest.raises(ConfigurationError, match="min_ready"):
        env.recv(0)
    env.recv()
    env.step([end, word])
    with pytest.raises(EpisodeOverError, match=r"rows \[0\], which have ended"):
        env.step([word, word])
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step([word, word])


# One call for all queries; slow and failing retrievers.


def search_line(env, queries):
    """Streams that make row i ask queries[i], all closing in the same step."""
    search = env.protocol.pair(search_env.TagRole.TOOL)
    texts = [search.open + query + search.close for query in queries]
    return np.array([env.tokenizer.encode(text) for text in texts]).T


def test_queries_of_a_step_are_one_call_without_repetitions():
    retriever = Moody()
    env = SearchQAVectorEnv(3, retriever=retriever, **TOY)
    env.reset(seed=0)
    for line in search_line(env, ["key1 key2", "key3 key4", "key1 key2"]):
        infos = env.step(line)[4]
    assert retriever.calls == [["key1 key2", "key3 key4"]]
    assert infos["query"].tolist() == ["key1 key2", "key3 key4", "key1 key2"]
    assert infos["document_ids"][2] == ["key1 key2"]


def test_a_failure_takes_only_the_rows_that_asked_for_it():
    env = SearchQAVectorEnv(3, retriever=Moody(), on_retrieval_error="truncate", **TOY)
    env.reset(seed=0)
    for line in search_line(env, ["key1 key2", "key7 key4", "key3 key3"]):
        _, rewards, terminated, truncated, infos = env.step(line)
    assert truncated.tolist() == [False, True, False]
    assert not terminated.any()
    assert rewards.tolist() == [0, 0, 0]
    assert infos["valid"].tolist() == [False] * 3
    assert infos["_valid"].tolist() == [False, True, False]
    assert infos["stop_reason"][1] == StopReason.RETRIEVAL_ERROR
    assert "key7 is out of reach" in infos["retrieval_error"][1]
    assert "reward_parts" not in infos  # not scored
    assert infos["_document_ids"].tolist() == [True, False, True]
    assert env.transcripts[1].stop_reason is StopReason.RETRIEVAL_ERROR


@pytest.mark.parametrize("background", [False, True])
def test_a_failure_is_raised_and_the_environment_asks_for_a_reset(background):
    env = SearchQAVectorEnv(2, retriever=Moody(), **TOY)
    env.reset(seed=0)

    def step(line):
        if not background:
            return env.step(line)
        env.send(line)
        return env.recv(2)

    lines = search_line(env, ["key7 key2", "key3 key3"])
    for line in lines[:-1]:
        step(line)
    with pytest.raises(RetrievalError, match="key7"):
        step(lines[-1])
    with pytest.raises(EpisodeOverError, match="interrupted the last step"):
        step(lines[0])
    env.reset()
    step(lines[0])
    env.close()


def test_ctrl_c_in_a_search_breaks_the_step_off():
    env = SearchQAVectorEnv(2, retriever=FakeRetriever(), **TOY)
    env.reset(seed=0)
    lines = search_line(env, ["key1 key2", "key3 key3"])
    env.retriever.error = KeyboardInterrupt()
    for line in lines[:-1]:
        env.step(line)
    with pytest.raises(KeyboardInterrupt):
        env.step(lines[-1])
    with pytest.raises(EpisodeOverError):
        env.step(lines[0])


def test_a_reward_that_fails_is_named_and_nothing_is_paid():
    bad = Reward("bad", ("part",), not_a_number)
    env = SearchQAVectorEnv(2, reward=bad, **TOY)
    env.reset(seed=0)
    end = max(env.tokenizer.eos_ids)
    with pytest.raises(RewardError, match="'part' of reward 'bad'"):
        env.step([end, end])
    env.set_reward("f1")
    with pytest.raises(EpisodeOverError):
        env.step([end, end])
    env.reset()
    assert env.step([end, end])[2].all()


def not_a_number(transcript):
    return {"part": float("nan")}


class Gate:
    """A retriever that waits until it is let through."""

    def __init__(self):
        self.open = threading.Event()
        self.calls = []

    def search(self, queries, k):
        self.calls.append(list(queries))
        assert self.open.wait(HANGS_AFTER)
        return [[Document(query, "", "value1")] for query in queries]


def test_rows_that_wait_do_not_hold_up_the_others():
    gate = Gate()
    env = SearchQAVectorEnv(4, retriever=gate, **TOY)
    env.reset(seed=0)
    word = env.tokenizer.encode("key1")[0]
    lines = search_line(env, ["key1 key2"])[:, 0]
    for token in lines[:-1]:
        env.send([token, word, word, word])
        assert env.recv(4)[4]["ready"].all()
    env.send([lines[-1], word, word, word])
    for _ in range(5):  # row 0 waits, the others go on
        observation, _, _, _, infos = env.recv(3)
        assert infos["ready"].tolist() == [False, True, True, True]
        env.send([word] * 3, [1, 2, 3])
    assert observation["length"][0] == observation["length"][1] - 4
    gate.open.set()
    _, _, _, _, infos = env.recv(4)
    assert infos["ready"].all()
    assert infos["query"].tolist() == ["key1 key2", None, None, None]
    assert env.transcript(0).searches[0].document_ids == ("key1 key2",)
    env.close()
    env.close()


def test_answers_for_rows_that_were_reset_meanwhile_are_dropped():
    gate = Gate()
    env = SearchQAVectorEnv(2, retriever=gate, **TOY)
    env.reset(seed=0)
    word = env.tokenizer.encode("key1")[0]
    for token in search_line(env, ["key1 key2"])[:, 0]:
        env.send([token, word])
        ready = env.recv(1)[4]["ready"]
    assert ready.tolist() == [False, True]
    observation, _ = env.reset(seed=1)
    gate.open.set()
    env.send([word, word])
    after, _, _, _, infos = env.recv(2)
    assert infos["ready"].all()
    assert (after["length"] == observation["length"] + 1).all()
    assert not env.transcript(0).searches
    env.close()


# State, copies, looking at it.


@settings(max_examples=25)
@given(data=st.data(), mode=st.sampled_from(MODES), cut=st.integers(0, 20))
def test_a_restored_environment_goes_on_as_the_saved_one(data, mode, cut):
    env = SearchQAVectorEnv(3, autoreset_mode=mode, group_size=3, **TOY)
    lines = data.draw(token_rows(env, 3, 30))
    env.reset(seed=data.draw(st.integers(0, 9)))

    def go(env, lines):
        said = []
        for line in lines:
            said.append(env.step(np.array(line)))
            ended = said[-1][2] | said[-1][3]
            if mode is AutoresetMode.DISABLED and ended.any():
                said.append(env.reset(options={"reset_mask": ended}))
        return said

    go(env, lines[:cut])
    state = pickle.loads(pickle.dumps(env.get_state()))
    expected = go(env, lines[cut:])
    other = SearchQAVectorEnv(3, autoreset_mode=mode, group_size=3, **TOY)
    for again in (env, other):
        again.set_state(state)
        for a, b in zip(go(again, lines[cut:]), expected, strict=True):
            assert_same_step(a, b)


def test_a_search_under_way_is_asked_again_after_a_restore():
    env = SearchQAVectorEnv(2, retriever=Moody(), **TOY)
    env.reset(seed=0)
    word = env.tokenizer.encode("key1")[0]
    lines = search_line(env, ["key1 key2"])[:, 0]
    for token in lines[:-1]:
        env.step([token, word])
    env.send([lines[-1], word])
    state = env.get_state()
    other = SearchQAVectorEnv(2, retriever=Moody(), **TOY)
    other.set_state(state)
    assert_same_step(other.recv(2), env.recv(2))
    with pytest.raises(ConfigurationError, match="the same num_envs, 3, got one with 2"):
        SearchQAVectorEnv(3, **TOY).set_state(state)
    env.close()
    other.close()


def test_copies_stay_as_they_were_and_views_do_not():
    for copy in (True, False):
        env = SearchQAVectorEnv(2, copy=copy, **TOY)
        observation, infos = env.reset(seed=0)
        before = observation["tokens"].copy(), infos["num_searches"].copy()
        for line in search_line(env, ["key1 key2", "key1 key2"]):
            env.step(line)
        assert (observation["tokens"] == before[0]).all() == copy
        assert (infos["num_searches"] == before[1]).all() == copy
    with pytest.raises(ConfigurationError, match="copy"):
        SearchQAVectorEnv(2, copy="no", **TOY)


def test_transcripts_of_ended_episodes_are_at_hand():
    env = SearchQAVectorEnv(2, autoreset_mode="SameStep", **TOY)
    _, infos = env.reset(seed=0)
    end, word = max(env.tokenizer.eos_ids), env.tokenizer.encode("key1")[0]
    env.step([end, word])
    assert list(env.transcripts) == [0]
    assert env.transcripts[0].question.id == infos["question_id"][0]
    assert env.transcripts[0].tokens[-1] == end
    env.step([word, word])
    assert env.transcripts == {}


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_c9_each_row_is_rendered(mode):
    env = gym.make_vec("SearchQA-Toy-v0", num_envs=3, render_mode=mode)
    env.reset(seed=0)
    frames = env.render()
    assert type(frames) is tuple
    alone = gym.make("SearchQA-Toy-v0", render_mode=mode)
    for row in range(3):
        alone.reset(seed=row)
        np.testing.assert_array_equal(frames[row], alone.render())


def test_c9_a_chosen_row_is_shown(capsys):
    alone = gym.make("SearchQA-Toy-v0", render_mode="human")
    alone.reset(seed=1)
    shown = capsys.readouterr().out
    env = gym.make_vec("SearchQA-Toy-v0", num_envs=3, render_mode="human", render_row=1)
    env.reset(seed=0)
    assert env.render() is None
    assert shown in capsys.readouterr().out
    env.unwrapped.render_row = 2
    env.reset(seed=0)
    assert shown not in capsys.readouterr().out


def test_c9_without_a_mode_nothing_is_rendered():
    silent = gym.make_vec("SearchQA-Toy-v0", num_envs=2)
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="render mode"):
        assert silent.render() is None


def test_action_masks_of_all_rows():
    env = SearchQAVectorEnv(2, **TOY)
    env.reset(seed=0)
    alone = search_env.SearchQAEnv(**TOY)
    alone.reset(seed=0)
    np.testing.assert_array_equal(env.action_masks()[0], alone.action_masks())
    assert env.action_masks().shape == (2, env.single_action_space.n)
