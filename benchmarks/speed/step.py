"""What one step costs, at any position of an episode, beside the least that an environment can do.

Run ``SEARCH_ENV_DATA=<data folder> python -m benchmarks.speed.step --output
benchmarks/results/speed_step.md``. Without the data, only the byte tokenizer is measured.

Steps are those that only write a token: no tag, no search, no end. What retrieval costs is
measured elsewhere. Contenders take turns within one run, so that a slow minute of the machine
falls on all of them; figures are medians. The clock's own cost (about 0.05 us) is in them.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from benchmarks.reports.measurement_page import heading, publish, table
from search_env.dynamics import Dynamics
from search_env.env import SearchQAEnv
from search_env.paths import data_dir
from search_env.protocols import R1_SEARCHER, register_protocol
from search_env.tokenizer import Tokenizer
from search_env.types import Question, Source

LENGTH = 4096
NEAR, FAR = 100, 4000
BATCHES = (1, 64, 256, 1024)
TARGET_US, TARGET_RATIO = 8.0, 1.2
TEXT = "The river rises in the northern hills, passes the old mill and reaches the sea at dusk. "

# A short prompt and no limit but the context, so that an episode can be nearly all policy tokens.
PROTOCOL = dataclasses.replace(
    R1_SEARCHER, name="speed", base_prompt="{question}", max_segment_tokens=None
)

_BLOCK = 32  # steps timed at once where positions are compared
_SETTLE = 8  # steps before them, untimed: restoring a state leaves other things in the cache
_APPENDS = 100  # appends timed at once


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer to measure with: a name to print and what ``gym.make`` takes."""

    name: str
    tokenizer: str
    vocab_size: int | None = None


def vocabularies() -> list[Vocabulary]:
    """Return the real tokenizers that the data folder holds, else the byte tokenizer."""
    folder = data_dir()
    known = (("gpt2", "gpt2.json", None), ("qwen2", "qwen2.json.xz", 151_936))
    found = [
        Vocabulary(name, str(folder / "tokenizers" / file), size)
        for name, file, size in known
        if folder is not None and (folder / "tokenizers" / file).is_file()
    ]
    return found or [Vocabulary("byte", "byte")]


def make_env(vocabulary: Vocabulary, length: int = LENGTH) -> gym.Env[Any, Any]:
    """Return the environment through ``gym.make``, with room for ``length`` tokens."""
    register_protocol(PROTOCOL, replace=True)
    return gym.make(
        "SearchQA-v0",
        dataset="toy",
        protocol=PROTOCOL.name,
        tokenizer=vocabulary.tokenizer,
        vocab_size=vocabulary.vocab_size,
        max_tokens=length,
    )


class MinimalEnv(gym.Env[dict[str, Any], np.int64]):
    """The least that an environment with these spaces can do: store the token, copy, return."""

    def __init__(self, size: int, length: int) -> None:
        self.action_space = Discrete(size)
        self.observation_space = Dict(
            {
                "tokens": Box(0, size - 1, (length,), np.int32),
                "length": Discrete(length + 1),
                "sources": Box(0, max(Source), (length,), np.int8),
            }
        )
        self._tokens = np.zeros(length, np.int32)
        self._sources = np.zeros(length, np.int8)
        self._used = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin with nothing."""
        super().reset(seed=seed)
        self._tokens[:] = 0
        self._sources[:] = 0
        self._used = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Append the token."""
        self._tokens[self._used] = action
        self._sources[self._used] = 2
        self._used += 1
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens.copy(),
            "length": self._used,
            "sources": self._sources.copy(),
        }


def actions_for(tokenizer: Tokenizer, count: int) -> list[int]:
    """Return ``count`` ids of plain text without a tag."""
    ids = tokenizer.encode(TEXT).tolist()
    return [ids[i % len(ids)] for i in range(count)]


def step_times(env: gym.Env[Any, Any], actions: Sequence[int]) -> NDArray[np.int64]:
    """Return the nanoseconds of each step of one episode, int64 ``(len(actions),)``."""
    env.reset(seed=0)
    step, clock = env.step, time.perf_counter_ns
    times = np.empty(len(actions), np.int64)
    for i, action in enumerate(actions):
        start = clock()
        step(action)
        times[i] = clock() - start
    return times


def position_times(
    env: SearchQAEnv, actions: Sequence[int], near: int, far: int, pairs: int
) -> NDArray[np.float64]:
    """Compare a step's cost at two positions of one episode, in many short blocks in turn.

    Returns:
        Nanoseconds a step, float64 ``(pairs, 2)``: columns near, far.
    """
    observation, _ = env.reset(seed=0)
    states = []
    for position in (near, far):
        for action in actions[observation["length"] : position]:
            observation = env.step(action)[0]
        states.append(env.get_state())
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):  # drift falls on both sides
            env.set_state(states[side])
            for action in actions[:_SETTLE]:
                env.step(action)
            times[pair, side] = _time(lambda: [env.step(a) for a in actions[:_BLOCK]]) / _BLOCK
    return times


def append_times(
    dynamics: Dynamics, actions: Sequence[NDArray[np.int64]], repeats: int
) -> list[float]:
    """Return the nanoseconds of one append to all rows: a mean for each of ``repeats`` blocks."""
    question = Question("speed", "find key3", ("value1",))
    rows = len(dynamics.episodes)
    times = []
    for _ in range(repeats):
        for row in range(rows):
            dynamics.begin(row, question)
        times.append(_time(lambda: _append_all(dynamics, actions)) / len(actions))
    return times


def _append_all(dynamics: Dynamics, actions: Sequence[NDArray[np.int64]]) -> None:
    everywhere = slice(None)
    for tokens in actions:
        dynamics.append(everywhere, tokens)


