"""check_retriever: valid retrievers pass, and each rule fails for one that breaks it alone."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import pytest

from search_env.errors import ConfigurationError, ConformanceError, RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.cassette import Cassette
from search_env.testing import check_retriever
from search_env.types import Document
from search_env.worlds.encyclopaedia import World
from search_env.worlds.toy import toy_pairs, toy_retriever

TEXTS = ("red fox", "red hen", "blue fox", "blue hen", "old red owl", "owl")
QUERIES = ["red", "fox", "owl", "red owl"]


class Good:
    """Ranks by shared words; ties by position."""

    def ranked(self, query: str) -> list[Document]:
        words = set(query.split())
        documents = [
            Document(str(i), "", text, float(len(words & set(text.split()))))
            for i, text in enumerate(TEXTS)
        ]
        return sorted((d for d in documents if d.score), key=lambda d: -d.score)

    def search(self, queries, k):
        return [self.ranked(query)[:k] for query in queries]


def test_valid_ones_pass(tmp_path):
    report = check_retriever(Good(), QUERIES)
    assert (report.queries, report.documents, report.scored, report.picklable) == (4, 5, True, True)
    world = World(articles=200, seed=0, split="train")
    bm25 = BM25Retriever.build(world.documents())
    questions = [question.text for question in world.questions(8)]
    assert check_retriever(bm25, questions).scored
    assert check_retriever(Cassette(tmp_path / "tape.jsonl", bm25), questions).documents > 8
    report = check_retriever(toy_retriever("train"), [query for query, _ in toy_pairs("train")])
    assert (report.queries, report.documents, report.scored) == (64, 64, False)


def test_a_lock_is_reported_not_refused():
    class Locked(Good):
        def __init__(self):
            self.lock = threading.Lock()

    assert not check_retriever(Locked(), QUERIES).picklable


class RaisesForNoQueries(Good):
    def search(self, queries, k):
        max(map(len, queries))
        return super().search(queries, k)


class RaisesForManyDocuments(Good):
    def search(self, queries, k):
        if k > len(TEXTS):
            raise IndexError(k)
        return super().search(queries, k)


class RaisesForLongQueries(Good):
    def search(self, queries, k):
        if any(len(query) > 10_000 for query in queries):
            raise MemoryError
        return super().search(queries, k)


class Changed(Good):
    """Changes fields of every document."""

    def __init__(self, **changes):
        self.changes = changes

    def ranked(self, query):
        return [dataclasses.replace(d, **self.changes) for d in super().ranked(query)]


class Searching(Good):
    """Searches in another way: ``change(search, queries, k)``."""

    def __init__(self, change):
        self.change = change

    def search(self, queries, k):
        return self.change(super().search, queries, k)


class Ranking(Good):
    """Ranks in another way: ``change(ranked, query)``."""

    def __init__(self, change):
        self.change = change

    def ranked(self, query):
        return self.change(super().ranked, query)


def texts_only(search, queries, k):
    return [[document.text for document in documents] for documents in search(queries, k)]


def worst_first(search, queries, k):
    return [documents[::-1] for documents in search(queries, k)]


def connection_error(search, queries, k):
    raise ConnectionError("down")


def encodes_strictly(search, queries, k):
    return search([query.encode().decode() for query in queries], k)


class PaddedWithZeros(Good):
    def ranked(self, query):
        documents = super().ranked(query)
        return [*documents, Document("pad", "", "pad")] if documents else []


class RefusesNothing(Good):
    def ranked(self, query):
        if not query:
            raise RetrievalError("Expected words, got ''. Write some.")
        return super().ranked(query)


class Neighbours(Good):
    def ranked(self, query):
        near = [Document("near", "", "near", 0.1)] if query.strip() else []
        return super().ranked(query) or near


class TiesByTurn(Good):
    def __init__(self):
        self.turn = itertools.count()

    def search(self, queries, k):
        turn = next(self.turn) % 2
        return [
            sorted(self.ranked(q), key=lambda d: (-d.score, -int(d.id) if turn else int(d.id)))[:k]
            for q in queries
        ]


class ScoresByBatch(Good):
    """Scores relative to the batch's best."""

    def search(self, queries, k):
        best = max((d.score for q in queries for d in self.ranked(q)), default=1.0)
        return [
            [dataclasses.replace(d, score=d.score / best) for d in self.ranked(q)[:k]]
            for q in queries
        ]


