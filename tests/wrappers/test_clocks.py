"""Action granularity: equal ids and seeds give equal episodes, whatever one step is."""

from __future__ import annotations

import functools
import itertools
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import InvalidActionError
from search_env.types import Source, TagRole
from search_env.wrappers.clocks import EpisodeAction, SegmentAction, TextAction
from tests.wrappers.token_envs import SETTINGS, Paying, bare


@functools.cache
def paying(setting: str) -> Paying:
    return Paying(bare(setting))


@functools.cache
def pieces(setting: str) -> tuple[str, ...]:
    """Texts that make searches, answers, faults and endings likely."""
    search, final = (bare(setting).protocol.pair(r) for r in (TagRole.TOOL, TagRole.ANSWER))
    query = f"{search.open}key1 key1{search.close}"
    answer = f"{final.open}value0 {final.close}"
    tokenizer = bare(setting).tokenizer
    names = [tokenizer.token_bytes[i].decode() for i in tokenizer.eos_ids]
    others = ("so ", "東京", "key2 key1 ", "value0 ", " ", ">\n", *names)
    return (*bare(setting).protocol.tag_texts, query, query, query, answer, *others)


def ids_of(setting: str) -> st.SearchStrategy[list[int]]:
    tokenizer = bare(setting).tokenizer
    encoded = [ids for text in pieces(setting) if (ids := tokenizer.encode(text).tolist())]
    one = st.integers(0, tokenizer.size - 1).map(lambda i: [i])
    many = st.lists(st.one_of(st.sampled_from(encoded), one), min_size=1, max_size=25)
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


def check_info(info, steps, *extra_keys: str):
    """Compare an info with those of the tokens that it summarises."""
    expected = dict(steps[-1][4])
    expected.pop("format_faults", None)
    if faults := faults_of(steps):
        expected["format_faults"] = faults
    assert {key: value for key, value in info.items() if key not in extra_keys} == expected


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
        check_info(info, stretch, "unused_actions")
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
    check_info(info, steps, "trajectory")
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
    action = (
        "<think> Which value — 東京? <|begin_of_query|> key1 key1 <|end_of_query|>\n\nI know it."
    )
    text, reward, terminated, _, info = env.step(action)
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


@pytest.mark.parametrize("ids", [[1, 8, 8, 2, 0], [2, 2, 8, 1, 2], [5, 5, 0]])
def test_stable_infos_stop_at_the_same_places(ids):
    """There every key is in every info: what the environment wrote shows in the values."""
    plain = SegmentAction(gym.make("SearchQA-Toy-v0"))
    stable = SegmentAction(gym.make("SearchQA-Toy-v0", stable_infos=True))
    for env in (plain, stable):
        env.reset(seed=0, options={"index": 9})
    _, reward, *ends, info = plain.step(ids)
    _, stable_reward, *stable_ends, stable_info = stable.step(ids)
    assert (stable_reward, stable_ends) == (reward, ends)
    assert stable_info["unused_actions"] == info["unused_actions"]
    assert stable_info["format_faults"].sum() == len(info.get("format_faults", ()))
    written = [env.unwrapped.transcript().tokens.tolist() for env in (plain, stable)]
    assert written[0] == written[1]
