"""What a step of the vector environment costs, and what it gains where retrieval is slow.

Run ``SEARCH_ENV_DATA=<data folder> python -m benchmarks.speed.vector --output
benchmarks/results/speed_vector.md``. Without the data, the byte tokenizer is measured.

Plain steps write a token in every row: no tag, no search, no end. Contenders take turns within one
run; figures are medians. For the slow retriever, episodes of several lengths ask two queries each,
so that rows wait at different times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from benchmarks.reports.measurement_page import heading, publish, table
from benchmarks.speed.step import LENGTH, PROTOCOL, TEXT, Vocabulary, vocabularies
from search_env.env import SearchQAEnv
from search_env.moves import answer_text, query_text
from search_env.protocols import register_protocol
from search_env.types import Document
from search_env.vector_env import SearchQAVectorEnv

SIZES = (64, 256, 1024)
TARGETS = {256: 20.0, 1024: 40.0}
"""Million tokens a second that plain steps are to reach."""
SYNC_TARGET, SLOW_TARGET, STATE_TARGET_US = 50.0, 5.0, 100.0
NEAR, FAR = 100, 3900
LATENCY = 0.05

_BLOCK = 100  # steps timed at once
_SYNC_BLOCK = 10


def arguments_of(vocabulary: Vocabulary, length: int = LENGTH) -> dict[str, Any]:
    """Return what the environments under measurement are made with."""
    register_protocol(PROTOCOL, replace=True)
    return {
        "dataset": "toy",
        "protocol": PROTOCOL.name,
        "tokenizer": vocabulary.tokenizer,
        "vocab_size": vocabulary.vocab_size,
        "max_tokens": length,
    }


def lines_for(env: Any, rows: int, count: int) -> list[NDArray[np.int64]]:
    """Return ``count`` lines of plain text's ids, int64 ``(rows,)`` each."""
    ids = np.asarray(env.tokenizer.encode(TEXT * 8), np.int64)
    return [np.resize(np.roll(ids, -i), rows) for i in range(count)]


def step_time(env: Any, lines: Sequence[NDArray[np.int64]]) -> float:
    """Return the nanoseconds of one step, a mean over the lines, after a reset."""
    env.reset(seed=0)
    step = env.step
    start = time.perf_counter_ns()
    for line in lines:
        step(line)
    return (time.perf_counter_ns() - start) / len(lines)


def plain_steps(repeats: int) -> Iterator[list[str]]:
    """Yield rows: our environment without and with copies, and Gymnasium's over the single one."""
    for vocabulary in vocabularies():
        arguments = arguments_of(vocabulary)
        for rows in SIZES:
            views = SearchQAVectorEnv(rows, copy=False, **arguments)
            copies = SearchQAVectorEnv(rows, **arguments)
            single = SyncVectorEnv([partial(SearchQAEnv, **arguments)] * rows, copy=False)
            lines = lines_for(views, rows, _BLOCK)
            contenders = ((views, lines), (copies, lines[:_BLOCK]), (single, lines[:_SYNC_BLOCK]))
            times = [[step_time(env, given) for env, given in contenders] for _ in range(repeats)]
            middle = np.median(times, axis=0)
            speeds = rows / middle * 1e3
            target = TARGETS.get(rows)
            yield [
                f"{vocabulary.name}, N = {rows:,}",
                f"{middle[0] / 1e3:.1f}",
                f"{speeds[0]:.1f}",
                "" if target is None else f"{target:g}",
                f"{speeds[1]:.2f}",
                f"{speeds[2]:.3f}",
                f"{speeds[0] / speeds[2]:,.0f}",
                f"{speeds[1] / speeds[2]:,.1f}",
            ]


def position_ratio(env: SearchQAVectorEnv, near: int, far: int, pairs: int) -> NDArray[np.float64]:
    """Return nanoseconds of a step at two positions, float64 ``(pairs, 2)``, in turn."""
    rows = env.num_envs
    lines = lines_for(env, rows, far)
    observation, _ = env.reset(seed=0)
    states = []
    for position in (near, far):
        for line in lines[int(observation["length"][0]) : position]:
            observation = env.step(line)[0]
        states.append(env.get_state())
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            env.set_state(states[side])
            for line in lines[:8]:  # restoring leaves other things in the cache
                env.step(line)
            start = time.perf_counter_ns()
            for line in lines[:_BLOCK]:
                env.step(line)
            times[pair, side] = (time.perf_counter_ns() - start) / _BLOCK
    return times


def positions(repeats: int) -> Iterator[list[str]]:
    """Yield rows: a step's cost near the start and near the end of episodes."""
    for vocabulary in vocabularies():
        env = SearchQAVectorEnv(256, copy=False, **arguments_of(vocabulary))
        times = position_ratio(env, NEAR, FAR, pairs=10 * repeats)
        near, far = np.median(times, axis=0) / 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        yield [vocabulary.name, f"{near:.2f}", f"{far:.2f}", f"{ratio:.3f}"]


class SlowRetriever:
    """Answers any queries after a while, all of a call together."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.calls = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Wait, then find one passage for each query."""
        self.calls += 1
        time.sleep(self.latency)
        return [[Document(query, query, TEXT)] for query in queries]


def streams_for(env: SearchQAVectorEnv) -> list[list[int]]:
    """Return a policy's ids for each row: text, a query, text, a query, text, an answer."""
    chance = np.random.default_rng(0)
    streams = []
    for row in range(env.num_envs):
        texts = [" ".join(TEXT.split()[: chance.integers(4, 16)]) * 3 for _ in range(3)]
        asked = [query_text(env.protocol, f"query {row} {i}") for i in range(2)]
        answer = answer_text(env.protocol, "no", thinking=True)
        whole = f"{texts[0]} {asked[0]} {texts[1]} {asked[1]} {texts[2]} {answer}"
        streams.append(env.tokenizer.encode(whole).tolist())
    return streams


