"""Names of retrievers that are made of others: read, refused, and searched."""

from __future__ import annotations

import json
import subprocess
import sys

import gymnasium as gym
import pytest

from search_env.envs.loading import check_retriever as check_name
from search_env.envs.loading import load_retriever
from search_env.errors import ConfigurationError, IndexFormatError
from search_env.retrieval.composites import parts_of_name
from search_env.retrieval.dense.build import build_dense_index
from search_env.retrieval.hybrid import HybridRetriever
from search_env.retrieval.reranking import RerankingRetriever
from search_env.testing.retrievers import check_retriever

QUERIES = ["hamlet", "capital of france", "nile", "ulm"]


@pytest.fixture(scope="module")
def faiss_name(embeddings, corpus, tmp_path_factory):
    """A name with a path that holds a colon, a plus and a bracket."""
    folder = tmp_path_factory.mktemp("in dex+es (1):2") / "flat"
    build_dense_index(corpus, embeddings, folder)
    return f"faiss:{folder}"


@pytest.fixture(scope="module")
def corpus_file(corpus, tmp_path_factory):
    rows = [{"id": d.id, "title": d.title, "text": d.text} for d in corpus]
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def arguments(name, corpus_file):
    return {
        "name": name,
        "dataset": "toy",
        "split": None,
        "options": None,
        "corpus": corpus_file,
    }


def load(name, corpus_file):
    check_name(**arguments(name, corpus_file))
    return load_retriever(**arguments(name, corpus_file))


@pytest.mark.parametrize(
    ("scheme", "method", "weights"),
    [
        ("hybrid:bm25+{}", "rrf", (1.0, 1.0)),
        ("hybrid:2*bm25+{}", "rrf", (2.0, 1.0)),
        ("hybrid-minmax:0.3*bm25+0.7*{}", "minmax", (0.3, 0.7)),
        ("hybrid-zscore:.5*{}+bm25", "zscore", (0.5, 1.0)),
        ("hybrid:bm25+({}?device=cpu)", "rrf", (1.0, 1.0)),
    ],
)
def test_hybrids(faiss_name, corpus_file, scheme, method, weights):
    retriever = load(scheme.format(faiss_name), corpus_file)
    assert isinstance(retriever, HybridRetriever)
    assert (retriever.method, retriever.weights) == (method, weights)
    assert check_retriever(retriever, QUERIES, unknown=None).documents > 4


@pytest.mark.parametrize(
    ("scheme", "depth", "length"),
    [
        ("rerank:{model}:bm25", 10, 64),
        ("rerank:{model}?depth=30&max_length=40&device=cpu:{faiss}", 30, 40),
        ("rerank:{model}:(hybrid:bm25+{faiss})", 10, 64),
        ("rerank:{model}:hybrid:bm25+{faiss}", 10, 64),
    ],
)
def test_rerankers(faiss_name, corpus_file, reranker, scheme, depth, length):
    retriever = load(scheme.format(model=reranker, faiss=faiss_name), corpus_file)
    assert isinstance(retriever, RerankingRetriever)
    assert (retriever.depth, retriever.scorer.max_length) == (depth, length)
    assert check_retriever(retriever, QUERIES, unknown=None).documents > 4


def test_a_cross_encoder_is_loaded_once(corpus_file, reranker):
    one, two = (load(f"rerank:{reranker}?depth={n}:bm25", corpus_file) for n in (5, 6))
    assert one.scorer is two.scorer
    assert (one.depth, two.depth) == (5, 6)


def test_composites_of_composites(faiss_name, corpus_file, reranker):
    name = f"hybrid:bm25+(rerank:{reranker}:hybrid:bm25+{faiss_name})"
    assert parts_of_name(name) == ["bm25", "bm25", faiss_name]
    outer = load(name, corpus_file)
    assert isinstance(outer.retrievers[1].inner, HybridRetriever)
    assert outer.search(["ulm"], 3)[0]


def test_an_environment_takes_a_hybrid(faiss_name, corpus_file):
    name = f"hybrid:bm25+{faiss_name}"
    env = gym.make("SearchQA-v0", tokenizer="byte", retriever=name, corpus=corpus_file, top_k=2)
    env.reset(seed=0)
    assert env.spec.kwargs["retriever"] == name
    assert len(env.unwrapped.retriever.search(["ulm"], 2)[0]) == 2
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hybrid:", "Expected the name of a retriever in 'hybrid:', got an empty one"),
        ("hybrid:bm25", "Expected two retrievers or more in 'hybrid:bm25'"),
        ("hybrid:bm25+fais:x", "Expected two retrievers or more .* got .*'bm25.fais:x'"),
        ("hybrid:bm52+bm25", "Did you mean 'bm25'"),
        ("hybrid:bm25+(bm25", "Expected a closing bracket"),
        ("hybrid:(bm25+bm25", "Expected a closing bracket"),
        ("hybrid:x*bm25+bm25", r"Expected a weight of at least 0 before '\*' .* got 'x'"),
        ("hybrid:-1*bm25+bm25", "got '-1'"),
        ("hybrid:inf*bm25+bm25", "got 'inf'"),
        ("hybrid-max:bm25+bm25", "Did you mean 'hybrid-minmax:'"),
        ("rerank:bm25", "Expected 'rerank:FOLDER:RETRIEVER'"),
        ("rerank::bm25", "Expected 'rerank:FOLDER:RETRIEVER'"),
        ("rerank:models/x:bm52", "Expected 'rerank:FOLDER:RETRIEVER'"),
        ("rerank:models/x:()", "got an empty one"),
    ],
)
def test_bad_names_are_refused_before_anything_is_loaded(corpus_file, name, message):
    with pytest.raises(ConfigurationError, match=message):
        check_name(**arguments(name, corpus_file))


def test_parts_are_checked_as_if_they_stood_alone(corpus_file, tmp_path):
    with pytest.raises(IndexFormatError, match="Expected a dense index"):
        check_name(**arguments(f"hybrid:bm25+faiss:{tmp_path}", corpus_file))
    with pytest.raises(ConfigurationError, match="Expected no corpus for retriever='lookup'"):
        check_name(**arguments("hybrid:bm25+lookup", corpus_file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?deep=3", "Did you mean 'depth'"),
        ("?depth=x", "to be a number"),
        ("?depth=0", "Expected de"),
    ],
)
def test_bad_options(corpus_file, reranker, options, message):
    with pytest.raises(ConfigurationError, match=message):
        load_retriever(**arguments(f"rerank:{reranker}{options}:bm25", corpus_file))


def test_indexes_of_other_documents_are_not_fused(faiss_name, corpus, tmp_path):
    (tmp_path / "other.jsonl").write_text(
        json.dumps({"id": "1", "title": "x", "text": "ulm"}) + "\n"
    )
    with pytest.raises(ConfigurationError, match="Expected retrievers over the same documents"):
        load_retriever(**arguments(f"hybrid:bm25+{faiss_name}", str(tmp_path / "other.jsonl")))


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, search_env.envs.loading, search_env.retrieval.composites;"
        "from search_env.retrieval.dense import build, embeddings;"
        "sys.exit(bool({'torch', 'transformers', 'faiss'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
