"""Time limits and retries."""

import subprocess
import sys
import threading

import pytest

from search_env.errors import (
    CassetteMissError,
    ConfigurationError,
    IndexFormatError,
    InvalidRetrievalError,
    RetrievalError,
    RetrievalTimeoutError,
)
from search_env.retrieval import BM25Retriever, FakeRetriever, RetryingRetriever
from search_env.types import Document
from tests.work import HANGS_AFTER

ULM = Document("1", "Ulm", "A city.")


class Flaky:
    """Fails some times, then answers."""

    name = "flaky"

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def search(self, queries, k):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return [[ULM] for _ in queries]


class Hanging:
    def __init__(self, hangs):
        self.hangs = hangs
        self.release = threading.Event()

    def search(self, queries, k):
        self.hangs -= 1
        if self.hangs >= 0:
            self.release.wait()
        return [[ULM] for _ in queries]


def retrying(inner, pauses, **arguments):
    return RetryingRetriever(inner, sleep=pauses.append, **arguments)


def test_an_answer_needs_no_pause():
    pauses = []
    assert retrying(Flaky(), pauses).search(["a", "b"], 2) == [[ULM], [ULM]]
    assert pauses == []


def test_pauses_double_up_to_the_longest():
    pauses = []
    inner = Flaky(*[RetrievalError("busy")] * 3, ConnectionError("refused"))
    results = retrying(inner, pauses, retries=4, backoff=0.5, max_backoff=3.0).search(["a"], 1)
    assert results == [[ULM]]
    assert pauses == [0.5, 1.0, 2.0, 3.0]
    assert inner.calls == 5


def test_the_last_failure_is_raised():
    pauses = []
    inner = Flaky(*[RetrievalError(str(i)) for i in range(9)])
    with pytest.raises(RetrievalError, match=r"^2$"):
        retrying(inner, pauses, retries=2).search(["a"], 1)
    assert inner.calls == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidRetrievalError("x"), InvalidRetrievalError),
        (CassetteMissError("x"), CassetteMissError),
        (IndexFormatError("x"), IndexFormatError),
        (ConfigurationError("x"), RetrievalError),
    ],
)
def test_permanent_errors_are_not_retried(error, raised):
    pauses = []
    inner = Flaky(error)
    with pytest.raises(raised):
        retrying(inner, pauses).search(["a"], 1)
    assert inner.calls == 1
    assert pauses == []


def test_a_wrong_answer_is_not_retried():
    class Wrong:
        def search(self, queries, k):
            return "text"

    with pytest.raises(InvalidRetrievalError):
        retrying(Wrong(), []).search(["a"], 1)


def test_a_hanging_backend_times_out_and_may_recover():
    inner = Hanging(hangs=1)
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        retriever.timeout = HANGS_AFTER  # for the second attempt, which answers when it can

    retriever = RetryingRetriever(inner, timeout=0.1, sleep=pause)
    assert retriever.search(["a"], 1) == [[ULM]]
    assert pauses == [0.5]
    inner.release.set()


def test_a_backend_that_keeps_hanging_is_an_error():
    inner = Hanging(hangs=9)
    with pytest.raises(RetrievalTimeoutError, match=r"Hanging to answer within 0\.05 s"):
        retrying(inner, [], timeout=0.05, retries=1).search(["a"], 1)
    inner.release.set()


def test_a_timeout_error_of_the_backend_is_raised_unchanged():
    with pytest.raises(RetrievalTimeoutError, match=r"^server said so$"):
        retrying(Flaky(RetrievalTimeoutError("server said so")), [], retries=0).search(["a"], 1)


def test_a_hanging_thread_does_not_block_the_exit():
    program = """
import threading
from search_env.errors import RetrievalTimeoutError
from search_env.retrieval import RetryingRetriever

class Hanging:
    def search(self, queries, k):
        threading.Event().wait()

try:
    RetryingRetriever(Hanging(), timeout=0.05, retries=0).search(["a"], 1)
except RetrievalTimeoutError:
    print("timed out")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER,
        check=True,
    )
    assert done.stdout == "timed out\n"


def test_takes_the_name_of_the_inner_retriever():
    assert RetryingRetriever(Flaky()).name == "flaky"
    assert RetryingRetriever(FakeRetriever()).name == "FakeRetriever"
    assert RetryingRetriever(RetryingRetriever(BM25Retriever.build([]))).name.startswith("bm25(")


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"retries": -1}, {"backoff": -1}, {"max_backoff": -1}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        RetryingRetriever(FakeRetriever(), **arguments)
