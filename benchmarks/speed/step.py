"""What one step costs, at any position of an episode, beside the least that an environment can do.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.speed.step --output
    benchmarks/results/speed_step.md

Without the data, only the byte tokenizer is measured. Steps are those that only write a token: no
tag, no search, no end. The clock's own cost (about 0.05 us) is in the figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from search_env.benchmarks.reports.measurement_page import heading, parser, publish, table
from search_env.benchmarks.speed.measure import (
    LENGTH,
    Vocabulary,
    env_arguments,
    in_turn,
    median_us,
    plain_actions,
    position_times,
    vocabularies,
)
from search_env.types import Source

NEAR, FAR = 100, 4000
TARGET_US, TARGET_RATIO = 8.0, 1.2


def make_env(vocabulary: Vocabulary, length: int = LENGTH) -> gym.Env[Any, Any]:
    """Return the environment through ``gym.make``, with room for ``length`` tokens."""
    return gym.make("SearchQA-v0", **env_arguments(vocabulary, length))


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
        self._sources[self._used] = Source.POLICY
        self._used += 1
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens.copy(),
            "length": self._used,
            "sources": self._sources.copy(),
        }


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


def single_steps(repeats: int) -> Iterator[list[str]]:
    """Yield rows: the environment and the minimal one, raw and through ``gym.make``."""
    for vocabulary in vocabularies():
        env = make_env(vocabulary)
        raw: Any = env.unwrapped
        minimal = gym.wrappers.PassiveEnvChecker(MinimalEnv(raw.tokenizer.size, LENGTH))
        wrapped = gym.wrappers.OrderEnforcing(minimal)  # as gym.make wraps
        contenders = (raw, env, minimal.unwrapped, wrapped)
        room = LENGTH - raw.reset(seed=0)[0]["length"] - 1
        actions = plain_actions(raw.tokenizer, room)
        times = in_turn([partial(step_times, e, actions) for e in contenders], repeats)
        middle, tail = (np.median(np.percentile(times, q, axis=2), axis=0) for q in (50, 99))
        labels = ("raw `step`", "through `gym.make`", "minimal, raw", "minimal, `gym.make`")
        for i, label in enumerate(labels):
            ratio = middle[i] / middle[2 + i % 2]
            figures = [f"{middle[i] / 1e3:.2f}", f"{tail[i] / 1e3:.2f}", f"{ratio:.1f}"]
            yield [f"{vocabulary.name} ({raw.tokenizer.size:,}): {label}", *figures]


def positions(repeats: int) -> Iterator[list[str]]:
    """Yield rows: a step's cost near the start and near the end of an episode."""
    for vocabulary in vocabularies():
        raw: Any = make_env(vocabulary).unwrapped
        actions = plain_actions(raw.tokenizer, LENGTH)
        times = position_times(raw, actions, NEAR, FAR, pairs=100 * repeats)
        near, far = np.median(times, axis=0) / 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        yield [vocabulary.name, f"{near:.2f}", f"{far:.2f}", f"{ratio:.3f}"]


def states(repeats: int) -> Iterator[list[str]]:
    """Yield rows: saving, restoring, cloning and beginning an episode."""
    for vocabulary in vocabularies():
        raw: Any = make_env(vocabulary).unwrapped
        length = raw.reset(seed=0)[0]["length"]
        for action in plain_actions(raw.tokenizer, LENGTH - length - 1):
            raw.step(action)
        calls = (raw.get_state, partial(raw.set_state, raw.get_state()), raw.clone, raw.reset)
        yield [vocabulary.name, *(median_us(call, 20 * repeats) for call in calls)]


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=9, help="episodes of each contender")
    args = options.parse_args()
    repeats = args.repeats
    command = f"SEARCH_ENV_DATA=... python -m search_env.benchmarks.speed.step --repeats {repeats}"
    head = heading("What a step costs", command, ["search-env", "gymnasium", "numpy"])
    page = f"""{head}
Steps that only write a token, in contexts of L = {LENGTH:,}; medians of {repeats} episodes in turn.

## One step, microseconds

Target: at most {TARGET_US:g} us raw. The minimal environment stores the token and returns a fresh
dictionary of the same spaces; `ratio` is against it, raw against raw, wrapped against wrapped.

{table(["tokenizer (ids): what", "median", "p99", "ratio"], list(single_steps(repeats)))}

## One step at position {NEAR:,} and at {FAR:,}, microseconds

Target: a ratio of at most {TARGET_RATIO:g}. Blocks of steps at the two positions in turn,
{100 * repeats:,} of each; `ratio` is the median over neighbouring blocks.

{table(["tokenizer", f"at {NEAR:,}", f"at {FAR:,}", "ratio"], list(positions(repeats)))}

## State of an episode of {LENGTH - 1:,} tokens, microseconds

`reset` writes a prompt of a few tokens (it grows with the prompt: encoding takes most of it).

{table(["tokenizer", "get_state", "set_state", "clone", "reset"], list(states(repeats)))}
"""
    publish(page, args.output)


if __name__ == "__main__":
    main()
