"""The k best documents of a few posting lists, in NumPy, without looking at every document.

MaxScore (Turtle and Flood, 1995), term at a time: lists are added up in order of the most they can
contribute; once the lists still to come cannot lift an unseen document into the top k, they are
only looked up for the candidates at hand. The corpus is scanned only where the lists cover a good
part of it anyway. Nothing partitions a mostly-zero or heavily tied array, which takes
``np.partition`` of NumPy >= 2.0 ten times as long as it took NumPy 1.

It knows lists of (document, impact), not words or scoring formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Documents: TypeAlias = NDArray[np.int32]
Scores: TypeAlias = NDArray[np.float32]

# Relative costs, measured; they decide about time, never about results.
_LOOKUP_COST = 16  # a binary search in a posting list, in postings added up
_PICK_COST = 16  # taking a posting's score out of the accumulator, in documents scanned
_STOP_GAIN = 2**16  # postings left over that are worth the bookkeeping of stopping early


class PostingList(NamedTuple):
    """What one query term adds to the score of each document that holds it.

    Attributes:
        documents: int32 ``(P,)``, strictly ascending.
        impacts: float32 ``(P,)``, positive.
        bound: At least ``impacts.max()``.
    """

    documents: Documents
    impacts: Scores
    bound: float


def top_k(lists: Sequence[PostingList], k: int, accumulator: Scores) -> tuple[Documents, Scores]:
    """Return the ``k`` documents with the largest sums of impacts, best first.

    Ties go to the smaller document. Sums are float32, the list with the largest bound first, so
    documents with equal postings tie exactly.

    Args:
        lists: One for each term; may be empty.
        k: At least 1.
        accumulator: float32, one zero for each document of the corpus. Zero again on return; to be
            thrown away where this function raises.

    Returns:
        Documents and scores, both of length ``min(k, number of documents in any list)``.

    Example:
        >>> a = PostingList(np.int32([0, 1, 2]), np.float32([1, 1, 1]), 1.0)
        >>> b = PostingList(np.int32([2]), np.float32([0.5]), 0.5)
        >>> documents, scores = top_k([a, b], 2, np.zeros(4, np.float32))
        >>> documents.tolist(), scores.tolist()
        ([2, 0], [1.5, 1.0])
    """
    if not lists:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    lists = sorted(lists, key=lambda item: -item.bound)
    rest = [0.0]  # rest[i]: the most that lists[i:] can add to a document
    for item in reversed(lists):
        rest.append(rest[-1] + item.bound)
    rest.reverse()
    # A sum of n float32 is off by n * 2**-24 at most: only what is surely lower is dropped.
    slack = 1.0 - len(lists) * 2.0**-22

    threshold, used = _accumulate(lists, rest, slack, k, accumulator)
    documents, scores, threshold = _collect(
        lists[:used], rest[used], slack, threshold, k, accumulator
    )
    for item, remaining in zip(lists[used:], rest[used + 1 :], strict=True):
        scores += _look_up(item, documents, accumulator)
        if len(documents) > k:
            threshold = max(threshold, _kth_bound(scores, k))
            keep = np.flatnonzero(scores > threshold * slack - remaining)
            documents, scores = documents[keep], scores[keep]
    return _best(documents, scores, k)


def _accumulate(
    lists: Sequence[PostingList], rest: Sequence[float], slack: float, k: int, accumulator: Scores
) -> tuple[float, int]:
    """Add lists up until no unseen document can matter; return the threshold and how many."""
    threshold = 0.0  # at most the k-th best score
    left = sum(len(item.documents) for item in lists)
    for i, item in enumerate(lists):
        if rest[i] < threshold * slack:
            return threshold, i
        np.add.at(accumulator, item.documents, item.impacts)
        left -= len(item.documents)
        # Stopping must pay, and no document can have more than the lists so far hold.
        worthwhile = left > _STOP_GAIN and rest[i + 1] < rest[0] - rest[i + 1]
        if worthwhile and len(item.documents) >= k:
            threshold = max(threshold, _kth_bound(accumulator[item.documents], k))
    return threshold, len(lists)


def _collect(
    lists: Sequence[PostingList],
    remaining: float,
    slack: float,
    threshold: float,
    k: int,
    accumulator: Scores,
) -> tuple[Documents, Scores, float]:
    """Take the candidates out of the accumulator, each once, and leave zeros behind.

    A candidate may still reach the threshold with what is ``remaining``.
    """
    if _PICK_COST * sum(len(item.documents) for item in lists) > len(accumulator):
        if len(accumulator) >= k:
            threshold = max(threshold, _kth_bound(accumulator, k))
        keep = np.flatnonzero(accumulator > max(threshold * slack - remaining, 0.0))
        scores = accumulator[keep]
        accumulator.fill(0.0)
        return keep.astype(np.int32), scores, threshold
    parts = []
    for item in lists:
        scores = accumulator[item.documents]
        accumulator[item.documents] = 0.0  # so that a later list does not find it again
        keep = np.flatnonzero(scores > max(threshold * slack - remaining, 0.0))
        parts.append((item.documents[keep], scores[keep]))
        if len(keep) >= k:
            threshold = max(threshold, _kth_bound(scores[keep], k))
    documents, found = zip(*parts, strict=True)
    return np.concatenate(documents), np.concatenate(found), threshold


def _look_up(item: PostingList, documents: Documents, accumulator: Scores) -> Scores:
    """Return the impact of each document in one list, 0 where it is not in it."""
    if len(documents) * _LOOKUP_COST < len(item.documents):
        at = np.searchsorted(item.documents, documents)
        at[at == len(item.documents)] = 0
        return np.where(item.documents[at] == documents, item.impacts[at], np.float32(0.0))
    accumulator[item.documents] = item.impacts
    found = accumulator[documents]
    accumulator[item.documents] = 0.0
    return found


def _kth_bound(scores: Scores, k: int) -> float:
    """Return a value that at least ``k`` of the scores reach: the k-th largest or little less.

    The k-th largest of column maxima is one pass of SIMD whatever the ties, a partition is not.
    """
    columns = max(256, 4 * k)
    rows = len(scores) // columns
    if rows > 1:
        scores = scores[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.sort(scores)[-k])


def _best(documents: Documents, scores: Scores, k: int) -> tuple[Documents, Scores]:
    """Return the ``k`` best of distinct documents, ties to the smaller document."""
    while len(documents) > k:
        bound = _kth_bound(scores, k)
        above = np.flatnonzero(scores > bound)
        if len(above) <= k:
            # The bound is the k-th best score itself: fill up with the first that have it.
            tied = documents[scores == bound]
            free = k - len(above)
            tied = np.partition(tied, free)[:free] if free < len(tied) else tied
            documents = np.concatenate([documents[above], tied])
            scores = np.concatenate([scores[above], np.full(len(tied), bound, np.float32)])
            break
        documents, scores = documents[above], scores[above]
    order = np.lexsort((documents, -scores))
    return documents[order], scores[order]
