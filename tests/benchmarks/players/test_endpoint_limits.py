"""Endpoints that are slow, wrong or secret: whole replies in time, no odd ids, no credentials."""

from __future__ import annotations

import json
import logging
import socket
import threading
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
import pytest

from tests.benchmarks.players.endpoint_server import chat_reply, serving, text_reply
from tests.benchmarks.players.test_openai_endpoint import WORLD, oracle, player
from tests.work import HANGS_AFTER

pytest.importorskip("openai")

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.harness.errors import (
    BenchmarkError,
    EndpointError,
    EndpointReplyError,
    EndpointTimeoutError,
)
from search_env.benchmarks.players.base import Decoding
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.players.judge import Judge
from search_env.benchmarks.players.openai_endpoint import Endpoint
from search_env.benchmarks.players.text import CompletionRequest
from search_env.benchmarks.run import run
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import evaluate
from search_env.types import Source

REQUEST = CompletionRequest(
    prompt="Who?",
    tokens=np.zeros(1, np.int32),
    segments=[(Source.PROMPT, "Who?")],
    question="Who?",
    stop=(),
    max_tokens=4,
    decoding=Decoding(),
    seed=0,
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def raw_server(talk):
    """A server that hands each connection to ``talk(send, over)``; yields its address and count."""
    over, connections = threading.Event(), []

    def converse(connection):
        with connection:
            connection.recv(1 << 16)
            try:
                talk(connection.sendall, over)
            except OSError:  # the client did not wait
                return

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threads.append(threading.Thread(target=converse, args=(connection,), daemon=True))
            threads[-1].start()

    threads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connections
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(HANGS_AFTER)
            for thread in threads:
                thread.join(HANGS_AFTER)


def drips(start, drop):
    """Send a beginning, then a drop every few milliseconds, for ever."""

    def talk(send, over):
        send(start)
        while not over.wait(0.01):
            send(drop)

    return talk


# B11: a limit for the whole reply.


@pytest.mark.parametrize(
    "talk",
    [
        drips(HEAD + b"Content-Length: 999999\r\n\r\n", b" "),
        drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drips(HEAD, b"X-Drop: 1\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
        lambda send, over: over.wait(),
    ],
    ids=["body", "chunks", "headers", "a header", "silence"],
)
def test_b11_the_limit_is_for_the_whole_reply(talk):
    with raw_server(talk) as (url, connections):
        endpoint = Endpoint(url, "m", timeout=0.2, retries=0)
        with pytest.raises(EndpointTimeoutError, match=r"a whole reply .* within 0\.2 s"):
            endpoint(REQUEST)
    assert len(connections) <= 1


def test_b11_redirects_count_too():
    def talk(send, over):
        over.wait(0.02)
        send(b"HTTP/1.1 307 Go on\r\nLocation: /v1/again\r\nContent-Length: 0\r\n")
        send(b"Connection: close\r\n\r\n")

    with raw_server(talk) as (url, connections):
        with pytest.raises(EndpointError):
            Endpoint(url, "m", timeout=0.1, retries=0)(REQUEST)
        assert 1 <= len(connections) < 20


def test_b11_tries_have_a_total():
    with (
        serving(lambda *_: (503, {})) as (url, requests),
        pytest.raises(EndpointError),
    ):
        Endpoint(url, "m", timeout=0.05, retries=39)(REQUEST)
    assert len(requests) < 5  # of 40: pauses double, and 2 s are the limit


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_b11_odd_limits_are_refused(timeout):
    with pytest.raises(ConfigurationError, match="time limit of more than 0 seconds"):
        Endpoint("http://h/v1", "m", timeout=timeout)


# B12: odd replies fail the episode, not the run.


def tokens_reply(ids, **more):
    return text_reply("x", token_ids=ids, **more)


ODD = [
    tokens_reply([10**9]),
    tokens_reply([1024]),
    tokens_reply([-1]),
    tokens_reply([True]),
    tokens_reply([1.0]),
    tokens_reply([[1]]),
    tokens_reply(["1"]),
    tokens_reply({"0": 1}),
    tokens_reply("12"),
    tokens_reply([None]),
    {**tokens_reply([1]), "usage": {"prompt_tokens": "7"}},
    {**tokens_reply([1]), "usage": {"prompt_tokens": 1.5}},
    {**tokens_reply([1]), "usage": {"completion_tokens": -2}},
    {**tokens_reply([1]), "usage": {"prompt_tokens": True}},
    {**tokens_reply([1]), "usage": "many"},
    {**tokens_reply([1]), "usage": [1]},
    {},
    [],
    "text",
    3,
    None,
    {"choices": {"0": {"text": "x"}}},
    {"choices": [None]},
    {"choices": [3]},
    {"choices": [{"index": 0}]},
    {"choices": [{"text": ["x"], "token_ids": [1]}]},
    b"[" * 100_000,
    b'{"choices": [',
    b"\xff\xfe",
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[-60:])
def test_b12_an_odd_reply_fails_one_episode(tmp_path, odd):
    path, turn = tmp_path / "r.jsonl", iter(range(1000))

    def reply(path, request):
        return odd if next(turn) == 0 else oracle(path, request)

    with serving(reply) as (url, _):
        agent = player(url, api="tokens", concurrency=1)
        with pytest.raises(EndpointError, match="1 episodes could not be played") as caught:
            run(WORLD, agent, path, limit=3)
        assert isinstance(caught.value, EndpointReplyError)
        done = path.read_text("utf-8").splitlines()
        assert len(done) == 1 + 2
        assert len(run(WORLD, agent, path, limit=3).records) == 3  # the episode is played again


@pytest.mark.parametrize(
    "reply",
    [
        {**chat_reply("x"), "choices": [{"index": 0, "finish_reason": "stop"}]},
        {**chat_reply("x"), "choices": [{"message": {"content": [{"text": "x"}]}}]},
        {**chat_reply("x"), "choices": [{"message": "x"}]},
    ],
)
def test_b12_odd_chats(reply):
    with serving(lambda *_: reply) as (url, _), pytest.raises(EndpointReplyError):
        Endpoint(url, "m", api="chat", retries=0)(REQUEST)


def test_b12_what_is_not_read_may_be_anything():
    odd = json.dumps({**text_reply("x \ud800"), "usage": None, "more": "\ud800"})
    reply = odd.replace('"logprobs": null', '"logprobs": {"token_logprobs": [NaN]}').encode()
    with serving(lambda *_: reply) as (url, _):
        completion = Endpoint(url, "m", retries=0)(REQUEST)
    assert (completion.text, completion.cost) == ("x \ufffd", {"prompt": 0, "completion": 0})


# B5: credentials go with the request, and nowhere else.

SECRETS = ("pa55word", "k3y-in-query", "k3y-in-variable")


def with_credentials(url):
    return url.replace("http://", "http://me:pa55word@") + "?api-key=k3y-in-query&v=2"


def said(error):
    """All that an error and those behind it say."""
    texts = []
    while error is not None:
        texts += [str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_b5_credentials_reach_the_endpoint_and_no_log(caplog, api):
    caplog.set_level(logging.DEBUG)
    seen = []

    def talk(send, over):
        body = json.dumps(text_reply("x") if api == "completions" else chat_reply("x")).encode()
        send(HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    with serving_heads(talk, seen) as url:
        Endpoint(with_credentials(url), "m", api=api, retries=0)(REQUEST)
    (head,) = seen
    assert b"?api-key=k3y-in-query&v=2 HTTP" in head
    assert b"Basic bWU6cGE1NXdvcmQ=" in head  # me:pa55word
    assert not [secret for secret in SECRETS if secret in caplog.text]


@contextmanager
def serving_heads(talk, seen):
    """A server that also keeps what each request began with."""

    def keep(connection):
        with connection:
            seen.append(connection.recv(1 << 16))
            talk(connection.sendall, None)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: keep(listener.accept()[0]), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(HANGS_AFTER)


@pytest.mark.parametrize(
    "failure",
    [
        (401, {"error": {"message": "wrong: me:pa55word, k3y-in-query, k3y-in-variable"}}),
        (500, {"error": {"message": "at http://me:pa55word@h/v1?api-key=k3y-in-query"}}),
        b"no JSON, but pa55word",
        {"choices": []},
        {"choices": [{"text": None}]},
        {**text_reply("x"), "usage": "k3y-in-query"},
    ],
)
def test_b5_no_message_and_no_file_holds_a_credential(tmp_path, monkeypatch, failure):
    monkeypatch.setenv("OPENAI_API_KEY", SECRETS[2])
    path = tmp_path / "r.jsonl"
    with serving(lambda *_: failure) as (url, _):
        url = with_credentials(url)
        agent = make_agent(url, WORLD, seed=0, model="m", retries=0, concurrency=1)
        command = f"search-env bench {WORLD.id} --agent '{url}'"
        with pytest.raises(EndpointError) as caught:
            run(WORLD, agent, path, limit=2, command=command)
        judge = Judge(Endpoint(url, "m", api="chat", retries=0), "m", path=tmp_path / "judge.jsonl")
        toy = gym.make("SearchQA-Toy-v0", split="test")
        with pytest.raises(EndpointError) as judged:
            judge.judge(evaluate(toy, make_baseline("oracle"), [0]))
    files = [file.read_text("utf-8") for file in tmp_path.rglob("*") if file.is_file()]
    texts = [said(caught.value), said(judged.value), *files]
    assert not [secret for secret in SECRETS for text in texts if secret in text]
    assert any("http://***@127.0.0.1" in text for text in texts)


def test_b5_an_endpoint_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = with_credentials(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    with pytest.raises(EndpointError, match="no connection") as caught:
        Endpoint(url, "m", retries=0)(REQUEST)
    assert not [secret for secret in SECRETS if secret in said(caught.value)]


@pytest.mark.parametrize(
    ("agent", "options"),
    [
        ("http://me:pa55word@host/v1?key=k3y-in-query", {}),
        ("http://me:pa55word@host/v1?key=k3y-in-query", {"prompt": "base", "model": "m"}),
        ("me:pa55word@host/v1?key=k3y-in-query", {"model": "m"}),
        ("ftp://me:pa55word@host/v1?key=k3y-in-query", {"model": "m"}),
        ("http://me:pa55word@?key=k3y-in-query", {"model": "m"}),
    ],
)
def test_b5_refused_agents_are_named_without_credentials(agent, options):
    with pytest.raises((ConfigurationError, BenchmarkError)) as caught:
        make_agent(agent, WORLD, seed=0, **options)
    assert not [secret for secret in SECRETS if secret in said(caught.value)]
