"""The k best documents of a few posting lists, in NumPy, without scoring every document.

MaxScore (Turtle and Flood, 1995), term at a time: lists are added up in descending order of their
largest impact; once the remaining lists cannot lift an unseen document into the top k, they are
only looked up for the candidates. The corpus is scanned only where the lists cover a good part of
it anyway. Mostly-zero or heavily tied arrays are never partitioned, since ``np.partition`` of
NumPy >= 2.0 takes ten times as long for them as NumPy 1 did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Documents: TypeAlias = NDArray[np.int32]
Scores: TypeAlias = NDArray[np.float32]

# Measured relative costs; they affect the time, never the results.
_LOOKUP_COST = 16  # of a binary search in a posting list, in postings added up
_PICK_COST = 16  # of reading a posting's score from the accumulator, in documents scanned
_STOP_GAIN = 2**16  # remaining postings from which an early stop pays


class PostingList(NamedTuple):
    """Contribution of one query term to the score of each document that contains it."""

    documents: Documents  # (P,), strictly ascending
    impacts: Scores  # (P,), positive
    bound: float  # at least impacts.max()


def top_k(lists: Sequence[PostingList], k: int, accumulator: Scores) -> tuple[Documents, Scores]:
    """Return the documents with the largest sums of impacts, best first, and these sums.

    Both have length ``min(k, number of documents in any list)``. Ties go to the smaller document.
    Sums are float32, the list with the largest bound first, so documents with equal postings tie
    exactly. ``accumulator`` has one zero for each document of the corpus, and again on return;
    discard it if this function raises.
    """
    if not lists:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    lists = sorted(lists, key=lambda item: -item.bound)
    rest = [0.0]  # rest[i]: upper bound of what lists[i:] add to a document
    for item in reversed(lists):
        rest.append(rest[-1] + item.bound)
    rest.reverse()
    # A sum of n float32 is off by n * 2**-24 at most; the slack covers that.
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
    """Add lists up until no unseen document can matter; return the threshold and their number."""
    threshold = 0.0  # lower bound of the k-th best score
    remaining = sum(len(item.documents) for item in lists)
    for i, item in enumerate(lists):
        if rest[i] < threshold * slack:
            return threshold, i
        np.add.at(accumulator, item.documents, item.impacts)
        remaining -= len(item.documents)
        # An early stop must pay, and no document can exceed the sum of the lists so far.
        worthwhile = remaining > _STOP_GAIN and rest[i + 1] < rest[0] - rest[i + 1]
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
    """Return the accumulator's candidates, which ``remaining`` could lift, each once; zero it."""
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
        accumulator[item.documents] = 0.0  # so that a later list does not return it again
        keep = np.flatnonzero(scores > max(threshold * slack - remaining, 0.0))
        parts.append((item.documents[keep], scores[keep]))
        if len(keep) >= k:
            threshold = max(threshold, _kth_bound(scores[keep], k))
    documents, candidate_scores = zip(*parts, strict=True)
    return np.concatenate(documents), np.concatenate(candidate_scores), threshold


def _look_up(item: PostingList, documents: Documents, accumulator: Scores) -> Scores:
    """Return the impact of each document in one list, 0 where it is absent."""
    if len(documents) * _LOOKUP_COST < len(item.documents):
        at = np.searchsorted(item.documents, documents)
        at[at == len(item.documents)] = 0
        return np.where(item.documents[at] == documents, item.impacts[at], np.float32(0.0))
    accumulator[item.documents] = item.impacts
    impacts = accumulator[documents]
    accumulator[item.documents] = 0.0
    return impacts


def _kth_bound(scores: Scores, k: int) -> float:
    """Return a value that at least ``k`` of the scores reach: the k-th largest or slightly less.

    The k-th largest of column maxima is one SIMD pass whatever the ties; a partition is not.
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
            # The bound is the k-th best score itself: fill up with the first documents at it.
            tied = documents[scores == bound]
            free = k - len(above)
            tied = np.partition(tied, free)[:free] if free < len(tied) else tied
            documents = np.concatenate([documents[above], tied])
            scores = np.concatenate([scores[above], np.full(len(tied), bound, np.float32)])
            break
        documents, scores = documents[above], scores[above]
    order = np.lexsort((documents, -scores))
    return documents[order], scores[order]
