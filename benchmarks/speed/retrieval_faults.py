"""A search server under faults: killed workers, cut connections, slow clients.

    python -m search_env.benchmarks.speed.retrieval_faults --clients 64 --seconds 600 \
        --output benchmarks/results/server_faults.md

Clients ask for one to eight queries at a time through a relay that cuts connections in the middle
of replies; others send their requests and read their replies in small pieces; after some thousand
answers a worker is killed. Every answer is compared with the index itself. An answer is lost where
the retriever of the package gives up. Times are those of whole calls, with all retries and pauses.
Linux only: workers are found in /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.retrieval import Words, corpus, queries
from search_env.benchmarks.speed.served import load_index, serving
from search_env.errors import RetrievalError
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.http.client import HttpRetriever
from search_env.retrieval.http.search_r1 import documents, request
from search_env.retrieval.server.run import open_socket
from search_env.retrieval.server.settings import ServerSettings
from search_env.types import Document

K = 3
_PIECE = 512  # bytes that a slow client sends or reads at once


@dataclass
class Plan:
    """What is done to a server; it ends after ``answers`` or ``seconds``, whichever is set.

    Attributes:
        slow: Clients that send and read in pieces, ``pause`` seconds apart.
        kill_every: Answers between two kills of a worker.
        cut_bytes: Mean bytes of replies on a connection before the relay cuts it.
        longest_pause: Seconds between two tries of a call at most.
    """

    clients: int = 64
    slow: int = 4
    workers: int = 2
    answers: int | None = None
    seconds: float | None = None
    kill_every: int = 5000
    cut_bytes: float = 1e6
    pause: float = 0.01
    retries: int = 8
    longest_pause: float = 30.0


@dataclass
class Outcome:
    """What came of it; ``milliseconds`` are of whole calls with their retries."""

    answers: int = 0
    slow_answers: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    kills: int = 0
    cuts: int = 0
    seconds: float = 0.0


class _Run:
    """The threads of one run, and what they share."""

    def __init__(self, plan: Plan, expected: dict[str, list[Document]], url: str) -> None:
        self.plan, self.expected, self.url = plan, expected, url
        self.texts = list(expected)
        self.outcome, self.lock = Outcome(), threading.Lock()
        self.started = time.perf_counter()
        self.failures: list[BaseException] = []

    @property
    def is_over(self) -> bool:
        plan, outcome = self.plan, self.outcome
        enough = plan.answers is not None and outcome.answers >= plan.answers
        late = plan.seconds is not None and time.perf_counter() - self.started > plan.seconds
        return enough or late or bool(self.failures)

    def guarded(self, work: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.failures.append(error)

        return threading.Thread(target=run, daemon=True)

    def compare(self, asked: Sequence[str], found: Sequence[Sequence[Document]]) -> None:
        """Count wrong answers; the caller holds the lock."""
        right = [self.expected[query] for query in asked]
        self.outcome.wrong += [
            f"{query!r}: {list(one)[:1]}"
            for query, one, other in zip(asked, found, right, strict=True)
            if list(one) != other
        ]

    def ask(self, number: int, url: str) -> None:
        """One client, until the run is over."""
        draw = random.Random(number)
        options = f"dialect=search-r1&connections=1&timeout=60&retries={self.plan.retries}"
        longest = self.plan.longest_pause
        retriever = HttpRetriever(
            f"{url}?{options}", sleep=lambda seconds: time.sleep(min(seconds, longest))
        )
        while not self.is_over:
            asked = draw.sample(self.texts, draw.randint(1, 8))
            begun = time.perf_counter()
            try:
                found: list[list[Document]] | None = retriever.search(asked, K)
            except RetrievalError as error:
                found, lost = None, f"{type(error).__name__}: {error}"
            passed = 1e3 * (time.perf_counter() - begun)
            with self.lock:
                self.outcome.milliseconds.append(passed)
                self.outcome.answers += 1
                if found is None:
                    self.outcome.lost.append(lost)
                else:
                    self.compare(asked, found)

    def ask_slowly(self, number: int) -> None:
        """One client that sends and reads in pieces, straight to the server."""
        draw, parts = random.Random(-number), urlsplit(self.url)
        while not self.is_over:
            asked = draw.sample(self.texts, 2)
            body = request(asked, K, {}).body or b""
            head = f"POST /retrieve HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
            sent = head.encode() + b"Connection: close\r\n\r\n" + body
            try:
                reply = self._in_pieces((parts.hostname or "", parts.port or 0), sent)
            except OSError:
                continue  # its worker was killed
            head_, _, content = reply.partition(b"\r\n\r\n")
            if not head_.startswith(b"HTTP/1.1 200") or not _is_whole(head_, content):
                continue
            with self.lock:
                self.outcome.slow_answers += 1
                self.compare(asked, documents(content, len(asked)))

    def _in_pieces(self, place: tuple[str, int], sent: bytes) -> bytes:
        with socket.create_connection(place, timeout=60) as peer:
            for start in range(0, len(sent), _PIECE // 8):
                peer.sendall(sent[start : start + _PIECE // 8])
                time.sleep(self.plan.pause)
            pieces = []
            while piece := peer.recv(_PIECE):
                pieces.append(piece)
                time.sleep(self.plan.pause)
            return b"".join(pieces)

    def kill(self, parent: int) -> None:
        """Kill a worker after every so many answers."""
        draw, due = random.Random(0), self.plan.kill_every
        while not self.is_over:
            workers = worker_processes(parent)
            if self.outcome.answers < due or not workers:
                time.sleep(0.02)
                continue
            try:
                os.kill(draw.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.outcome.kills += 1
            due = self.outcome.answers + self.plan.kill_every


def _is_whole(head: bytes, content: bytes) -> bool:
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return int(lines.get(b"content-length", b"-1")) == len(content)


def worker_processes(parent: int) -> list[int]:
    """Return the worker processes of a server, by /proc."""
    path = Path(f"/proc/{parent}/task/{parent}/children")
    children = map(int, path.read_text().split())
    return [child for child in children if b"spawn_main" in _command(child)]


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def cutting(url: str, mean_bytes: float) -> Iterator[tuple[str, Any]]:
    """Yield the address of a relay to a server, in a process of its own, and its count of cuts."""
    context = multiprocessing.get_context("spawn")
    listening, cuts = open_socket("127.0.0.1", 0), context.Value("q", 0)
    arguments = (listening, urlsplit(url).port, mean_bytes, cuts)
    process = context.Process(target=_relay, args=arguments, daemon=True)
    process.start()
    port = listening.getsockname()[1]
    listening.close()
    try:
        yield f"http://127.0.0.1:{port}", cuts
    finally:
        process.terminate()
        process.join()


def _relay(listening: socket.socket, port: int, mean_bytes: float, cuts: Any) -> None:
    draw = random.Random(0)

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: float
    ) -> bool:
        """Return whether the budget ran out in the middle."""
        while piece := await reader.read(65536):
            if len(piece) > budget:
                writer.write(piece[: int(budget)])
                await writer.drain()
                return True
            budget -= len(piece)
            writer.write(piece)
            await writer.drain()
        return False

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        budget = draw.expovariate(1 / mean_bytes)
        both = [
            asyncio.ensure_future(copy(reader, inner_writer, float("inf"))),
            asyncio.ensure_future(copy(inner_reader, writer, budget)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if both[1].done() and not both[1].exception() and both[1].result():
            cuts.value += 1
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.transport.abort()
        inner_writer.transport.abort()

    async def main() -> None:
        await (await asyncio.start_server(handle, sock=listening)).serve_forever()

    asyncio.run(main())


def run_faults(index: Path, plan: Plan, texts: Sequence[str]) -> Outcome:
    """Serve an index and do all of the plan to it."""
    retriever = BM25Retriever.load(index)
    expected = dict(zip(texts, retriever.search(list(texts), K), strict=True))
    settings = ServerSettings(cache=len(texts) // 2)
    load = functools.partial(load_index, index)
    with (
        serving(load, settings, plan.workers) as server,
        cutting(server.url, plan.cut_bytes) as (relayed, cuts),
    ):
        run = _Run(plan, expected, server.url)
        threads = [run.guarded(run.ask, n, relayed) for n in range(plan.clients)]
        threads += [run.guarded(run.ask_slowly, n + 1) for n in range(plan.slow)]
        threads.append(run.guarded(run.kill, server.process))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.outcome.seconds = time.perf_counter() - run.started
        run.outcome.cuts = cuts.value
    if run.failures:
        raise run.failures[0]
    return run.outcome


def page(args: argparse.Namespace) -> str:
    """Measure and return the table."""
    plan = Plan(
        clients=args.clients,
        slow=args.slow,
        workers=args.workers,
        seconds=args.seconds,
        kill_every=args.kill_every,
    )
    words = Words()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        BM25Retriever.build(corpus(words, args.passages)).save(index)
        outcome = run_faults(index, plan, list(dict.fromkeys(queries(words))))
    times = np.array(outcome.milliseconds)
    shown = [f"{np.quantile(times, share):,.0f}" for share in (0.5, 0.99, 0.999, 1.0)]
    rows = [
        ["answers to clients", f"{outcome.answers:,}"],
        ["answers to slow clients", f"{outcome.slow_answers:,}"],
        ["wrong answers", f"{len(outcome.wrong):,}"],
        ["lost answers", f"{len(outcome.lost):,}"],
        ["killed workers", f"{outcome.kills:,}"],
        ["connections cut by the relay", f"{outcome.cuts:,}"],
        ["p50 / p99 / p99.9 / longest of a call with its retries, ms", " / ".join(shown)],
    ]
    found = json.dumps((outcome.wrong + outcome.lost)[:5], indent=1)
    return (
        f"{plan.clients} clients and {plan.slow} slow ones for {outcome.seconds:.0f} s, "
        f"{plan.workers} worker processes over BM25 of {args.passages:,} passages. A call is of 1 "
        f"to 8 queries and is tried again up to {plan.retries} times.\n\n"
        f"{table(['', 'value'], rows)}\n"
        + (f"\n```json\n{found}\n```\n" if outcome.wrong or outcome.lost else "")
    )


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--slow", type=int, default=4)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--kill-every", type=int, default=5000, help="answers between two kills")
    options.add_argument("--passages", type=int, default=100_000)
    packages = ["numpy", "starlette", "uvicorn", "httptools", "urllib3"]
    measure(options, "A search server under faults", packages, page)


if __name__ == "__main__":
    main()
