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


def test_good_ones_pass(tmp_path):
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


class Tuples(Good):
    def search(self, queries, k):
        return tuple(super().search(queries, k))


class TooFewLists(Good):
    def search(self, queries, k):
        return super().search(queries, k)[:1]


class Strings(Good):
    def search(self, queries, k):
        return [[d.text for d in documents] for documents in super().search(queries, k)]


class MoreThanAsked(Good):
    def search(self, queries, k):
        return super().search(queries, k + 1)


class AListForNoQueries(Good):
    def search(self, queries, k):
        return super().search(queries, k) or [[]]


class Raises(Good):
    def search(self, queries, k):
        raise ConnectionError("down")


class RaisesForNoQueries(Good):
    def search(self, queries, k):
        max(map(len, queries))
        return super().search(queries, k)


class RaisesForManyDocuments(Good):
    def search(self, queries, k):
        if k > len(TEXTS):
            raise IndexError(k)
        return super().search(queries, k)


class RaisesForSurrogates(Good):
    def search(self, queries, k):
        [query.encode() for query in queries]
        return super().search(queries, k)


class RaisesForLongQueries(Good):
    def search(self, queries, k):
        if any(len(query) > 10_000 for query in queries):
            raise MemoryError
        return super().search(queries, k)


class Changed(Good):
    """Every document in another way."""

    changes: dict = {}  # noqa: RUF012

    def ranked(self, query):
        return [dataclasses.replace(d, **self.changes) for d in super().ranked(query)]


class NumbersAsIds(Changed):
    changes = {"id": 7}  # noqa: RUF012


class EmptyIds(Changed):
    changes = {"id": ""}  # noqa: RUF012


class NoText(Changed):
    changes = {"text": None}  # noqa: RUF012


class NanScores(Changed):
    changes = {"score": float("nan")}  # noqa: RUF012


class SameDocumentTwice(Good):
    def ranked(self, query):
        return [d for d in super().ranked(query) for _ in "ab"]


class WorstFirst(Good):
    def search(self, queries, k):
        return [documents[::-1] for documents in super().search(queries, k)]


class PaddedWithZeros(Good):
    def ranked(self, query):
        documents = super().ranked(query)
        return [*documents, Document("pad", "", "pad")] if documents else []


class EverythingForNothing(Good):
    def ranked(self, query):
        return super().ranked(query if query else "red")


class EverythingForSpaces(Good):
    def ranked(self, query):
        return super().ranked(query if query.strip() or not query else "red")


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
    (Tuples, "result"),
    (TooFewLists, "result"),
    (Strings, "result"),
    (MoreThanAsked, "result"),
    (AListForNoQueries, "result"),
    (Raises, "errors"),
    (RaisesForNoQueries, "errors"),
    (RaisesForManyDocuments, "errors"),
    (RaisesForSurrogates, "errors"),
    (RaisesForLongQueries, "errors"),
    (NumbersAsIds, "fields"),
    (EmptyIds, "fields"),
    (NoText, "fields"),
    (NanScores, "fields"),
    (SameDocumentTwice, "unique"),
    (WorstFirst, "order"),
    (PaddedWithZeros, "score-0"),
    (EverythingForNothing, "empty-query"),
    (EverythingForSpaces, "empty-query"),
    (RefusesNothing, "empty-query"),
    (Neighbours, "unknown-query"),
    (TiesByTurn, "repeatable"),
    (ScoresByBatch, "batch"),
    (FirstOfBatchOnly, "batch"),
    (CopiesUnanswered, "duplicates"),
    (AnotherTopOne, "prefix"),
    (SelectedThenUnsorted, "prefix"),
    (ForgetsOddOnes, "odd-query"),
]


@pytest.mark.parametrize(("kind", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_rule_can_break(kind, rule):
    with pytest.raises(ConformanceError, match=rf"^\[({rule})\] Expected .+, got .+\. .+\.$"):
        check_retriever(kind(), QUERIES)


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
    with pytest.raises(AssertionError, match=r"Raises\.search") as caught:
        check_retriever(Raises(), QUERIES)
    assert isinstance(caught.value.__cause__, ConnectionError)
