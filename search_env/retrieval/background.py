"""Searches that run while the policy goes on: worker threads between two queues.

A worker takes everything that waits and asks for it in one call, so a slow retriever is asked in
batches that grow with its latency. With one worker (the default) the retriever is never called
twice at the same time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from search_env.errors import RetrievalError
from search_env.retrieval.base import Retriever
from search_env.retrieval.batch import retrieve_each
from search_env.types import Document


class Ticket(NamedTuple):
    """Whose query it is: a row, and which of its searches, so that stale answers are known."""

    row: int
    serial: int


Answer = tuple[Ticket, "list[Document] | RetrievalError"]


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
        self._waiting: deque[tuple[Ticket, str]] = deque()
        self._answers: deque[Answer] = deque()
        self._open = True
        for number in range(threads):
            name = f"search-env-retrieval-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, queries: Sequence[tuple[Ticket, str]]) -> None:
        """Queue some queries."""
        with self._changed:
            self._waiting.extend(queries)
            self._changed.notify_all()

    def collect(self, *, wait: bool) -> list[Answer]:
        """Return the answers that have come; with ``wait``, at least one."""
        with self._changed:
            while wait and not self._answers:
                self._changed.wait()
            found = list(self._answers)
            self._answers.clear()
        return found

    def close(self) -> None:
        """Let the workers go; what they still find is dropped."""
        with self._changed:
            self._open = False
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    self._changed.wait()
                if not self._open:
                    return
                taken = list(self._waiting)
                self._waiting.clear()
            found = retrieve_each(self._retriever, [text for _, text in taken], self._k)
            with self._changed:
                self._answers.extend(
                    (ticket, answer) for (ticket, _), answer in zip(taken, found, strict=True)
                )
                self._changed.notify_all()
