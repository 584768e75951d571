"""Whatever happens in a worker thread, whoever waits for it gets an answer."""

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
    """Does with its argument what it likes."""

    def search(self, queries, k):
        found = [[Document(query, "", query)] for query in queries]
        queries.clear()
        return found


def answers(search, *texts):
    search.submit([(Ticket(row, 0), text) for row, text in enumerate(texts)])
    found = {}
    while len(found) < len(texts):
        found.update((ticket.row, answer) for ticket, answer in search.collect(wait=True))
    return [found[row] for row in range(len(texts))]


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
def test_what_is_no_exception_is_the_answer_of_its_query(error, threads):
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
    assert [found[0].id for found in retrieve(Emptying(), queries, 1)] == queries
    assert [found[0].id for found in retrieve_each(Emptying(), queries, 1)] == queries
    assert queries == ["a", "b", "a"]
    search = BackgroundSearch(Emptying(), 1, 1)
    assert [found[0].id for found in answers(search, *queries)] == queries
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
    """Its first workers die, with what they have taken or before they take anything."""

    def __init__(self, retriever, threads, *, deaths, holding):
        self.deaths, self.holding = deaths, holding
        super().__init__(retriever, 1, threads)

    def _work(self):
        if not self.deaths:
            super()._work()
            return
        self.deaths -= 1
        if self.holding:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                self._taken[threading.current_thread()] = self._waiting
                self._waiting = []


def test_what_a_dead_worker_held_is_answered_and_another_one_goes_on():
    search = Mortal(FakeRetriever({"a": [ULM]}), 1, deaths=1, holding=True)
    (first,) = answers(search, "a")
    assert isinstance(first, RetrievalError)
    assert "its thread is gone" in str(first)
    assert answers(search, "a", "b") == [[ULM], []]
    search.close()


@pytest.mark.parametrize(("threads", "deaths"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_dead_worker_that_held_nothing_is_replaced(threads, deaths):
    search = Mortal(FakeRetriever({"a": [ULM]}), threads, deaths=deaths, holding=False)
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
def test_a_forked_child_has_workers_of_its_own():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
