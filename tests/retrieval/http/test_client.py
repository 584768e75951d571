"""Failures of servers: each is an error of its own, and none says a key."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading

import pytest

pytest.importorskip("urllib3")
pytest.importorskip("msgpack")

from search_env.errors import (
    InvalidRetrievalError,
    RetrievalConnectionError,
    RetrievalError,
    RetrievalRefusedError,
    RetrievalTimeoutError,
)
from search_env.retrieval.base import retrieve_each
from search_env.retrieval.http.address import parse_address
from search_env.retrieval.http.client import HttpRetriever, _Exchange
from search_env.types import Document
from tests.retrieval.http.small_server import Reply, serving
from tests.work import HANGS_AFTER

ULM = {"document": {"id": "1", "contents": '"Ulm"\nA city.'}, "score": 1.0}
RIGHT = {"result": [[ULM]]}


def ask(server, options="", dialect="search-r1", **arguments):
    name = f"{server.url}?dialect={dialect}&retries=0{options}"
    return HttpRetriever(name, **arguments).search(["q"], 1)


def wrong(score):
    return {"result": [[{**ULM, "score": score}]]}


@pytest.mark.parametrize(
    ("dialect", "reply", "message"),
    [
        ("search-r1", Reply(b"<!doctype><p>hi"), "Expected JSON from .*, got HTML: .<!doctype"),
        ("search-r1", Reply(b"busy"), "Expected JSON from .*, got something else: 'busy'"),
        ("search-r1", Reply(b"[" * 100_000), "Expected JSON"),
        ("search-r1", {"result": []}, "Expected 1 lists in result, one for each query.*got 0"),
        ("search-r1", {"result": [[], []]}, "Expected 1 lists in result.*got 2"),
        ("search-r1", {"results": [[]]}, "Expected a field result from .*, got the fields"),
        ("search-r1", [[]], "Expected an object at the top"),
        ("search-r1", {"result": [[ULM, ULM]]}, "Expected at most 1 documents from .*, got 2"),
        ("search-r1", Reply(b'{"result": [[{"document": {"contents": "a"}, "score": NaN}]]}'),
         r"Expected result\[0\]\[0\].score to be a finite number from .*, got nan"),
        ("search-r1", wrong(float("inf")), "finite number"),
        ("search-r1", wrong("1.0"), "finite number from .*, got '1.0'"),
        ("search-r1", wrong(True), "finite number from .*, got True"),
        ("search-r1", wrong(10**400), "finite number"),
        ("search-r1", {"result": [["a"]]}, r"result\[0\]\[0\] to be an object"),
        ("search-r1", {"result": [[{"id": "1", "text": "a"}]]}, r"a field .*contents"),
        ("search-r1", {"result": [[{"id": [], "contents": "a"}]]}, "string or an integer"),
        ("skyrl", {"result": []}, "Expected 1 lists in result"),
        ("flashrag", [[[]], [[1.0]]], r"Expected 0 scores in scores\[0\] from .*, got 1"),
        ("flashrag", [[]], "a pair of documents and scores from .*, got a list of 1"),
        ("flashrag", {"detail": "x"}, "the reply to be a list"),
        ("r1-searcher", {"answers": [[1]]}, r"answers\[0\]\[0\] to be a string"),
        ("ragen", {"results": [{"id": 1, "score": 1}]}, "a field .*content"),
        ("ragen", {"error": "Missing 'query'"}, "Expected a field results"),
        ("gem", Reply(b"{}"), "Expected msgpack from .*, got something else: '{}'"),
        ("gem", Reply(b"\x81\xa6result"), "Expected msgpack"),
        ("searxng", {"query": "q"}, "Expected a field results"),
        ("litellm&tool=t", {"results": [{"url": 1.5}]}, "a string or an integer"),
    ],
)  # fmt: skip
def test_a_server_that_lies_is_found_out(dialect, reply, message):
    with serving(lambda sent: reply) as server, pytest.raises(InvalidRetrievalError, match=message):
        ask(server, dialect=dialect)
    assert len(server.requests) == 1  # it would lie again


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, RetrievalRefusedError, "Check that the server speaks 'search-r1'"),
        (401, RetrievalRefusedError, r"Check the key in \$SEARCH_ENV_RETRIEVER_KEY"),
        (404, RetrievalRefusedError, "Check the address"),
        (422, RetrievalRefusedError, "got status 422: no such field"),
        (302, RetrievalRefusedError, "Write the address that it leads to"),
        (429, RetrievalConnectionError, "got status 429"),
        (500, RetrievalError, "See the server's log"),
        (502, RetrievalConnectionError, "what stands in front"),
        (503, RetrievalConnectionError, "try again later"),
    ],
)
def test_statuses(status, kind, message):
    reply = Reply(b"no such field", status, "text/plain", {"Location": "http://127.0.0.1:1/"})
    with serving(lambda sent: reply) as server, pytest.raises(kind, match=message) as error:
        ask(server)
    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("status", "attempts"), [(400, 1), (404, 1), (429, 3), (500, 3), (502, 3), (503, 3)]
)
def test_what_may_pass_is_tried_again(status, attempts):
    pauses = []
    with serving(lambda sent: Reply(b"", status)) as server:
        name = f"{server.url}?dialect=search-r1&retries=2"
        with pytest.raises(RetrievalError):
            HttpRetriever(name, sleep=pauses.append).search(["q"], 1)
    assert len(server.requests) == attempts
    assert pauses == [0.5, 1.0][: attempts - 1]


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", [7.0]), ("0", [0.5]), ("Mon, 01 Jan 2029 00:00:00 GMT", [0.5]), ("-1", [0.5])],
)
def test_a_server_that_names_a_pause_gets_it(header, expected):
    pauses, replies = [], [Reply(b"", 503, headers={"Retry-After": header}), RIGHT]
    with serving(lambda sent: replies.pop(0)) as server:
        name = f"{server.url}?dialect=search-r1"
        assert HttpRetriever(name, sleep=pauses.append).search(["q"], 1)[0]
    assert pauses == expected


def test_a_server_that_names_too_long_a_pause_is_not_asked_again():
    pauses = []
    with serving(lambda sent: Reply(b"", 429, headers={"Retry-After": "3600"})) as server:
        name = f"{server.url}?dialect=search-r1"
        with pytest.raises(RetrievalConnectionError) as error:
            HttpRetriever(name, sleep=pauses.append).search(["q"], 1)
    assert (error.value.retry_after, pauses, len(server.requests)) == (3600.0, [], 1)


def test_a_server_that_is_not_there_is_one_error_for_all_queries():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    pauses = []
    client = HttpRetriever(f"{url}?dialect=search-r1&retries=1", sleep=pauses.append)
    answers = retrieve_each(client, ["a", "b", "c"], 1)
    assert {type(answer) for answer in answers} == {RetrievalConnectionError}
    assert pauses == [0.5]  # not for each query
    assert "Start the server, or correct the address" in str(answers[0])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length:",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK\r\n\r\n{",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_a_cut_connection_is_tried_again(raw):
    replies = [Reply(raw=raw), RIGHT]
    with serving(lambda sent: replies.pop(0)) as server:
        client = HttpRetriever(f"{server.url}?dialect=search-r1", sleep=lambda _: None)
        assert client.search(["q"], 1) == [[Document("1", "Ulm", "A city.", 1.0)]]
    replies.append(Reply(raw=raw))
    with serving(lambda sent: replies.pop(0)) as server, pytest.raises(RetrievalConnectionError):
        ask(server)


def test_an_old_server_that_ends_a_reply_with_the_connection_is_understood():
    raw = b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(RIGHT).encode()
    with serving(lambda sent: Reply(raw=raw)) as server:
        assert ask(server) == [[Document("1", "Ulm", "A city.", 1.0)]]


def test_a_reply_may_be_compressed_or_in_chunks():
    packed = gzip.compress(json.dumps(RIGHT).encode())
    plain = json.dumps(RIGHT).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (plain[:9], plain[9:])) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    replies = [Reply(packed, headers={"Content-Encoding": "gzip"}), Reply(raw=head + chunks)]
    with serving(lambda sent: replies.pop(0)) as server:
        assert ask(server) == ask(server) == [[Document("1", "Ulm", "A city.", 1.0)]]


def test_a_server_that_does_not_answer_is_left():
    release = threading.Event()
    with serving(lambda sent: release.wait(60) and RIGHT) as server:
        with pytest.raises(RetrievalTimeoutError, match=r"within 0\.2 s"):
            ask(server, "&timeout=0.2")
        release.set()


def test_a_reply_byte_by_byte_does_not_hold_a_thread_for_ever():
    """Each read takes less than the limit, the reply takes longer."""
    stop = threading.Event()

    def drip(listener):
        try:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.01):
                    peer.sendall(b" ")
        except OSError:  # what the client does at its limit
            stop.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        exchange = _Exchange(parse_address(f"{url}?dialect=search-r1&timeout=0.3"))
        with pytest.raises(RetrievalTimeoutError, match=r"within 0\.3 s"):
            exchange.search(["q"], 1)
        assert stop.wait(HANGS_AFTER), "the client holds the connection"
        thread.join()


def test_no_error_says_the_key(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "s3cret-key")
    for status in (200, 400, 403, 500, 503):
        body = b"your key s3cret-key is wrong, see http://me:pw@host/?k=s3cret-key"
        with serving(lambda sent: Reply(body, status)) as server:  # noqa: B023
            with pytest.raises(RetrievalError) as error:
                ask(server, dialect="serper")
            assert server.requests[0].headers["X-Api-Key"] == "s3cret-key"
        assert "s3cret" not in str(error.value)
        assert "pw@" not in str(error.value)
        assert error.value.__cause__ is None


def test_a_failing_query_does_not_repeat_those_that_were_answered():
    def answer(sent):
        return Reply(b"", 500) if b'"bad"' in sent.body else RIGHT

    with serving(answer) as server:
        name = f"{server.url}?dialect=skyrl&retries=2&connections=1"
        with pytest.raises(RetrievalError):
            HttpRetriever(name, sleep=lambda _: None).search(["a", "bad", "b"], 1)
    asked = [json.loads(sent.body)["query"] for sent in server.requests]
    assert asked == ["a", "bad", "bad", "bad"]


def test_a_forked_process_has_connections_of_its_own():
    """Two processes on one connection would read each other's replies."""

    def answer(sent):
        (query,) = json.loads(sent.body)["queries"]
        return {"result": [[{"id": query, "contents": query}]]}

    with serving(answer) as server:
        client = HttpRetriever(f"{server.url}?dialect=search-r1")
        assert client.search(["before"], 1)[0][0].id == "before"
        opened = len(server.connections)
        child = os.fork()
        if not child:
            right = all(client.search([f"c{i}"], 1)[0][0].id == f"c{i}" for i in range(20))
            os._exit(0 if right else 1)
        assert all(client.search([f"p{i}"], 1)[0][0].id == f"p{i}" for i in range(20))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(server.connections) == opened + 1
