"""Controls: the same agent with evidence taken away, to see what it owes to searching.

An agent that scores as well without documents did not need them: it knew, guessed or read the
answer out of the question. One that scores as well with documents of another question does not
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from search_env.retrieval.base import Retriever
from search_env.types import Document, Question

CONTROLS = ("no-documents", "shuffled-documents")


class NoDocuments:
    """Finds nothing, whatever is asked."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return an empty list for each query."""
        return [[] for _ in queries]


class ShuffledDocuments:
    """Finds what another question of the set would find, searched for as it stands.

    Which question that is depends on the query alone, so runs repeat. Documents are real, and as
    long and as many as ever; they are about something else.

    Args:
        retriever: Finds the documents.
        questions: Of the set; at least two.
    """

    def __init__(self, retriever: Retriever, questions: Sequence[Question]) -> None:
        self._retriever = retriever
        self._texts = tuple(question.text for question in questions)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the documents of some other question for each query."""
        return self._retriever.search([self._other(query) for query in queries], k)

    def _other(self, query: str) -> str:
        number = int.from_bytes(
            hashlib.sha256(query.encode("utf-8", "replace")).digest()[:8], "big"
        )
        chosen = number % len(self._texts)
        asked = query.casefold().strip()
        if self._texts[chosen].casefold().strip() == asked:
            chosen = (chosen + 1) % len(self._texts)
        return self._texts[chosen]


def controlled(
    control: str | None, retriever: Retriever, questions: Sequence[Question]
) -> Retriever:
    """Return the retriever of a control; without one, the retriever itself.

    Args:
        control: One of :data:`CONTROLS`, or None.
        retriever: The protocol's.
        questions: Of the set.
    """
    if control == "no-documents":
        return NoDocuments()
    if control == "shuffled-documents":
        return ShuffledDocuments(retriever, questions)
    return retriever
