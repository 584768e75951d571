"""The clocks: the same ids and seed are the same episode, whatever one step is."""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import re
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import search_env
from search_env.env import SearchQAEnv
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.retrieval.base import FakeRetriever
from search_env.spaces import Unicode
from search_env.types import Source, Tag
from search_env.wrappers.clocks import EpisodeAction, SegmentAction, TextAction

CLOCKS = (SegmentAction, TextAction, EpisodeAction)
TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
SETTINGS = {
    "toy": {**TOY, "max_tokens": 16},
    "toy-long": {**TOY, "max_tokens": 64, "max_searches": 3},
    "byte": {
        "dataset": "toy",
        "protocol": "r1-searcher",
        "tokenizer": "byte",
        "max_policy_tokens": 150,
    },
    "byte-notices": {
        "dataset": "toy",
        "protocol": "search-r1",
        "tokenizer": "byte",
        "max_tokens": 3000,
    },
    "world": {"dataset": "toy", "protocol": "search-r1", "tokenizer": "world-1k"},
}


class Paying(gym.Wrapper):
    """Pays something else for each token, in eighths so that sums are exact."""

    count = 0

    def reset(self, **arguments):
        self.count = 0
        return self.env.reset(**arguments)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.count += 1
        return observation, reward + self.count % 5 / 8, terminated, truncated, info


@functools.cache
def bare(setting: str) -> SearchQAEnv:
    return SearchQAEnv(**SETTINGS[setting])


@functools.cache
def paying(setting: str) -> Paying:
    return Paying(bare(setting))


@functools.cache
def pieces(setting: str) -> tuple[str, ...]:
    """Texts that make searches, answers, faults and endings likely."""
    tags = bare(setting).protocol.tags
    query = f"{tags[Tag.QUERY_OPEN]}key1 key1{tags[Tag.QUERY_CLOSE]}"
    answer = f"{tags[Tag.ANSWER_OPEN]}value0 {tags[Tag.ANSWER_CLOSE]}"
    names = [
        bare(setting).tokenizer.token_bytes[i].decode() for i in bare(setting).tokenizer.eos_ids
    ]
    others = ("so ", "東京", "key2 key1 ", "value0 ", " ", ">\n", *names)
    return (*tags.values(), query, query, query, answer, *others)


def ids_of(setting: str) -> st.SearchStrategy[list[int]]:
    tokenizer = bare(setting).tokenizer
    known = [ids for text in pieces(setting) if (ids := tokenizer.encode(text).tolist())]
    one = st.integers(0, tokenizer.size - 1).map(lambda i: [i])
    many = st.lists(st.one_of(st.sampled_from(known), one), min_size=1, max_size=25)
    return many.map(lambda parts: [i for part in parts for i in part])


settings_and_ids = st.sampled_from(sorted(SETTINGS)).flatmap(
    lambda setting: st.tuples(st.just(setting), ids_of(setting))
)


