"""A small HTTP server in a thread, whose replies the tests decide; nothing of the package."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Sent(NamedTuple):
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """What goes back; ``raw`` in place of everything, after which the connection is cut."""

    body: Any = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = {}  # noqa: RUF012
    raw: bytes | None = None


class SmallServer(NamedTuple):
    url: str
    requests: list[Sent]
    connections: list[int]


@contextmanager
def serving(answer: Callable[[Sent], Any]) -> Iterator[SmallServer]:
    """Serve; ``answer`` returns a :class:`Reply`, or a JSON value."""
    requests: list[Sent] = []
    connections: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            connections.append(1)
            super().setup()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = Sent(
                self.command, self.path, {n.title(): v for n, v in self.headers.items()}, body
            )
            requests.append(sent)
            found = answer(sent)
            reply = found if isinstance(found, Reply) else Reply(json.dumps(found).encode())
            try:
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:  # the client did not wait
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield SmallServer(f"http://127.0.0.1:{server.server_address[1]}", requests, connections)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
