"""Ablations: the same agent with evidence taken away, to see what it owes to searching.

An agent that scores as well without documents did not need them: it knew, guessed or read the
answer out of the question. One that scores as well with documents of another question does not
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from search_env.retrieval.base import Retriever
from search_env.types import Document, Question

ABLATIONS = ("no-documents", "shuffled-documents")


class NoDocuments:
    """A retriever that finds nothing."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return an empty list for each query."""
        return [[] for _ in queries]


class ShuffledDocuments:
    """A retriever that finds what another of at least two questions would; the query decides."""

    def __init__(self, retriever: Retriever, questions: Sequence[Question]) -> None:
        self._retriever = retriever
        self._texts = tuple(question.text for question in questions)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the documents of some other question for each query."""
        return self._retriever.search([self._other(query) for query in queries], k)

    def _other(self, query: str) -> str:
        sha = hashlib.sha256(query.encode("utf-8", "replace")).digest()
        chosen = int.from_bytes(sha[:8], "big") % len(self._texts)
        if self._texts[chosen].casefold().strip() == query.casefold().strip():
            chosen = (chosen + 1) % len(self._texts)
        return self._texts[chosen]


def ablated_retriever(
    ablation: str | None, retriever: Retriever, questions: Sequence[Question]
) -> Retriever:
    """Return the retriever of one of :data:`ABLATIONS`; without one, the retriever itself."""
    if ablation == "no-documents":
        return NoDocuments()
    if ablation == "shuffled-documents":
        return ShuffledDocuments(retriever, questions)
    return retriever
