"""Swapped facts: what is swapped, what agents of known kinds do under it, the shares by hand."""

from __future__ import annotations

import dataclasses
import re

import gymnasium as gym
import pytest

from search_env.agents.baselines.scripted import ScriptedAgent, make_baseline
from search_env.envs.loading import load_questions
from search_env.errors import ConfigurationError
from search_env.evaluation.causal_evidence import (
    FOLLOWS,
    OTHER,
    UNCHANGED,
    Swap,
    SwappedDocuments,
    causal_evidence,
    compare_swapped,
    plan_swaps,
)
from search_env.evaluation.evaluate import evaluate
from search_env.metrics.answers import R1_SEARCHER, contains_words
from search_env.retrieval.base import FakeRetriever
from search_env.types import Document, Hop, Question, Source

WORLD = {"articles": 200, "questions": 40, "hops": [1, 2]}


def making(name, **arguments):
    def make(retriever):
        return gym.make(f"SearchQA-{name}-v0", retriever=retriever, **arguments)

    return make


def reading(env):
    """Search for the keys and copy the value that is found."""
    yield f"<q>{' '.join(re.findall('key[0-9]', env.transcript().question.text))}</q>"
    yield f"<a>{re.findall('value[0-9]', env.transcript().text(Source.RETRIEVED))[0]}</a>"


def reading_every_second(env):
    """Read for one half of the questions, and copy the gold answer for the others."""
    question = env.transcript().question
    if int(question.id[-2:]) % 2:
        yield from reading(env)
    else:
        yield f"<a>{question.answers[0]}</a>"


def constant(env):
    yield "<a>value3</a>"


def test_an_agent_that_reads_follows_every_swap():
    for name in ("Toy", "MustSearch"):
        found = causal_evidence(making(name), ScriptedAgent(reading))
        assert (len(found.outcomes), found.left_out) == (64, 0)
        shares = (found.exact_match, found.follows, found.rests, found.unchanged, found.other)
        assert [share.mean for share in shares] == [1, 1, 1, 0, 0]
        for outcome in found.outcomes:
            assert outcome.swapped_answer == outcome.new != outcome.answer


@pytest.mark.parametrize("name", ["Toy", "MustSearch", "Distractors", "AsOf", "Poisoned"])
def test_an_agent_that_knows_follows_none(name):
    """The oracle searches, and then copies the gold answer."""
    found = causal_evidence(making(name), make_baseline("oracle"))
    assert (found.exact_match.mean, found.rests.mean, found.unchanged.mean) == (1, 0, 1)


def test_an_agent_that_reads_half_of_the_time():
    found = causal_evidence(making("MustSearch"), ScriptedAgent(reading_every_second))
    assert (found.exact_match.mean, found.rests.mean, found.rests.count) == (1, 0.5, 64)
    assert found.rests.low < 0.5 < found.rests.high


def test_a_right_guess_does_not_rest_on_evidence():
    found = causal_evidence(making("MustSearch"), ScriptedAgent(constant))
    assert (found.exact_match.mean, found.rests.mean, found.rests.count) == (1 / 8, 0, 8)


def test_what_stands_in_the_question_is_not_evidence():
    def reading_the_question(env):
        yield f"<a>{re.findall('value[0-9]', env.transcript().question.text)[0]}</a>"

    found = causal_evidence(making("MustNotSearch"), ScriptedAgent(reading_the_question))
    assert (found.exact_match.mean, found.rests.mean) == (1, 0)


def test_abstentions_have_no_swap():
    found = causal_evidence(making("Unanswerable"), make_baseline("oracle"), range(8))
    answerable = [q for q in load_questions("unanswerable", None, None)[:8] if q.supporting]
    assert [outcome.question_id for outcome in found.outcomes] == [q.id for q in answerable]
    assert found.left_out == 8 - len(answerable) > 0


def test_the_world_brackets():
    reads = causal_evidence(_world, make_baseline("oracle-queries"), range(20))
    knows = causal_evidence(_world, make_baseline("oracle"), range(20))
    assert knows.rests.mean == 0
    assert len(reads.outcomes) == len(knows.outcomes) > 10
    assert reads.rests.mean > 0.8
    assert reads == causal_evidence(_world, make_baseline("oracle-queries"), range(20))


def _world(retriever):
    return gym.make("SearchQA-v0", retriever=retriever, dataset_options=WORLD)


def test_the_plain_episodes_are_those_of_evaluate():
    found = causal_evidence(_world, make_baseline("oracle-queries"), range(6))
    plain = {r.question_id: r for r in evaluate(_world(None), make_baseline("oracle-queries"))}
    for outcome in found.outcomes:
        assert outcome.answer == plain[outcome.question_id].answer


