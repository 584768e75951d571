"""What one search costs through each door, in one run.

    python -m search_env.benchmarks.speed.doors [--also PYTHON] [--rounds 200] [--out FILE]

The same questions, in turn, each asked once, of the generated world's BM25 index, three documents:

* by the retriever in process, behind ``/retrieve`` (one query a request, and 64), and as MCP's tool
  ``search`` in memory and over HTTP;
* as a step of the environment: in process, and of an OpenEnv server in process, over a WebSocket
  and over HTTP, where a request begins an episode of its own.

Doors whose packages are missing are left out. openenv and the MCP SDK of this package cannot share
an environment, so ``--also`` runs the rest with another interpreter, within the same run. Servers
run in processes of their own, without caches and without waiting for a batch.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search_env.agents.bridges.session import EnvironmentPool, Session
from search_env.protocols.tagged_text import query_text
from search_env.provenance import processor, versions
from search_env.retrieval.base import Retriever
from search_env.retrieval.http.client import HttpRetriever
from search_env.retrieval.server.run import open_socket

ENV_ID, SPLIT, K, BATCH = "SearchQA-v0", "validation", 3, 64
DOORS = {
    "in process": "the retriever in process",
    "retrieve": "`/retrieve`, one query a request",
    "retrieve batched": f"`/retrieve`, {BATCH} queries a request, for each query",
    "mcp memory": "MCP in memory",
    "mcp http": "MCP over HTTP, a session for each call",
    "step": "a step of the environment in process",
    "openenv process": "OpenEnv in process",
    "openenv ws": "OpenEnv over a WebSocket",
    "openenv http": "OpenEnv over HTTP, with the beginning of an episode",
}
"""What is measured, in the order of the table."""
_SETTLE = 5  # rounds before the clock
PACKAGES = (
    "search-env",
    "gymnasium",
    "openenv",
    "fastapi",
    "starlette",
    "uvicorn",
    "mcp",
    "urllib3",
)

Search = Callable[[int], object]
"""Searches for the question of a number."""


class Door(NamedTuple):
    """A way to search, and what has to be done before it, outside the clock."""

    search: Search
    prepare: Search = lambda number: None
    queries: int = 1  # of one search


def retriever() -> Retriever:
    """Return the world's BM25 index, in any process."""
    return EnvironmentPool(ENV_ID).environment(SPLIT).retriever


def questions() -> list[str]:
    """Return the texts of the questions that are asked."""
    return [question.text for question in EnvironmentPool(ENV_ID).environment(SPLIT).questions]


def has(name: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(name) is not None


@contextmanager
def served(target: Callable[..., None], *arguments: bool) -> Iterator[int]:
    """Run a server in another process; yield its port once it answers."""
    listening = open_socket("127.0.0.1", 0)
    port = int(listening.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=(listening, *arguments))
    process.start()
    listening.close()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=120):
            yield port
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGTERM)
        process.join(20)
        process.kill()


def serve_search(listening: Any, mcp: bool) -> None:
    """Serve the retriever."""
    from search_env.retrieval.server.run import serve
    from search_env.retrieval.server.settings import ServerSettings

    serve(retriever, ServerSettings(window=0.0, cache=0, mcp=mcp), listening)


def serve_openenv(listening: Any) -> None:
    """Serve the environment."""
    from search_env.agents.bridges.openenv import create_app, serve

    serve(create_app(EnvironmentPool(ENV_ID)), listening)


def local_doors(texts: list[str], ids: list[list[int]]) -> dict[str, Door]:
    """Return the doors that need no package and no server."""
    here, session = retriever(), Session(EnvironmentPool(ENV_ID))
    return {
        "in process": Door(lambda n: here.search([texts[n]], K)),
        "step": Door(
            lambda n: session.write(ids[n]), lambda n: session.begin(split=SPLIT, index=n)
        ),
    }


def query_ids(texts: list[str]) -> list[list[int]]:
    """Return the ids that search for each text."""
    env = EnvironmentPool(ENV_ID).environment(SPLIT)
    return [env.tokenizer.encode(query_text(env.protocol, text)).tolist() for text in texts]


def http_doors(texts: list[str], stack: ExitStack) -> dict[str, Door]:
    """Return the doors of the search server, and of MCP where its SDK is there."""
    mcp = has("mcp") and has("mcp.server.mcpserver")  # the latter is of version 2
    port = stack.enter_context(served(serve_search, mcp))
    client = HttpRetriever(f"http://127.0.0.1:{port}?dialect=search-r1")
    count = len(texts)
    doors = {
        "retrieve": Door(lambda n: client.search([texts[n]], K)),
        "retrieve batched": Door(
            lambda n: client.search([texts[(n + i) % count] for i in range(BATCH)], K),
            queries=BATCH,
        ),
    }
    if mcp:
        from search_env.retrieval.mcp_client import McpRetriever

        tool = McpRetriever(f"http://127.0.0.1:{port}/mcp")
        doors["mcp http"] = Door(lambda n: tool.search([texts[n]], K))
        doors["mcp memory"] = memory_door(texts, stack)
    return doors


