r"""What a step of the vector environment costs, and what it gains where retrieval is slow.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.speed.vector \
        --output benchmarks/results/speed_vector.md

Plain steps write a token in every row. For the slow retriever, episodes of several lengths send two
queries each, so that rows wait at different times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.measure import (
    LENGTH,
    TEXT,
    env_arguments,
    in_turn,
    plain_actions,
    step_all,
    vocabularies,
)
from search_env.envs.search_qa import SearchQAEnv
from search_env.envs.search_qa_vector import SearchQAVectorEnv
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.types import Document

TARGETS = {64: "", 256: "20", 1024: "40"}
"""Rows, and million tokens a second that plain steps are to reach."""
SYNC_TARGET, SLOW_TARGET = 50.0, 5.0
LATENCY = 0.05

_BLOCK, _SYNC_BLOCK = 100, 10  # steps timed at once


def plain_steps(repeats: int) -> Iterator[list[str]]:
    """Yield rows: our environment, and Gymnasium's over the single one."""
    for vocabulary in vocabularies():
        arguments = env_arguments(vocabulary)
        for rows, target in TARGETS.items():
            views = SearchQAVectorEnv(rows, copy=False, **arguments)
            single = SyncVectorEnv([partial(SearchQAEnv, **arguments)] * rows, copy=False)
            lines = plain_actions(views.tokenizer, _BLOCK, rows)
            contenders = ((views, lines), (single, lines[:_SYNC_BLOCK]))
            times = in_turn([partial(step_all, *pair) for pair in contenders], repeats)
            ours, theirs = np.median(times, axis=0)
            speeds = f"{rows / ours * 1e3:.1f}", target, f"{rows / theirs * 1e3:.3f}"
            name = f"{vocabulary.name}, N = {rows:,}"
            yield [name, f"{ours / 1e3:.1f}", *speeds, f"{theirs / ours:,.0f}"]


class SlowRetriever:
    """Answers any queries after a while, all of a call together."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Wait, then return one passage for each query."""
        time.sleep(LATENCY)
        return [[Document(query, query, TEXT)] for query in queries]


def streams_for(env: SearchQAVectorEnv) -> list[list[int]]:
    """Return a policy's ids for each row: text, a query, text, a query, text, an answer."""
    chance = np.random.default_rng(0)
    streams = []
    for row in range(env.num_envs):
        texts = [" ".join(TEXT.split()[: chance.integers(4, 16)]) * 3 for _ in range(3)]
        queries = [query_text(env.protocol, f"query {row} {i}") for i in range(2)]
        answer = answer_text(env.protocol, "no", thoughts=["think"])
        whole = f"{texts[0]} {queries[0]} {texts[1]} {queries[1]} {texts[2]} {answer}"
        streams.append(env.tokenizer.encode(whole).tolist())
    return streams


def play(env: SearchQAVectorEnv, seconds: float, think: float, min_ready: int | None) -> float:
    """Return the policy's tokens a second; ``min_ready`` None steps all rows together."""
    streams = streams_for(env)
    env.reset(seed=0)
    at = np.zeros(env.num_envs, np.int64)
    rows, tokens, start = np.arange(env.num_envs), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        time.sleep(think)
        actions = np.array([streams[row][at[row]] for row in rows])
        tokens += len(rows)
        if min_ready is None:
            _, _, terminated, truncated, _ = env.step(actions)
        else:
            env.send(actions, rows)
            _, _, terminated, truncated, infos = env.recv(min_ready)
            rows = np.flatnonzero(infos["ready"])
        at[rows] = np.where((terminated | truncated)[rows], 0, at[rows] + 1)
    return tokens / (time.perf_counter() - start)


def slow_env(threads: int = 1, **arguments: Any) -> SearchQAVectorEnv:
    """Return 64 rows that search with a retriever of 50 ms."""
    return SearchQAVectorEnv(
        64,
        retriever=SlowRetriever(),
        retrieval_threads=threads,
        copy=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
        **arguments,
    )


def slow_retrieval(seconds: float) -> Iterator[list[str]]:
    """Yield rows: throughput under a retriever of 50 ms, in lock-step and by ``recv``."""
    arguments = env_arguments(vocabularies()[0], 2048)
    for think, label in ((0.0, "no time"), (0.002, "2 ms"), (0.01, "10 ms")):
        waiting = play(slow_env(**arguments), seconds, think, None)
        for min_ready, threads in ((1, 1), (16, 1), (32, 1), (1, 4)):
            env = slow_env(threads, **arguments)
            flowing = play(env, seconds, think, min_ready)
            env.close()
            figures = (f"{waiting:,.0f}", f"{flowing:,.0f}", f"{flowing / waiting:.1f}")
            yield [label, str(min_ready), str(threads), *figures]


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    columns = ["tokenizer, rows", "us a step", "M tokens/s", "target", "`SyncVectorEnv`"]
    slow = ["policy takes", "min_ready", "threads", "lock-step, tokens/s", "`recv`, tokens/s"]
    return f"""Contexts of L = {LENGTH:,}; medians of {args.repeats} rounds in turn.

## Plain steps

`SearchQAVectorEnv` with `copy=False`: microseconds a step of all rows, million tokens a second and
their target; then million tokens a second of Gymnasium's `SyncVectorEnv(copy=False)` over
`SearchQAEnv`, and the ratio to that; target {SYNC_TARGET:g}.

{table([*columns, "times"], list(plain_steps(args.repeats)))}

## A retriever that takes {LATENCY * 1e3:g} ms a call, N = 64

Tokens a second of a policy that takes no time, 2 ms or 10 ms for each batch of tokens;
background threads by `retrieval_threads`. Target where the policy takes no time: {SLOW_TARGET:g}
times lock-step.

{table([*slow, "times"], list(slow_retrieval(args.seconds)))}
"""


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--repeats", type=int, default=9, help="rounds of each contender")
    options.add_argument("--seconds", type=float, default=3.0, help="of each slow-retriever run")
    measure(options, "The vector environment", ["gymnasium", "numpy"], page)


if __name__ == "__main__":
    main()