def test_swaps_of_the_world_are_of_the_same_kind():
    questions = load_questions("world", "train", {"articles": 1000, "questions": 400})
    swaps = plan_swaps(questions)
    assert swaps == plan_swaps(questions)
    assert set(swaps) == {q.id for q in questions if q.answers[0] not in ("yes", "no")}
    same = 0
    for question in questions:
        if question.id not in swaps:
            continue
        swap = swaps[question.id]
        new = R1_SEARCHER.normalize(swap.new)
        assert swap.golds == question.answers
        assert bool(re.search(r"\d", new)) == bool(re.search(r"\d", question.answers[0]))
        for text in (question.text, *question.answers, *(hop.answer for hop in question.hops)):
            assert not contains_words(R1_SEARCHER.normalize(text), new)
        donors = [q for q in questions if q.answers[0] == swap.new]
        asked = question.hops[-1].query.split()[-1]
        same += any(donor.hops[-1].query.split()[-1] == asked for donor in donors)
    assert same / len(swaps) > 0.75  # the last step asks for the same relation


def test_the_donor_asks_the_like():
    questions = [
        Question("1", "Where was Ada born?", ("London",)),
        Question("2", "Who wrote Emma?", ("Jane Austen",)),
        Question("3", "Where was Emmy born?", ("Erlangen",)),
        Question("4", "When was Emmy born?", ("23 March 1882", "March 23, 1882")),
        Question("5", "When was Ada born?", ("10 December 1815",)),
        Question("6", "Is Ulm in London?", ("yes",)),
        Question("7", "How many moons has Mars?", ("2",)),
    ]
    swaps = plan_swaps(questions)
    assert {id: swap.new for id, swap in swaps.items()} == {
        "1": "Erlangen",
        "2": "Erlangen",
        "3": "London",
        "4": "10 December 1815",
        "5": "23 March 1882",
    }


def test_the_new_value_is_nowhere_in_the_question_and_its_steps():
    steps = (Hop("Ada birthplace", "Erlangen"), Hop("Erlangen river", "Regnitz"))
    questions = [
        Question(
            "1", "Which river is in the birthplace of Ada, not the Main?", ("Regnitz",), hops=steps
        ),
        Question("2", "Where?", ("Erlangen",)),
        Question("3", "Which river?", ("Main",)),
        Question("4", "Which river?", ("Old Regnitz",)),
        Question("5", "Which river?", ("Danube",)),
    ]
    assert plan_swaps(questions)["1"].new == "Danube"


def test_documents_are_swapped_in_titles_and_texts_as_full_words():
    documents = {
        "q": [Document("1", "New York", "In new-york, not York or New Yorkshire.", 2.0)],
        "other": [Document("2", "", "Nothing.")],
    }
    swapped = SwappedDocuments(FakeRetriever(documents), Swap(("New York", "NYC"), "Ulm"))
    (first,), (second,) = swapped.search(["q", "other"], 3)
    assert first == Document("1", "Ulm", "In Ulm, not York or New Yorkshire.", 2.0)
    assert second == documents["other"][0]
    assert documents["q"][0].title == "New York"
    swapped.swap = None
    assert swapped.search(["q"], 3) == [documents["q"]]


def record(answer, golds=("Ulm",), valid=True, id="1"):
    env = gym.make("SearchQA-MustSearch-v0")
    (episode,) = evaluate(env, ScriptedAgent(constant), [0])
    right = float(answer in golds)
    return dataclasses.replace(
        episode, question_id=id, answer=answer, golds=golds, exact_match=right, valid=valid
    )


def test_outcomes_by_hand():
    swaps = {"1": Swap(("Ulm",), "Bonn"), "2": Swap(("Ulm",), "Bonn")}
    pairs = [
        (record("Ulm"), record("the Bonn")),
        (record("Ulm"), record("Ulm")),
        (record("Ulm"), record(None)),
        (record("Kiel"), record("Bonn")),
        (record("Bonn"), record("bonn")),  # it was the new value before
        (record(None), record(None)),
        (record("Ulm"), record("Bonn", valid=False)),
        (record("Ulm", id="3"), record("Bonn", id="3")),
    ]
    found = compare_swapped(pairs, swaps, asked=8)
    kinds = [FOLLOWS, UNCHANGED, OTHER, FOLLOWS, UNCHANGED, UNCHANGED]
    assert [outcome.outcome for outcome in found.outcomes] == kinds
    assert found.left_out == 2
    assert found.exact_match.mean == 0.5
    assert (found.follows.mean, found.unchanged.mean, found.other.mean) == (2 / 6, 3 / 6, 1 / 6)
    assert (found.rests.mean, found.rests.count) == (1 / 3, 3)
    wrong = compare_swapped([(record("Kiel"), record("Bonn"))], swaps, asked=1)
    assert wrong.rests is None


def test_nothing_to_swap():
    with pytest.raises(ConfigurationError, match="can be swapped"):
        compare_swapped([], {}, asked=0)
    assert plan_swaps([Question("1", "Who?", ("yes",)), Question("2", "Who?", ("Ada",))]) == {}
