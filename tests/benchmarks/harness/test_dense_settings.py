"""Ids of published dense retrievers: kept by an index that agrees, refused to others by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_env.benchmarks.harness.dense_settings import (
    BGE_ABSTRACTS,
    BGE_KILT,
    E5_WIKI18,
    DenseSetting,
)
from search_env.benchmarks.harness.errors import DigestMismatchError
from search_env.benchmarks.question_sets.registry import all_benchmarks, get_benchmark
from search_env.errors import ConfigurationError
from search_env.retrieval import registry
from search_env.retrieval.registry import register_retriever_scheme

E5 = "world-2hop/r1-searcher/e5-wiki18/v1"


def card(setting: DenseSetting, **changes: Any) -> dict[str, Any]:
    """Return the card of an index as published, with ``changes`` of its parameters."""
    encoder = {
        "pooling": setting.pooling,
        "normalize": True,
        "query_prefix": setting.query_prefix,
        "max_length": 512,
    }
    parameters = {"metric": "inner_product", "dimension": setting.dimension, "settings": {}}
    counts = {"passages": changes.pop("passages", setting.passages or 5)}
    for name, value in changes.items():
        (encoder if name in encoder else parameters)[name] = value
    return {"parameters": {**parameters, "encoder": encoder}, "counts": counts}


@pytest.mark.parametrize("setting", [E5_WIKI18, BGE_KILT, BGE_ABSTRACTS])
def test_the_published_retriever_is_accepted(setting):
    setting.check(card(setting), "faiss:index")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "cls"}, "pooling 'cls' for 'mean'"),
        ({"normalize": False}, "normalize False for True"),
        ({"query_prefix": ""}, "query_prefix '' for 'query: '"),
        ({"metric": "l2"}, "metric 'l2' for 'inner_product'"),
        ({"dimension": 384}, "dimension 384 for 768"),
        ({"settings": {"nprobe": 64}}, r"settings {'nprobe': 64} for {}"),
        ({"passages": 21_015_323}, "passages 21015323 for 21015324"),
        ({"dimension": 384, "metric": "l2"}, "metric 'l2' for 'inner_product', dimension 384"),
    ],
)
def test_another_retriever_is_refused_by_what_differs(changes, words):
    with pytest.raises(DigestMismatchError, match=f"e5-wiki18 in faiss:index, got .*{words}"):
        E5_WIKI18.check(card(E5_WIKI18, **changes), "faiss:index")


class Carded:
    """A retriever whose card and digest are given."""

    digest = "c0ffee" * 10

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card

    def search(self, queries, k):
        """Find nothing."""
        return [[] for _ in queries]


@pytest.fixture
def protocol():
    """Two-hop questions of the world under Search-R1's retriever, so that no data is needed."""
    world = get_benchmark("world-2hop/r1-searcher/bm25-world1k/v1")
    return replace(world, retrieval="e5-wiki18", corpus_digest="", dense=E5_WIKI18)


def test_an_index_that_agrees_keeps_the_id(protocol):
    cards = {"published": card(E5_WIKI18), "mine": card(E5_WIKI18, passages=5)}
    register_retriever_scheme("faiss", lambda rest: Carded(cards[rest]), replace=True)
    try:
        kept = protocol.over_retriever("faiss:published")
        assert (kept.id, kept.corpus_digest) == (E5, Carded.digest)
        assert kept.environment()["retriever"] == "faiss:published"
        with pytest.raises(DigestMismatchError, match="start from a bm25 id"):
            protocol.over_retriever("faiss:mine")
    finally:
        register_retriever_scheme("faiss", registry._faiss, replace=True)


def test_a_server_is_marked_and_anything_else_refused(protocol):
    served = protocol.over_retriever("http://127.0.0.1:9?dialect=search-r1")
    assert served.id == "world-2hop/r1-searcher/e5-wiki18-served/v1"
    assert served.environment()["retriever"] == "http://127.0.0.1:9?dialect=search-r1"
    with pytest.raises(ConfigurationError, match="Expected an index or a server"):
        protocol.over_retriever("hybrid:bm25+faiss:index")


def test_without_a_retriever(protocol):
    with pytest.raises(ConfigurationError, match=r"retriever of .*e5-wiki18.*e5-base-v2"):
        protocol.environment()


def test_a_corpus_of_ones_own_is_another_id(protocol, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "u", "title": "Ulm", "text": "A city."}\n', "utf-8")
    own = protocol.over_corpus(str(corpus))
    assert own.retrieval.startswith("bm25-")
    assert own.dense is None


def test_every_published_set_has_its_retrievers():
    ids = {name: each for name, each in all_benchmarks().items() if each.dense is not None}
    assert len(ids) == 11
    assert {each.dense.name for each in ids.values()} == {
        E5_WIKI18.name,
        BGE_KILT.name,
        BGE_ABSTRACTS.name,
    }
    assert all(each.arguments["top_k"] in (3, 5) for each in ids.values())
    assert ids["hotpotqa-500/r1-searcher/bge-abstracts2017/v1"].dense is BGE_ABSTRACTS
    assert ids["nq-test/search-r1/e5-wiki18/v1"].dense is E5_WIKI18
