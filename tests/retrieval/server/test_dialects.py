"""Our server, asked by clients of the published systems and by our own."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("urllib3")
pytest.importorskip("msgpack")

from search_env.retrieval.http.client import HttpRetriever
from search_env.retrieval.server.run import open_socket
from search_env.testing import check_retriever
from tests.retrieval.http.corpus import QUERIES, retriever
from tests.retrieval.http.peers import CLIENTS
from tests.retrieval.server.running import serving

LOCAL = ("search-r1", "skyrl", "flashrag", "r1-searcher", "ragen", "gem")


@pytest.fixture(scope="module")
def index():
    return retriever()


@pytest.fixture(scope="module")
def server(index):
    with serving(index, window=0.0) as url:
        yield url


def post(url, body, headers=None):
    request = urllib.request.Request(url, body, headers or {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_of_others_read_what_the_retriever_found(index, server, name):
    for query in [*QUERIES, "qzxvwjk"]:
        (right,) = index.search([query], 3)
        expected = [(f'"{d.title}"', d.text) for d in right]
        if name == "r1-searcher":  # a document is a line there
            expected = [(title, " ".join(text.splitlines())) for title, text in expected]
        assert CLIENTS[name](server, query, 3) == expected


@pytest.mark.parametrize("dialect", LOCAL)
def test_our_client_keeps_the_contract_over_it(index, server, dialect):
    client = HttpRetriever(f"{server}?dialect={dialect}&retries=0")
    report = check_retriever(client, QUERIES)
    found = client.search(QUERIES, 3)
    if dialect == "r1-searcher":
        assert not report.scored
        assert [[d.id for d in documents] for documents in found] == [
            [d.id for d in documents] for documents in index.search(QUERIES, 3)
        ]
    else:
        assert found == index.search(QUERIES, 3)


def test_search_r1_without_scores_gets_documents_alone_and_a_default_k(server):
    reply = json.loads(post(f"{server}/retrieve", b'{"queries": ["bridge", ""]}'))
    assert [len(found) for found in reply["result"]] == [3, 0]
    assert set(reply["result"][0][0]) == {"id", "contents"}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/retrieve", "{", "Expected JSON, got something else: '{'"),
        ("/retrieve", "<html>", "Expected JSON, got HTML: '<html>'"),
        ("/retrieve", "", "Expected JSON"),
        ("/retrieve", "[]", "Expected an object, got list"),
        ("/retrieve", "{}", "Expected queries with topk (search-r1), query with topk (skyrl) or"),
        ("/retrieve", '{"queries": "a"}', "Expected queries to be a list of strings, got 'a'."),
        ("/retrieve", '{"queries": [1]}', "Expected queries to be a list of strings, got [1]."),
        ("/retrieve", '{"query": 1, "top_k": 1}', "Expected query to be a string, got 1."),
        ("/retrieve", '{"query": "a", "top_k": 0}', "Expected top_k to be an integer from 1 to"),
        ("/retrieve", '{"query": "a", "topk": true}', "Expected topk to be an integer from 1 to"),
        ("/retrieve", '{"queries": ["a"], "topk": 1e9}', "Expected topk to be an integer"),
        ("/retrieve", '{"queries": ["a"], "return_scores": 1}', "return_scores to be true or"),
        ("/retrieve", b"\x81\xa1", "Expected msgpack"),
        ("/retrieve", b"\x81\x01\x02", "Expected msgpack"),
        ("/retrieve", b"\x80", "Expected query to be a string, got None."),
        ("/search", '{"query": ["a"]}', "Expected query to be a string, got ['a']."),
        ("/batch_search", '{"query": "a"}', "Expected query to be a list of strings, got 'a'."),
        ("/batch_search", '{"query": [], "top_n": "3"}', "Expected top_n to be an integer"),
        ("/queries", '{"query": "a"}', "Expected queries to be a list of strings, got None."),
        ("/queries", '{"queries": ["a"], "k": -1}', "Expected k to be an integer from 1 to"),
        ("/queries", "9" * 10_000, "Expected "),
    ],
)
def test_a_wrong_request_is_told_what_was_expected(server, path, body, message):
    content = body.encode() if isinstance(body, str) else body
    with pytest.raises(urllib.error.HTTPError) as error:
        post(f"{server}{path}", content)
    assert error.value.code == 422
    assert message in json.loads(error.value.read())["detail"]


def test_unknown_paths_and_methods(server):
    for path, body, code in (("/nothing", b"{}", 404), ("/retrieve", None, 405)):
        with pytest.raises(urllib.error.HTTPError) as error:
            post(server + path, body)
        assert error.value.code == code
        error.value.close()


def test_replies_do_not_wait_for_acknowledgements():
    """A reply is sent in two pieces: with Nagle's algorithm the second comes 40 ms later."""
    with open_socket("127.0.0.1", 0) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with peer, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_health_and_metrics(index):
    with serving(index, window=0.0, cache=2) as url:
        for queries in (["Ulm", "Ulm", "Bonn"], ["Ulm"]):
            HttpRetriever(f"{url}?dialect=search-r1").search(queries, 1)
        post(f"{url}/queries", b'{"queries": ["Ulm", "Ulm"], "k": 1}')
        with pytest.raises(urllib.error.HTTPError):
            post(f"{url}/queries", b"")
        health = json.loads(post(f"{url}/health", None))
        lines = post(f"{url}/metrics", None).decode().splitlines()
    assert health == {"status": "healthy", "retriever": index.name, "queued": 0}
    for line in (
        'search_env_requests_total{dialect="search-r1",status="200"} 2.0',
        'search_env_requests_total{dialect="r1-searcher",status="200"} 1.0',
        'search_env_requests_total{dialect="unknown",status="422"} 1.0',
        'search_env_queries_total{outcome="searched"} 2.0',
        'search_env_queries_total{outcome="cached"} 2.0',
        'search_env_queries_total{outcome="shared"} 1.0',
        'search_env_batch_queries_bucket{le="2.0"} 1.0',
        "search_env_queue_queries 0.0",
    ):
        assert line in lines
