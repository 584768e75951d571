"""Fusion by ranks and by scores, beside hand-computed numbers and a slow reference."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.hybrid import HybridRetriever, min_max, z_scores
from search_env.testing.retrievers import check_retriever
from search_env.types import Document


def listed(*pairs):
    return [Document(name, name.upper(), f"text of {name}", score) for name, score in pairs]


def fake(*pairs):
    return FakeRetriever({"q": listed(*pairs)})


A = (("a", 9.0), ("b", 6.0), ("c", 3.0))
B = (("c", 0.9), ("d", 0.8), ("a", 0.4))


def fused(k=10, parts=(A, B), **options):
    found = HybridRetriever([fake(*part) for part in parts], **options).search(["q"], k)[0]
    return [(document.id, round(document.score, 6)) for document in found]


def test_reciprocal_ranks_by_hand():
    # a: 1/61 + 1/63, c: 1/63 + 1/61, b: 1/62, d: 1/62; ties: the first list's order, then the next
    tied = round(1 / 61 + 1 / 63, 6)
    assert fused() == [("a", tied), ("c", tied), ("b", 0.016129), ("d", 0.016129)]


def test_weighted_reciprocal_ranks_by_hand():
    found = dict(fused(weights=[1, 3], rrf_k=0))
    assert found == {"c": round(1 / 3 + 3, 6), "a": 2.0, "d": 1.5, "b": 0.5}


def test_min_max_by_hand():
    # A: a 1, b .5, c 0; B: c 1, d .8, a 0
    assert fused(method="minmax", weights=[0.4, 0.6]) == [
        ("c", 0.6),
        ("d", 0.48),
        ("a", 0.4),
        ("b", 0.2),
    ]


def test_z_scores_by_hand():
    # A: mean 6, deviation sqrt(6): a 1.224745, b 0, c -1.224745, and so for d, which is missing
    spread = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 3)
    c, d, a = 0.2 / spread, 0.1 / spread, -0.3 / spread
    up = math.sqrt(1.5)
    expected = {"a": up + a, "b": 0 + a, "c": -up + c, "d": -up + d}
    assert dict(fused(method="zscore")) == pytest.approx(expected, abs=1e-6)


def test_scores_that_are_equal_say_nothing_of_order():
    assert min_max(np.array([2.0, 2.0]))[0].tolist() == [1.0, 1.0]
    assert z_scores(np.array([2.0, 2.0]))[0].tolist() == [0.0, 0.0]


def test_a_document_that_was_found_has_no_score_of_zero():
    found = fused(method="minmax", parts=((("a", 2.0), ("b", 1.0)), (("c", 5.0),)))
    assert [name for name, _ in found] == ["a", "c", "b"]
    parts = [fake(("a", 2.0), ("b", 1.0)), fake(("c", 5.0))]
    scores = [d.score for d in HybridRetriever(parts, method="minmax").search(["q"], 3)[0]]
    assert scores[-1] > 0


def test_content_is_the_first_lists_and_empty_lists_add_nothing():
    other = Document("a", "other", "other", 1.0)
    hybrid = HybridRetriever([fake(("a", 1.0)), FakeRetriever({"q": [other], "r": [other]})])
    both, only, none = hybrid.search(["q", "r", "x"], 2)
    assert both[0].title == "A"
    assert only[0].title == "other"
    assert none == []


def slow(lists, method, weights):
    """Fuse with plain dictionaries; return ids by falling score, ties by the lists' order."""
    totals, order = {}, []
    for each in lists:
        order += [name for name, _ in each if name not in order]
    for name in order:
        total = 0.0
        for weight, each in zip(weights, lists, strict=True):
            values = [score for _, score in each]
            at = [n for n, _ in each].index(name) if name in dict(each) else None
            if method == "rrf":
                total += 0 if at is None else weight / (60 + at + 1)
            elif values and method == "minmax":
                spread = max(values) - min(values)
                if at is not None:
                    total += weight * ((values[at] - min(values)) / spread if spread else 1.0)
            elif values:
                mean = sum(values) / len(values)
                spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
                z = [(v - mean) / spread if spread else 0.0 for v in values]
                total += weight * (min(z) if at is None else z[at])
        totals[name] = total
    return totals


