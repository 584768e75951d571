"""A server under load, with failing retrievers, slow clients, killed workers, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("urllib3")

from search_env.cli.main import app
from search_env.errors import RetrievalConnectionError, RetrievalError, RetrievalTimeoutError
from search_env.retrieval.base import FakeRetriever
from search_env.retrieval.http.client import HttpRetriever
from search_env.types import Document
from tests.retrieval.server.running import serving, serving_processes, wait_until
from tests.retrieval.server.test_batching import Gated
from tests.work import HANGS_AFTER

ULM = FakeRetriever({"Ulm": [Document("1", "Ulm", "A city.", 1.0)]})


def client(url, options="", **arguments):
    return HttpRetriever(f"{url}?dialect=search-r1{options}", **arguments)


def status_of(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RetrievalError("no, see http://me:pw@host"), 500),
        (ValueError("no"), 500),
        (RetrievalTimeoutError("late"), 504),
        (RetrievalConnectionError("gone"), 500),
    ],
)
def test_a_retriever_that_fails_is_an_error_of_the_server(error, status):
    with serving(FakeRetriever(error=error), window=0.0) as url:
        found, _, body = status_of(f"{url}/retrieve", b'{"queries": ["a"]}')
        assert found == status
        assert b"pw" not in body
        with pytest.raises(RetrievalError):
            client(url, "&retries=0").search(["a"], 1)


def test_a_full_queue_is_503_with_a_pause_after_which_there_is_room():
    retriever, pauses = Gated(is_open=False), []
    answers = []
    with serving(retriever, window=0.0, max_queue=1, cache=0) as url:
        threads = []
        for query in ("a", "b"):  # one is searched, one waits
            ask = client(url, "&retries=0").search
            threads.append(threading.Thread(target=lambda: answers.append(ask([query], 1))))  # noqa: B023
            threads[-1].start()
            if query == "a":
                retriever.began.acquire()
            else:
                wait_until(lambda: b'"queued":1' in status_of(f"{url}/health", None)[2])
        status, headers, _ = status_of(f"{url}/retrieve", b'{"queries": ["c"], "topk": 1}')
        assert status == 503
        assert int(headers["retry-after"]) >= 1

        def pause(seconds):
            pauses.append(seconds)
            retriever.gate.set()
            for thread in threads:
                thread.join()

        answers.append(client(url, sleep=pause).search(["c"], 1))
    assert pauses == [1.0]
    assert sorted(answer[0][0].text for answer in answers) == ["a", "b", "c"]


def test_a_request_with_more_queries_than_the_queue_holds_can_never_be_answered():
    with serving(ULM, max_queue=2) as url:
        body = json.dumps({"queries": ["a", "b", "c", "a"]}).encode()
        status, _, said = status_of(f"{url}/retrieve", body)
    assert (status, json.loads(said)["detail"]) == (422, "Expected at most 2 queries in a request.")


def test_long_and_slow_requests_do_not_hold_the_others():
    with serving(ULM, window=0.0, max_body=1000, body_timeout=0.2) as url:
        assert status_of(f"{url}/retrieve", b" " * 2000)[0] == 413
        place = (urlsplit(url).hostname, urlsplit(url).port)
        with socket.create_connection(place) as slow, socket.create_connection(place) as gone:
            for peer in (slow, gone):
                peer.sendall(b"POST /retrieve HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            gone.close()
            assert client(url).search(["Ulm"], 1) == ULM.search(["Ulm"], 1)
            reply = b""
            while piece := slow.recv(4096):
                reply += piece
                if b"within 0.2 s" in reply:
                    break
        assert reply.startswith(b"HTTP/1.1 408")
        assert client(url).search(["Ulm"], 1) == ULM.search(["Ulm"], 1)


def test_many_clients_get_their_own_answers():
    """Some leave before their answer comes, some send rubbish."""
    wrong = []
    with serving(Gated(), window=0.001, max_batch=8, cache=16) as url:
        place = (urlsplit(url).hostname, urlsplit(url).port)

        def work(number):
            ask = client(url, "&connections=1", sleep=lambda _: None)
            for turn in range(15):
                if number % 4 == 3:
                    with socket.create_connection(place) as peer:
                        body = b'{"queries": ["left"]}' if turn % 2 else b"rubbish"
                        head = b"POST /retrieve HTTP/1.1\r\nHost: h\r\nContent-Length: "
                        peer.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
                    continue
                queries = [f"{number % 5}-{turn}", f"{turn}"]
                found = ask.search(queries, 2)
                if [[d.text for d in documents] for documents in found] != [
                    [q] * 2 for q in queries
                ]:
                    wrong.append((queries, found))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


PIDS = '''
import os, time, pathlib
import search_env
from search_env.types import Document

class Pids:
    """Answers with the process; "slow" waits for the file "go"."""
    def search(self, queries, k):
        if "slow" in queries:
            pathlib.Path("began").touch()
            while not pathlib.Path("go").exists():
                time.sleep(0.005)
        return [[Document("1", str(os.getpid()), query)] for query in queries]

search_env.register_retriever("pids", Pids)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pids.py").write_text(PIDS)
    return tmp_path


ARGUMENTS = ("--retriever", "pids", "--import", "pids", "--cache", "0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_when_a_server_is_stopped_is_answered(folder, number):
    with serving_processes(*ARGUMENTS, cwd=folder) as (url, process):
        answers = []
        ask = client(url, "&retries=0")
        thread = threading.Thread(target=lambda: answers.append(ask.search(["slow"], 1)))
        thread.start()
        wait_until((folder / "began").exists)
        process.send_signal(number)
        wait_until(lambda: refuses(url))
        (folder / "go").touch()
        thread.join()
        assert answers[0][0][0].text == "slow"
        assert process.wait(60) == 0
        assert "Stopped; all requests are answered." in process.stderr.read()


def refuses(url):
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_killed_workers_are_replaced_and_no_answer_is_lost_or_wrong(folder):
    with serving_processes(*ARGUMENTS, "--workers", "2", cwd=folder) as (url, process):
        ask = client(url, "&retries=1000", sleep=lambda _: time.sleep(0.05))
        seen: set[int] = set()
        killed: set[int] = set()
        for turn in range(60):
            query = f"q{turn}"
            (documents,) = ask.search([query], 1)
            assert documents[0].text == query
            worker = int(documents[0].title)
            seen.add(worker)
            if worker not in killed and len(killed) < 2:
                killed.add(worker)
                os.kill(worker, signal.SIGKILL)
        assert len(killed) == 2
        assert seen > killed
        assert process.pid not in seen
        lines = status_of(f"{url}/metrics", None)[2].decode().splitlines()
        answered = [line for line in lines if line.startswith("search_env_queries_total{")]
        assert sum(float(line.split()[1]) for line in answered) >= 60  # also of killed workers
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


BROKEN = """
import multiprocessing
import search_env

def load():
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("only in the workers")
    return search_env.FakeRetriever()

search_env.register_retriever("broken", load)
"""


def test_workers_that_cannot_start_end_the_server(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    arguments = ("--retriever", "broken", "--import", "broken", "--workers", "2")
    with serving_processes(*arguments, cwd=tmp_path) as (_, process):
        assert process.wait(HANGS_AFTER) == 2
        said = process.stderr.read()
    assert "only in the workers" in said
    assert "Expected the server to start" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "Expected a corpus at nowhere.jsonl"),
        (["--retriever", "bm52"], "Did you mean 'bm25'"),
        (["--retriever", "lookup", "--dataset", "toy", "--workers", "0"], "workers to be"),
        (["--retriever", "lookup", "--dataset", "toy", "--window", "-1"], "Expected window"),
        (["--retriever", "lookup", "--dataset", "toy", "--host", "8.8.8.8"], "Choose another --h"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message):
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert message in result.output
