"""Ablations: the same agent with other evidence, to see what it owes to searching.

An agent that scores as well without documents did not need them: it knew, guessed or read the
answer out of the question. One that scores as well with documents of another question does not
read. One whose answers do not follow where documents state another answer does not rest on them
(:mod:`search_env.evaluation.causal_evidence`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from search_env.errors import ConfigurationError
from search_env.evaluation.causal_evidence import SwappedDocuments
from search_env.retrieval.base import FakeRetriever, Retriever
from search_env.types import Document, Question

SWAPPED = "swapped-documents"
ABLATIONS = ("no-documents", "shuffled-documents", SWAPPED)


class NoDocuments:
    """A retriever that finds nothing."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return an empty list for each query."""
        return [[] for _ in queries]


class ShuffledDocuments:
    """A retriever that finds what another question would; the query decides which.

    What it searches for is the question as it stands, or the query of its first step where
    ``exact`` retrievers know no other.

    Raises:
        ConfigurationError: There are not two questions.
    """

    def __init__(
        self, retriever: Retriever, questions: Sequence[Question], *, exact: bool = False
    ) -> None:
        self._retriever = retriever
        asked = (q.hops[0].query if exact and q.hops else q.text for q in questions)
        self._texts = tuple(dict.fromkeys(asked))
        if len(self._texts) < 2:
            raise ConfigurationError(
                f"Expected at least two questions to shuffle the documents of, got "
                f"{len(self._texts)}. Pass more questions, or another ablation."
            )

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
    """Return the retriever of one of :data:`ABLATIONS`; without one, the retriever itself.

    That of ``swapped-documents`` changes nothing until it is told the swap of a question.
    """
    if ablation == "no-documents":
        return NoDocuments()
    if ablation == "shuffled-documents":
        exact = isinstance(retriever, FakeRetriever)  # of the toy and the diagnostic worlds
        return ShuffledDocuments(retriever, questions, exact=exact)
    if ablation == SWAPPED:
        return SwappedDocuments(retriever)
    return retriever
