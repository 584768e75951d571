"""The nearest vectors by a FAISS index: candidates from the index, order from the vectors.

An index returns candidates; where the vectors themselves are at hand, the scores are computed
again from them, one query at a time, so that they do not depend on how many queries came together
(FAISS multiplies small and large batches in different ways) and equal vectors have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import IndexFormatError

Ids: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = Callable[[Ids], NDArray[Any]]
"""Vectors of passage numbers, ``(n,)`` to ``(n, D)``."""

DEPTH = 100
"""Candidates at least: up to ``DEPTH // 4`` documents, the same ones for every ``k``."""

_PER_DOCUMENT = 4  # candidates for each document asked for
_SLICE = 16  # queries at once; from 20 on FAISS computes distances to centroids in another way


class Hits(NamedTuple):
    """The nearest vectors of one query: passage numbers int64 ``(n,)`` and scores float32."""

    ids: Ids
    scores: NDArray[np.float32]


def is_flat(index: Any) -> bool:
    """Return whether an index compares a query with every vector, exactly."""
    import faiss

    return isinstance(index, faiss.IndexFlat)


def rows_of(index: Any) -> Rows | None:
    """Return how to get at the vectors of an index that holds them unchanged; None for others."""
    import faiss

    if not isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat):
        return None

    def rows(ids: Ids) -> NDArray[Any]:
        vectors: NDArray[Any] = index.reconstruct_batch(ids)
        return vectors

    return rows


def nearest(
    index: Any, vectors: NDArray[np.float32], k: int, rows: Rows | None = None
) -> list[Hits]:
    """Return the up to ``k`` nearest vectors of each query, by falling score, ties by number.

    A score is the inner product, or the negative squared distance in an index of that metric.
    Where the last document ties with the last candidate, more candidates are asked for, so that
    ties go to the smallest numbers among all vectors that the index looks at.

    Args:
        index: Of FAISS; ids are passage numbers.
        vectors: Queries, float32 ``(Q, D)``.
        k: At least 1.
        rows: See :func:`rows_of`; None takes the index's own scores.

    Raises:
        IndexFormatError: The index returned numbers of no passage.
    """
    results: list[Hits | None] = [None] * len(vectors)
    pending, count = list(range(len(vectors))), min(index.ntotal, max(DEPTH, _PER_DOCUMENT * k))
    while pending and count:
        open_ones = []
        for query, hits in zip(pending, _search(index, vectors[pending], count), strict=True):
            ordered = _ordered(index, vectors[query], hits, rows)
            if len(ordered.ids) == count < index.ntotal and _has_open_tie(ordered.scores, k):
                open_ones.append(query)
            else:
                results[query] = Hits(ordered.ids[:k], ordered.scores[:k])
        pending, count = open_ones, min(index.ntotal, 4 * count)
    return [_NONE if hits is None else hits for hits in results]


_NONE = Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))


def _search(index: Any, vectors: NDArray[np.float32], count: int) -> list[Hits]:
    """Return an index's own answer, without the places that it could not fill."""
    size = len(vectors) if is_flat(index) else _SLICE
    hits = []
    for start in range(0, len(vectors), size):
        scores, ids = index.search(vectors[start : start + size], count)
        if ids.max() >= index.ntotal:
            raise IndexFormatError(
                f"Expected passages below {index.ntotal:,} from the FAISS index, got "
                f"{ids.max():,}. Its file is damaged, or it has ids of its own: rebuild it."
            )
        scores = scores if _is_inner_product(index) else -scores
        for row_ids, row_scores in zip(ids, scores, strict=True):
            keep = row_ids >= 0
            hits.append(Hits(row_ids[keep], row_scores[keep]))
    return hits


def _ordered(index: Any, vector: NDArray[np.float32], hits: Hits, rows: Rows | None) -> Hits:
    """Return candidates by falling score, ties by number; scores are of ``rows`` if given."""
    ids, scores = hits
    if rows is not None and len(ids):
        found, query = rows(ids).astype(np.float64), vector.astype(np.float64)
        if _is_inner_product(index):
            exact = np.einsum("nd,d->n", found, query)  # row by row, whatever their number
        else:
            exact = -np.square(found - query).sum(axis=1)
        scores = exact.astype(np.float32)
    order = np.lexsort((ids, -scores))
    return Hits(ids[order], scores[order])


def _is_inner_product(index: Any) -> bool:
    import faiss

    return bool(index.metric_type == faiss.METRIC_INNER_PRODUCT)


def _has_open_tie(scores: NDArray[np.float32], k: int) -> bool:
    """Return whether a vector that is no candidate may be as good as the last document."""
    last = float(scores[k - 1])
    return last - float(scores[-1]) <= 1e-6 + 1e-5 * abs(last)  # FAISS's rounding
