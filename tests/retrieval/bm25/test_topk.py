"""The top-k against a full sort, whatever way through the algorithm is taken."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.retrieval.bm25 import topk
from search_env.retrieval.bm25.topk import PostingList, top_k


@st.composite
def corpora(draw):
    """Posting lists over a small corpus; few distinct impacts, hence many ties."""
    num_documents = draw(st.integers(1, 60))
    impacts = st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0])  # sums are exact in float32
    lists = []
    for _ in range(draw(st.integers(0, 7))):
        documents = sorted(draw(st.sets(st.integers(0, num_documents - 1), min_size=1)))
        scale = draw(st.sampled_from([1.0, 0.125, 16.0]))
        values = [draw(impacts) * scale for _ in documents]
        slack = draw(st.sampled_from([0.0, 0.5]))  # a bound need not be tight
        lists.append(PostingList(np.int32(documents), np.float32(values), max(values) + slack))
    return num_documents, lists


def expected(num_documents, lists, k):
    """Score every document, sort all."""
    totals = {}
    for item in lists:
        for document, impact in zip(item.documents.tolist(), item.impacts.tolist(), strict=True):
            totals[document] = totals.get(document, 0.0) + impact
    return sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


# Each setting of the cost constants forces another way: early stop or not, look-up by bisection or
# not, candidates by scan or by posting.
WAYS = [
    {"_STOP_GAIN": stop, "_LOOKUP_COST": look_up, "_PICK_COST": pick}
    for stop in (-1, 2**16)
    for look_up in (0, 2**30)
    for pick in (0, 2**30)
]


@pytest.mark.parametrize("way", WAYS)
@given(corpus=corpora(), k=st.integers(1, 70))
def test_equal_to_sorting_everything(way, corpus, k):
    num_documents, lists = corpus
    accumulator = np.zeros(num_documents, np.float32)
    with mock.patch.multiple(topk, **way):
        documents, scores = top_k(lists, k, accumulator)
    got = list(zip(documents.tolist(), scores.tolist(), strict=True))
    assert got == expected(num_documents, lists, k)
    assert not accumulator.any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ties", [False, True])
def test_large_lists(way, ties):
    rng = np.random.default_rng(7)
    num_documents = 30_000
    lists = []
    for size in (40, 900, 9_000, 25_000):
        documents = np.sort(rng.choice(num_documents, size, replace=False)).astype(np.int32)
        scale = 1000 / size
        impacts = (rng.integers(1, 3, size) if ties else rng.random(size) + 1) * scale
        impacts = impacts.astype(np.float32)
        lists.append(PostingList(documents, impacts, float(impacts.max())))
    totals = np.zeros(num_documents, np.float32)
    for item in sorted(lists, key=lambda item: -item.bound):
        totals[item.documents] += item.impacts
    order = np.lexsort((np.arange(num_documents), -totals))
    for k in (1, 5, 300, 2_000):
        accumulator = np.zeros(num_documents, np.float32)
        with mock.patch.multiple(topk, **way):
            documents, scores = top_k(lists, k, accumulator)
        np.testing.assert_array_equal(documents, order[:k])
        np.testing.assert_array_equal(scores, totals[order[:k]])
        assert not accumulator.any()


def test_all_documents_tied_gives_the_first_ones():
    everything = np.arange(100_000, dtype=np.int32)
    item = PostingList(everything, np.ones(100_000, np.float32), 1.0)
    documents, scores = top_k([item], 4, np.zeros(100_000, np.float32))
    assert documents.tolist() == [0, 1, 2, 3]
    assert scores.tolist() == [1.0] * 4


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=3000), st.data())
def test_kth_bound_is_reached_by_k_scores(values, data):
    k = data.draw(st.integers(1, len(values)))
    bound = topk._kth_bound(np.float32(values), k)
    assert sum(value >= bound for value in values) >= k
