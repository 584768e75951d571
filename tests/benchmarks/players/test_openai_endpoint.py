"""Endpoints: three APIs that come to the same, and every way in which one can fail."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.benchmarks.players.endpoint_server import chat_reply, serving, text_reply

pytest.importorskip("openai")

from search_env.agents.baselines.scripted import make_baseline
from search_env.benchmarks.harness.errors import (
    EndpointError,
    EndpointRefusedError,
    EndpointReplyError,
    EndpointTimeoutError,
)
from search_env.benchmarks.players.base import Decoding, TokenAgent
from search_env.benchmarks.players.factory import make_agent
from search_env.benchmarks.players.openai_endpoint import endpoint_agent
from search_env.benchmarks.question_sets.registry import get_benchmark
from search_env.benchmarks.reports.tables import cost_line
from search_env.benchmarks.run import run
from search_env.envs.search_qa import SearchQAEnv
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.tagged_text import answer_text, query_text

WORLD = get_benchmark("world-2hop/r1-searcher/bm25-world1k/v1")
ENV = SearchQAEnv(**WORLD.environment())
STOPS = ("<|end_of_query|>", "</answer>")


def script(question, done):
    """What the oracle writes next, once so many of its searches are done."""
    if done < len(question.hops):
        return query_text(R1_SEARCHER, question.hops[done].query)
    return answer_text(R1_SEARCHER, question.answers[0], thoughts=["think"])


def question_in(text):
    return next(q for q in ENV.questions if q.text in text)


def without_stop(text):
    for stop in STOPS:
        text = text.removesuffix(stop)
    return text


def oracle(path, request):
    """The oracle behind all three APIs; stop strings are cut off as OpenAI's server does."""
    if path.endswith("/chat/completions"):
        messages = request["messages"]
        done = sum(m["content"].startswith("\n\n<|begin_of_doc") for m in messages)
        return chat_reply(without_stop(script(question_in(messages[1]["content"]), done)))
    prompt = request["prompt"]
    text = prompt if isinstance(prompt, str) else ENV.tokenizer.decode(prompt)
    written = script(question_in(text), text.count("<|end_of_documents|>\n\n"))
    if isinstance(prompt, str):
        return text_reply(without_stop(written))
    return text_reply(written, token_ids=ENV.tokenizer.encode(written).tolist())


def player(url, **options):
    return endpoint_agent(url, "m", **{"protocol": R1_SEARCHER, "retries": 0, **options})


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    path = tmp_path_factory.mktemp("oracle") / "r.jsonl"
    return run(WORLD, TokenAgent("oracle", make_baseline("oracle")), path, limit=10).records


