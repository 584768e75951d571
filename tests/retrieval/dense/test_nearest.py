"""Nearest vectors beside brute force: ties, batches, metrics, more candidates when needed."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.errors import IndexFormatError
from search_env.retrieval.dense.nearest import nearest, rows_of

DIMENSION = 8


def brute_force(vectors, queries, k, metric):
    """Return ids and scores of the best, ties by number, in float64."""
    products = vectors.astype(np.float64) @ queries.astype(np.float64).T
    if metric == faiss.METRIC_L2:
        products = -np.square(vectors[:, None].astype(np.float64) - queries[None]).sum(-1)
    scores = products.T.astype(np.float32)
    order = [np.lexsort((np.arange(len(vectors)), -row))[:k] for row in scores]
    return order, [row[best] for row, best in zip(scores, order, strict=True)]


def index_of(vectors, factory="Flat", metric=faiss.METRIC_INNER_PRODUCT):
    index = faiss.index_factory(vectors.shape[1], factory, metric)
    index.train(vectors)
    index.add(vectors)
    return index


small = st.integers(-2, 2)  # few values, so that many vectors and scores tie


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=40),
    asked=st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=30),
    k=st.integers(1, 12),
    metric=st.sampled_from([faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]),
)
def test_equal_to_brute_force_with_ties(rows, asked, k, metric):
    vectors, queries = np.array(rows, np.float32), np.array(asked, np.float32)
    index = index_of(vectors, metric=metric)
    found = nearest(index, queries, k, rows_of(index))
    for hits, ids, scores in zip(found, *brute_force(vectors, queries, k, metric), strict=True):
        np.testing.assert_array_equal(hits.ids, ids)
        np.testing.assert_array_equal(hits.scores, scores)


@pytest.mark.parametrize("copies", [90, 700])
def test_ties_beyond_the_candidates_go_to_the_first_passages(copies):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, DIMENSION)).astype(np.float32)
    query = np.ones((1, DIMENSION), np.float32)
    equal = rng.permutation(1000)[:copies]
    vectors[equal] = 3.0  # more equal vectors than candidates: FAISS returns any of them
    index = index_of(vectors)
    (hits,) = nearest(index, query, 5, rows_of(index))
    np.testing.assert_array_equal(hits.ids, np.sort(equal)[:5])


@pytest.mark.parametrize("factory", ["Flat", "HNSW16,Flat", "IVF8,SQ8", "RR8,IVF8,RaBitQ"])
@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_a_query_has_the_same_answer_in_any_batch(factory, metric):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((600, DIMENSION)).astype(np.float32)
    queries = rng.standard_normal((70, DIMENSION)).astype(np.float32)
    index = index_of(vectors, factory, metric)
    rows = rows_of(index) or (vectors.__getitem__ if "RaBitQ" in factory else None)
    together = nearest(index, queries, 7, rows)
    for query, hits in zip(queries, together, strict=True):
        (alone,) = nearest(index, query[None], 7, rows)
        np.testing.assert_array_equal(alone.ids, hits.ids)
        np.testing.assert_array_equal(alone.scores, hits.scores)
        assert (np.diff(hits.scores) <= 0).all()


def test_a_flat_index_answers_large_batches_exactly():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((3000, DIMENSION)).astype(np.float32)
    queries = rng.standard_normal((64, DIMENSION)).astype(np.float32)
    index = index_of(vectors)
    found = nearest(index, queries, 10, rows_of(index))
    expected = brute_force(vectors, queries, 10, index.metric_type)
    for hits, ids, scores in zip(found, *expected, strict=True):
        np.testing.assert_array_equal(hits.ids, ids)
        np.testing.assert_array_equal(hits.scores, scores)


def test_no_queries_no_vectors_and_fewer_than_k():
    index = index_of(np.eye(3, DIMENSION, dtype=np.float32))
    assert nearest(index, np.zeros((0, DIMENSION), np.float32), 3) == []
    (hits,) = nearest(index, np.ones((1, DIMENSION), np.float32), 10, rows_of(index))
    assert hits.ids.tolist() == [0, 1, 2]
    empty = faiss.IndexFlatIP(DIMENSION)
    (hits,) = nearest(empty, np.ones((1, DIMENSION), np.float32), 10)
    assert len(hits.ids) == len(hits.scores) == 0


def test_lists_that_are_not_visited_leave_fewer_documents():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((100, DIMENSION)).astype(np.float32)
    index = index_of(vectors, "IVF2,Flat")
    (hits,) = nearest(index, vectors[:1], 100)
    assert 0 < len(hits.ids) < 100
    assert (hits.ids >= 0).all()


def test_ids_of_no_passage_are_an_error():
    index = faiss.IndexIDMap(faiss.IndexFlatIP(DIMENSION))
    index.add_with_ids(np.eye(3, DIMENSION, dtype=np.float32), np.array([0, 1, 70]))
    with pytest.raises(IndexFormatError, match=r"Expected passages below 3 .*, got 70"):
        nearest(index, np.ones((1, DIMENSION), np.float32), 3)
