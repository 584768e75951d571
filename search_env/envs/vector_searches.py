"""The searches of a vector environment: at once in a step, in the background after a send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_env.core.episode_state import Query
from search_env.errors import EpisodeOverError, RetrievalError
from search_env.retrieval.async_search import BackgroundSearch, CallLimit, Ticket
from search_env.retrieval.base import Retriever
from search_env.types import Document

Results = Iterator[tuple[int, list[Document] | RetrievalError]]


class VectorSearches:
    """Searches for ``k`` documents, in at most ``calls`` calls of the retriever at once.

    ``serial`` of the methods is the number of episodes that each row has begun, by which answers
    for a row that was reset meanwhile are recognised.
    """

    def __init__(self, k: int, calls: int) -> None:
        self._k, self._limit = k, CallLimit(calls)
        self._background: BackgroundSearch | None = None

    def run(self, retriever: Retriever, queries: Sequence[Query]) -> Results:
        """Retrieve the documents of some rows, in one call."""
        texts = [query.text for query in queries]
        results = self._limit.search(retriever, texts, self._k)
        return zip([query.row for query in queries], results, strict=True)

    def submit(self, retriever: Retriever, queries: Sequence[Query], serial: Sequence[int]) -> None:
        """Start to retrieve documents in the background."""
        if not queries:
            return
        if self._background is None:
            self._background = BackgroundSearch(retriever, self._k, self._limit)
        tickets = [Ticket(query.row, serial[query.row]) for query in queries]
        texts = [query.text for query in queries]
        self._background.submit(list(zip(tickets, texts, strict=True)))

    def collect(self, waiting: set[int], serial: Sequence[int], least: int) -> Results:
        """Yield the documents that have arrived for waiting rows, at least those of ``least``."""
        search, waiting = self._background, set(waiting)
        while waiting and search is not None:
            for (row, number), documents in search.collect(wait=least > 0):
                if number == serial[row] and row in waiting:  # else reset meanwhile
                    waiting.discard(row)
                    least -= 1
                    yield row, documents
            if least <= 0:
                return
            if not search.is_open:
                raise EpisodeOverError(
                    "Expected an open environment, but it was closed while recv() waited. Call "
                    "reset()."
                )

    def close(self) -> None:
        """Stop the background threads."""
        if self._background is not None:
            self._background.close()
            self._background = None
