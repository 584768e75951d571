"""Properties of the pure functions: what a server of ours writes, a client of ours reads back."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("msgpack")

from hypothesis import given, settings
from hypothesis import strategies as st

from search_env.retrieval.http import fields, gem
from search_env.retrieval.http.dialects import DIALECTS, SERVED
from search_env.retrieval.http.fields import WrongReplyError
from search_env.types import Document

TEXTS = st.text(max_size=20)
TITLES = TEXTS.filter(lambda title: " ".join(title.splitlines()) == title)
SCORES = st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.builds(Document, TEXTS.filter(bool), TITLES, TEXTS, SCORES)
RESULTS = st.lists(st.tuples(TEXTS, st.lists(DOCUMENTS, max_size=4)), min_size=1, max_size=4)
PATHS = {"search-r1": "/retrieve", "skyrl": "/retrieve", "flashrag": "/batch_search"}
PATHS |= {"ragen": "/retrieve", "r1-searcher": "/queries"}


def exchange(name, queries, k, results):
    """Return what a client reads of a server's answer, and the queries and k that it was asked."""
    dialect = DIALECTS[name]
    sent = dialect.request(queries, k, {})
    if name == "gem":
        asked = gem.asked(gem.unpack(sent.body))
        reply = gem.pack(asked.reply(results))
    else:
        assert sent.path == PATHS[name]
        asked = SERVED[sent.path](fields.read_json(sent.body))
        reply = fields.write_json(asked.reply(results))
    return dialect.documents(reply, len(queries)), asked


@pytest.mark.parametrize("name", ["search-r1", "skyrl", "flashrag", "ragen", "gem"])
@settings(max_examples=25)
@given(RESULTS, st.integers(1, 100))
def test_documents_come_back_as_they_were(name, results, k):
    if not DIALECTS[name].batched:
        results = results[:1]
    queries = [query for query, _ in results]
    found, asked = exchange(name, queries, k, [documents for _, documents in results])
    assert found == [documents for _, documents in results]
    assert (asked.dialect, asked.queries, asked.k) == (name, queries, k)


LINES = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=8)


@settings(max_examples=25)
@given(st.lists(st.builds(Document, st.integers(0, 10**12).map(str), LINES, LINES), max_size=4))
def test_lines_of_a_corpus_come_back_without_scores(documents):
    found, asked = exchange("r1-searcher", ["q"], 3, [documents])
    assert found == [documents]
    assert (asked.queries, asked.k) == (["q"], 3)


def test_lone_surrogates_travel():
    odd = Document("\udcff", "\ud800", "a\udfff", 1.0)
    for name in ("search-r1", "gem"):
        found, asked = exchange(name, ["\udcff"], 1, [[odd]])
        assert found == [[odd]]
        assert asked.queries == ["\udcff"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["result", "results", "answers", "organic", "web", "document", "id"])
            | st.sampled_from(["contents", "content", "url", "title", "score", "queries"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=25)
@given(JSON, st.integers(1, 3))
def test_any_reply_is_documents_or_a_wrong_reply(name, value, count):
    body = gem.pack(value) if name == "gem" and packs(value) else json.dumps(value).encode()
    try:
        found = DIALECTS[name].documents(body, count)
    except WrongReplyError:
        return
    assert all(type(one) is Document for documents in found for one in documents)


def packs(value):
    """Whether msgpack can hold a value: integers have 64 bits there."""
    try:
        gem.pack(value)
    except OverflowError:
        return False
    return True


@pytest.mark.parametrize("path", SERVED)
@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["query", "queries", "topk", "top_k", "k", "top_n"]), JSON))
def test_any_request_is_understood_or_refused(path, values):
    try:
        asked = SERVED[path](values)
    except fields.WrongRequestError:
        return
    assert all(isinstance(query, str) for query in asked.queries)
    assert asked.k >= 1
