"""A second look: the documents of any retriever, ordered anew by a model that reads both texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_env.retrieval.base import Retriever, backend_name, retrieve
from search_env.types import Document
from search_env.validation import check_count, check_queries

DEPTH = 10
"""Documents that are read again by default, as in Search-R1."""


class PairScorer(Protocol):
    """Says how well documents answer queries."""

    @property
    def name(self) -> str:
        """What the scores depend on."""
        ...

    def score(self, pairs: Sequence[tuple[str, Document]]) -> NDArray[np.float32]:
        """Return a score of each pair of query and document, float32 ``(N,)``; more is better."""
        ...


class RerankingRetriever:
    """Orders the first ``depth`` documents of a retriever by a scorer.

    It asks for ``depth`` documents whatever ``k`` is, so that a small ``k`` returns the first
    documents of a large one; at most ``depth`` come back. All pairs of a call are scored together.
    Ties stay in the retriever's order.

    Args:
        inner: Finds the documents.
        scorer: For example a :class:`~search_env.retrieval.dense.cross_encoder.CrossEncoder`.
        depth: Documents to read again.
    """

    def __init__(self, inner: Retriever, scorer: PairScorer, *, depth: int = DEPTH) -> None:
        self.inner, self.scorer = inner, scorer
        self.depth = check_count("depth", depth, 1)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the up to ``k`` best of the first ``depth`` documents; see ``Retriever``.

        Raises:
            RetrievalError: The inner retriever or the scorer failed.
            ConfigurationError: ``k`` is below 1, or ``queries`` is not a list of strings.
        """
        check_queries(queries)
        k = check_count("k", k, 1)
        distinct = list(dict.fromkeys(queries))
        found = retrieve(self.inner, distinct, self.depth)
        pairs = [
            (query, document)
            for query, documents in zip(distinct, found, strict=True)
            for document in documents
        ]
        scores = iter(self.scorer.score(pairs).tolist() if pairs else [])
        results = {}
        for query, documents in zip(distinct, found, strict=True):
            scored = [Document(d.id, d.title, d.text, next(scores)) for d in documents]
            results[query] = sorted(scored, key=lambda document: -document.score)[:k]
        return [list(results[query]) for query in queries]

    @property
    def name(self) -> str:
        """Scorer, depth and the inner retriever's name: the backend's name in cassettes."""
        return f"rerank({self.scorer.name}, depth={self.depth}: {backend_name(self.inner)})"

    @property
    def digest(self) -> str | None:
        """The inner retriever's digest of its documents, None where it has none."""
        found = getattr(self.inner, "digest", None)
        return found if isinstance(found, str) else None