class FirstOfBatchOnly(Good):
    """Ties of the first query go another way."""

    def search(self, queries, k):
        rest = super().search(queries[1:], k)
        first = [sorted(self.ranked(q), key=lambda d: (-d.score, d.text))[:k] for q in queries[:1]]
        return first + rest


class CopiesUnanswered(Good):
    def search(self, queries, k):
        return [
            [] if query in queries[:i] else self.ranked(query)[:k]
            for i, query in enumerate(queries)
        ]


class AnotherTopOne(Good):
    def search(self, queries, k):
        results = super().search(queries, 2 if k == 1 else k)
        return [documents[-1:] for documents in results] if k == 1 else results


class SelectedThenUnsorted(Good):
    """Returns all documents in the order of the corpus for a large k."""

    def search(self, queries, k):
        results = super().search(queries, k)
        return [sorted(d, key=lambda x: x.id) for d in results] if k > len(TEXTS) else results


class ForgetsOddOnes(Good):
    def __init__(self):
        self.turn = itertools.count()

    def ranked(self, query):
        if query.isascii() or next(self.turn) % 2:
            return super().ranked(query)
        return [Document("odd", "", "odd", 1.0)]


BROKEN = [
    (Searching(lambda search, queries, k: tuple(search(queries, k))), "result"),
    (Searching(lambda search, queries, k: search(queries, k)[:1]), "result"),
    (Searching(texts_only), "result"),
    (Searching(lambda search, queries, k: search(queries, k + 1)), "result"),
    (Searching(lambda search, queries, k: search(queries, k) or [[]]), "result"),
    (Searching(connection_error), "errors"),
    (RaisesForNoQueries(), "errors"),
    (RaisesForManyDocuments(), "errors"),
    (Searching(encodes_strictly), "errors"),
    (RaisesForLongQueries(), "errors"),
    (Changed(id=7), "fields"),
    (Changed(id=""), "fields"),
    (Changed(text=None), "fields"),
    (Changed(score=float("nan")), "fields"),
    (Ranking(lambda ranked, query: [d for d in ranked(query) for _ in "ab"]), "unique"),
    (Searching(worst_first), "order"),
    (PaddedWithZeros(), "score-0"),
    (Ranking(lambda ranked, query: ranked(query or "red")), "empty-query"),
    (Ranking(lambda ranked, query: ranked("red" if query.isspace() else query)), "empty-query"),
    (RefusesNothing(), "empty-query"),
    (Neighbours(), "unknown-query"),
    (TiesByTurn(), "repeatable"),
    (ScoresByBatch(), "batch"),
    (FirstOfBatchOnly(), "batch"),
    (CopiesUnanswered(), "duplicates"),
    (AnotherTopOne(), "prefix"),
    (SelectedThenUnsorted(), "prefix"),
    (ForgetsOddOnes(), "odd-query"),
]


@pytest.mark.parametrize(("retriever", "rule"), BROKEN)
def test_each_rule_can_break(retriever, rule):
    with pytest.raises(ConformanceError, match=rf"^\[({rule})\] Expected .+, got .+\. .+\.$"):
        check_retriever(retriever, QUERIES)


def test_dense_retrievers_always_find_neighbours():
    check_retriever(Neighbours(), QUERIES, unknown=None)


def test_a_cassette_may_hold_only_recorded_queries():
    class Recorded(Good):
        def search(self, queries, k):
            if any(query not in (*QUERIES, "", "  \n") for query in queries):
                raise RetrievalError("Expected a recorded query, got another. Record it.")
            return super().search(queries, k)

    check_retriever(Recorded(), QUERIES)


def test_unusable_arguments_are_reported():
    with pytest.raises(ConfigurationError, match="Pass queries="):
        check_retriever(FakeRetriever())
    with pytest.raises(ConfigurationError, match="Pass k=3"):
        check_retriever(Good(), QUERIES, k=1)
    with pytest.raises(RetrievalError, match="down"):
        check_retriever(FakeRetriever(error=RetrievalError("down")), QUERIES)


def test_an_error_is_an_assertion_error_with_its_cause():
    with pytest.raises(AssertionError, match=r"Searching\.search") as caught:
        check_retriever(Searching(connection_error), QUERIES)
    assert isinstance(caught.value.__cause__, ConnectionError)
