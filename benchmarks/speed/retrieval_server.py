"""A search server: many queries in one request, and batches over many clients.

    python -m search_env.benchmarks.speed.retrieval_server \
        --output benchmarks/results/speed_server.md

Two questions. How much faster are 64 queries in one POST than 64 POSTs of one query over kept
connections, with BM25 (the corpus of ``speed.retrieval``)? And how much faster do 64 clients with
one query at a time get their answers with dynamic batching than without, from a retriever whose
cost is per call: an encoder of a few large matrices, which one row and 64 rows read once?

Each server runs in a process of its own; contenders take turns, figures are medians over the
rounds.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.retrieval import Words, corpus, queries
from search_env.benchmarks.speed.served import Load, load_index, load_with, serving
from search_env.retrieval.base import Retriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.server.settings import ServerSettings
from search_env.types import Document

K = 5
BATCH = 64
OFF = ServerSettings(window=0.0, max_batch=1, cache=0)
"""Batching off: one query in each call of the retriever."""


class MatrixEncoder:
    """A retriever whose cost is per call: words to a vector, through matrices, to passages."""

    def __init__(self, width: int, layers: int, passages: int = 2000) -> None:
        random = np.random.default_rng(0)
        scale = np.float32(width**-0.5)
        self._layers = [
            scale * random.standard_normal((width, width), np.float32) for _ in range(layers)
        ]
        self._words = random.standard_normal((997, width), np.float32)
        self._passages = random.standard_normal((width, passages), np.float32)

    def search(self, texts: Sequence[str], k: int) -> list[list[Document]]:
        """Return the nearest passages."""
        rows = np.stack([self._words[[_row(w) for w in t.split() or [""]]].mean(0) for t in texts])
        for layer in self._layers:
            rows = np.tanh(rows @ layer)
        scores = rows @ self._passages
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [Document(str(i), f"Passage {i}", "text " * 100, float(scores[n, i])) for i in found]
            for n, found in enumerate(best)
        ]


def _row(word: str) -> int:
    return sum((i + 1) * byte for i, byte in enumerate(word.encode())) % 997


class Way(NamedTuple):
    """One row: what it is called, the server's settings, the clients and their requests."""

    name: str
    settings: ServerSettings
    clients: int
    size: int


def one_request(words: Words, args: argparse.Namespace) -> str:
    """Return the section on many queries in one request."""
    texts = (queries(words) * (args.queries // 1000 + 1))[: args.queries]
    cached = ServerSettings(window=0.0, cache=len(texts))
    ways = [
        Way("one query a POST, 1 client", OFF, 1, 1),
        Way("one query a POST, 1 client, batching on", _on(args), 1, 1),
        Way(f"one query a POST, {BATCH} clients", OFF, BATCH, 1),
        Way(f"one query a POST, {BATCH} clients, batching on", _on(args), BATCH, 1),
        Way(f"{BATCH} queries a POST, 1 client", _on(args), 1, BATCH),
        Way("from the cache: one query a POST, 1 client", cached, 1, 1),
        Way(f"from the cache: {BATCH} queries a POST, 1 client", cached, 1, BATCH),
    ]
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        BM25Retriever.build(corpus(words, args.passages)).save(index)
        loads = _in_turn(functools.partial(load_index, index), ways, texts, args.rounds)
        alone = 1 / _seconds_alone(BM25Retriever.load(index), texts)
    speeds = [load.per_second for load in loads]
    ratios = ", ".join(f"{speeds[4] / speed:.1f}" for speed in speeds[:4])
    return (
        f"\n## BM25 over {args.passages:,} passages, k={K}\n\n{_section(ways, loads)}\n\n{BATCH} "
        f"queries in one POST to one query a POST, as in the first four rows: {ratios} times the "
        f"queries/s; from the cache {speeds[6] / speeds[5]:.1f} times, which is the cost of the "
        f"wire alone. In process, without a server, {BATCH} at a time: {alone:,.0f} queries/s.\n"
    )


def batching(args: argparse.Namespace) -> str:
    """Return the section on batches over clients."""
    words = [f"w{i} w{i // 7} w{i // 3}" for i in range(args.encoder_queries)]
    ways = [
        Way(f"{BATCH} clients, batching off", OFF, BATCH, 1),
        Way(f"{BATCH} clients, batching on", _on(args), BATCH, 1),
    ]
    load = functools.partial(MatrixEncoder, args.width, args.layers)
    loads = _in_turn(load, ways, words, args.rounds)
    return (
        f"\n## A retriever whose cost is per call: {args.layers} matrices of {args.width} by "
        f"{args.width}\n\n{_section(ways, loads)}\n\nBatching on to off: "
        f"{loads[1].per_second / loads[0].per_second:.1f} times the queries/s.\n"
    )


def _on(args: argparse.Namespace) -> ServerSettings:
    return ServerSettings(window=args.window, max_batch=BATCH, cache=0)


def _in_turn(
    load: Callable[[], Retriever], ways: Sequence[Way], texts: Sequence[str], rounds: int
) -> list[Load]:
    """Return the round of median speed of each way; one server for each setting, all at once."""
    found: list[list[Load]] = [[] for _ in ways]
    with ExitStack() as stack:
        urls = {
            settings: stack.enter_context(serving(load, settings)).url
            for settings in dict.fromkeys(way.settings for way in ways)
        }
        for url in urls.values():  # pages are read, caches filled
            load_with(url, texts, K, clients=1, size=BATCH)
        for _ in range(rounds):
            for loads, way in zip(found, ways, strict=True):
                url = urls[way.settings]
                loads.append(load_with(url, texts, K, clients=way.clients, size=way.size))
    return [sorted(loads, key=lambda one: one.per_second)[len(loads) // 2] for loads in found]


def _section(ways: Sequence[Way], loads: Sequence[Load]) -> str:
    rows = [
        [way.name, f"{load.per_second:,.0f}", load.quantile(0.5), load.quantile(0.99)]
        for way, load in zip(ways, loads, strict=True)
    ]
    return table(["", "queries/s", "p50 of a request, ms", "p99, ms"], rows)


def _seconds_alone(retriever: BM25Retriever, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    for start in range(0, len(texts), BATCH):
        retriever.search(texts[start : start + BATCH], K)
    return (time.perf_counter() - started) / len(texts)


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    return (
        "Server and clients share this machine's cores. All requests go over kept connections. No "
        "answer comes from a cache, except where it says so.\n"
        + one_request(Words(), args)
        + batching(args)
    )


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--passages", type=int, default=100_000)
    options.add_argument("--queries", type=int, default=4096, help="queries of each BM25 row")
    options.add_argument("--encoder-queries", type=int, default=1024)
    options.add_argument("--width", type=int, default=2048, help="of the encoder's matrices")
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--window", type=float, default=0.002, help="seconds, batching on")
    options.add_argument("--rounds", type=int, default=3)
    packages = ["numpy", "starlette", "uvicorn", "httptools", "urllib3"]
    measure(options, "Speed of a search server", packages, page)


if __name__ == "__main__":
    main()
