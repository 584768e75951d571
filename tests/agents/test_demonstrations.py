from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest

import search_env  # noqa: F401 - registers the ids
from agents.demonstrations import (
    article_examples,
    copying_examples,
    hasty_example,
    oracle_example,
    reading_examples,
)
from search_env.datasets.world import World
from search_env.types import Source

OPTIONS = {"articles": 200, "questions": 60, "seed": 5}


@pytest.fixture(scope="module", params=["r1-searcher", "search-r1"])
def env(request):
    return gym.make("SearchQA-v0", protocol=request.param, dataset_options=OPTIONS).unwrapped


def _counted(env, example):
    return env.tokenizer.decode(example.tokens[example.weights > 0].tolist())


def test_an_oracle_episode_searches_every_hop_and_is_right(env):
    for index in range(12):
        question = env.questions[index]
        example = oracle_example(env, index)
        transcript = env.transcript()
        assert [s.query for s in transcript.searches] == [h.query for h in question.hops]
        assert transcript.answer == question.answers[0]
        np.testing.assert_array_equal(example.tokens, transcript.tokens)
        policy = transcript.sources == Source.POLICY
        np.testing.assert_array_equal(example.weights > 0, policy)


def test_without_decisions_the_tokens_that_tell_a_query_from_an_answer_do_not_count(env):
    whole, taught = (oracle_example(env, 3, decisions=flag) for flag in (True, False))
    left_out = np.flatnonzero((whole.weights > 0) & (taught.weights == 0))
    policy = env.transcript().sources == Source.POLICY
    starts = np.flatnonzero(policy & ~np.roll(policy, 1))
    assert len(starts) == len(env.questions[3].hops) + 1
    # "<|" against "</" in one protocol; "<" "search" against "<" "answer" in the other.
    width = 1 if env.protocol.name == "r1-searcher" else 2
    np.testing.assert_array_equal(left_out, np.concatenate([s + np.arange(width) for s in starts]))


def test_what_says_where_a_copy_begins_counts_most(env):
    example = oracle_example(env, 0)
    answer = env.tokenizer.encode(f" {env.questions[0].answers[0]}").tolist()
    heavy = example.tokens[example.weights == 3.0].tolist()
    assert heavy[-len(answer[:2]) :] == answer[:2]
    assert len(heavy) <= 2 * (len(env.questions[0].hops) + 1)


def test_somebody_in_a_hurry_searches_as_seldom_as_asked(env):
    random = np.random.default_rng(0)
    searches = []
    for index in itertools.islice(itertools.cycle(range(60)), 300):
        hasty_example(env, index, random, search_rate=0.3, go_on_rate=0.5)
        searches.append((len(env.transcript().searches), len(env.questions[index].hops)))
    made = np.array([done for done, _ in searches])
    assert abs((made > 0).mean() - 0.3) < 0.08  # three standard errors
    several = np.array([done for done, hops in searches if done and hops > 1])
    assert abs((several > 1).mean() - 0.5) < 0.2


def test_who_does_not_search_guesses_and_the_guess_counts_little(env):
    example = hasty_example(env, 1, np.random.default_rng(0), search_rate=0.0, go_on_rate=0.0)
    assert not env.transcript().searches
    assert env.transcript().answer in {q.answers[0] for q in env.questions}
    assert example.weights[env.transcript().sources == Source.PROMPT].max() == 0
    assert {round(float(w), 2) for w in example.weights} == {0.0, 0.1, 0.3, 1.0}


def test_reading_cards_hold_answers_that_stand_in_their_documents(env):
    world = World(200, 5)
    lookups = world.questions(500, hops=(1,), kinds=["lookup"])
    answers = {q.text: q.answers[0] for q in lookups}
    cards = reading_examples(env, lookups, np.random.default_rng(1), documents=1)
    for example in itertools.islice(cards, 20):
        text = env.tokenizer.decode(example.tokens.tolist())
        lines = text.split("\n")
        asked = [i for i, line in enumerate(lines) if line.endswith("</answer>")]
        assert asked
        documents = "\n".join(lines[: asked[0] - 1])
        for index in asked:
            answer = lines[index].removeprefix("<answer> ").removesuffix(" </answer>")
            assert answers[lines[index - 1]] == answer
            assert answer in documents


def test_articles_are_read_whole_and_in_order(env):
    documents = [World(100, 1).document(i) for i in range(6)]
    windows = list(article_examples(documents, env.tokenizer, 64))
    assert {len(w.tokens) for w in windows} == {64}
    assert all((w.weights == 1).all() for w in windows)
    text = env.tokenizer.decode(np.concatenate([w.tokens for w in windows]).tolist())
    assert text.startswith(f"{documents[0].title}   {documents[0].text}")


def test_copies_count_from_their_third_token():
    for example in copying_examples(np.random.default_rng(0), 30, length=96, vocabulary=50):
        assert example.tokens.min() >= 1
        assert example.tokens.max() < 50
        for at in np.flatnonzero(example.weights):
            pair = example.tokens[at - 2 : at].tolist()
            before = example.tokens[: at - 2]
            found = [
                before[i + 2] if i + 2 < len(before) else example.tokens[i + 2]
                for i in range(at - 2)
                if example.tokens[i : i + 2].tolist() == pair
            ]
            assert example.tokens[at] in found
