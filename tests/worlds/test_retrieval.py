"""The purpose of the world: each hop is one easy search, and a chain needs all of them."""

from __future__ import annotations

import bm25s
import pytest
import Stemmer

from search_env.worlds.encyclopaedia import World


@pytest.fixture(scope="module")
def world():
    return World(3000, seed=6)


@pytest.fixture(scope="module")
def questions(world):
    return world.questions(800)


@pytest.fixture(scope="module")
def search(world):
    """BM25 with the usual parameters, straight from bm25s."""
    documents, stemmer = list(world.documents()), Stemmer.Stemmer("english")

    def tokens(texts):
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(tokens([f"{d.title}\n{d.text}" for d in documents]), show_progress=False)

    def run(queries, k):
        rows, _ = index.retrieve(tokens(queries), k=k, show_progress=False)
        return [{documents[at].id for at in row} for row in rows]

    return run


def test_hop_queries_find_their_articles(questions, search):
    hops = [hop for question in questions for hop in question.hops]
    results = search([hop.query for hop in hops], 3)
    hits = [hop.document_id in ids for hop, ids in zip(hops, results, strict=True)]
    assert sum(hits) >= 0.97 * len(hits)


def test_one_search_answers_lookups_but_no_chains(questions, search):
    results = search([question.text for question in questions], 5)
    complete = {"lookup": [], "bridge": []}
    for question, ids in zip(questions, results, strict=True):
        family = question.kind.partition("-")[0]
        if family in complete:
            complete[family].append(ids.issuperset(question.supporting))
    lookups, bridges = complete["lookup"], complete["bridge"]
    assert sum(lookups) > 0.9 * len(lookups)
    assert sum(bridges) < 0.1 * len(bridges)
    assert min(len(lookups), len(bridges)) > 100