def token_by_token(setting: str, seed: int, ids) -> list:
    """Return the steps of the plain environment, (observation, reward, ends, info) each."""
    env = paying(setting)
    observation, info = env.reset(seed=seed)
    steps = [(observation, 0.0, False, False, info)]
    for token in ids:
        steps.append(env.step(token))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def chunks(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted({c % len(ids) for c in cuts} - {0}), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


def faults_of(steps) -> list[str]:
    return [fault for step in steps for fault in step[4].get("format_faults", [])]


def agree(info, steps, *own: str):
    """Hold an info against those of the tokens it stands for."""
    expected = dict(steps[-1][4])
    expected.pop("format_faults", None)
    if faults := faults_of(steps):
        expected["format_faults"] = faults
    assert {key: value for key, value in info.items() if key not in own} == expected


def same_observation(a, b) -> bool:
    return data_equivalence(a, b, exact=True)


@given(settings_and_ids, st.integers(0, 99), st.lists(st.integers(0, 200), max_size=6))
def test_segments_are_the_tokens(setting_and_ids, seed, cuts):
    setting, ids = setting_and_ids
    steps = token_by_token(setting, seed, ids)
    env, at = SegmentAction(paying(setting)), 0
    observation, info = env.reset(seed=seed)
    assert same_observation(observation, steps[0][0])
    assert info == steps[0][4]
    total, over, todo = 0.0, False, chunks(ids, cuts)
    while todo and not over:
        action = todo.pop(0)
        observation, reward, terminated, truncated, info = env.step(tuple(action))
        used = len(action) - info["unused_actions"]
        stretch, at = steps[at + 1 : at + used + 1], at + used
        # In between nothing was written by the environment; at the end it may have been.
        for token, step in zip(action[: used - 1], stretch, strict=False):
            last = step[0]["length"] - 1
            assert (step[0]["tokens"][last], step[0]["sources"][last]) == (token, Source.POLICY)
        assert same_observation(observation, stretch[-1][0])
        assert (terminated, truncated) == stretch[-1][2:4]
        assert reward == sum(step[1] for step in stretch)
        agree(info, stretch, "unused_actions")
        total, over = total + reward, terminated or truncated
        if info["unused_actions"]:
            grew = stretch[-1][0]["length"] - steps[at - 1][0]["length"]
            assert over or grew > 1
            todo.insert(0, action[used:])
    assert at == len(steps) - 1
    assert total == sum(step[1] for step in steps)


@given(settings_and_ids, st.integers(0, 99))
def test_an_episode_is_the_tokens(setting_and_ids, seed):
    setting, ids = setting_and_ids
    end = min(bare(setting).tokenizer.eos_ids)
    ids += [end] * bare(setting).protocol.max_tokens
    steps = token_by_token(setting, seed, ids)
    seen, source = [], iter(ids)

    def policy(observation):
        seen.append(observation)
        return next(source)

    env = EpisodeAction(paying(setting))
    env.reset(seed=seed)
    observation, reward, terminated, truncated, info = env.step(policy)
    assert len(seen) == len(steps) - 1
    for one, step in zip([*seen, observation], steps, strict=True):
        assert same_observation(one, step[0])
    assert (terminated, truncated) == steps[-1][2:4]
    assert reward == sum(step[1] for step in steps)
    agree(info, steps, "trajectory")
    transcript = bare(setting).transcript()
    assert info["trajectory"] == {
        "actions": ids[: len(seen)],
        "rewards": [step[1] for step in steps[1:]],
        "tokens": transcript.tokens.tolist(),
        "sources": transcript.sources.tolist(),
        "stop_reason": info["stop_reason"],
    }
    assert json.loads(json.dumps(info)) == info


@given(
    st.sampled_from(sorted(SETTINGS)).flatmap(
        lambda setting: st.tuples(
            st.just(setting),
            st.lists(
                st.lists(st.sampled_from(pieces(setting)) | st.text(max_size=3), min_size=1),
                min_size=1,
                max_size=6,
            ),
        )
    ),
    st.integers(0, 99),
)
def test_texts_are_the_tokens(setting_and_texts, seed):
    setting, parts = setting_and_texts
    env = TextAction(paying(setting))
    tokenizer = env.unwrapped.tokenizer
    text, info = env.reset(seed=seed)
    assert info["new_text"] == text == env.unwrapped.transcript().text(Source.PROMPT)
    results, written, todo = [], [], ["".join(part) for part in parts]
    while todo:
        action = todo.pop(0)
        ids = tokenizer.encode(action, special=True).tolist()
        if not ids:
            with pytest.raises(InvalidActionError, match="one token or more"):
                env.step(action)
            continue
        before = len(env.unwrapped.transcript().tokens)
        results.append(env.step(action))
        transcript = env.unwrapped.transcript()
        new, sources = transcript.tokens[before:], transcript.sources[before:]
        mine = new[sources == Source.POLICY].tolist()
        assert mine == ids[: len(mine)], "the text is encoded once, and a part of it is written"
        written += mine
        text, _, terminated, truncated, info = results[-1]
        assert text in env.observation_space
        assert text == transcript.text()
        assert info["new_text"] == tokenizer.decode(new[sources != Source.POLICY])
        assert info["unused_text"] == tokenizer.decode(ids[len(mine) :])
        if info["unused_text"]:
            todo.insert(0, info["unused_text"])
        if terminated or truncated:
            break
    assert [o for o in results if o[2] or o[3]] in ([], results[-1:])
    transcript = env.unwrapped.transcript()
    steps = token_by_token(setting, seed, written)
    plain = bare(setting).transcript()
    assert len(steps) == len(written) + 1
    np.testing.assert_array_equal(plain.tokens, transcript.tokens)
    np.testing.assert_array_equal(plain.sources, transcript.sources)
    assert plain.events == transcript.events
    assert sum(r[1] for r in results) == sum(step[1] for step in steps)
    if results:
        assert results[-1][2:4] == steps[-1][2:4]
        final = {k: v for k, v in steps[-1][4].items() if k != "format_faults"}
        assert final.items() <= results[-1][4].items()
        assert [f for r in results for f in r[4].get("format_faults", [])] == faults_of(steps)


def test_real_text_with_a_real_tokenizer(data_dir):
    """A trajectory of a text model, cut anywhere, is the same tokens as one by one."""
    env = TextAction(
        gym.make(
            "SearchQA-Toy-v0",
            protocol="r1-searcher",
            tokenizer=str(data_dir / "tokenizers" / "qwen2.json.xz"),
            max_tokens=4096,
        )
    )
    env.reset(seed=0, options={"index": 9})
    said = "<think> Which value — 東京? <|begin_of_query|> key1 key1 <|end_of_query|>\n\nI know it."
    text, reward, terminated, _, info = env.step(said)
    assert (reward, terminated, info["query"]) == (0.0, False, "key1 key1")
    assert text.endswith(info["new_text"])
    assert "value0" in info["new_text"]
    # Qwen2 has an id for ">" and two line breaks: it closed the tag, so the breaks were written.
    assert info["unused_text"] == "I know it."
    text, reward, terminated, _, info = env.step("</think>\n<answer> value0 </answer>")
    assert (reward, terminated, info["unused_text"], info["answer"]) == (1.0, True, "", "value0")
    ids = env.unwrapped.transcript()
    plain = env.env
    plain.reset(seed=0, options={"index": 9})
    for token in ids.tokens[ids.sources == Source.POLICY].tolist():
        *_, info = plain.step(token)
    np.testing.assert_array_equal(plain.unwrapped.transcript().tokens, ids.tokens)
    assert info["answer"] == "value0"


# What an action is.


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
def test_what_is_no_segment_is_refused_and_writes_nothing(action):
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


def test_what_is_no_text_is_refused():
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


def test_an_episode_wants_a_policy_and_a_reset():
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


def test_ctrl_c_in_a_policy_comes_through():
    env = EpisodeAction(bare("toy"))
    env.reset(seed=0)

    def policy(observation):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        env.step(policy)


@pytest.mark.parametrize("clock", [SegmentAction, TextAction])
def test_no_step_before_reset_or_after_the_end(clock):
    env = clock(SearchQAEnv(**SETTINGS["toy"]))
    action = [3, 15, 4] if clock is SegmentAction else "<a>value0 </a>"
    with pytest.raises(EpisodeOverError):
        env.step(action)
    env.reset(seed=0)
    assert env.step(action)[2]
    with pytest.raises(EpisodeOverError):
        env.step(action)


# What lies below.


@pytest.mark.parametrize("clock", CLOCKS)
def test_other_environments_are_refused(clock):
    with pytest.raises(ConfigurationError, match="Expected a SearchQAEnv"):
        clock(gym.make("CartPole-v1"))


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("below", CLOCKS)
def test_clocks_do_not_stand_on_one_another(clock, below):
    with pytest.raises(ConfigurationError, match=f"Put {clock.__name__} below"):
        clock(below(bare("toy")))


def written_by(clock, env, ids: list[int]):
    """One step of a clock that writes these toy ids."""
    if clock is SegmentAction:
        return env.step(ids)
    if clock is TextAction:
        return env.step(env.unwrapped.tokenizer.decode(ids))
    remaining = iter(ids)
    return env.step(lambda observation: next(remaining))


@pytest.mark.parametrize("clock", CLOCKS)
def test_wrappers_below_see_every_token(clock):
    below = Paying(gym.make("SearchQA-Toy-v0"))
    env = clock(below)
    env.reset(seed=0, options={"index": 9})
    _, reward, terminated, _, info = written_by(clock, env, [3, 15, 4])
    assert (below.count, reward, terminated) == (3, 1.75, True)
    assert (info["f1"], info["answer"]) == (1.0, "value0")


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_time_limit_below_cuts_the_step(clock):
    env = clock(gym.make("SearchQA-Toy-v0", max_episode_steps=2))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = written_by(clock, env, [8, 9, 10])
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "")
    if clock is SegmentAction:
        assert info["unused_actions"] == 1
    elif clock is TextAction:
        assert info["unused_text"] == "key3 "
    else:
        assert info["trajectory"]["actions"] == [8, 9]
        assert info["trajectory"]["stop_reason"] == ""


