"""The checks around every retriever call, and the fake."""

import pytest

from search_env.errors import InvalidRetrievalError, RetrievalError, RetrievalTimeoutError
from search_env.retrieval import FakeRetriever, Retriever, retrieve
from search_env.types import Document

ULM = Document("1", "Ulm", "A city.")
PARIS = Document("2", "Paris", "A capital.")


class Returning:
    def __init__(self, answer):
        self.answer = answer

    def search(self, queries, k):
        return self.answer


def test_fake_answers_known_queries_in_order_and_cuts_to_k():
    fake = FakeRetriever({"cities": [ULM, PARIS]})
    assert fake.search(["?", "cities"], k=1) == [[], [ULM]]
    assert fake.calls == [["?", "cities"]]
    assert isinstance(fake, Retriever)


def test_retrieve_returns_valid_answers():
    assert retrieve(FakeRetriever({"a": [ULM]}), ["a", "b"], 3) == [[ULM], []]
    assert retrieve(FakeRetriever(), [], 3) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "list of 1 lists, got NoneType"),
        ([], "list of 1 lists, got list of length 0"),
        ([[], []], "got list of length 2"),
        (([],), "got tuple of length 1"),
        (["text"], "lists of Document, got str of length 4"),
        ([["text"]], r"documents\[0\] from Returning.search for query 'q' to be a Document"),
        ([(ULM,)], "lists of Document, got tuple"),
        ([[ULM, PARIS]], "at most k=1 documents from Returning.search, got 2"),
    ],
)
def test_retrieve_rejects_invalid_answers(answer, message):
    with pytest.raises(InvalidRetrievalError, match=message):
        retrieve(Returning(answer), ["q"], 1)


def test_retrieve_keeps_retrieval_errors_and_wraps_others():
    timeout = RetrievalTimeoutError("slow")
    with pytest.raises(RetrievalTimeoutError) as caught:
        retrieve(FakeRetriever(error=timeout), ["q"], 1)
    assert caught.value is timeout
    refused = ConnectionError("refused")
    with pytest.raises(RetrievalError, match=r"FakeRetriever.*refused") as caught:
        retrieve(FakeRetriever(error=refused), ["q"], 1)
    assert caught.value.__cause__ is refused