ranked = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.1, 9), max_size=8).map(
    lambda found: sorted(found.items(), key=lambda item: -item[1])
)


@given(
    st.lists(ranked, min_size=2, max_size=4),
    st.sampled_from(["rrf", "minmax", "zscore"]),
    st.data(),
)
def test_equal_to_a_slow_fusion(lists, method, data):
    weight = st.sampled_from([0.5, 1.0, 2.0])
    weights = data.draw(st.lists(weight, min_size=len(lists), max_size=len(lists)))
    hybrid = HybridRetriever([fake(*each) for each in lists], method=method, weights=weights)
    found = hybrid.search(["q"], 20)[0]
    expected = slow(lists, method, weights)
    assert {d.id: d.score for d in found} == pytest.approx(expected, abs=1e-9)
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


def test_the_depth_bounds_what_each_is_asked_for():
    parts = [fake(*A), fake(*B)]
    hybrid = HybridRetriever(parts, depth=1)
    assert [d.id for d in hybrid.search(["q"], 10)[0]] == ["a", "c"]


PASSAGES = [
    Document(str(i), "", text)
    for i, text in enumerate(
        ["capital of France Paris", "Hamlet who wrote", "river Africa longest"]
    )
]


@pytest.mark.parametrize("method", ["rrf", "minmax", "zscore"])
def test_the_contract_of_retrievers(method):
    parts = [BM25Retriever.build(PASSAGES), BM25Retriever.build(PASSAGES, k1=2.0, b=0.9)]
    hybrid = HybridRetriever(parts, method=method, weights=[1, 2])
    assert check_retriever(hybrid).documents == 3
    assert pickle.loads(pickle.dumps(hybrid)).search(["Hamlet"], 1) == hybrid.search(["Hamlet"], 1)


def test_the_name_says_what_the_results_depend_on():
    parts = [BM25Retriever.build(PASSAGES), FakeRetriever()]
    assert HybridRetriever(parts).name.startswith("hybrid(rrf, k=60, depth=100: 1 * bm25(k1=0.9")
    weighted = HybridRetriever(parts, method="minmax", weights=[0.25, 1]).name
    assert weighted.startswith("hybrid(minmax, depth=100: 0.25 * bm25")
    assert weighted.endswith(" + 1 * FakeRetriever)")


def test_other_documents_are_refused():
    parts = [BM25Retriever.build(PASSAGES), BM25Retriever.build(PASSAGES[:2])]
    with pytest.raises(ConfigurationError, match="over the same documents to fuse, got corpora"):
        HybridRetriever(parts)


def test_a_failing_part_is_a_failure():
    hybrid = HybridRetriever([fake(*A), FakeRetriever(error=RetrievalError("busy"))])
    with pytest.raises(RetrievalError, match="busy"):
        hybrid.search(["q"], 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sum"}, "Expected method among"),
        ({"weights": [1]}, "Expected 2 weights of at least 0"),
        ({"weights": [1, -1]}, "Expected 2 weights"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"weights": [math.nan, 1]}, "Expected 2 weights"),
        ({"depth": 0}, "Expected depth"),
        ({"rrf_k": -1}, "Expected rrf_k"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ConfigurationError, match=message):
        HybridRetriever([fake(*A), fake(*B)], **options)


def test_bad_calls():
    with pytest.raises(ConfigurationError, match="Expected two retrievers or more to fuse, got 1"):
        HybridRetriever([fake(*A)])
    hybrid = HybridRetriever([fake(*A), fake(*B)])
    with pytest.raises(ConfigurationError, match="Expected k"):
        hybrid.search(["q"], 0)
    with pytest.raises(ConfigurationError, match="Expected a list of query strings"):
        hybrid.search("q", 1)
