"""Prices and evidence: the golden vectors of DAPO, counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from search_env.errors import ConfigurationError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import answer_found, evidence_recall, search_cost, soft_overlong
from search_env.rewards.evidence import ANSWER_FOUND, EVIDENCE_RECALL, passages_seen
from search_env.rewards.shaping import SEARCH_COST, SOFT_OVERLONG
from search_env.types import Document, Question, Source, Transcript
from tests.rewards.episodes import QUESTION, B, E, play

ENGINE, COUNTESS, NOTHING = f"{B}engine{E}", f"{B}countess{E}", f"{B}nothing{E}"


def written(policy, prompt=100, retrieved=5000):
    kinds = [Source.PROMPT, Source.RETRIEVED, Source.POLICY]
    sources = np.repeat(kinds, [prompt, retrieved, policy]).astype(np.int8)
    return Transcript(QUESTION, "toy", np.zeros(len(sources), np.int32), sources, ())


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0), (16384, 0), (17408, -0.25), (18432, -0.5), (20480, -1), (20481, -1), (40000, -1)],
)
def test_soft_overlong_golden_vectors(length, expected):
    assert SOFT_OVERLONG(written(length)).total == expected


def test_soft_overlong_with_the_cache_as_long_as_the_limit():
    assert soft_overlong(max_tokens=4, cache=4)(written(1)).total == -0.25


@pytest.mark.parametrize(("searches", "free", "expected"), [(0, 0, 0), (3, 0, -0.3), (3, 2, -0.1)])
def test_search_cost(searches, free, expected):
    episode = play(ENGINE * searches)
    assert len(episode.searches) == searches
    assert search_cost(0.1, free=free)(episode).total == pytest.approx(expected)


def test_a_search_that_found_nothing_costs_and_one_that_was_not_run_does_not():
    assert SEARCH_COST(play(NOTHING)).total == -0.1
    assert SEARCH_COST(play(ENGINE, ENGINE, max_searches=1)).total == -0.1


def test_answer_found():
    assert ANSWER_FOUND(play(ENGINE)).total == 0.3
    assert ANSWER_FOUND(play(ENGINE, COUNTESS, ENGINE)).total == 0.3
    assert ANSWER_FOUND(play(COUNTESS)).total == 0.0
    assert ANSWER_FOUND(play(NOTHING)).total == 0.0
    assert ANSWER_FOUND(play("Ada Lovelace", f"{B}Ada Lovelace{E}")).total == 0.0


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("So smart.", "art", False),
        ("The-art of it", "art", True),
        ("The art of it", "the ART!", True),
        ("New\nYork", "New York", True),
        ("York New", "New York", False),
        ("yes, no", "yes", False),
        ("a the", "The", False),
        ("Doctor Who", "1", False),  # its rank is not the passage's
    ],
)
def test_answer_found_goes_by_whole_words(text, gold, found):
    retriever = FakeRetriever({"engine": [Document("d", "", text)]})
    question = Question("q", "?", (gold,))
    episode = play(ENGINE, question=question, retriever=retriever)
    assert answer_found(1.0)(episode).total == float(found)


def test_passages_seen():
    two = FakeRetriever({"engine": [Document("d1", "One", "ab"), Document("d2", "", "(1)é</x>")]})
    assert passages_seen(play(NOTHING, retriever=two)) == []
    assert passages_seen(play(ENGINE, ENGINE, retriever=two)) == ["One   ab\n", "(1)é</x>\n"] * 2
    search = "<think>a</think><search>engine</search>"
    frame, seen = len("\n\n<information></information>\n\n"), "Doc 1(Title: One) ab\nDoc 2(1)"
    for room, expected in ((len(seen), ["(Title: One) ab\n", "(1)"]), (9, ["(Tit", ""])):
        limit = frame + room
        cut = play(search, retriever=two, protocol="search-r1", max_documents_tokens=limit)
        assert passages_seen(cut) == expected


def test_evidence_recall():
    assert EVIDENCE_RECALL(play(NOTHING)).total == 0.0
    assert EVIDENCE_RECALL(play(ENGINE, ENGINE)).total == 0.15
    assert EVIDENCE_RECALL(play(ENGINE, NOTHING, COUNTESS)).total == 0.3
    assert evidence_recall(2)(play(COUNTESS)).total == 1.0
    assert EVIDENCE_RECALL(play(ENGINE, question=Question("q", "?", ("x",)))).total == 0.0


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (search_cost, {"per_search": -0.1}, "per_search to be a finite number of at least 0"),
        (search_cost, {"per_search": float("inf")}, "per_search to be a finite number"),
        (search_cost, {"per_search": True}, "per_search to be a finite number"),
        (search_cost, {"free": -1}, "free to be an integer of at least 0"),
        (search_cost, {"free": True}, "free to be an integer of at least 0"),
        (soft_overlong, {"max_tokens": 0}, "max_tokens to be an integer of at least 1"),
        (soft_overlong, {"cache": 0}, "cache to be an integer of at least 1"),
        (soft_overlong, {"max_tokens": 10, "cache": 11}, "cache to be at most max_tokens=10"),
        (answer_found, {"amount": None}, "amount to be a finite number of at least 0"),
        (evidence_recall, {"amount": float("nan")}, "amount to be a finite number"),
    ],
)
def test_arguments_are_checked(build, arguments, message):
    with pytest.raises(ConfigurationError, match=f"^Expected {message}"):
        build(**arguments)
