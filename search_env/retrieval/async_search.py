"""Searches that run while the policy continues: worker threads between two queues.

A worker takes all pending queries and searches for them in one call, so batches to a slow retriever
grow with its latency. Every submitted query is answered: whatever a retriever raises in a worker,
even ``SystemExit``, becomes the answer of the query that it was raised for, and
:meth:`BackgroundSearch.collect` answers for a dead worker and starts another one.
"""

from __future__ import annotations

import threading
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


class BackgroundSearch:
    """Runs queries in threads; with several, the retriever must support concurrent calls."""

    def __init__(self, retriever: Retriever, k: int, threads: int) -> None:
        self._retriever, self._k = retriever, k
        self._changed = threading.Condition()
        self._pending: _Queries = []
        self._answers: deque[Answer] = deque()
        self._open = True
        self._in_flight: dict[threading.Thread, _Queries] = {}  # by worker
        for _ in range(threads):
            self._start_worker()

    def submit(self, queries: Sequence[tuple[Ticket, str]]) -> None:
        """Queue some queries."""
        with self._changed:
            self._pending.extend(queries)
            self._changed.notify_all()

    def collect(self, *, wait: bool) -> list[Answer]:
        """Return the answers that have arrived; with ``wait``, at least one."""
        with self._changed:
            self._replace_dead()
            while wait and not self._answers:
                self._changed.wait(_HEALTH_CHECK_INTERVAL)
                self._replace_dead()
            answers = list(self._answers)
            self._answers.clear()
        return answers

    def close(self) -> None:
        """Stop the workers; results that arrive later are dropped."""
        with self._changed:
            self._open = False
            self._pending.clear()
            self._changed.notify_all()

    def _start_worker(self) -> None:
        name = f"search-env-retrieval-{len(self._in_flight)}"
        worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._in_flight[worker] = []
        worker.start()

    def _replace_dead(self) -> None:
        """Answer the queries of dead workers with an error, and replace the workers."""
        if not self._open:
            return
        for worker in [worker for worker in self._in_flight if not worker.is_alive()]:
            error = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, got no "
                "answer: its thread is gone. Search again; after os.fork, create the environment "
                "in the child."
            )
            self._answers.extend((ticket, error) for ticket, _ in self._in_flight.pop(worker))
            self._start_worker()

    def _work(self) -> None:
        worker = threading.current_thread()
        while True:
            with self._changed:
                while self._open and not self._pending:
                    self._changed.wait()
                if not self._open:
                    return
                queries = self._in_flight[worker] = self._pending
                self._pending = []
            answers = self._search([text for _, text in queries])
            with self._changed:
                self._in_flight[worker] = []
                self._answers.extend(
                    (ticket, answer) for (ticket, _), answer in zip(queries, answers, strict=True)
                )
                self._changed.notify_all()

    def _search(self, texts: Sequence[str]) -> Sequence[list[Document] | RetrievalError]:
        try:
            return retrieve_each(self._retriever, texts, self._k)
        except BaseException as error:  # this thread has no caller to raise it to
            if len(texts) > 1:  # find the queries that raise it
                return [answer for text in texts for answer in self._search([text])]
            wrapped = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, it raised "
                f"{error!r}. See the cause above."
            )
            wrapped.__cause__ = error
            return [wrapped] * len(texts)
