"""Searches that run while the policy continues: worker threads between two queues.

A worker takes all pending queries and searches for them in one call, so batches to a slow retriever
grow with its latency. Every submitted query is answered: whatever a retriever raises in a worker,
even ``SystemExit``, becomes the answer of the query that it was raised for, and
:meth:`BackgroundSearch.collect` answers for a dead worker and starts another one.

Threads end when their search is closed or no longer referenced, except one whose retriever never
returns; it does not keep the interpreter from exiting. A forked process has no threads: there, new
workers take over the queries without an answer.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from search_env.errors import RetrievalError
from search_env.retrieval.base import Retriever, retrieve_each
from search_env.types import Document

_HEALTH_CHECK_INTERVAL = 0.5  # seconds between checks that the workers are alive


class Ticket(NamedTuple):
    """The row of a query and the number of its search, by which stale answers are recognised."""

    row: int
    serial: int


Answer = tuple[Ticket, "list[Document] | RetrievalError"]
_Queries = list[tuple[Ticket, str]]


class CallLimit:
    """Lets at most ``count`` calls of a retriever run at once; others wait for their turn.

    An environment's steps and its workers share one, so that a search in the background, also one
    whose row was reset meanwhile, never overlaps with another.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._renew()

    def __reduce__(self) -> tuple[type[CallLimit], tuple[int]]:
        return CallLimit, (self.count,)

    def _renew(self) -> None:
        self._pid, self._turns = os.getpid(), threading.Semaphore(self.count)

    def search(
        self, retriever: Retriever, texts: Sequence[str], k: int
    ) -> list[list[Document] | RetrievalError]:
        """Call :func:`~search_env.retrieval.base.retrieve_each` when it is this call's turn."""
        if self._pid != os.getpid():  # the calls that hold a turn are not in this process
            self._renew()
        with self._turns:
            return retrieve_each(retriever, texts, k)


class BackgroundSearch:
    """Runs queries in threads, one for each call that ``limit`` allows at once.

    With several, the retriever must support concurrent calls.
    """

    def __init__(self, retriever: Retriever, k: int, limit: CallLimit) -> None:
        self._use(_Workers(retriever, k, limit))

    def _use(self, workers: _Workers) -> None:
        self._workers = workers
        # The threads refer to the workers only, so this object dies with its environment.
        weakref.finalize(self, workers.close).atexit = False

    def submit(self, queries: Sequence[tuple[Ticket, str]]) -> None:
        """Queue some queries."""
        workers = self._of_this_process()
        with workers.changed:
            workers.pending.extend(queries)
            workers.changed.notify_all()

    def collect(self, *, wait: bool) -> list[Answer]:
        """Return the answers that have arrived; with ``wait``, at least one, unless closed."""
        workers = self._of_this_process()
        with workers.changed:
            workers.replace_dead()
            while wait and workers.open and not workers.answers:
                workers.changed.wait(_HEALTH_CHECK_INTERVAL)
                workers.replace_dead()
            answers = list(workers.answers)
            workers.answers.clear()
        return answers

    @property
    def is_open(self) -> bool:
        """Whether queries are answered."""
        return self._workers.open

    def close(self) -> None:
        """Stop the workers; results that arrive later are dropped."""
        self._workers.close()

    def _of_this_process(self) -> _Workers:
        """Return the workers; after a fork new ones, with the queries of the parent's."""
        workers = self._workers
        if workers.pid != os.getpid():
            self._use(workers.copy())
        return self._workers


class _Workers:
    """Threads and their queues; all attributes but the first line's are guarded by ``changed``."""

    def __init__(self, retriever: Retriever, k: int, limit: CallLimit) -> None:
        self.pid, self._retriever, self._k, self._limit = os.getpid(), retriever, k, limit
        self.changed = threading.Condition()
        self.pending: _Queries = []
        self.answers: deque[Answer] = deque()
        self.open = True
        self.in_flight: dict[threading.Thread, _Queries] = {}  # by worker
        for _ in range(limit.count):
            self._start_worker()

    def copy(self) -> _Workers:
        """Return workers of this process; queries in flight are searched again.

        Nothing is locked: the thread that held the lock at the fork is not in this process.
        """
        copy = _Workers(self._retriever, self._k, self._limit)
        with copy.changed:
            copy.open = self.open
            copy.answers.extend(self.answers)
            copy.pending += [query for queries in self.in_flight.values() for query in queries]
            copy.pending += self.pending
            copy.changed.notify_all()
        return copy

    def close(self) -> None:
        """Stop the threads."""
        if self.pid != os.getpid():
            return  # there are none in this process, and the lock may be held for ever
        with self.changed:
            self.open = False
            self.pending.clear()
            self.changed.notify_all()

    def _start_worker(self) -> None:
        name = f"search-env-retrieval-{len(self.in_flight)}"
        worker = threading.Thread(target=self._work, name=name, daemon=True)
        self.in_flight[worker] = []
        worker.start()

    def replace_dead(self) -> None:
        """Answer the queries of dead workers with an error, and replace the workers."""
        if not self.open:
            return
        for worker in [worker for worker in self.in_flight if not worker.is_alive()]:
            error = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, got no "
                "answer: its thread is gone. Search again."
            )
            self.answers.extend((ticket, error) for ticket, _ in self.in_flight.pop(worker))
            self._start_worker()

    def _work(self) -> None:
        worker = threading.current_thread()
        while True:
            with self.changed:
                while self.open and not self.pending:
                    self.changed.wait()
                if not self.open:
                    return
                # A fork may happen between any two lines: a query is in some queue at all times.
                queries = self.in_flight[worker] = self.pending
                self.pending = []
            answers = self._search([text for _, text in queries])
            with self.changed:
                self.answers.extend(
                    (ticket, answer) for (ticket, _), answer in zip(queries, answers, strict=True)
                )
                self.in_flight[worker] = []
                self.changed.notify_all()

    def _search(self, texts: Sequence[str]) -> Sequence[list[Document] | RetrievalError]:
        try:
            return self._limit.search(self._retriever, texts, self._k)
        except BaseException as error:  # this thread has no caller to raise it to
            if len(texts) > 1:  # find the queries that raise it
                return [answer for text in texts for answer in self._search([text])]
            wrapped = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, it raised "
                f"{error!r}. See the cause above."
            )
            wrapped.__cause__ = error
            return [wrapped] * len(texts)
