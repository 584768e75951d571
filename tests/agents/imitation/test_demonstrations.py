from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest

import search_env  # noqa: F401 - registers the ids
from search_env.agents.imitation.demonstrations import (
    article_examples,
    copying_examples,
    hasty_example,
    oracle_example,
    reading_examples,
    thinking_example,
)
from search_env.types import Source, Tag, TagRole, TagWritten, pairs_by_tag
from search_env.worlds.encyclopaedia import World

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
    whole, taught = (oracle_example(env, 3, decisions=which) for which in ("all", "none"))
    left_out = np.flatnonzero((whole.weights > 0) & (taught.weights == 0))
    transcript = env.transcript()
    tags = [e for e in transcript.events if isinstance(e, TagWritten)]
    turns = [e for e in tags if e.tag == Tag("query", "open")][1:]
    turns.append(next(e for e in tags if e.tag in (Tag("think", "close"), Tag("answer", "open"))))
    pairs = pairs_by_tag(env.protocol.tags)
    texts = [pairs[e.tag].text(e.tag.side) for e in turns]
    lengths = [len(env.tokenizer.encode(text)) for text in texts]
    starts = [e.position + 1 - n for e, n in zip(turns, lengths, strict=True)]
    # "<|" against "</" in one protocol; "<" "search" against "<" "answer" in the other. The first
    # turn begins with a thought where it searches, which its first token tells.
    width = 1 if env.protocol.name == "r1-searcher" else 2
    first = np.flatnonzero(transcript.sources == Source.POLICY)[:1]
    np.testing.assert_array_equal(
        left_out, np.concatenate([first, *(s + np.arange(width) for s in starts)])
    )


def test_later_decisions_are_all_but_whether_to_search(env):
    for make in (oracle_example, thinking_example):
        none, later, every = (
            make(env, 3, decisions=which).weights for which in ("none", "later", "all")
        )
        decisions = np.flatnonzero(every != none)
        np.testing.assert_array_equal(np.flatnonzero(later != none), decisions[1:])
        np.testing.assert_array_equal(later[decisions[1:]], 1.0)


def test_who_stops_thinking_answers_with_what_was_found_last(env):
    question = env.questions[3]
    text = env.tokenizer.decode(thinking_example(env, 3, searches=2).tokens.tolist())
    assert len(question.hops) == 4
    assert text.count(question.hops[1].query) == 2
    assert f"{question.hops[2].query}:" not in text
    assert f" {question.hops[1].answer} {env.protocol.pair(TagRole.ANSWER).close}" in text


def test_thinking_alone_is_the_episode_without_documents_and_findings_that_must_be_read(env):
    for index in range(8):
        whole = oracle_example(env, index, decisions="none")
        sources = env.transcript().sources
        alone = thinking_example(env, index)
        np.testing.assert_array_equal(alone.tokens, whole.tokens[sources != Source.RETRIEVED])
        assert not (alone.weights > whole.weights[sources != Source.RETRIEVED]).any()
        question = env.questions[index]
        unread = env.tokenizer.decode(
            whole.tokens[sources != Source.RETRIEVED][
                (alone.weights == 0) & (whole.weights[sources != Source.RETRIEVED] > 0)
            ].tolist()
        )
        assert unread == "".join(f" {hop.answer}.\n" for hop in question.hops)


def test_thoughts_hold_the_steps_and_what_was_found(env):
    oracle_example(env, 3)
    transcript = env.transcript()
    text, hops = transcript.text(Source.POLICY), transcript.question.hops
    steps = text.split(" Steps: ")[1].split(".\n")[0].split("; ")
    assert len(steps) == len(hops) > 1
    assert steps[0] == hops[0].query
    for step, hop, before in zip(steps[1:], hops[1:], hops, strict=False):
        assert before.answer not in step
        assert set(step.split()) <= set(hop.query.split())
    for hop in hops:
        assert f" {hop.query}: {hop.answer}.\n" in text


def test_after_each_search_the_steps_that_are_left_are_said(env):
    question = env.questions[3]
    assert len(question.hops) == 4
    said, unsaid = (
        env.tokenizer.decode(oracle_example(env, 3, recounts=flag).tokens.tolist())
        for flag in (True, False)
    )
    plans = [line for line in said.splitlines() if " Steps:" in line]
    steps = plans[0].split(" Steps: ")[1].removesuffix(".").split("; ")
    assert [plan.split(" Steps: ")[1] for plan in plans[1:]] == [
        *("; ".join(steps[n:]) + "." for n in (1, 2, 3)),
        "none.",
    ]
    for plan in plans[1:]:
        said = said.replace(f"{plan}\n", "", 1)
    assert unsaid == said


def test_what_says_where_a_copy_begins_counts_most(env):
    example = oracle_example(env, 0)
    answer = env.tokenizer.encode(f" {env.questions[0].answers[0]}").tolist()
    heavy = example.tokens[example.weights == 3.0].tolist()
    assert heavy[-len(answer[:2]) :] == answer[:2]
    assert len(heavy) <= 2 * (3 * len(env.questions[0].hops) + 1)  # query, repeated, value; answer


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
    assert {round(float(w), 2) for w in example.weights} == {0.0, 0.01, 0.1, 0.3, 1.0}


def test_tags_and_guesses_count_as_asked(env):
    def weights(tags, guesses=0.1):
        rates = {"search_rate": 0.0, "go_on_rate": 0.0}
        random = np.random.default_rng(0)
        hasty = hasty_example(env, 1, random, **rates, tags=tags, guesses=guesses)
        return (
            oracle_example(env, 1, tags=tags).weights,
            hasty.weights,
            thinking_example(env, 1, tags=tags).weights,
        )

    light, full = weights(0.25), weights(1.0)
    for less, more in zip(light, full, strict=True):
        changed = less != more
        assert changed.any()
        np.testing.assert_array_equal(less[changed], 0.25 * more[changed])
    guess = weights(1.0, guesses=0.5)[1]
    # The decision, the rest of the tags, the two tokens that begin the guess.
    assert set(guess[guess > 0].tolist()) == {1.0, 0.5, 1.5}


def test_reading_cards_hold_answers_that_stand_in_their_documents(env):
    lookups = World(200, 5).questions(500, hops=(1,), kinds=["lookup"])
    answers = {f"{q.text}\n<answer>": f" {q.answers[0]} </answer>\n" for q in lookups}
    found = {f" {q.hops[0].query}:": f" {q.hops[0].answer}.\n" for q in lookups}
    seen = {"words": 0, "keywords": 0}
    for example in itertools.islice(
        reading_examples(env, lookups, np.random.default_rng(1), documents=1), 20
    ):
        text = env.tokenizer.decode(example.tokens.tolist())
        for form, known in (("words", answers), ("keywords", found)):
            for asked, answer in known.items():
                if asked + answer in text:
                    seen[form] += 1
                    documents = text.split(asked)[0]
                    assert answer.split(" </answer>")[0].removesuffix(".\n").strip() in documents
        assert (example.weights == 3.0).any()
    assert min(seen.values()) >= 10


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
