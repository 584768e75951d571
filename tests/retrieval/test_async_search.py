"""Every query is answered, whatever happens in a worker thread; no call overlaps another."""

from __future__ import annotations

import asyncio
import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest

from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.errors import EpisodeOverError, RetrievalError
from search_env.retrieval import async_search
from search_env.retrieval.async_search import BackgroundSearch, CallLimit, Ticket
from search_env.retrieval.base import FakeRetriever, retrieve, retrieve_each
from search_env.types import Document, StopReason
from tests.work import HANGS_AFTER

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
def test_b1_errors_that_are_not_exceptions_answer_their_query(error, threads):
    search = BackgroundSearch(Breaking(error), 1, CallLimit(threads))
    for _ in range(3):
        good, bad, other = answers(search, "key2 key2", BAD, "key3 key3")
        assert good == other == [ULM]
        assert isinstance(bad, RetrievalError)
        assert bad.__cause__ is error
        assert type(error).__name__ in str(bad)
    search.close()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_b1_recv_ends_that_row_or_raises(error):
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


def test_b1_a_retriever_may_alter_its_list():
    queries = ["a", "b", "a"]
    assert [documents[0].id for documents in retrieve(Emptying(), queries, 1)] == queries
    assert [documents[0].id for documents in retrieve_each(Emptying(), queries, 1)] == queries
    assert queries == ["a", "b", "a"]
    search = BackgroundSearch(Emptying(), 1, CallLimit(1))
    assert [documents[0].id for documents in answers(search, *queries)] == queries
    search.close()
    env = SearchQAVectorEnv(2, retriever=Emptying(), **TOY)
    env.reset(seed=0)
    infos = play(env, ["key1 key1", "key2 key2"])[4]
    assert infos["document_ids"].tolist() == [["key1 key1"], ["key2 key2"]]
    env.close()


def test_b1_answers_are_lists_of_the_caller():
    kept = [ULM]

    class Keeping:
        def search(self, queries, k):
            return [kept for _ in queries]

    first, second = retrieve_each(Keeping(), ["a", "a"], 1)
    first.clear()
    assert second == kept == [ULM]
    retrieve(Keeping(), ["a"], 1)[0].clear()
    assert kept == [ULM]


class Mortal(async_search._Workers):
    """The first workers die, with queries in flight or before they take any."""

    def __init__(self, retriever, k, limit, *, deaths, with_queries):
        self.deaths, self.with_queries = deaths, with_queries
        super().__init__(retriever, k, limit)

    def _work(self):
        if not self.deaths:
            super()._work()
            return
        self.deaths -= 1
        if self.with_queries:
            with self.changed:
                while not self.pending:
                    self.changed.wait()
                self.in_flight[threading.current_thread()] = self.pending
                self.pending = []


def mortal_search(monkeypatch, threads, **arguments):
    monkeypatch.setattr(async_search, "_Workers", functools.partial(Mortal, **arguments))
    return BackgroundSearch(FakeRetriever({"a": [ULM]}), 1, CallLimit(threads))


def test_b1_the_queries_of_a_dead_worker_are_answered_and_another_one_starts(monkeypatch):
    search = mortal_search(monkeypatch, 1, deaths=1, with_queries=True)
    (first,) = answers(search, "a")
    assert isinstance(first, RetrievalError)
    assert "its thread is gone" in str(first)
    assert answers(search, "a", "b") == [[ULM], []]
    search.close()


