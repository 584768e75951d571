"""An OpenEnv server under many sessions: seeds are honoured, no session sees another's episode.

    python -m search_env.benchmarks.speed.openenv_sessions [--sessions 64] [--seconds 300]

Needs the `openenv` extra. A server runs in a process of its own. Every session is a WebSocket that
begins episodes by seeds, writes ids by a policy that the seed decides, and compares every
observation, reward and ending with the environment itself. Some clients vanish in the middle of an
episode and come back as others. The first difference ends the run with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search_env.agents.bridges.session import EnvironmentPool, Session
from search_env.errors import ConformanceError
from search_env.retrieval.server.run import open_socket

TOY = "SearchQA-Toy-v0"
VANISH = 0.02  # share of episodes in which the client vanishes


@dataclass
class Counts:
    """What all sessions saw together."""

    episodes: int = 0
    steps: int = 0
    vanished: int = 0
    seconds: list[float] = field(default_factory=list)  # of every step


def main() -> None:
    """Run, and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--env", default=TOY)
    arguments = parser.parse_args()
    counts = run(arguments.env, arguments.sessions, arguments.seconds)
    milliseconds = 1000 * np.asarray(counts.seconds)
    print(
        f"{arguments.sessions} sessions, {arguments.seconds:g} s: {counts.episodes:,} episodes, "
        f"{counts.steps:,} steps, {counts.vanished} clients vanished, all as the environment gives "
        f"them; a step took {np.median(milliseconds):.1f} ms (median), "
        f"{np.percentile(milliseconds, 99):.0f} ms (99 %)"
    )


def run(env_id: str, sessions: int, seconds: float) -> Counts:
    """Serve in another process, and play on all sessions for so long."""
    listening = open_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(env_id, sessions, listening)
    )
    process.start()
    listening.close()
    counts = Counts()
    try:
        asyncio.run(_play_all(env_id, f"ws://127.0.0.1:{port}/ws", sessions, seconds, counts))
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGTERM)
        process.join(20)
        process.kill()
    return counts


def _serve(env_id: str, sessions: int, listening: Any) -> None:
    from search_env.agents.bridges.openenv import create_app, serve

    serve(create_app(EnvironmentPool(env_id), sessions=sessions), listening)


async def _play_all(env_id: str, url: str, sessions: int, seconds: float, counts: Counts) -> None:
    pool = EnvironmentPool(env_id)
    await (await _connected(url)).close()  # the server has started
    end = time.monotonic() + seconds
    players = (_play(pool, url, number, end, counts) for number in range(sessions))
    await asyncio.gather(*players)


async def _play(pool: EnvironmentPool, url: str, number: int, end: float, counts: Counts) -> None:
    """Play episode after episode on one session, connecting again after vanishing."""
    random = np.random.default_rng(number)
    mirror = Session(pool)
    while time.monotonic() < end:
        socket = await _connected(url)
        vanished = False
        while time.monotonic() < end and not vanished:
            try:
                vanished = await _episode(socket, mirror, random, counts)
            except _NoPlaceError:  # noqa: PERF203
                await asyncio.sleep(0.2)  # the place of a client that vanished is not free yet
                break
        if vanished:
            counts.vanished += 1
            socket.transport.abort()  # no closing handshake
        else:
            await socket.close()


async def _connected(url: str) -> Any:
    """Return a connection, tried for a minute."""
    from websockets.asyncio.client import connect

    for _ in range(120):
        try:
            return await connect(url, open_timeout=60)
        except OSError:  # noqa: PERF203 - it is being started
            await asyncio.sleep(0.5)
    raise TimeoutError(f"Expected a server at {url} within a minute, got none.")


class _NoPlaceError(Exception):
    """All sessions are taken."""


async def _episode(
    socket: Any, mirror: Session, random: np.random.Generator, counts: Counts
) -> bool:
    """Play one episode; return whether the client is to vanish in the middle of it."""
    seed = int(random.integers(2**31))
    vanishes = random.random() < VANISH
    got = await _ask(socket, {"type": "reset", "data": {"seed": seed}}, counts)
    turn = mirror.begin(seed=seed)
    _compare(got, turn, seed)
    tokenizer = mirror.env.tokenizer
    while not turn.done:
        if vanishes and mirror.turns:
            return True
        size = int(random.integers(1, 6))
        ids = random.integers(tokenizer.size, size=size).tolist()
        if random.random() < 0.4:
            ids = tokenizer.encode("<q>key1 key2 </q>").tolist()
        got = await _ask(socket, {"type": "step", "data": {"tokens": ids}}, counts)
        turn = mirror.write(ids)
        _compare(got, turn, seed)
    counts.episodes += 1
    return False


async def _ask(socket: Any, message: dict[str, Any], counts: Counts) -> dict[str, Any]:
    start = time.perf_counter()
    await socket.send(json.dumps(message))
    reply = json.loads(await socket.recv())
    counts.seconds.append(time.perf_counter() - start)
    counts.steps += 1
    if reply["type"] == "error" and reply["data"]["code"] == "CAPACITY_REACHED":
        raise _NoPlaceError
    if reply["type"] != "observation":
        raise ConformanceError(f"Expected an observation, got {reply!r:.300}.")
    data: dict[str, Any] = reply["data"]
    return data


def _compare(got: dict[str, Any], turn: Any, seed: int) -> None:
    observation = got["observation"]
    metadata = observation["metadata"]
    shown = (
        observation["tokens"],
        observation["sources"],
        got["reward"],
        got["done"],
        metadata["truncated"],
        metadata["stop_reason"],
        metadata["question_id"],
    )
    right = (
        turn.tokens,
        turn.sources,
        turn.reward,
        turn.done,
        turn.truncated,
        turn.stop_reason,
        turn.info["question_id"],
    )
    if shown != right:
        raise ConformanceError(
            f"Expected the episode of seed {seed}, {right!r:.300}, got {shown!r:.300}. A session "
            "saw another's episode, or the seed was not honoured."
        )


if __name__ == "__main__":
    main()