def lock_step(env: SearchQAVectorEnv, seconds: float, think: float) -> float:
    """Return the policy's tokens a second where every step waits for all documents."""
    streams = streams_for(env)
    env.reset(seed=0)
    at = np.zeros(env.num_envs, np.int64)
    tokens, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        line = np.array([stream[i] for stream, i in zip(streams, at, strict=True)])
        time.sleep(think)
        _, _, terminated, truncated, _ = env.step(line)
        at = np.where(terminated | truncated, 0, at + 1)
        tokens += env.num_envs
    return tokens / (time.perf_counter() - start)


def send_recv(env: SearchQAVectorEnv, seconds: float, think: float, min_ready: int) -> float:
    """Return the policy's tokens a second where rows that wait do not hold up the others."""
    streams = streams_for(env)
    env.reset(seed=0)
    at = np.zeros(env.num_envs, np.int64)
    rows, tokens, start = np.arange(env.num_envs), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        time.sleep(think)
        env.send(np.array([streams[row][at[row]] for row in rows]), rows)
        tokens += len(rows)
        _, _, terminated, truncated, infos = env.recv(min_ready)
        rows = np.flatnonzero(infos["ready"])
        at[rows] = np.where((terminated | truncated)[rows], 0, at[rows] + 1)
    return tokens / (time.perf_counter() - start)


def slow_retrieval(seconds: float) -> Iterator[list[str]]:
    """Yield rows: throughput under a retriever of 50 ms, in lock-step and by ``recv``."""
    vocabulary = vocabularies()[0]
    arguments = arguments_of(vocabulary, 2048) | {"autoreset_mode": AutoresetMode.SAME_STEP}

    def make(threads: int = 1) -> SearchQAVectorEnv:
        return SearchQAVectorEnv(
            64,
            retriever=SlowRetriever(LATENCY),
            retrieval_threads=threads,
            copy=False,
            **arguments,
        )

    for think, label in ((0.0, "no time"), (0.002, "2 ms"), (0.01, "10 ms")):
        waiting = lock_step(make(), seconds, think)
        for min_ready, threads in ((1, 1), (16, 1), (32, 1), (1, 4)):
            env = make(threads)
            flowing = send_recv(env, seconds, think, min_ready)
            env.close()
            yield [
                label,
                str(min_ready),
                str(threads),
                f"{waiting:,.0f}",
                f"{flowing:,.0f}",
                f"{flowing / waiting:.1f}",
            ]


def states(repeats: int) -> Iterator[list[str]]:
    """Yield rows: saving and restoring one episode, and all rows of a vector environment."""
    for vocabulary in vocabularies():
        arguments = arguments_of(vocabulary)
        single = SearchQAEnv(**arguments)
        length = single.reset(seed=0)[0]["length"]
        for line in lines_for(single, 1, LENGTH - length - 1):
            single.step(int(line[0]))
        many = SearchQAVectorEnv(64, copy=False, **arguments)
        many.reset(seed=0)
        for line in lines_for(many, 64, LENGTH - length - 1):
            many.step(line)
        for label, env in (("one episode", single), ("64 rows", many)):
            saved = env.get_state()
            figures = [
                _median_us(env.get_state, 20 * repeats),
                _median_us(lambda env=env, saved=saved: env.set_state(saved), 20 * repeats),
            ]
            yield [f"{vocabulary.name}, {label}", *figures]


def _median_us(call: Callable[[], object], repeats: int) -> str:
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return f"{np.median(times) / 1e3:,.1f}"


def result(repeats: int, seconds: float, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    head = heading("The vector environment", command, ["search-env", "gymnasium", "numpy"])
    columns = ["tokenizer, rows", "us a step", "M tokens/s", "target", "copies", "`SyncVectorEnv`"]
    columns += ["times", "copies, times"]
    slow = [
        "policy takes",
        "min_ready",
        "threads",
        "lock-step, tokens/s",
        "`recv`, tokens/s",
        "times",
    ]
    return f"""{head}
Contexts of L = {LENGTH:,}; medians of {repeats} rounds in turn.

## Plain steps

`SearchQAVectorEnv` with `copy=False`: microseconds a step of all rows, million tokens a second and
their target; then million tokens a second with copies (every step copies N x L ids and sources) and
of Gymnasium's `SyncVectorEnv(copy=False)` over `SearchQAEnv`. The last two columns are ratios to
that; target {SYNC_TARGET:g}.

{table(columns, list(plain_steps(repeats)))}

## A step at position {NEAR:,} and at {FAR:,}, microseconds, N = 256

{table(["tokenizer", f"at {NEAR:,}", f"at {FAR:,}", "ratio"], list(positions(repeats)))}

## A retriever that takes {LATENCY * 1e3:g} ms a call, N = 64

Tokens a second of a policy that takes no time, 2 ms or 10 ms for each batch of tokens;
background threads by `retrieval_threads`. Target where the policy takes no time: {SLOW_TARGET:g}
times lock-step.

{table(slow, list(slow_retrieval(seconds)))}

## Saving and restoring, microseconds

Episodes of {LENGTH - 1:,} tokens. Target for one episode: {STATE_TARGET_US:g} us for both together.

{table(["tokenizer, what", "get_state", "set_state"], list(states(repeats)))}
"""


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each contender")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each slow-retriever run")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    command = (
        "SEARCH_ENV_DATA=... python -m benchmarks.speed.vector "
        f"--repeats {given.repeats} --seconds {given.seconds:g}"
    )
    publish(result(given.repeats, given.seconds, command), given.output)


if __name__ == "__main__":
    main()