def memory_door(texts: list[str], stack: ExitStack) -> Door:
    """Return the SDK's own client before a server of it, without a network; one session."""
    from anyio.from_thread import start_blocking_portal
    from mcp import Client
    from mcp.server.mcpserver import MCPServer

    here, server = retriever(), MCPServer("search-env")

    async def search(query: str, k: int = K) -> dict[str, Any]:
        found = here.search([query], k)[0]
        return {"results": [{"id": d.id, "title": d.title, "text": d.text} for d in found]}

    server.tool(name="search", description="Search passages.")(search)
    portal = stack.enter_context(start_blocking_portal())  # a session lives in one task
    client = stack.enter_context(portal.wrap_async_context_manager(Client(server)))
    return Door(lambda n: portal.call(client.call_tool, "search", {"query": texts[n], "k": K}))


def openenv_doors(ids: list[list[int]], stack: ExitStack) -> dict[str, Door]:
    """Return the doors of OpenEnv."""
    import requests
    from openenv.core import GenericEnvClient

    from search_env.agents.bridges.openenv import openenv_types

    types = openenv_types()
    env = types.environment(EnvironmentPool(ENV_ID))
    url = f"http://127.0.0.1:{stack.enter_context(served(serve_openenv))}"
    client = stack.enter_context(GenericEnvClient(base_url=url).sync())
    http = stack.enter_context(requests.Session())

    def post(number: int) -> object:
        body = {"action": {"tokens": ids[number]}, "split": SPLIT, "index": number}
        reply = http.post(f"{url}/step", json=body, timeout=60)
        reply.raise_for_status()
        return reply.json()

    return {
        "openenv process": Door(
            lambda n: env.step(types.action(tokens=ids[n])),
            lambda n: env.reset(split=SPLIT, index=n),
        ),
        "openenv ws": Door(
            lambda n: client.step({"tokens": ids[n]}), lambda n: client.reset(split=SPLIT, index=n)
        ),
        "openenv http": Door(post),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Return milliseconds a search of each door here; doors take turns."""
    texts = questions()
    ids = query_ids(texts)
    with ExitStack() as stack:
        doors = local_doors(texts, ids)
        if all(map(has, ("starlette", "uvicorn", "urllib3"))):
            doors |= http_doors(texts, stack)
        if has("openenv"):
            doors |= openenv_doors(ids, stack)
        times: dict[str, list[float]] = {name: [] for name in doors}
        for number in range(-_SETTLE, rounds):
            for name, door in doors.items():
                index = number % len(texts)
                door.prepare(index)
                start = time.perf_counter()
                if not door.search(index):
                    raise RuntimeError(f"Expected documents through {name}, got none.")
                if number >= 0:
                    times[name].append(1000 * (time.perf_counter() - start) / door.queries)
    return times


def table(measured: list[dict[str, list[float]]]) -> str:
    """Return the table; of a door that was measured twice, the first."""
    merged = {name: times for one in reversed(measured) for name, times in one.items()}
    lines = ["| door | median, ms | 90 %, ms | to in process |", "|---|---:|---:|---:|"]
    base = np.median(merged["in process"])
    for name, label in DOORS.items():
        if name in merged:
            median, high = np.median(merged[name]), np.percentile(merged[name], 90)
            lines.append(f"| {label} | {median:.2f} | {high:.2f} | {median / base:.1f} |")
    return "\n".join(lines)


def page(arguments: argparse.Namespace) -> str:
    """Measure here and with the other interpreters; return the section of a page."""
    own = {"versions": versions(PACKAGES), "times": measure(arguments.rounds)}
    parts = [own]
    for python in arguments.also or ():
        command = [python, "-m", "search_env.benchmarks.speed.doors", "--json"]
        command += ["--rounds", str(arguments.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        parts.append(json.loads(done.stdout.splitlines()[-1]))
    shown = "; ".join(", ".join(f"{k} {v}" for k, v in part["versions"].items()) for part in parts)
    return "\n".join(
        [
            "## Costs",
            "",
            f"One search through each door, {arguments.rounds} questions of the generated world, "
            "three documents. The environment's steps also insert the documents as tokens.",
            "",
            "* Command: `python -m search_env.benchmarks.speed.doors --also PYTHON`",
            f"* Date: {datetime.date.today()}",
            f"* Versions: {shown}",
            f"* Machine: {processor()}, {os.cpu_count()} cores, load average at the end "
            f"{os.getloadavg()[0]:.1f}; servers and clients share the cores",
            "",
            table([part["times"] for part in parts]),
        ]
    )


def main() -> None:
    """Measure, and print or write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--also", action="append", help="an interpreter with other packages")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print the times alone")
    parser.add_argument("--out", type=Path, help="write the section there")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps({"versions": versions(PACKAGES), "times": measure(arguments.rounds)}))
        return
    text = page(arguments)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