def test_faults_of_all_tokens_are_told():
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


# What goes wrong in the middle.


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("error", [RetrievalError("down"), KeyboardInterrupt()])
def test_what_breaks_into_a_search_comes_through_and_ends_the_episode(clock, error):
    class Broken:
        def search(self, queries, top_k):
            raise error

    env = clock(SearchQAEnv(**SETTINGS["toy-long"], retriever=Broken()))
    query = [1, 8, 8, 2]
    env.reset(seed=0)
    with pytest.raises(type(error)):
        written_by(clock, env, [*query, 8])
    with pytest.raises(EpisodeOverError):
        written_by(clock, env, [8])
    env.reset(seed=0)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_failed_search_that_truncates(clock):
    arguments = {**SETTINGS["toy-long"], "retriever": FakeRetriever(error=OSError("down"))}
    env = clock(SearchQAEnv(**arguments, on_retrieval_error="truncate"))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = written_by(clock, env, [1, 8, 8, 2, 8])
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["valid"], info["query"]) == (
        "retrieval_error",
        False,
        "key1 key1",
    )


# Gymnasium's contract.


@pytest.mark.parametrize("env_id", ["SearchQA-Toy-v0", "SearchQA-v0"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_check_env_only_minds_that_it_is_a_wrapper(clock, env_id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(clock(gym.make(env_id)))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1, messages
    assert "is different from the unwrapped version" in messages[0]


@pytest.mark.parametrize("clock", CLOCKS)
def test_spec_survives_json(clock):
    env = clock(gym.make("SearchQA-Toy-v0", max_tokens=20))
    spec = env.spec
    assert EnvSpec.from_json(spec.to_json()) == spec
    twin = gym.make(EnvSpec.from_json(spec.to_json()))
    assert type(twin) is clock
    assert (twin.action_space, twin.observation_space) == (env.action_space, env.observation_space)
    assert twin.unwrapped.protocol.max_tokens == 20
    assert data_equivalence(twin.reset(seed=3), env.reset(seed=3), exact=True)


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_pickled_clock_goes_on(clock):
    env = clock(SearchQAEnv(**SETTINGS["toy"]))
    env.reset(seed=0)
    if clock is not EpisodeAction:
        written_by(clock, env, [8])
    twin = pickle.loads(pickle.dumps(env))
    a, b = (written_by(clock, e, [3, 15, 4]) for e in (env, twin))
    assert data_equivalence(a, b, exact=True)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("seed", range(5))
def test_samples_are_actions(clock, seed):
    env = clock(bare("toy"))
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        action = env.action_space.sample()
        assert action in env.action_space
        observation, _, terminated, truncated, _ = env.step(action)
        assert observation in env.observation_space
        over = terminated or truncated


def actions_for(clock):
    if clock is SegmentAction:
        return [[1, 9, 9, 2], [0]]
    if clock is TextAction:
        return ["<q>key1 key1 </q>", "<a>value7 </a>"]
    return [Constant(0), Constant(8)]


class Constant:
    """A policy that can be sent to another process."""

    def __init__(self, token):
        self.token = token

    def __call__(self, observation):
        return self.token


def make(clock):
    return clock(gym.make("SearchQA-Toy-v0"))


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("form", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_vector_environments(clock, form):
    """Row by row, what single environments return. Texts need shared_memory=False."""
    shared = {"shared_memory": False} if form is AsyncVectorEnv and clock is TextAction else {}
    envs = form([functools.partial(make, clock)] * 2, **shared)
    singles = [make(clock) for _ in range(2)]
    try:
        first, _ = envs.reset(seed=5)
        rows = [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
        assert rows_of(first) == rows_of_singles(rows)
        actions = actions_for(clock)
        batch, rewards, terminated, truncated, infos = envs.step(actions)
        results = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert rows_of(batch) == rows_of_singles([r[0] for r in results])
        assert rewards.tolist() == [r[1] for r in results]
        assert terminated.tolist() == [r[2] for r in results]
        assert truncated.tolist() == [r[3] for r in results]
        for i, result in enumerate(results):
            for key, value in result[4].items():
                if not isinstance(value, dict):
                    assert infos[key][i] == value
        if clock is EpisodeAction:
            found = infos["trajectory"]["actions"]
            assert list(found) == [r[4]["trajectory"]["actions"] for r in results]
    finally:
        envs.close()


def rows_of(batch):
    if isinstance(batch, tuple):
        return list(batch)
    return [[batch[key][i].tolist() for key in sorted(batch)] for i in range(2)]


def rows_of_singles(rows):
    if isinstance(rows[0], str):
        return rows
    return [[np.asarray(row[key]).tolist() for key in sorted(row)] for row in rows]


def test_shared_memory_of_texts_is_refused_by_name():
    with pytest.raises(ValueError, match="shared_memory=False") as caught:
        AsyncVectorEnv([functools.partial(make, TextAction)] * 2)
    assert isinstance(caught.value.__cause__, gym.error.CustomSpaceError)
    assert "Unicode" in str(caught.value.__cause__)


def test_the_text_spaces_say_what_fits():
    env = TextAction(bare("toy"))
    assert env.action_space == Unicode(pieces=env.action_space.pieces)
    # 16 tokens; the longest symbol is "<|endoftext|>".
    assert env.observation_space == Unicode(16 * 13, pieces=env.action_space.pieces)
    assert "value7 " in env.action_space.pieces
    assert "<|endoftext|>" not in env.action_space.pieces


def test_the_pages_examples_run():
    text = (Path(__file__).parents[2] / "docs" / "clocks.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
    assert search_env.Source.PROMPT == 1
