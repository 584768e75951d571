"""Searches that run while the policy goes on: worker threads between two queues.

A worker takes everything that waits and asks for it in one call, so a slow retriever is asked in
batches that grow with its latency. With one worker (the default) the retriever is never called
twice at the same time.

Every query that was submitted is answered. Whatever a retriever raises in a worker, also what is
no ``Exception`` (``SystemExit``, ``asyncio.CancelledError``), becomes the answer of the query that
it was raised for. Should a worker be gone all the same, :meth:`BackgroundSearch.collect` finds out,
answers what it held with an error and starts another one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from search_env.errors import RetrievalError
from search_env.retrieval.base import Retriever, retrieve_each
from search_env.types import Document

_LOOK_EVERY = 0.5  # seconds between two looks at whether the workers are alive


class Ticket(NamedTuple):
    """Whose query it is: a row, and which of its searches, so that stale answers are known."""

    row: int
    serial: int


Answer = tuple[Ticket, "list[Document] | RetrievalError"]
_Asked = list[tuple[Ticket, str]]


class BackgroundSearch:
    """Runs queries in threads.

    Args:
        retriever: Where to search. With several threads it must bear simultaneous calls.
        k: Documents for each query.
        threads: Number of workers.
    """

    def __init__(self, retriever: Retriever, k: int, threads: int) -> None:
        self._retriever, self._k = retriever, k
        self._changed = threading.Condition()
        self._waiting: _Asked = []
        self._answers: deque[Answer] = deque()
        self._open = True
        self._taken: dict[threading.Thread, _Asked] = {}  # by worker: what it is asking for
        for _ in range(threads):
            self._start_worker()

    def submit(self, queries: Sequence[tuple[Ticket, str]]) -> None:
        """Queue some queries."""
        with self._changed:
            self._waiting.extend(queries)
            self._changed.notify_all()

    def collect(self, *, wait: bool) -> list[Answer]:
        """Return the answers that have come; with ``wait``, at least one."""
        with self._changed:
            self._replace_dead()
            while wait and not self._answers:
                self._changed.wait(_LOOK_EVERY)
                self._replace_dead()
            found = list(self._answers)
            self._answers.clear()
        return found

    def close(self) -> None:
        """Let the workers go; what they still find is dropped."""
        with self._changed:
            self._open = False
            self._waiting.clear()
            self._changed.notify_all()

    def _start_worker(self) -> None:
        name = f"search-env-retrieval-{len(self._taken)}"
        worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._taken[worker] = []
        worker.start()

    def _replace_dead(self) -> None:
        """Answer what dead workers were asking for, and start others in their place."""
        if not self._open:
            return
        for worker in [worker for worker in self._taken if not worker.is_alive()]:
            error = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, got no "
                "answer: its thread is gone. Search again; after os.fork, make the environment in "
                "the child."
            )
            self._answers.extend((ticket, error) for ticket, _ in self._taken.pop(worker))
            self._start_worker()

    def _work(self) -> None:
        worker = threading.current_thread()
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    self._changed.wait()
                if not self._open:
                    return
                taken = self._taken[worker] = self._waiting
                self._waiting = []
            found = self._ask([text for _, text in taken])
            with self._changed:
                self._taken[worker] = []
                self._answers.extend(
                    (ticket, answer) for (ticket, _), answer in zip(taken, found, strict=True)
                )
                self._changed.notify_all()

    def _ask(self, texts: Sequence[str]) -> Sequence[list[Document] | RetrievalError]:
        try:
            return retrieve_each(self._retriever, texts, self._k)
        except BaseException as error:  # there is no caller here to raise it to
            if len(texts) > 1:  # charge it to the queries that fail
                return [answer for text in texts for answer in self._ask([text])]
            wrapped = RetrievalError(
                f"Expected {type(self._retriever).__name__}.search to return documents, it raised "
                f"{error!r}. See the cause above."
            )
            wrapped.__cause__ = error
            return [wrapped] * len(texts)
