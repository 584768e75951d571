"""Every query is answered, whatever happens in a worker thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import numpy as np
import pytest

from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import RetrievalError
from search_env.retrieval.async_search import BackgroundSearch, Ticket
from search_env.retrieval.base import FakeRetriever, retrieve, retrieve_each
from search_env.types import Document, StopReason

TOY = {"dataset": "toy", "protocol": "toy", "tokenizer": "toy"}
ULM = Document("1", "Ulm", "A city.")
BAD = "key1 key1"


class Breaking:
    """Raises for one query."""

    def __init__(self, error):
        self.error = error

    def search(self, queries, k):
        if BAD in queries:
            raise self.error
        return [[ULM] for _ in queries]


class Emptying:
    """Alters its argument."""

    def search(self, queries, k):
        results = [[Document(query, "", query)] for query in queries]
        queries.clear()
        return results


def answers(search, *texts):
    search.submit([(Ticket(row, 0), text) for row, text in enumerate(texts)])
    results = {}
    while len(results) < len(texts):
        results.update((ticket.row, answer) for ticket, answer in search.collect(wait=True))
    return [results[row] for row in range(len(texts))]


def play(env, queries):
    """Send the same query tokens row by row; return the step in which they are closed."""
    lines = [env.tokenizer.encode(f"<q>{query} </q>") for query in queries]
    for line in np.array(lines, np.int64).T:
        env.send(line)
        result = env.recv(env.num_envs)
    return result


ERRORS = [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("threads", [1, 2])
def test_errors_that_are_not_exceptions_answer_their_query(error, threads):
    search = BackgroundSearch(Breaking(error), 1, threads)
    for _ in range(3):
        good, bad, other = answers(search, "key2 key2", BAD, "key3 key3")
        assert good == other == [ULM]
        assert isinstance(bad, RetrievalError)
        assert bad.__cause__ is error
        assert type(error).__name__ in str(bad)
    search.close()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_recv_ends_that_row_or_raises(error):
    arguments = {**TOY, "retriever": Breaking(error)}
    env = SearchQAVectorEnv(2, on_retrieval_error="truncate", **arguments)
    env.reset(seed=0)
    *_, truncated, infos = play(env, [BAD, "key2 key2"])
    assert truncated.tolist() == [True, False]
    assert infos["stop_reason"].tolist() == [StopReason.RETRIEVAL_ERROR, ""]
    assert type(error).__name__ in infos["retrieval_error"][0]
    env.close()
    env = SearchQAVectorEnv(2, **arguments)
    env.reset(seed=0)
    with pytest.raises(RetrievalError, match=type(error).__name__):
        play(env, [BAD, "key2 key2"])
    env.reset(seed=0)
    assert not play(env, ["key3 key3", "key2 key2"])[3].any()
    env.close()


def test_a_retriever_may_alter_its_list():
    queries = ["a", "b", "a"]
    assert [documents[0].id for documents in retrieve(Emptying(), queries, 1)] == queries
    assert [documents[0].id for documents in retrieve_each(Emptying(), queries, 1)] == queries
    assert queries == ["a", "b", "a"]
    search = BackgroundSearch(Emptying(), 1, 1)
    assert [documents[0].id for documents in answers(search, *queries)] == queries
    search.close()
    env = SearchQAVectorEnv(2, retriever=Emptying(), **TOY)
    env.reset(seed=0)
    infos = play(env, ["key1 key1", "key2 key2"])[4]
    assert infos["document_ids"].tolist() == [["key1 key1"], ["key2 key2"]]
    env.close()


def test_answers_are_lists_of_the_caller():
    kept = [ULM]

    class Keeping:
        def search(self, queries, k):
            return [kept for _ in queries]

    first, second = retrieve_each(Keeping(), ["a", "a"], 1)
    first.clear()
    assert second == kept == [ULM]
    retrieve(Keeping(), ["a"], 1)[0].clear()
    assert kept == [ULM]


class Mortal(BackgroundSearch):
    """Its first workers die, with queries in flight or before they take any."""

    def __init__(self, retriever, threads, *, deaths, with_queries):
        self.deaths, self.with_queries = deaths, with_queries
        super().__init__(retriever, 1, threads)

    def _work(self):
        if not self.deaths:
            super()._work()
            return
        self.deaths -= 1
        if self.with_queries:
            with self._changed:
                while not self._pending:
                    self._changed.wait()
                self._in_flight[threading.current_thread()] = self._pending
                self._pending = []


def test_the_queries_of_a_dead_worker_are_answered_and_another_one_starts():
    search = Mortal(FakeRetriever({"a": [ULM]}), 1, deaths=1, with_queries=True)
    (first,) = answers(search, "a")
    assert isinstance(first, RetrievalError)
    assert "its thread is gone" in str(first)
    assert answers(search, "a", "b") == [[ULM], []]
    search.close()


@pytest.mark.parametrize(("threads", "deaths"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_an_idle_worker_that_dies_is_replaced(threads, deaths):
    search = Mortal(FakeRetriever({"a": [ULM]}), threads, deaths=deaths, with_queries=False)
    for _ in range(3):
        assert answers(search, "a", "b") == [[ULM], []]
    search.close()


FORK = """
import os
from search_env.retrieval.async_search import BackgroundSearch, Ticket
from search_env.retrieval.base import FakeRetriever
search = BackgroundSearch(FakeRetriever(), 1, 2)
child = os.fork()
search.submit([(Ticket(0, 0), "a")])
assert search.collect(wait=True) == [(Ticket(0, 0), [])]
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_starts_workers():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
