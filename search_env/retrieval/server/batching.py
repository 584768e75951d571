"""Queries of many clients, searched together.

One call of the retriever runs at a time, in a thread; what arrives meanwhile is the next batch, so
batches grow with load and cost a lone client at most the window. A query that waits, or is being
searched, is not searched again for another client, and an answer is kept in an exact cache: by the
query's very text and k. All state belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

from search_env.errors import RetrievalError
from search_env.retrieval.base import Retriever, retrieve_each
from search_env.retrieval.server.metrics import Metrics
from search_env.retrieval.server.settings import ServerSettings
from search_env.types import Document

Answer: TypeAlias = "list[Document] | RetrievalError"
_Key: TypeAlias = tuple[str, int]  # query, k


class OverloadedError(RetrievalError):
    """The queue is full; ``retry_after`` says after how many seconds it may have room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(
            f"Expected room in the queue, got {waiting} queries that wait already. Send again "
            f"after {retry_after} s, or start the server with a longer queue or more workers."
        )
        self.retry_after = retry_after


class _Waiting(NamedTuple):
    answer: asyncio.Future[Answer]
    since: float


class Batcher:
    """Searches for the queries of all requests, in batches.

    Make it and call it within one event loop; :meth:`close` it there.
    """

    def __init__(self, retriever: Retriever, settings: ServerSettings, metrics: Metrics) -> None:
        self._retriever, self._settings, self._metrics = retriever, settings, metrics
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[_Key, _Waiting] = {}  # in the order of arrival
        self._running: dict[_Key, asyncio.Future[Answer]] = {}
        self._cache: OrderedDict[_Key, list[Document]] = OrderedDict()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._seconds = 0.0  # of the last batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search-env-batch")
        self._worker = asyncio.create_task(self._work())

    async def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """Return the documents of each query, or the error that it raised.

        Raises:
            OverloadedError: The queue has no room for them; none was added.
        """
        keys = dict.fromkeys((query, k) for query in queries)
        found: dict[_Key, Answer] = {}
        pending: dict[_Key, asyncio.Future[Answer]] = {}
        new: list[_Key] = []
        for key in keys:
            if key in self._cache:
                self._cache.move_to_end(key)
                found[key] = self._cache[key]
            elif key in self._waiting or key in self._running:
                pending[key] = self._pending(key)
            else:
                new.append(key)
        self._add(new)
        self._metrics.queries(len(queries), cached=len(found), searched=len(new))
        pending.update((key, self._waiting[key].answer) for key in new)
        if pending:
            await asyncio.wait(pending.values())  # unlike gather, cancels nothing of others
        found.update((key, answer.result()) for key, answer in pending.items())
        return [found[query, k] for query in queries]

    @property
    def queued(self) -> int:
        """The number of queries that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Stop; what still waits is answered with an error."""
        self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        gone = RetrievalError("Expected a running server, got one that stops. Send it elsewhere.")
        waiting = [waiting.answer for waiting in self._waiting.values()]
        for answer in (*waiting, *self._running.values()):
            if not answer.done():
                answer.set_result(gone)

    def _pending(self, key: _Key) -> asyncio.Future[Answer]:
        return self._running[key] if key in self._running else self._waiting[key].answer

    def _add(self, keys: Sequence[_Key]) -> None:
        if len(self._waiting) + len(keys) > self._settings.max_queue:
            batches = len(self._waiting) / self._settings.max_batch
            raise OverloadedError(len(self._waiting), max(1, math.ceil(batches * self._seconds)))
        now = self._loop.time()
        for key in keys:
            self._waiting[key] = _Waiting(self._loop.create_future(), now)
        self._set_events()

    def _set_events(self) -> None:
        for event, holds in (
            (self._arrived, bool(self._waiting)),
            (self._full, len(self._waiting) >= self._settings.max_batch),
        ):
            event.set() if holds else event.clear()
        self._metrics.queue(len(self._waiting))

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            batch, k = self._take()
            started = time.perf_counter()
            answers = await self._loop.run_in_executor(self._thread, self._search, batch, k)
            self._seconds = time.perf_counter() - started
            self._metrics.batch(len(batch), self._seconds)
            for query, answer in zip(batch, answers, strict=True):
                self._settle((query, k), answer)

    async def _gather(self) -> None:
        """Wait until the batch is full, or its oldest query has waited for the window."""
        oldest = next(iter(self._waiting.values())).since
        left = oldest + self._settings.window - self._loop.time()
        if left > 0 and not self._full.is_set():
            end = self._loop.call_later(left, self._full.set)
            await self._full.wait()
            end.cancel()

    def _take(self) -> tuple[list[str], int]:
        """Move the oldest queries, of one k, from the queue to those that are searched."""
        k = next(iter(self._waiting))[1]
        batch = [key for key in self._waiting if key[1] == k][: self._settings.max_batch]
        for key in batch:
            self._running[key] = self._waiting.pop(key).answer
        self._set_events()
        return [query for query, _ in batch], k

    def _search(self, batch: list[str], k: int) -> Sequence[Answer]:
        """Search in the thread; whatever a retriever raises is an answer."""
        try:
            return retrieve_each(self._retriever, batch, k)
        except BaseException as error:
            wrapped = RetrievalError(
                f"Expected documents from the retriever, it raised {error!r}. See the server's log."
            )
            return [wrapped] * len(batch)

    def _settle(self, key: _Key, answer: Answer) -> None:
        future = self._running.pop(key)
        if self._settings.cache and isinstance(answer, list):
            self._cache[key] = answer
            if len(self._cache) > self._settings.cache:
                self._cache.popitem(last=False)
        if not future.done():
            future.set_result(answer)