def _time(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def single_steps(repeats: int) -> Iterator[list[str]]:
    """Yield rows: the environment and the minimal one, raw and through ``gym.make``."""
    for vocabulary in vocabularies():
        env = make_env(vocabulary)
        raw: SearchQAEnv = env.unwrapped  # type: ignore[assignment]
        gym.register(
            "Minimal-v0",
            entry_point="benchmarks.speed.step:MinimalEnv",
            kwargs={"size": raw.tokenizer.size, "length": LENGTH},
        )
        minimal = gym.make("Minimal-v0")
        del gym.registry["Minimal-v0"]
        contenders = (raw, env, minimal.unwrapped, minimal)
        room = LENGTH - raw.reset(seed=0)[0]["length"] - 1
        actions = actions_for(raw.tokenizer, room)
        times = np.array([[step_times(e, actions) for e in contenders] for _ in range(repeats)])
        middle, tail = (np.median(np.percentile(times, q, axis=2), axis=0) for q in (50, 99))
        labels = ("raw `step`", "through `gym.make`", "minimal, raw", "minimal, `gym.make`")
        for i, label in enumerate(labels):
            ratio = middle[i] / middle[2 + i % 2]
            figures = [f"{middle[i] / 1e3:.2f}", f"{tail[i] / 1e3:.2f}", f"{ratio:.1f}"]
            yield [f"{vocabulary.name} ({raw.tokenizer.size:,}): {label}", *figures]


def positions(repeats: int) -> Iterator[list[str]]:
    """Yield rows: a step's cost near the start and near the end of an episode."""
    for vocabulary in vocabularies():
        raw: SearchQAEnv = make_env(vocabulary).unwrapped  # type: ignore[assignment]
        actions = actions_for(raw.tokenizer, LENGTH)
        times = position_times(raw, actions, NEAR, FAR, pairs=100 * repeats)
        near, far = np.median(times, axis=0) / 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        yield [vocabulary.name, f"{near:.2f}", f"{far:.2f}", f"{ratio:.3f}"]


def batches(repeats: int) -> Iterator[list[str]]:
    """Yield rows: appends to many episodes at once."""
    for vocabulary in vocabularies():
        raw: SearchQAEnv = make_env(vocabulary).unwrapped  # type: ignore[assignment]
        ids = np.array(actions_for(raw.tokenizer, _APPENDS))
        prepared = []
        for rows in BATCHES:
            dynamics = Dynamics(raw.protocol, raw.tokenizer, rows=rows)
            actions = [np.resize(np.roll(ids, -i), rows) for i in range(_APPENDS)]
            prepared.append((dynamics, actions))
        times = np.hstack(
            [[append_times(*p, repeats=10) for p in prepared] for _ in range(repeats)]
        )
        for rows, nanoseconds in zip(BATCHES, np.median(times, axis=1).tolist(), strict=True):
            yield [
                f"{vocabulary.name}, N = {rows:,}",
                f"{nanoseconds / 1e3:.2f}",
                f"{nanoseconds / rows:,.0f}",
                f"{rows / nanoseconds * 1e3:.2f}",
            ]


def states(repeats: int) -> Iterator[list[str]]:
    """Yield rows: saving, restoring, cloning and beginning an episode."""
    for vocabulary in vocabularies():
        raw: SearchQAEnv = make_env(vocabulary).unwrapped  # type: ignore[assignment]
        length = raw.reset(seed=0)[0]["length"]
        for action in actions_for(raw.tokenizer, LENGTH - length - 1):
            raw.step(action)
        saved = raw.get_state()
        calls = (raw.get_state, lambda saved=saved, raw=raw: raw.set_state(saved), raw.clone)
        figures = [_median_us(call, 20 * repeats) for call in calls]
        yield [vocabulary.name, *figures, _median_us(raw.reset, 20 * repeats)]


def _median_us(call: Callable[[], object], repeats: int) -> str:
    return f"{np.median([_time(call) for _ in range(repeats)]) / 1e3:,.1f}"


def result(repeats: int, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    head = heading("What a step costs", command, ["search-env", "gymnasium", "numpy"])
    return f"""{head}
Steps that only write a token, in contexts of L = {LENGTH:,}; medians of {repeats} episodes in turn.
Ratios are between figures of this run.

## One step, microseconds

Target: at most {TARGET_US:g} us raw. The minimal environment stores the token and returns a fresh
dictionary of the same spaces; `ratio` is against it, raw against raw, wrapped against wrapped.

{table(["tokenizer (ids): what", "median", "p99", "ratio"], list(single_steps(repeats)))}

## One step at position {NEAR:,} and at {FAR:,}, microseconds

Target: a ratio of at most {TARGET_RATIO:g}. Blocks of {_BLOCK} steps at the two positions in turn,
{100 * repeats:,} of each; `ratio` is the median over neighbouring blocks.

{table(["tokenizer", f"at {NEAR:,}", f"at {FAR:,}", "ratio"], list(positions(repeats)))}

## The dynamics alone, N episodes side by side

`Dynamics.append`: the rules without the observation's copies, `info` and argument checks.

{table(["tokenizer, episodes", "us an append", "ns a token", "M tokens/s"], list(batches(repeats)))}

## State of an episode of {LENGTH - 1:,} tokens, microseconds

`reset` writes a prompt of a few tokens (it grows with the prompt: encoding takes most of it).

{table(["tokenizer", "get_state", "set_state", "clone", "reset"], list(states(repeats)))}
"""


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="episodes of each contender")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    command = f"SEARCH_ENV_DATA=... python -m benchmarks.speed.step --repeats {arguments.repeats}"
    publish(result(arguments.repeats, command), arguments.output)


if __name__ == "__main__":
    main()
