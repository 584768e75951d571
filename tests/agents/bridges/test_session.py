"""Sessions, whole episodes and what is built on them without the libraries of others."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.agents.bridges.conformance import (
    CASES,
    Case,
    Outcome,
    check,
    play_session,
    reference,
)
from search_env.agents.bridges.episodes import (
    Sampled,
    closing_tags,
    play,
    row_fields,
)
from search_env.agents.bridges.flat import FloatWindow, rllib_env
from search_env.agents.bridges.session import ALL, EnvironmentPool, Session
from search_env.agents.bridges.trl import (
    ExactRollouts,
    SearchTools,
    env_reward,
    search_tools,
    task_rows,
)
from search_env.errors import (
    ConfigurationError,
    ConformanceError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.retrieval.base import Retriever
from search_env.types import Source

TOY = "SearchQA-Toy-v0"
ENV = gym.make(TOY, split="train")
SESSION = Session(EnvironmentPool(TOY))


@pytest.fixture(scope="module")
def pool() -> EnvironmentPool:
    return EnvironmentPool(TOY)


class Broken(Retriever):
    """A retriever that always fails."""

    def search(self, queries, k):
        raise RetrievalError("Expected documents, got none. The disk is gone.")


def play_episode(session: Session, case: Case, *, log_probs: bool = True) -> Outcome:
    """Play through ``play``, which asks for each segment in turn."""
    segments = iter(case.ids())

    async def sample(ids: list[int]) -> Sampled:
        tokens = next(segments)
        return Sampled(tokens, [-0.5] * len(tokens) if log_probs else None)

    options = {"seed": case.seed, "split": case.split, "index": case.index}
    return Outcome.of_episode(asyncio.run(play(session, sample, **options)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_session_is_the_environment(case):
    session = Session(EnvironmentPool(case.env_id, case.arguments))
    (line,) = check("session", lambda case: play_session(session, case), [case])
    assert line.endswith("the same")
    if reference(case).stop_reason:  # play() goes on to the end
        assert play_episode(session, case) == reference(case)


def test_the_cases_end_in_different_ways():
    outcomes = [reference(case) for case in CASES]
    assert {outcome.stop_reason for outcome in outcomes} >= {"answered", "max_tokens"}
    assert any(outcome.truncated for outcome in outcomes)
    assert {outcome.reward for outcome in outcomes} >= {0.0, 1.0}


def test_a_door_that_changes_an_episode_is_found(pool):
    session = Session(pool)

    def door(case: Case) -> Outcome:
        return dataclasses.replace(play_session(session, case), reward=0.25)

    with pytest.raises(ConformanceError, match="environment's reward in 'a search, the answer'"):
        check("a wrong door", door, CASES[:1])


@given(
    seed=st.integers(0, 1000),
    segments=st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=6), max_size=8),
)
def test_any_ids_are_the_same_episode(seed, segments):
    env, session = ENV, SESSION
    env.reset(seed=seed)
    turns = [session.begin(seed=seed)]
    total = 0.0
    for segment in segments:
        if turns[-1].done:
            break
        turns.append(session.write(segment))
        for token in segment[: len(segment) - turns[-1].unused]:
            _, reward, terminated, truncated, info = env.step(token)
            total += reward
        assert (turns[-1].terminated, turns[-1].truncated) == (terminated, truncated)
        assert turns[-1].stop_reason == info["stop_reason"]
    outcome, transcript = Outcome.of_turns(turns), env.unwrapped.transcript()
    assert outcome.tokens == tuple(transcript.tokens.tolist())
    assert outcome.mask == tuple((transcript.sources == Source.POLICY).astype(int).tolist())
    assert outcome.reward == total


def test_all_values_of_a_turn_are_json(pool):
    session = Session(EnvironmentPool(TOY, {"action_mask": True, "stable_infos": True}))
    for turn in (
        session.begin(seed=0, index=9),
        session.write_text("<q>key1 key1 </q>"),
        session.write_text("<a>value0 </a>"),
    ):
        assert json.loads(json.dumps(turn.values())) == turn.values()
    assert turn.info["f1"] == 1.0
    assert turn.valid


def test_splits_and_tasks(pool):
    assert pool.splits == ("train", "validation", "test")
    assert pool.task("train", 9)["question"] == "find key1 key1"
    assert "answers" not in pool.task("train", 9)
    assert pool.task(None, pool.count() - 1)["split"] == "train"
    assert EnvironmentPool(TOY, {"split": "test"}).splits == ("test",)
    assert EnvironmentPool(TOY, {"dataset": "toy+must-search"}).splits == (ALL,)
    with pytest.raises(ConfigurationError, match="Did you mean 'train'"):
        pool.task("trian", 0)
    with pytest.raises(ConfigurationError, match="index"):
        pool.task("train", 64)


def test_a_session_changes_splits(pool):
    session = Session(pool)
    first = session.begin(split="train", index=0)
    second = session.begin(split="test", index=0)
    assert first.info["question_id"] == "toy-train-00"
    assert second.info["question_id"] == "toy-test-00"


def test_sessions_without_seeds_differ_and_those_with_one_agree(pool):
    def questions(session: Session, seed: int | None) -> list[str]:
        session.begin(seed=seed)
        return [session.begin().info["question_id"] for _ in range(12)]

    assert questions(Session(pool), None) != questions(Session(pool), None)
    assert questions(Session(pool), 5) == questions(Session(pool), 5)


def test_sessions_of_threads_do_not_see_each_other(pool):
    wrong: list[object] = []

    def run(seed: int) -> None:
        case = Case("thread", TOY, ("<q>key1 key2 </q>", "<a>value1 </a>"), seed=seed)
        session = Session(pool)
        if any(play_session(session, case) != reference(case) for _ in range(20)):
            wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("action", [[], [24], [-1], [0.5], ["a"], [[1]], None, "text", [True]])
def test_refused_ids_change_nothing(pool, action):
    session = Session(pool)
    session.begin(seed=0, index=9)
    with pytest.raises(InvalidActionError):
        session.write(action)
    assert session.write_text("<q>key1 key1 </q>").info["query"] == "key1 key1"


def test_steps_outside_an_episode_are_refused(pool):
    session = Session(pool)
    with pytest.raises(EpisodeOverError, match="reset"):
        session.write([0])
    session.begin(seed=0)
    session.write([0])
    with pytest.raises(EpisodeOverError):
        session.write([0])
    session.begin()
    session.close()
    with pytest.raises(EpisodeOverError):
        session.write([0])


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"index": 64}, "index"),
        ({"question_id": "toy-tran-00"}, "Did you mean 'toy-train-00'"),
        ({"index": 0, "question_id": "toy-train-00"}, "Omit one"),
        ({"seed": -1}, "seed"),
        ({"seed": "a"}, "seed"),
    ],
)
def test_wrong_tasks_are_refused(pool, begin, part):
    session = Session(pool)
    with pytest.raises(ConfigurationError, match=part):
        session.begin(**begin)
    with pytest.raises(EpisodeOverError):
        session.write([0])


def test_a_failed_search_is_not_valid():
    session = Session(EnvironmentPool(TOY, {"retriever": Broken()}))
    session.begin(seed=0, index=9)
    turn = session.write_text("<q>key1 </q>")
    assert (turn.valid, turn.truncated, turn.stop_reason) == (False, True, "retrieval_error")
    assert turn.reward == 0.0


def test_log_probabilities_follow_the_ids(pool):
    async def sample(ids: list[int]) -> Sampled:
        session_ids.append(len(ids))
        text = "<q>key1 key1 </q>key7 " if len(session_ids) == 1 else "<a>value0 </a>"
        tokens = tokenizer.encode(text).tolist()
        return Sampled(tokens, [-float(k + 1) for k in range(len(tokens))])

    session, session_ids = Session(pool), []
    tokenizer = pool.environment().tokenizer
    episode = asyncio.run(play(session, sample, split="train", index=9))
    assert episode.mask == [1, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert episode.log_probs == [-1.0, -2.0, -3.0, -4.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0]
    assert (episode.unused, episode.turns, episode.reward) == (1, 2, 1.0)
    assert session_ids == [3, 10]


def test_engines_that_give_other_numbers_of_log_probabilities_are_refused(pool):
    async def short(ids: list[int]) -> Sampled:
        return Sampled([8, 8], [-1.0])

    async def silent(ids: list[int]) -> Sampled:
        return Sampled([])

    async def sometimes(ids: list[int]) -> Sampled:
        return Sampled([8], None if len(ids) > 3 else [-1.0])

    session = Session(pool)
    with pytest.raises(ConfigurationError, match="each of 2 ids, got 1"):
        asyncio.run(play(session, short))
    with pytest.raises(InvalidActionError):
        asyncio.run(play(session, silent))
    with pytest.raises(ConfigurationError, match="every segment"):
        asyncio.run(play(session, sometimes))


def test_the_closing_tags_are_those_of_queries_and_answers(pool):
    assert closing_tags(Session(pool)) == ["</q>", "</a>"]


def test_fields_of_rows():
    row = {"prompt": "x", "index": np.int64(3), "split": "train", "seed": None}
    assert row_fields(row) == {"index": 3, "split": "train"}


def test_tools_play_an_episode(pool):
    tools = SearchTools(pool)
    assert tools.reset(prompt=[{"role": "user"}], split="train", index=9) == "find key1 key1"
    assert tools.search("key1 key1") == "value0"
    assert tools.answer("value0") == "The answer was taken."
    assert tools.get_reward() == tools.get_reward() == 1.0
    with pytest.raises(EpisodeOverError, match="Stop calling tools"):
        tools.search("key1")


def test_tools_without_an_answer_end_the_sequence():
    tools = search_tools("SearchQA-Stage1-v0")()
    tools.reset(index=0)
    assert "Nothing" not in tools.search("river")
    assert tools.get_reward() >= 0.0
    assert tools._session.env.transcript().stop_reason is not None


def test_a_tag_in_a_tools_argument_closes_nothing():
    tools = SearchTools(EnvironmentPool("SearchQA-v0", {"protocol": "search-r1"}))
    tools.reset(split="train", index=0)
    tools.search("river </search><answer>x</answer>")
    transcript = tools._session.env.transcript()
    assert transcript.stop_reason is None
    assert len(transcript.searches) == 1


def test_tools_show_no_other_public_method():
    tools = SearchTools(EnvironmentPool(TOY))
    public = {name for name in dir(tools) if not name.startswith("_")}
    assert public == {"reset", "get_reward", "search", "answer"}


def test_rows_of_tasks():
    rows = task_rows(TOY, {"split": "test"}, count=2)
    assert [row["prompt"] for row in rows] == ["toy-test-00", "toy-test-01"]
    assert env_reward(env_reward=[1.0, 0.0], prompts=[], completions=[]) == [1.0, 0.0]
    assert ExactRollouts(TOY) is not None


@pytest.mark.parametrize("mask", [False, True])
def test_float_windows(mask):
    env = rllib_env({"env_id": TOY, "size": 4, "keep": "last", "mask": mask})
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    vector = observation["observations"] if mask else observation
    tokens = env.unwrapped.transcript().tokens
    assert vector.dtype == np.float32
    assert vector.reshape(4, 25).argmax(1).tolist() == [24, *tokens.tolist()]
    over = False
    while not over:
        legal = env.unwrapped.action_masks() if mask else None
        action = env.action_space.sample(mask=legal)
        observation, _, terminated, truncated, _ = env.step(action)
        assert observation in env.observation_space
        over = terminated or truncated
    if mask:
        assert observation["action_mask"].any()


def test_unknown_keys_of_rllib_are_refused():
    with pytest.raises(ConfigurationError, match="'dataset'"):
        rllib_env({"dataset": "toy"})
    with pytest.raises(TypeError, match="datset"):
        rllib_env({"arguments": {"datset": "toy"}})


def test_a_float_window_is_made_again_from_its_spec():
    env = FloatWindow(gym.make(TOY), 4)
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space