@pytest.mark.parametrize("api", ["completions", "chat", "tokens"])
def test_every_api_comes_to_the_same(tmp_path, wanted, api):
    with serving(oracle) as (url, requests):
        found = run(WORLD, player(url, api=api), tmp_path / "r.jsonl", limit=10)
    assert found.records == wanted
    assert all(request["temperature"] == 0.0 for request in requests)
    assert all(tuple(request["stop"]) == STOPS for request in requests)
    assert all(request["model"] == "m" for request in requests)
    if api == "completions":
        assert sum(p.cost["prompt"] for p in found.episodes) == 7 * len(requests)
        line = f"Tokens charged: {7 * len(requests):,} prompt ("
        assert cost_line(found).startswith(line)
    if api == "tokens":
        assert all(request["return_token_ids"] for request in requests)
    if api == "chat":
        roles = [m["role"] for m in max((r["messages"] for r in requests), key=len)]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_decoding_and_key_go_with_the_request(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(oracle) as (url, requests):
        agent = make_agent(url, WORLD, seed=0, model="m", api="completions", retries=0)
        decoding = Decoding(0.7, 0.9, 2)
        run(WORLD, agent, tmp_path / "r.jsonl", limit=1, decoding=decoding, seed=4)
    assert {(r["temperature"], r["top_p"]) for r in requests} == {(0.7, 0.9)}
    assert {r["seed"] for r in requests} == {4, 5}
    assert "secret" not in (tmp_path / "r.jsonl").read_text("utf-8")


def test_an_end_without_a_tag_ends_the_episode(tmp_path):
    with serving(lambda *_: text_reply(" I do not know.")) as (url, requests):
        found = run(WORLD, player(url), tmp_path / "r.jsonl", limit=2)
    assert len(requests) == 2
    assert {record.answer for record in found.records} == {None}


def test_a_refusal_is_an_episode_without_an_answer(tmp_path):
    with serving(lambda *_: chat_reply(None, refusal="I cannot help.")) as (url, _):
        found = run(WORLD, player(url, api="chat"), tmp_path / "r.jsonl", limit=2)
    assert [record.exact_match for record in found.records] == [0.0, 0.0]


def test_a_model_that_never_stops_runs_out_of_budget(tmp_path):
    with serving(lambda *_: text_reply(" and so on" * 20, "length")) as (url, requests):
        found = run(WORLD, player(url), tmp_path / "r.jsonl", limit=1)
    (record,) = found.records
    assert record.stop_reason.startswith("max_")
    assert record.policy_tokens == 384
    assert 1 < len(requests) < 30
    assert all(request["max_tokens"] <= 384 for request in requests)


# Failures: named, and what was finished is kept.


def failing_after(count, failure):
    """The oracle for so many episodes, then the failure."""
    ended, lock = set(), threading.Lock()

    def reply(path, request):
        answer = oracle(path, request)
        with lock:
            if len(ended) >= count:
                return failure()
            if "</think>" in answer["choices"][0]["text"]:
                ended.add(request["prompt"])
        return answer

    return reply


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (lambda: (500, {"error": {"message": "out of memory"}}), EndpointError, "500: .*out of"),
        (lambda: (401, {"error": {"message": "no key"}}), EndpointRefusedError, "OPENAI_API_KEY"),
        (lambda: (404, {"error": {"message": "no model"}}), EndpointRefusedError, "--model"),
        (lambda: b"<html>Welcome</html>", EndpointReplyError, "something else"),
        (lambda: {"choices": []}, EndpointReplyError, "without choices"),
        (lambda: {"choices": [{"text": None}]}, EndpointReplyError, "got NoneType"),
        (lambda: {"choices": "none"}, EndpointReplyError, "completion"),
    ],
)
def test_failures_are_named_and_episodes_kept(tmp_path, wanted, failure, error, message):
    path = tmp_path / "r.jsonl"
    with serving(failing_after(3, failure)) as (url, _):
        agent = player(url, concurrency=1)
        with pytest.raises(error, match=message) as caught:
            run(WORLD, agent, path, limit=10)
    assert type(caught.value) is error
    with serving(oracle) as (url, requests):
        found = run(WORLD, player(url, concurrency=1), path, limit=10)
    assert found.records == wanted
    assert {question_in(r["prompt"]).id for r in requests} == {r.question_id for r in wanted[3:]}


def test_a_server_that_does_not_answer_is_named(tmp_path):
    released = threading.Event()
    with serving(lambda *_: released.wait() and text_reply("late")) as (url, _):
        agent = player(url, concurrency=1, timeout=0.3)
        with pytest.raises(EndpointTimeoutError, match=r"within 0\.3 s.*--concurrency"):
            run(WORLD, agent, tmp_path / "r.jsonl", limit=10)
        released.set()


def test_one_failure_does_not_stop_the_others(tmp_path, wanted):
    asked = wanted[4].question

    def reply(path, request):
        return (500, {}) if asked in request["prompt"] else oracle(path, request)

    path = tmp_path / "r.jsonl"
    with serving(reply) as (url, _), pytest.raises(EndpointError, match="1 episodes could not"):
        run(WORLD, player(url, concurrency=4), path, limit=10)
    with serving(oracle) as (url, requests):
        assert run(WORLD, player(url), path, limit=10).records == wanted
    assert {question_in(r["prompt"]).text for r in requests} == {asked}


def test_a_busy_endpoint_is_asked_again(tmp_path, wanted):
    busy = iter([True])

    def reply(path, request):
        return (503, {}) if next(busy, False) else oracle(path, request)

    with serving(reply) as (url, _):
        found = run(WORLD, player(url, retries=2), tmp_path / "r.jsonl", limit=10)
    assert found.records == wanted


def test_nobody_is_there(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"no connection.*usually ends in /v1"):
        run(WORLD, player(url, concurrency=2), tmp_path / "r.jsonl", limit=10)


def test_a_server_that_gives_no_ids(tmp_path):
    with serving(lambda *_: text_reply("x")) as (url, _):
        agent = player(url, api="tokens")
        with pytest.raises(EndpointReplyError, match="--api completions"):
            run(WORLD, agent, tmp_path / "r.jsonl", limit=3)
