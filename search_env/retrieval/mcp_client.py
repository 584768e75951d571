"""``retriever="mcp:http://host:8000/mcp"``: the tool ``search`` of an MCP server.

It works with BrowseComp-Plus's server, with OpenAI's connectors and with ``search-env serve
--mcp``: the tool takes ``query`` and, under one of several names, a number of results, and returns
a list of objects with an id, a text and perhaps title and score. Each call of ``search`` is one
session; MCP costs some forty times a request of ``search-r1``, so it is for evaluation.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from search_env.errors import (
    ConfigurationError,
    InvalidRetrievalError,
    RetrievalConnectionError,
    RetrievalError,
)
from search_env.redaction import redacted, without
from search_env.retrieval.http import address, fields
from search_env.retrieval.http.dialect import LOCAL_KEY
from search_env.retrieval.retrying import RetryingRetriever
from search_env.types import Document
from search_env.validation import check_choice, shown

_OPTIONS = ("tool", "timeout", "retries", "connections")
_COUNTS = ("k", "top_k", "topk", "num_results", "max_results", "limit", "n")
_IDS = ("docid", "id", "url")
_TEXTS = ("text", "snippet", "content", "contents")


class McpRetriever:
    """Documents of a search tool behind MCP, over streamable HTTP.

    Args:
        name: ``http://HOST:PORT/mcp`` with the options ``tool`` (default ``search``), ``timeout``
            (seconds for an attempt, 30), ``retries`` (3) and ``connections`` (calls at once, 8).
        sleep: Called with the seconds to pause before a retry; replace it in tests.

    Raises:
        ConfigurationError: The address is wrong, or the ``mcp`` extra is missing.
    """

    def __init__(self, name: str, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._name = name
        session = _Sessions(name)
        self._retrying = RetryingRetriever(
            session, timeout=session.timeout, retries=session.retries, sleep=sleep
        )

    def __reduce__(self) -> tuple[type[McpRetriever], tuple[str]]:
        return McpRetriever, (self._name,)

    @property
    def name(self) -> str:
        """The tool and the server, as recordings name it."""
        return self._retrying.name

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Call the tool for each query; an empty one is answered here.

        Raises:
            RetrievalConnectionError: The server was not reached or went away.
            RetrievalTimeoutError: It took longer than the limit.
            InvalidRetrievalError: The result is no list of documents.
            RetrievalError: The tool reported an error.
        """
        asked = list(dict.fromkeys(query for query in queries if query.strip()))
        found = self._retrying.search(asked, k) if asked else []
        results = dict(zip(asked, found, strict=True))
        return [list(results.get(query, [])) for query in queries]


