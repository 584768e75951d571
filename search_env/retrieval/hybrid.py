"""Several retrievers as one: reciprocal ranks, or weighted scores, fused by document id."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError
from search_env.retrieval.base import Retriever, backend_name, retrieve
from search_env.types import Document
from search_env.validation import check_choice, check_count, check_queries, is_finite

DEPTH = 100
"""Documents that each retriever is asked for."""
RRF_K = 60
"""Of reciprocal rank fusion, as in its paper."""

Scores: TypeAlias = NDArray[np.float64]


def reciprocal_ranks(scores: Scores, rrf_k: int = RRF_K) -> tuple[Scores, float]:
    """Return ``1 / (rrf_k + rank)``, ranks from 1, and 0 for a missing document.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods".

    Example:
        >>> reciprocal_ranks(np.array([9.0, 8.0]))[0].round(5).tolist()
        [0.01639, 0.01613]
    """
    return 1.0 / (rrf_k + np.arange(1, len(scores) + 1)), 0.0


def min_max(scores: Scores) -> tuple[Scores, float]:
    """Return scores mapped to 0 to 1 (all 1 where they are equal), and 0 for a missing document.

    Example:
        >>> min_max(np.array([4.0, 3.0, 2.0]))[0].tolist()
        [1.0, 0.5, 0.0]
    """
    if not len(scores):
        return scores, 0.0
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones(len(scores)), 0.0


def z_scores(scores: Scores) -> tuple[Scores, float]:
    """Return scores minus their mean in standard deviations (0 where they are equal).

    A missing document has the lowest of them.

    Example:
        >>> z_scores(np.array([3.0, 1.0]))
        (array([ 1., -1.]), -1.0)
    """
    if not len(scores):
        return scores, 0.0
    spread = scores.std()
    normal = (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
    return normal, float(normal.min())


METHODS: Mapping[str, Callable[[Scores], tuple[Scores, float]]] = MappingProxyType(
    {"rrf": reciprocal_ranks, "minmax": min_max, "zscore": z_scores}
)
"""From the scores of a list, best first, to what its documents and a missing one add."""


class HybridRetriever:
    """Fuses the results of several retrievers over the same documents.

    Each is asked for ``depth`` documents, whatever ``k`` is, so that a small ``k`` returns the
    first documents of a large one; at most all of these come back. A document's score is the
    weighted sum of what ``method`` makes of its place, or of its score, in each list. Ties go to
    the document that the first retriever ranks higher, then the second, and so on. Documents are
    the same if their ids are.

    Args:
        retrievers: Two or more, over the same documents.
        method: ``"rrf"`` (reciprocal ranks, which need no weights), ``"minmax"`` or ``"zscore"``.
        weights: One for each retriever, at least 0; None for equal ones.
        depth: Documents asked of each.
        rrf_k: Constant of ``"rrf"``.

    Raises:
        ConfigurationError: An argument has an impossible value, or the retrievers say that they
            search different documents.

    Example:
        >>> from search_env.retrieval.base import FakeRetriever
        >>> ulm, bonn, kiel = (Document(name, name, "", 1.0) for name in ("Ulm", "Bonn", "Kiel"))
        >>> first, second = FakeRetriever({"q": [ulm, bonn]}), FakeRetriever({"q": [bonn, kiel]})
        >>> [d.id for d in HybridRetriever([first, second]).search(["q"], k=3)[0]]
        ['Bonn', 'Ulm', 'Kiel']
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        *,
        method: str = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = DEPTH,
        rrf_k: int = RRF_K,
    ) -> None:
        self.retrievers = tuple(retrievers)
        if len(self.retrievers) < 2:
            raise ConfigurationError(
                f"Expected two retrievers or more to fuse, got {len(self.retrievers)}. Add one."
            )
        check_choice("method", method, METHODS)
        self.method = method
        self.weights = _weights(weights, len(self.retrievers))
        self.depth = check_count("depth", depth, 1)
        self.rrf_k = check_count("rrf_k", rrf_k)
        _check_same_documents(self.retrievers)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the up to ``k`` best documents of the fused lists; see ``Retriever``.

        Raises:
            RetrievalError: One of the retrievers failed.
            ConfigurationError: ``k`` is below 1, or ``queries`` is not a list of strings.
        """
        check_queries(queries)
        k = check_count("k", k, 1)
        lists = [retrieve(retriever, queries, self.depth) for retriever in self.retrievers]
        return [self._fused(results)[:k] for results in zip(*lists, strict=True)]

    def _fused(self, lists: Sequence[Sequence[Document]]) -> list[Document]:
        """Return the documents of one query, fused."""
        documents = {document.id: document for each in reversed(lists) for document in each}
        ids = list(dict.fromkeys(document.id for each in lists for document in each))
        totals = dict.fromkeys(ids, 0.0)
        for weight, each in zip(self.weights, lists, strict=True):
            added, missing = self._normal(np.array([document.score for document in each]))
            by_id = dict(zip((d.id for d in each), added.tolist(), strict=True))
            for name in ids:
                totals[name] += weight * by_id.get(name, missing)
        best = sorted(ids, key=lambda name: -totals[name])  # stable: ties stay in order
        return [_with_score(documents[name], totals[name]) for name in best]

    def _normal(self, scores: Scores) -> tuple[Scores, float]:
        if self.method == "rrf":
            return reciprocal_ranks(scores, self.rrf_k)
        return METHODS[self.method](scores)

    @property
    def name(self) -> str:
        """Method, weights and the names of the parts: the backend's name in cassettes."""
        method = f"rrf, k={self.rrf_k}" if self.method == "rrf" else self.method
        parts = " + ".join(
            f"{weight:g} * {backend_name(part)}"
            for weight, part in zip(self.weights, self.retrievers, strict=True)
        )
        return f"hybrid({method}, depth={self.depth}: {parts})"


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    chosen = (1.0,) * count if weights is None else tuple(float(weight) for weight in weights)
    good = len(chosen) == count and all(is_finite(w) and w >= 0 for w in chosen)
    if not (good and sum(chosen) > 0):
        raise ConfigurationError(
            f"Expected {count} weights of at least 0, not all 0, got {weights}. Pass one for each "
            "retriever, or None."
        )
    return chosen


def _check_same_documents(retrievers: Sequence[Retriever]) -> None:
    """Check the digests of the corpora, where retrievers have one."""
    digests = [getattr(retriever, "digest", None) for retriever in retrievers]
    known = sorted({digest[:12] for digest in digests if isinstance(digest, str)})
    if len(known) > 1:
        raise ConfigurationError(
            f"Expected retrievers over the same documents to fuse, got corpora with the digests "
            f"{', '.join(known)}. Build the indexes of one corpus."
        )


def _with_score(document: Document, score: float) -> Document:
    # 0 says that a document has nothing in common with the query, and this one was found.
    score = score if score else math.ulp(0.0)
    return Document(document.id, document.title, document.text, score)
