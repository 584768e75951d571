"""Batches over clients: equal queries once, a bounded queue, an exact cache, errors where they are.

Retrievers here wait for the test, so nothing depends on how fast anything is.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("prometheus_client")

from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.server.batching import Batcher, OverloadedError
from search_env.retrieval.server.metrics import Metrics
from search_env.retrieval.server.settings import ServerSettings
from search_env.types import Document
from tests.work import HANGS_AFTER


class Gated:
    """Answers each query with itself, when the gate is open; remembers its calls."""

    def __init__(self, is_open: bool = True) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.gate = threading.Event()
        self.began = threading.Semaphore(0)
        if is_open:
            self.gate.set()

    def search(self, queries, k):
        self.calls.append((list(queries), k))
        self.began.release()
        assert self.gate.wait(HANGS_AFTER)
        if "exit" in queries:
            raise SystemExit(3)
        if any(query.startswith("bad") for query in queries):
            raise RetrievalError(f"cannot search {queries}")
        return [[Document(f"{query}-{i}", "", query) for i in range(k)] for query in queries]


def run(retriever, work, **settings):
    """Run ``work(batcher)`` in a loop."""

    async def main():
        batcher = Batcher(retriever, ServerSettings(**settings), Metrics())
        try:
            return await asyncio.wait_for(work(batcher), HANGS_AFTER)
        finally:
            batcher.close()

    return asyncio.run(main())


def texts(answers):
    return [a[0].text if isinstance(a, list) else type(a) for a in answers]


async def begun(retriever):
    """Wait until a search is running."""
    while not retriever.began.acquire(blocking=False):
        await asyncio.sleep(0.001)


def test_what_arrives_during_a_search_is_the_next_batch():
    retriever = Gated(is_open=False)

    async def work(batcher):
        first = asyncio.create_task(batcher.search(["a"], 1))
        await begun(retriever)
        others = [asyncio.create_task(batcher.search([q, "c"], 1)) for q in ("b", "c", "d")]
        await asyncio.sleep(0)
        assert batcher.queued == 3
        retriever.gate.set()
        return [texts(await task) for task in (first, *others)]

    assert run(retriever, work, window=0.0) == [["a"], ["b", "c"], ["c", "c"], ["d", "c"]]
    assert retriever.calls == [(["a"], 1), (["b", "c", "d"], 1)]


def test_a_query_that_is_being_searched_is_shared():
    retriever = Gated(is_open=False)

    async def work(batcher):
        first = asyncio.create_task(batcher.search(["a"], 1))
        await begun(retriever)
        second = asyncio.create_task(batcher.search(["a", "a"], 1))
        await asyncio.sleep(0)
        assert batcher.queued == 0
        retriever.gate.set()
        return texts(await first), texts(await second)

    assert run(retriever, work, window=0.0, cache=0) == (["a"], ["a", "a"])
    assert len(retriever.calls) == 1


def test_the_window_ends_when_the_batch_is_full():
    retriever = Gated()

    async def work(batcher):
        return await asyncio.gather(*(batcher.search([str(i)], 1) for i in range(6)))

    found = run(retriever, work, window=HANGS_AFTER, max_batch=3)
    assert [texts(answers) for answers in found] == [[str(i)] for i in range(6)]
    assert retriever.calls == [(["0", "1", "2"], 1), (["3", "4", "5"], 1)]


def test_the_window_ends_for_one_query_alone():
    retriever = Gated()
    assert texts(run(retriever, lambda b: b.search(["a"], 1), window=0.01)) == ["a"]


def test_batching_off_is_one_query_a_call():
    retriever = Gated()
    found = run(retriever, lambda b: b.search(["a", "b", "a"], 1), window=0.0, max_batch=1)
    assert texts(found) == ["a", "b", "a"]
    assert retriever.calls == [(["a"], 1), (["b"], 1)]


def test_different_k_are_different_batches_in_the_order_of_arrival():
    retriever = Gated()

    async def work(batcher):
        return await asyncio.gather(
            *(batcher.search([query], k) for query, k in (("a", 1), ("a", 2), ("b", 1)))
        )

    found = run(retriever, work, window=0.01)
    assert [len(answer) for (answer,) in found] == [1, 2, 1]
    assert retriever.calls == [(["a", "b"], 1), (["a"], 2)]


def test_the_cache_is_exact_and_forgets_the_least_recently_used():
    retriever = Gated()

    async def work(batcher):
        for query, k in (("a", 1), ("b", 1), ("a", 1), ("c", 1), ("b", 1), ("A", 1), ("a ", 1)):
            assert texts(await batcher.search([query], k)) == [query]

    run(retriever, work, window=0.0, cache=2)
    assert [queries[0] for queries, _ in retriever.calls] == ["a", "b", "c", "b", "A", "a "]


def test_errors_are_not_kept_and_concern_their_query_alone():
    retriever = Gated()

    async def work(batcher):
        return [texts(await batcher.search(["a", "bad", "b"], 1)) for _ in range(2)]

    right = ["a", RetrievalError, "b"]
    assert run(retriever, work, window=0.0) == [right, right]
    assert [queries for queries, _ in retriever.calls] == [
        ["a", "bad", "b"], ["a"], ["bad"], ["b"], ["bad"]
    ]  # fmt: skip


def test_a_retriever_that_exits_does_not_end_the_server():
    async def work(batcher):
        return texts(await batcher.search(["exit"], 1)), texts(await batcher.search(["a"], 1))

    assert run(Gated(), work, window=0.0) == ([RetrievalError], ["a"])


def test_a_full_queue_refuses_a_request_as_a_whole():
    retriever = Gated(is_open=False)

    async def work(batcher):
        first = asyncio.create_task(batcher.search(["a"], 1))
        await begun(retriever)
        second = asyncio.create_task(batcher.search(["b", "c"], 1))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="got 2 queries that wait") as error:
            await batcher.search(["c", "d", "e"], 1)
        assert error.value.retry_after == 1
        assert batcher.queued == 2
        third = asyncio.create_task(batcher.search(["a", "b", "d"], 1))  # one of them is new
        await asyncio.sleep(0)
        retriever.gate.set()
        return [texts(await task) for task in (first, second, third)]

    found = run(retriever, work, window=0.0, max_queue=3)
    assert found == [["a"], ["b", "c"], ["a", "b", "d"]]


def test_a_client_that_leaves_takes_nothing_from_others():
    retriever = Gated(is_open=False)

    async def work(batcher):
        leaving, staying = (asyncio.create_task(batcher.search(["a"], 1)) for _ in range(2))
        await begun(retriever)
        leaving.cancel()
        await asyncio.sleep(0)
        retriever.gate.set()
        return texts(await staying)

    assert run(retriever, work, window=0.0) == ["a"]


def test_what_waits_when_a_server_closes_is_answered():
    retriever = Gated(is_open=False)

    async def work(batcher):
        running = asyncio.create_task(batcher.search(["a"], 1))
        await begun(retriever)
        waiting = asyncio.create_task(batcher.search(["b"], 1))
        await asyncio.sleep(0)
        batcher.close()
        retriever.gate.set()
        return texts(await running), texts(await waiting)

    assert run(retriever, work, window=0.0) == ([RetrievalError], [RetrievalError])


_REQUESTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c", "bad1", "bad2", ""]), max_size=5),
        st.integers(1, 3),
    ),
    max_size=12,
)


@given(_REQUESTS, st.integers(1, 4), st.integers(0, 3), st.sampled_from([0.0, 0.001]))
def test_every_request_has_the_answers_of_its_own_queries(requests, max_batch, cache, window):
    async def work(batcher):
        return await asyncio.gather(*(batcher.search(queries, k) for queries, k in requests))

    retriever = Gated()
    settings = {"window": window, "max_batch": max_batch, "cache": cache}
    found = run(retriever, work, **settings)
    for (queries, k), answers in zip(requests, found, strict=True):
        assert len(answers) == len(queries)
        for query, answer in zip(queries, answers, strict=True):
            if query.startswith("bad"):
                assert isinstance(answer, RetrievalError)
            else:
                assert [d.id for d in answer] == [f"{query}-{i}" for i in range(k)]
    assert max((len(queries) for queries, _ in retriever.calls), default=0) <= max_batch
    assert all(len(set(queries)) == len(queries) for queries, _ in retriever.calls)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", -1.0),
        ("window", float("nan")),
        ("max_batch", 0),
        ("max_queue", 0),
        ("cache", -1),
        ("body_timeout", 0.0),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ConfigurationError, match=name):
        ServerSettings(**{name: value})
