"""Documents in the order of a scorer."""

from __future__ import annotations

import numpy as np
import pytest

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.reranking import RerankingRetriever
from search_env.testing.retrievers import check_retriever
from search_env.types import Document

FOUND = [Document(str(i), "", "x" * n, 9.0 - i) for i, n in enumerate((3, 1, 3, 7))]


class Length:
    """Prefers long texts; counts its calls."""

    name = "length"

    def __init__(self):
        self.calls = []

    def score(self, pairs):
        self.calls.append(len(pairs))
        return np.array([len(document.text) for _, document in pairs], np.float32)


def reranked(**options):
    return RerankingRetriever(FakeRetriever({"q": FOUND, "r": FOUND[:2]}), Length(), **options)


def test_the_best_by_the_scorer_come_first_and_ties_stay_in_order():
    (documents,) = reranked().search(["q"], 3)
    assert [(d.id, d.score) for d in documents] == [("3", 7.0), ("0", 3.0), ("2", 3.0)]


def test_only_the_first_documents_are_read():
    assert [d.id for d in reranked(depth=2).search(["q"], 4)[0]] == ["0", "1"]


def test_one_call_scores_all_queries_and_equal_ones_once():
    retriever = reranked()
    found = retriever.search(["q", "none", "r", "q"], 2)
    assert retriever.scorer.calls == [6]
    assert found[0] == found[3]
    assert found[0] is not found[3]
    assert found[1] == []
    assert reranked().search(["none"], 2) == [[]]


def test_the_contract_of_retrievers():
    assert check_retriever(reranked(), ["q", "r"]).documents == 4
    assert reranked().name == "rerank(length, depth=10: FakeRetriever)"
    assert reranked().digest is None


def test_failures_and_bad_calls():
    failing = RerankingRetriever(FakeRetriever(error=RetrievalError("busy")), Length())
    with pytest.raises(RetrievalError, match="busy"):
        failing.search(["q"], 1)
    with pytest.raises(ConfigurationError, match="Expected depth"):
        reranked(depth=0)
    with pytest.raises(ConfigurationError, match="Expected k"):
        reranked().search(["q"], 0)
