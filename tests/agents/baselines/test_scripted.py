from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from search_env import Document, FakeRetriever, Hop, Question, SearchQAEnv, Source
from search_env.agents.baselines.scripted import (
    BASELINES,
    RandomAgent,
    ScriptedAgent,
    make_baseline,
)
from search_env.errors import ConfigurationError, EpisodeOverError
from search_env.evaluation.evaluate import evaluate

KNOWN_ON_TOY = {
    # F1, searches, policy tokens. The guess is the question's last word, a key, never a value.
    "closed-book": (0.0, 0, 3),  # <a> key </a>
    # The toy's retriever knows "key key" only, not "find key key": nothing is found.
    "question-as-query": (0.0, 1, 8),  # <q> find key key </q> <a> key </a>
    "oracle-queries": (1.0, 1, 7),  # <q> key key </q> <a> value </a>
    "oracle": (1.0, 1, 7),
}


@pytest.mark.parametrize("name", KNOWN_ON_TOY)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_known_returns_on_the_toy(name, split):
    env = gym.make("SearchQA-Toy-v0", split=split)
    records = evaluate(env, make_baseline(name))
    assert len(records) == 64
    assert {(r.f1, r.searches, r.policy_tokens) for r in records} == {KNOWN_ON_TOY[name]}
    assert all(r.episode_return == r.f1 and r.stop_reason == "answered" for r in records)
    assert not any(r.format_faults for r in records)


def test_random_ids_end_their_episodes_and_are_worth_nothing():
    records = evaluate(gym.make("SearchQA-Toy-v0"), make_baseline("random", seed=0))
    # 1/8 an episode at most, were each to answer with a value; far fewer answer at all.
    assert np.mean([r.f1 for r in records]) <= 0.125
    assert {r.stop_reason for r in records} <= {
        *("end_of_sequence", "max_tokens", "answered", "max_searches")
    }


def test_random_is_uniform_and_seeded():
    env = SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy", vocab_size=32)
    observation, _ = env.reset(seed=0)

    def draw(seed, count):
        agent = RandomAgent(seed)
        agent.begin(env, observation)
        return [agent.act(observation) for _ in range(count)]

    counts = np.bincount(draw(0, 32_000), minlength=32)
    assert len(counts) == 32
    assert np.square(counts - 1000).sum() / 1000 < 61.1  # chi-squared, 31 degrees: p = 0.001
    assert draw(1, 50) == draw(1, 50) != draw(2, 50)


@pytest.mark.parametrize("protocol", ["r1-searcher", "search-r1"])
def test_oracle_in_every_protocol_and_tokenizer(protocol, tokenizer):
    env = SearchQAEnv(dataset="toy", protocol=protocol, tokenizer=tokenizer.name)
    for record in evaluate(env, make_baseline("oracle"), [0, 9, 63]):
        assert (record.f1, record.searches, record.format_faults) == (1.0, 1, ())
        assert record.supporting_recall == 1.0


def world_of_two_hops(**arguments):
    """An environment with one question of two hops and one of which nothing is known."""
    env = SearchQAEnv(dataset="toy", tokenizer="byte", **arguments)
    hops = (Hop("Ulm </answer> mayor", "Jan Holt", "a"), Hop("Jan Holt born", "Oslo", "b"))
    env.components.questions = (
        Question(
            "two", "Where was the mayor of Ulm born?", ("Oslo",), "", "", "", ("a", "b"), hops
        ),
        Question("none", "Who governs Rome?", ("Nero", "Caesar")),
    )
    env.retriever = FakeRetriever(
        {
            "Ulm mayor": [Document("a", "Ulm", "Ulm is a city. Its mayor is Jan Holt.")],
            "Jan Holt born": [Document("b", "Jan Holt", "A mayor. He was born in Bergen.")],
            "Who governs Rome?": [Document("c", "Nero", "Nero governs Rome.")],
        }
    )
    return env


def play(env, name, index):
    observation, _ = env.reset(options={"index": index})
    agent, over, total = make_baseline(name), False, 0.0
    agent.begin(env, observation)
    while not over:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total += reward
        over = terminated or truncated
    return env.transcript(), total


def test_oracle_writes_its_queries_in_order_then_closes_the_open_think():
    transcript, total = play(world_of_two_hops(), "oracle", 0)
    assert transcript.text(Source.POLICY) == (
        "<|begin_of_query|> Ulm mayor <|end_of_query|>"
        "<|begin_of_query|> Jan Holt born <|end_of_query|>"
        "</think>\n\n<answer> Oslo </answer>"
    )
    assert total == 1.0


def test_oracle_queries_reads_the_last_document():
    transcript, total = play(world_of_two_hops(), "oracle-queries", 0)
    assert (transcript.answer, total) == ("Bergen", 0.0)


def test_search_r1_leaves_no_think_open():
    transcript, _ = play(world_of_two_hops(protocol="search-r1"), "oracle", 0)
    assert transcript.text(Source.POLICY) == (
        "<search> Ulm mayor </search><search> Jan Holt born </search><answer> Oslo </answer>"
    )


def test_questions_without_hops_are_asked_as_they_are():
    env = world_of_two_hops()
    for name in ("question-as-query", "oracle-queries", "oracle"):
        transcript, total = play(env, name, 1)
        assert [s.query for s in transcript.searches] == ["Who governs Rome?"]
        assert (transcript.answer, total) == ("Nero", 1.0)


def test_a_budget_may_end_the_oracle_early():
    transcript, total = play(world_of_two_hops(max_searches=1), "oracle", 0)
    assert transcript.stop_reason.value == "max_searches"
    assert total == 0.0


@pytest.mark.parametrize(
    ("protocol", "stop"), [("r1-searcher", "end_of_sequence"), ("search-r1", "max_turns")]
)
def test_an_exhausted_script_ends_its_sequence(protocol, stop):
    env = SearchQAEnv(dataset="toy", protocol=protocol, tokenizer="byte")
    (record,) = evaluate(env, ScriptedAgent(lambda env: iter(["well"])), [0])
    assert (record.stop_reason, record.answer) == (stop, None)


def test_acting_before_beginning():
    for name in [n for n in BASELINES if n != "random"]:
        with pytest.raises(EpisodeOverError, match="Call begin"):
            make_baseline(name).act({})


def test_misspelt_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match="Did you mean 'closed-book'"):
        make_baseline("closedbook")


def test_the_world_is_answered_by_searching_only():
    env = gym.make("SearchQA-v0", dataset_options={"questions": 60}, split="test")
    f1 = {
        name: np.mean([r.f1 for r in evaluate(env, make_baseline(name))])
        for name in ("closed-book", "question-as-query", "oracle-queries", "oracle")
    }
    assert f1["oracle"] == 1.0
    assert f1["closed-book"] < f1["question-as-query"] < f1["oracle-queries"] < 1.0
