"""MCP: our tool asked by the SDK's client, our client before the SDK's servers, and both together.

The SDK's version 2 is an extra of an environment of its own; without it only results are read here.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
from contextlib import contextmanager

import pytest

from search_env.errors import (
    ConfigurationError,
    InvalidRetrievalError,
    RetrievalConnectionError,
    RetrievalError,
)
from search_env.retrieval.http.fields import WrongReplyError
from search_env.retrieval.mcp_client import McpRetriever, read_result
from search_env.types import Document

ENTRY = {"docid": "1", "snippet": "A city.", "score": 2.0}
ULM = Document("1", "", "A city.", 2.0)


@pytest.mark.parametrize(
    ("structured", "texts"),
    [
        ({"results": [ENTRY]}, []),
        ({"result": [ENTRY]}, ["ignored"]),  # a list, as FastMCP wraps it
        ({"result": json.dumps([ENTRY])}, []),  # a string that a tool made
        (None, [json.dumps([ENTRY])]),
        (None, [json.dumps(ENTRY)]),  # a block for each document
        (None, [json.dumps({"results": [ENTRY]})]),
    ],
)
def test_results_as_servers_return_them(structured, texts):
    assert read_result(structured, texts) == [ULM]


def test_results_of_other_fields():
    found = read_result(
        {
            "results": [
                {"id": 7, "title": "Ulm", "text": "A city."},
                {"url": "http://h", "contents": '"Bonn"\nA city.'},
                {"title": "No id", "content": None},
            ]
        },
        [],
    )
    assert found[:2] == [Document("7", "Ulm", "A city."), Document("http://h", "Bonn", "A city.")]
    assert (found[2].title, found[2].text, len(found[2].id)) == ("No id", "", 16)
    assert read_result(None, []) == []


@pytest.mark.parametrize(
    ("structured", "texts", "message"),
    [
        (None, ["<html>"], "JSON, got HTML"),
        ({"answer": []}, [], "the result to be a list, got None"),
        ({"results": ["a"]}, [], r"results\[0\] to be an object"),
        ({"results": [{"id": "1"}]}, [], r"one of text, snippet, content, contents"),
        ({"results": [{**ENTRY, "score": float("nan")}]}, [], "finite number"),
    ],
)
def test_results_that_are_none(structured, texts, message):
    with pytest.raises(WrongReplyError, match=message):
        read_result(structured, texts)


def test_without_the_sdk_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mcp", None)
    with pytest.raises(ConfigurationError, match=r"search-env\[mcp\]"):
        McpRetriever("http://127.0.0.1:1/mcp")


@pytest.fixture
def sdk():
    return pytest.importorskip("mcp.server.mcpserver")


@contextmanager
def running(app):
    """Serve an application in a thread; yield its address."""
    import uvicorn

    from search_env.retrieval.server.run import open_socket

    listening = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def our_app(retriever):
    from search_env.retrieval.server.app import create_app
    from search_env.retrieval.server.settings import ServerSettings

    return create_app(lambda: retriever, ServerSettings(window=0.0, mcp=True))


def test_our_client_before_our_server_keeps_the_contract(sdk):
    from search_env.retrieval.http.client import HttpRetriever
    from search_env.testing import check_retriever
    from tests.retrieval.http.corpus import QUERIES, retriever

    index = retriever()
    with running(our_app(index)) as url:
        client = McpRetriever(f"{url}/mcp?retries=0")
        assert client.search([*QUERIES, " "], 3) == [*index.search(QUERIES, 3), []]
        assert check_retriever(client, QUERIES).scored
        assert HttpRetriever(f"{url}?dialect=gem").search(QUERIES, 3) == index.search(QUERIES, 3)
        assert pickle.loads(pickle.dumps(client)).name == f"mcp search {url}/mcp"


def test_the_sdks_client_before_our_server(sdk):
    from mcp import Client

    from tests.retrieval.http.corpus import retriever

    index = retriever()

    async def ask(url):
        async with Client(f"{url}/mcp") as client:
            (tool,) = (await client.list_tools()).tools
            found = await client.call_tool("search", {"query": "river Ulm", "k": 2})
            wrong = await client.call_tool("search", {"query": "Ulm", "k": 0})
            return tool, found, wrong

    with running(our_app(index)) as url:
        tool, found, wrong = asyncio.run(ask(url))
    assert (tool.name, tool.input_schema["required"]) == ("search", ["query"])
    expected = index.search(["river Ulm"], 2)[0]
    for value in (found.structured_content, json.loads(found.content[0].text)):
        entries = value["results"]
        assert [(e["docid"], e["title"], e["text"], e["score"]) for e in entries] == [
            (d.id, d.title, d.text, d.score) for d in expected
        ]
    assert wrong.is_error
    assert "Expected k from 1" in wrong.content[0].text


def browse_comp_server(sdk):
    """A server with the tools and results of BrowseComp-Plus's, written with the SDK alone."""
    server = sdk.MCPServer("browse")

    @server.tool()
    def search(query: str) -> list[dict]:
        if query == "fail":
            raise ValueError("no index")
        if query == "lie":
            return [{"docid": "1", "score": 1.0}]
        return [{"docid": str(i), "score": 1.0 / (i + 1), "snippet": query} for i in range(5)]

    @server.tool()
    def find(query: str, max_results: int) -> str:
        return json.dumps([{"id": str(i), "text": query} for i in range(max_results)])

    return server.streamable_http_app(json_response=True)


