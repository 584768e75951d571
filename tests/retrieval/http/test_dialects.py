"""Each dialect as a client, against servers that were written from the published sources."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("urllib3")
pytest.importorskip("msgpack")

from search_env.retrieval.http.client import HttpRetriever
from search_env.testing import check_retriever
from search_env.types import Document
from tests.retrieval.http.corpus import QUERIES, retriever, rows
from tests.retrieval.http.peers import SERVERS
from tests.retrieval.http.small_server import Reply, serving

UNSCORED = {"r1-searcher", "serper", "brave", "litellm"}
BATCHED = {"search-r1", "flashrag", "r1-searcher"}
HUGE = Reply(b'{"error": "too long"}', 414)


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    for engine in ("serper", "brave", "tavily"):
        monkeypatch.setenv(f"{engine.upper()}_API_KEY", f"{engine}-key")


@pytest.fixture(scope="module")
def index():
    return retriever()


def answering(index, name):
    answer = functools.partial(SERVERS[name][1], functools.partial(rows, index))
    # The path of a GET has a largest length, as with every server.
    return serving(lambda sent: HUGE if len(sent.path) > 20_000 else answer(sent))


@pytest.mark.parametrize("name", SERVERS)
def test_a_client_keeps_the_contract_and_returns_what_the_server_has(index, name):
    with answering(index, name) as server:
        client = HttpRetriever(f"{server.url}?{SERVERS[name][0]}&retries=0")
        found = client.search(QUERIES, 3)
        requests = len(server.requests)
        report = check_retriever(client, QUERIES)
    expected = index.search(QUERIES, 3)
    for documents, right in zip(found, expected, strict=True):
        assert [(d.id, d.title, d.text) for d in documents] == [
            (d.id, d.title, d.text) for d in right
        ]
    if name not in UNSCORED:
        assert found == expected
    assert report.scored == (name not in UNSCORED)
    assert requests == (1 if name in BATCHED else len(QUERIES))
    assert report.picklable


@pytest.mark.parametrize("path", ["", "/", "/retrieve", "/retrieve/"])
def test_an_address_may_end_with_the_path_of_its_dialect(index, path):
    with answering(index, "search-r1") as server:
        assert HttpRetriever(f"{server.url}{path}?dialect=search-r1").search(["Ulm"], 1)[0]


def test_an_address_may_have_a_path_before_that(index):
    with serving(lambda sent: {"result": [[]]}) as server:
        HttpRetriever(f"{server.url}/wiki/18?dialect=search-r1").search(["Ulm"], 1)
        HttpRetriever(f"{server.url}/wiki/18/retrieve?dialect=skyrl").search(["Ulm"], 1)
    assert [sent.path for sent in server.requests] == ["/wiki/18/retrieve"] * 2


def test_queries_go_in_batches_of_the_largest_size_over_kept_connections(index):
    with answering(index, "search-r1") as server:
        client = HttpRetriever(f"{server.url}?dialect=search-r1&batch=2&connections=1")
        queries = [*QUERIES, "bridge"]
        for _ in range(4):
            assert client.search(queries, 2) == index.search(queries, 2)
    assert len(server.requests) == 3 * 4
    assert len(server.connections) == 1


def test_blank_and_equal_queries_are_not_sent():
    with serving(lambda sent: {"result": [[]]}) as server:
        client = HttpRetriever(f"{server.url}?dialect=search-r1")
        assert client.search(["Ulm", "", "Ulm", " \n"], 1) == [[], [], [], []]
        assert client.search([""], 1) == [[]]
        assert client.search([], 1) == []
    assert [sent.body for sent in server.requests] == [
        b'{"queries":["Ulm"],"topk":1,"return_scores":true}'
    ]


def test_options_of_engines_reach_them(monkeypatch):
    with serving(lambda sent: {"organic": [], "results": []}) as server:
        wikipedia = "suffix=site:en.wikipedia.org"
        HttpRetriever(f"{server.url}?dialect=serper&gl=de&{wikipedia}").search(["a b"], 5)
        HttpRetriever(f"{server.url}?dialect=searxng&engines=wikipedia").search(["a b"], 5)
        HttpRetriever(f"{server.url}?dialect=tavily&search_depth=advanced").search(["a b"], 50)
    assert server.requests[0].body == b'{"q":"a b site:en.wikipedia.org","num":5,"gl":"de"}'
    assert server.requests[1].path == "/search?q=a+b&format=json&engines=wikipedia"
    assert server.requests[2].body == (
        b'{"query":"a b","max_results":20,"search_depth":"advanced"}'
    )


def test_documents_without_ids_have_ids_of_their_content():
    """Search-R1's servers of web results send no ids."""
    entry = {"document": {"contents": '"Ulm"\nA city.'}, "score": 1.0}
    other = {"document": {"contents": '"Bonn"\nA city.'}, "score": 0.5}
    with serving(lambda sent: {"result": [[entry, other]]}) as server:
        client = HttpRetriever(f"{server.url}?dialect=search-r1")
        first, second = client.search(["a"], 3)[0]
        assert client.search(["b"], 3)[0] == [first, second]
    assert (len(first.id), first.title, first.text) == (16, "Ulm", "A city.")
    assert first.id != second.id


def test_ids_may_be_numbers_and_titles_unquoted():
    entry = {"document": {"id": 7, "contents": "Ulm\nA city."}, "score": 1}
    with serving(lambda sent: {"result": [[entry, {"id": 8, "contents": "One line."}]]}) as server:
        found = HttpRetriever(f"{server.url}?dialect=search-r1").search(["a"], 3)[0]
    assert found == [Document("7", "Ulm", "A city.", 1.0), Document("8", "", "One line.")]


def test_lines_of_a_corpus_may_lack_number_and_title():
    lines = ["12\tTitle: Ulm Text: A city.", "no number", "3 1984   A novel."]
    with serving(lambda sent: {"queries": ["a"], "answers": [lines]}) as server:
        found = HttpRetriever(f"{server.url}?dialect=r1-searcher").search(["a"], 3)[0]
    assert found[0] == Document("12", "", "Title: Ulm Text: A city.")
    assert (found[1].title, found[1].text, len(found[1].id)) == ("", "no number", 16)
    assert found[2] == Document("3", "1984", "A novel.")


def test_scores_that_contradict_an_engines_order_are_left_out_and_pages_count_once():
    results = [
        {"url": "u1", "title": "A", "content": None, "score": 0.2},
        {"url": "u2", "title": None, "content": "b", "score": 0.9},
        {"url": "u1", "title": "A again", "content": "a", "score": 0.1},
    ]
    with serving(lambda sent: {"results": results}) as server:
        found = HttpRetriever(f"{server.url}?dialect=searxng").search(["a"], 3)[0]
    assert found == [Document("u1", "A", ""), Document("u2", "", "b")]