@pytest.mark.parametrize(("threads", "deaths"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_b1_an_idle_worker_that_dies_is_replaced(monkeypatch, threads, deaths):
    search = mortal_search(monkeypatch, threads, deaths=deaths, with_queries=False)
    for _ in range(3):
        assert answers(search, "a", "b") == [[ULM], []]
    search.close()


class Generating:
    """Returns what can be read once only."""

    def search(self, queries, k):
        if BAD in queries:
            return ([ULM] for _ in queries)
        return [(document for document in [ULM]) for _ in queries]


def test_b1_generators_are_refused_by_row():
    env = SearchQAVectorEnv(2, retriever=Generating(), on_retrieval_error="truncate", **TOY)
    env.reset(seed=0)
    *_, truncated, infos = play(env, [BAD, "key2 key2"])
    assert truncated.all()
    assert "list of 1 lists, got generator" in infos["retrieval_error"][0]
    assert "lists of Document, got generator" in infos["retrieval_error"][1]
    env.close()


class Gated:
    """Waits in the process that made it; notes whether two calls overlapped."""

    def __init__(self):
        self.gate, self.entered, self.again = (threading.Event() for _ in range(3))
        self.process, self.active, self.most = os.getpid(), 0, 0

    def search(self, queries, k):
        self.active += 1
        self.most = max(self.most, self.active)
        (self.again if self.entered.is_set() else self.entered).set()
        if os.getpid() == self.process:
            assert self.gate.wait(HANGS_AFTER)
        self.active -= 1
        return [[ULM] for _ in queries]


def sent(retriever, rows=1):
    """Return an environment whose search is in the hands of a worker."""
    env = SearchQAVectorEnv(rows, retriever=retriever, **TOY)
    env.reset(seed=0)
    lines = [env.tokenizer.encode("<q>key1 key1 </q>")] * rows
    *first, last = np.array(lines, np.int64).T
    for line in first:
        env.step(line)
    env.send(last)
    assert retriever.entered.wait(HANGS_AFTER)
    return env


def closing_steps(env):
    for token in env.tokenizer.encode("<q>key2 key2 </q>"):
        env.step(np.full(env.num_envs, token))


def test_b1_close_ends_a_recv_that_waits():
    retriever = Gated()
    env = sent(retriever)
    raised = []

    def receive():
        try:
            env.recv()
        except EpisodeOverError as error:
            raised.append(str(error))

    thread = threading.Thread(target=receive)
    thread.start()
    env.close()  # whether or not the thread waits by now
    thread.join(HANGS_AFTER)
    assert raised
    assert "closed" in raised[0]
    retriever.gate.set()
    with pytest.raises(EpisodeOverError, match="it has been closed"):
        env.step([0])


@pytest.mark.parametrize("meanwhile", ["reset", "close", "set_state"])
def test_b2_a_retriever_is_never_called_twice_at_once(meanwhile):
    retriever = Gated()
    fresh = SearchQAVectorEnv(1, retriever=retriever, **TOY)
    fresh.reset(seed=1)
    env = sent(retriever)
    if meanwhile == "close":
        env.close()
    if meanwhile == "set_state":
        env.set_state(fresh.get_state())
    else:
        env.reset(seed=1)
    thread = threading.Thread(target=closing_steps, args=[env])
    thread.start()
    # Time for a second call that must not come: a slow machine can only miss the fault.
    assert not retriever.again.wait(0.2)
    retriever.gate.set()
    thread.join(HANGS_AFTER)
    assert retriever.again.is_set()
    assert retriever.most == 1
    env.close()


def test_b2_as_many_calls_at_once_as_there_are_threads():
    retriever = Gated()
    limit = CallLimit(2)
    threads = [
        threading.Thread(target=limit.search, args=[retriever, [text], 1]) for text in "abcd"
    ]
    for thread in threads:
        thread.start()
    assert retriever.again.wait(HANGS_AFTER)
    retriever.gate.set()
    for thread in threads:
        thread.join(HANGS_AFTER)
    assert retriever.most == 2


def retrieval_threads():
    return [t for t in threading.enumerate() if t.name.startswith("search-env-retrieval")]


def test_b3_environments_that_nobody_closed_leave_no_threads():
    others = set(retrieval_threads())
    envs = [SearchQAVectorEnv(1, retriever=FakeRetriever(), **TOY) for _ in range(100)]
    for env in envs:
        env.reset(seed=0)
        play(env, ["key1 key1"])
    threads = set(retrieval_threads()) - others
    assert len(threads) == 100
    del env, envs
    gc.collect()
    for thread in threads:
        thread.join(HANGS_AFTER)
    assert not threads & set(retrieval_threads())


HANGING = """
import threading, numpy as np
from search_env import SearchQAVectorEnv
class Hanging:
    def search(self, queries, k):
        threading.Event().wait()
env = SearchQAVectorEnv(1, dataset="toy", protocol="toy", tokenizer="toy", retriever=Hanging())
env.reset(seed=0)
for token in env.tokenizer.encode("<q>key1 key1 </q>")[:-1]:
    env.step([token])
env.send([env.tokenizer.encode("</q>")[0]])
"""


def test_b3_a_search_that_hangs_does_not_hold_up_the_exit():
    run = [sys.executable, "-c", HANGING]
    result = subprocess.run(run, capture_output=True, text=True, timeout=HANGS_AFTER)
    assert (result.returncode, result.stderr) == (0, "")


needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


def in_child(work):
    """Fork, run some work in the child and return its exit status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("locked", [False, True])
def test_b3_a_forked_child_receives_the_searches_under_way(locked):
    """Also if a thread of the parent held the lock at the fork, as a busy worker may."""
    retriever = Gated()
    env = sent(retriever)
    held, done = threading.Event(), threading.Event()

    def hold():
        with env._searches._background._workers.changed:
            held.set()
            done.wait(HANGS_AFTER)

    holder = threading.Thread(target=hold)
    if locked:
        holder.start()
        held.wait(HANGS_AFTER)

    def work():
        infos = env.recv(1)[4]
        assert infos["document_ids"][0] == ["1"]
        env.reset(seed=1)
        closing_steps(env)
        env.close()

    assert in_child(work) == 0
    assert in_child(lambda: gc.collect() and None) == 0
    done.set()
    retriever.gate.set()
    assert env.recv(1)[4]["document_ids"][0] == ["1"]
    env.close()


def search_in_process(queue, env=None):
    """Send and receive, in an environment of this process or in one from its parent."""
    env = env or SearchQAVectorEnv(2, retriever=FakeRetriever(), **TOY)
    env.reset(seed=0)
    queue.put(play(env, ["key1 key1", "key2 key2"])[4]["query"].tolist())
    env.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_b3_processes_of_each_start_method_search(method):
    context = multiprocessing.get_context(method)
    env = SearchQAVectorEnv(2, retriever=FakeRetriever(), **TOY)
    env.reset(seed=0)
    play(env, ["key1 key1", "key2 key2"])  # its worker is alive
    queue = context.SimpleQueue()
    arguments = [queue, env] if method == "fork" else [queue]
    process = context.Process(target=search_in_process, args=arguments)
    process.start()
    assert queue.get() == ["key1 key1", "key2 key2"]
    process.join(HANGS_AFTER)
    assert process.exitcode == 0
    env.close()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_b3_workers_of_gymnasium_beside_ours():
    env = SearchQAVectorEnv(2, retriever=FakeRetriever(), **TOY)
    env.reset(seed=0)
    play(env, ["key1 key1", "key2 key2"])
    make = functools.partial(gym.make, "SearchQA-Toy-v0")
    others = gym.vector.AsyncVectorEnv([make, make], context="fork")
    others.reset(seed=0)
    for token in env.tokenizer.encode("<q>key1 key1 </q>"):
        *_, infos = others.step([token, token])
    assert infos["query"].tolist() == ["key1 key1"] * 2
    others.close()
    env.close()