def test_our_client_before_another_server(sdk):
    with running(browse_comp_server(sdk)) as url:
        client = McpRetriever(f"{url}/mcp?retries=0")
        assert [d.id for d in client.search(["a"], 3)[0]] == ["0", "1", "2"]  # it has no limit
        found = McpRetriever(f"{url}/mcp?tool=find").search(["a", "b"], 2)
        assert found == [[Document(str(i), "", q) for i in range(2)] for q in "ab"]
        with pytest.raises(RetrievalError, match="got an error: Error executing tool"):
            client.search(["fail"], 1)
        with pytest.raises(InvalidRetrievalError, match="one of text, snippet"):
            client.search(["lie"], 1)
        with pytest.raises(
            InvalidRetrievalError, match=r"Expected the tool 'serch' .* \['find', 's"
        ):
            McpRetriever(f"{url}/mcp?tool=serch&retries=0").search(["a"], 1)


def test_a_server_that_is_not_there_or_speaks_something_else(sdk):
    from tests.retrieval.http.small_server import Reply, serving

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/mcp"
    pauses = []
    with pytest.raises(RetrievalConnectionError, match="Start it, or correct"):
        McpRetriever(f"{url}?retries=1", sleep=pauses.append).search(["a"], 1)
    assert pauses == [0.5]
    page = Reply(b"<html>", content_type="text/html")
    with serving(lambda sent: page) as server, pytest.raises(RetrievalError):
        McpRetriever(f"{server.url}/mcp?retries=0").search(["a"], 1)


def test_names_are_checked_and_hold_no_key(sdk, monkeypatch):
    import search_env

    for name, message in (
        ("http://h/mcp?tol=x", "Did you mean 'tool'"),
        ("http://h/mcp?api_key=s3cret", "Expected no key in an address"),
        ("http://u:s3cret@h/mcp", "without a name and password"),
        ("ftp://h", "Expected the address of a search server"),
    ):
        with pytest.raises(ConfigurationError, match=message) as error:
            search_env.SearchQAEnv(dataset="toy", retriever=f"mcp:{name}")
        assert "s3cret" not in str(error.value)
    monkeypatch.setenv("SEARCH_ENV_RETRIEVER_KEY", "s3cret")
    with pytest.raises(ConfigurationError, match="Expected https"):
        McpRetriever("http://h/mcp")
