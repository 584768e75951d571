"""The server's application: paths, requests in any dialect, replies, errors.

=====================  =============================================================
POST ``/retrieve``     ``search-r1``, ``skyrl``, ``ragen``, and ``gem`` in msgpack
POST ``/batch_search`` ``flashrag``, several queries
POST ``/search``       ``flashrag``, one query
POST ``/queries``      ``r1-searcher``
GET ``/health``        whether it serves, and what
GET ``/metrics``       Prometheus
``/mcp``               the tool ``search``, where it was asked for
=====================  =============================================================

A wrong request gets 422 and what was expected; 413 and 408 stand for one that is too long or too
slow, 503 with Retry-After for a full queue, 504 and 500 for a retriever that failed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from search_env.errors import ConfigurationError, RetrievalError, RetrievalTimeoutError
from search_env.redaction import redacted
from search_env.retrieval.base import Retriever, backend_name
from search_env.retrieval.http import fields, gem
from search_env.retrieval.http.dialect import Asked
from search_env.retrieval.http.dialects import SERVED
from search_env.retrieval.server.batching import Batcher, OverloadedError
from search_env.retrieval.server.metrics import Metrics
from search_env.retrieval.server.settings import NEEDS, ServerSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_JSON = "application/json"


class _Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request is answered with a status that is no success."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


class _Reply(NamedTuple):
    dialect: str
    body: bytes
    content_type: str


class SearchServer:
    """What the handlers share; the retriever is loaded when the server starts."""

    def __init__(self, load: Callable[[], Retriever], settings: ServerSettings) -> None:
        self._load, self.settings = load, settings
        self.metrics = Metrics()
        self.batcher: Batcher | None = None
        self.name = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the retriever; in the end stop its thread."""
        retriever = self._load()
        self.name = backend_name(retriever)
        self.batcher = Batcher(retriever, self.settings, self.metrics)
        try:
            yield
        finally:
            self.batcher.close()

    async def search(self, asked: Asked) -> Any:
        """Return the reply's value.

        Raises:
            RetrievalError: The queue is full, or the retriever failed for one of the queries.
        """
        if self.batcher is None:
            raise RetrievalError("Expected a running server, got one that starts. Try again.")
        results = await self.batcher.search(asked.queries, asked.k)
        for answer in results:
            if isinstance(answer, RetrievalError):
                raise answer
        return asked.reply(results)  # type: ignore[arg-type]

    async def answer(self, path: str, request: Request) -> _Reply:
        """Read a request, search and write the reply."""
        body = await self._body(request)
        packed = path == "/retrieve" and gem.is_msgpack(body)
        try:
            values = gem.unpack(body) if packed else fields.read_json(body)
            if not isinstance(values, dict):
                raise fields.WrongRequestError(f"an object, got {type(values).__name__}")
            asked = gem.asked(values) if packed else SERVED[path](values)
        except fields.WrongReplyError as error:
            raise _Refused(422, f"Expected {error.expected}, got {error.got}.") from None
        except fields.WrongRequestError as error:
            raise _Refused(422, f"Expected {error}.") from None
        if len(set(asked.queries)) > self.settings.max_queue:
            raise _Refused(422, f"Expected at most {self.settings.max_queue} queries in a request.")
        value = await self.search(asked)
        if packed:
            return _Reply(asked.dialect, gem.pack(value), gem.CONTENT_TYPE)
        return _Reply(asked.dialect, fields.write_json(value), _JSON)

    async def _body(self, request: Request) -> bytes:
        """Return the whole body, unless it is too long or takes too long."""
        from anyio import fail_after

        pieces: list[bytes] = []
        size, most = 0, self.settings.max_body
        try:
            with fail_after(self.settings.body_timeout):
                async for piece in request.stream():
                    pieces.append(piece)
                    size += len(piece)
                    if size > most:
                        raise _Refused(413, f"Expected a request of at most {most} bytes.")
        except TimeoutError:
            seconds = self.settings.body_timeout
            raise _Refused(408, f"Expected a whole request within {seconds:g} s.") from None
        return b"".join(pieces)


def create_app(load: Callable[[], Retriever], settings: ServerSettings) -> Starlette:
    """Return the application around the retriever that ``load`` returns.

    Raises:
        ConfigurationError: The ``serve`` extra is missing, or ``mcp`` where it was asked for.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise ConfigurationError(NEEDS) from error
    server = SearchServer(load, settings)
    routes: list[Any] = [
        Route(path, _handler(server, path), methods=["POST"], name=path) for path in SERVED
    ]
    routes += [Route("/health", _health(server)), Route("/metrics", _metrics(server))]
    contexts: list[Callable[[], AbstractAsyncContextManager[None]]] = [server.running]
    if settings.mcp:
        from search_env.retrieval.server.mcp_tool import mcp_routes

        more, running = mcp_routes(server.search, server.metrics, settings.host)
        routes += more
        contexts.append(running)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for context in contexts:
                await stack.enter_async_context(context())
            yield

    return Starlette(routes=routes, lifespan=lifespan)


def _handler(server: SearchServer, path: str) -> Callable[[Request], Any]:
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response

    async def handle(request: Request) -> Response:
        started = time.perf_counter()
        dialect, headers = "unknown", {}
        try:
            dialect, body, content_type = await server.answer(path, request)
            status = 200
        except _Refused as refused:
            status, content_type = refused.status, _JSON
            body = fields.write_json({"detail": refused.detail})
        except ClientDisconnect:
            status, body, content_type = 499, b"", _JSON  # nobody reads it
        except OverloadedError as error:
            status, body, content_type = 503, _detail(error), _JSON
            headers = {"Retry-After": str(error.retry_after)}
        except RetrievalError as error:
            status = 504 if isinstance(error, RetrievalTimeoutError) else 500
            body, content_type = _detail(error), _JSON
        server.metrics.request(dialect, status, time.perf_counter() - started)
        return Response(body, status, headers, media_type=content_type)

    return handle


def _detail(error: RetrievalError) -> bytes:
    return fields.write_json({"detail": redacted(str(error))})


def _health(server: SearchServer) -> Callable[[Request], Any]:
    from starlette.responses import Response

    async def handle(request: Request) -> Response:
        queued = server.batcher.queued if server.batcher else 0
        value = {"status": "healthy", "retriever": server.name, "queued": queued}
        return Response(fields.write_json(value), media_type=_JSON)

    return handle


def _metrics(server: SearchServer) -> Callable[[Request], Any]:
    from starlette.responses import Response

    async def handle(request: Request) -> Response:
        return Response(server.metrics.page(), media_type="text/plain; version=0.0.4")

    return handle
