"""A server in a thread of this process, and one in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from search_env.retrieval.base import Retriever
from search_env.retrieval.server.app import create_app
from search_env.retrieval.server.run import open_socket
from search_env.retrieval.server.settings import ServerSettings
from tests.work import HANGS_AFTER


@contextmanager
def serving(retriever: Retriever, port: int = 0, **settings) -> Iterator[str]:
    """Yield the address of a server over a retriever; in the end all connections are closed."""
    import uvicorn

    listening = open_socket("127.0.0.1", port)
    app = create_app(lambda: retriever, ServerSettings(**settings))
    config = uvicorn.Config(app, lifespan="on", log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(HANGS_AFTER)
        assert not thread.is_alive()


@contextmanager
def serving_processes(*arguments: str, cwd) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the address and the process of ``search-env serve`` with these arguments."""
    code = "from search_env.cli.main import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"on (http://\S+)", line)
        assert found, line + process.stderr.read()
        yield found[1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_until(holds, seconds: float = HANGS_AFTER) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)