class _Sessions:
    """One session for each call; a retriever without retries."""

    def __init__(self, name: str) -> None:
        try:
            import httpx2
            from mcp import Client
            from mcp.client.streamable_http import streamable_http_client
        except ImportError as error:
            raise ConfigurationError(
                "Expected the mcp package, version 2, for an MCP server, got none or an earlier "
                'one. Run `pip install "search-env[mcp]"` in an environment of its own.'
            ) from error
        self._client, self._http, self._transport = Client, httpx2, streamable_http_client
        base, path = address.split_server(name)
        options = address.read_options(name)
        for option in options:
            address.refuse_key(option, LOCAL_KEY.variable)
            check_choice("an option of an MCP server", option, _OPTIONS)
        self._url, self._tool = base + path, options.get("tool", "search")
        self.timeout = address.check_number("timeout", options.get("timeout", "30"), 0.001)
        self.retries = address.check_whole("retries", options.get("retries", "3"), 0)
        self._at_once = address.check_whole("connections", options.get("connections", "8"), 1)
        self._headers = address.key_header(LOCAL_KEY, base, "an MCP server")
        self._secrets = frozenset(os.environ.get(LOCAL_KEY.variable, "").split())

    @property
    def name(self) -> str:
        return f"mcp {self._tool} {self._url}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        try:
            return asyncio.run(self._ask(queries, k))
        except RetrievalError:
            raise
        except Exception as error:
            causes = list(_leaves(error))
            ours = next((cause for cause in causes if isinstance(cause, RetrievalError)), None)
            if ours is not None:
                raise ours from None
            said = without("; ".join(f"{type(c).__name__}: {c}" for c in causes), self._secrets)
            is_gone = any(isinstance(c, self._http.TransportError | OSError) for c in causes)
            kind = RetrievalConnectionError if is_gone else RetrievalError
            raise kind(
                f"Expected an MCP server at {self._url}, got {said[:300]}. Start it, or correct "
                "the address; it usually ends in /mcp."
            ) from None

    async def _ask(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        turns = asyncio.Semaphore(self._at_once)
        limits = self._http.Timeout(self.timeout)
        async with (
            self._http.AsyncClient(headers=self._headers, timeout=limits) as http,
            self._client(self._transport(self._url, http_client=http)) as client,
        ):
            count = await self._name_of_count(client)

            async def ask(query: str) -> list[Document]:
                arguments = {"query": query, **({count: k} if count else {})}
                async with turns:
                    return self._documents(await client.call_tool(self._tool, arguments), k)

            return list(await asyncio.gather(*(ask(query) for query in queries)))

    async def _name_of_count(self, client: Any) -> str | None:
        """Return the name of the tool's argument for the number of results, if it has one."""
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        if self._tool not in tools:
            raise InvalidRetrievalError(
                f"Expected the tool {self._tool!r} at {self._url}, got {sorted(tools)}. Name one "
                "with ?tool=."
            )
        properties = tools[self._tool].input_schema.get("properties", {})
        return next((name for name in _COUNTS if name in properties), None)

    def _documents(self, result: Any, k: int) -> list[Document]:
        texts = [block.text for block in result.content if getattr(block, "type", "") == "text"]
        if result.is_error:
            said = redacted(without(" ".join(texts), self._secrets))
            raise RetrievalError(
                f"Expected documents from the tool {self._tool!r}, got an error: {said[:300]}. See "
                "the server's log."
            )
        try:
            return read_result(result.structured_content, texts)[:k]
        except fields.WrongReplyError as error:
            raise InvalidRetrievalError(
                f"Expected {error.expected} from the tool {self._tool!r} at {self._url}, got "
                f"{error.got}. Check that it returns a list of documents."
            ) from None


def read_result(structured: Any, texts: Sequence[str]) -> list[Document]:
    """Return the documents of a tool's result: its structured content, or else its texts as JSON.

    Example:
        >>> read_result(None, ['{"docid": "1", "snippet": "A city.", "score": 2}'])
        [Document(id='1', title='', text='A city.', score=2.0)]
    """
    value = structured
    if value is None:
        values = [fields.read_json(text.encode("utf-8", "surrogatepass")) for text in texts]
        value = values[0] if len(values) == 1 else values
    if isinstance(value, dict):
        inner = next((value[name] for name in ("results", "result") if name in value), None)
        value = [value] if inner is None and any(name in value for name in _TEXTS) else inner
    if isinstance(value, str):
        value = fields.read_json(value.encode("utf-8", "surrogatepass"))
    entries = fields.item(value, list, "the result")
    return fields.scores_that_fall(
        fields.distinct(_document(entry, f"results[{i}]") for i, entry in enumerate(entries))
    )


def _document(entry: Any, place: str) -> Document:
    values = fields.item(entry, dict, place)
    name = _first(values, _TEXTS)
    if name is None:
        raise fields.WrongReplyError(f"one of {', '.join(_TEXTS)} in {place}", shown(list(values)))
    content = fields.text(values[name], f"{place}.{name}")
    title = fields.text(values.get("title"), f"{place}.title")
    text = content
    if name == "contents" and not title:
        title, text = fields.split_contents(content)
    own = values.get(_first(values, _IDS) or "")
    number = fields.score(values.get("score"), f"{place}.score")
    return Document(fields.identifier(own, content, f"{place}.id"), title, text, number)


def _first(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in values), None)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of a group, which the SDK's tasks raise, or an error itself."""
    inner = getattr(error, "exceptions", None)
    if inner is None:
        yield error
    else:
        for one in inner:
            yield from _leaves(one)
