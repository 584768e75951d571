"""``serve --mcp``: the tool ``search`` at ``/mcp``, over streamable HTTP without sessions.

``search(query, k=5)`` returns ``{"results": [...]}``, each with the fields ``docid``, ``id``,
``title``, ``text``, ``snippet`` and ``score``: the names of BrowseComp-Plus and of OpenAI's
connectors. Queries go through the same batches and cache as those of the other paths; a call costs
some forty times more there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from search_env.errors import ConfigurationError, RetrievalError
from search_env.redaction import redacted
from search_env.retrieval.http.dialect import Asked
from search_env.retrieval.http.fields import MOST_DOCUMENTS
from search_env.retrieval.server.metrics import Metrics
from search_env.types import Document

_SNIPPET = 2000  # characters


def mcp_routes(
    answer: Callable[[Asked], Awaitable[Any]], metrics: Metrics, host: str
) -> tuple[list[Any], Callable[[], AbstractAsyncContextManager[None]]]:
    """Return the routes of ``/mcp``, and the context in which they work.

    ``answer`` searches; ``host`` is where the server listens.

    Raises:
        ConfigurationError: The ``mcp`` extra is missing, or an earlier version is installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise ConfigurationError(
            "Expected the mcp package, version 2, for --mcp, got none or an earlier one. Run "
            '`pip install "search-env[serve,mcp]"` in an environment of its own.'
        ) from error
    tools = MCPServer("search-env", instructions="Search passages with the tool `search`.")

    async def search(query: str, k: int = 5) -> dict[str, Any]:
        if not 1 <= k <= MOST_DOCUMENTS:
            raise ToolError(f"Expected k from 1 to {MOST_DOCUMENTS}, got {k}.")
        asked = Asked("mcp", [query], k, lambda results: {"results": _entries(results[0])})
        started, status = time.perf_counter(), 200
        try:
            value: dict[str, Any] = await answer(asked)
        except RetrievalError as error:
            status = 500
            raise ToolError(redacted(str(error))) from None
        finally:
            metrics.request("mcp", status, time.perf_counter() - started)
        return value

    describe = tools.tool(name="search", description="Search passages; the best come first.")
    describe(search)
    app = tools.streamable_http_app(stateless_http=True, json_response=True, host=host)
    return list(app.routes), tools.session_manager.run


def _entries(documents: Sequence[Document]) -> list[dict[str, Any]]:
    return [
        {
            "docid": _encodable(document.id),
            "id": _encodable(document.id),
            "title": _encodable(document.title),
            "text": _encodable(document.text),
            "snippet": _encodable(document.text[:_SNIPPET]),
            "score": document.score,
        }
        for document in documents
    ]


def _encodable(text: str) -> str:
    """Return a text without lone surrogates, which the SDK cannot send."""
    return text.encode("utf-8", "replace").decode("utf-8")
