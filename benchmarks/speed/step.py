"""What one step costs, at any position of an episode.

    SEARCH_ENV_DATA=... python -m search_env.benchmarks.speed.step --output
    benchmarks/results/speed_step.md

Without the data, only the byte tokenizer is measured. Steps are those that only write a token: no
tag, no search, no end. The clock's own cost (about 0.05 us) is in the figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.benchmarks.reports.measurement_page import measure, parser, table
from search_env.benchmarks.speed.measure import (
    LENGTH,
    Vocabulary,
    env_arguments,
    in_turn,
    plain_actions,
    position_times,
    vocabularies,
)

NEAR, FAR = 100, 4000
TARGET_US, TARGET_RATIO = 8.0, 1.2


def make_env(vocabulary: Vocabulary, length: int = LENGTH) -> gym.Env[Any, Any]:
    """Return the environment through ``gym.make``, with room for ``length`` tokens."""
    return gym.make("SearchQA-v0", **env_arguments(vocabulary, length))


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
    """Yield rows: the environment raw and through ``gym.make``."""
    for vocabulary in vocabularies():
        env = make_env(vocabulary)
        raw: Any = env.unwrapped
        room = LENGTH - raw.reset(seed=0)[0]["length"] - 1
        actions = plain_actions(raw.tokenizer, room)
        times = in_turn([partial(step_times, e, actions) for e in (raw, env)], repeats)
        figures = [np.median(np.percentile(times, q, axis=2), axis=0) / 1e3 for q in (50, 99)]
        name = f"{vocabulary.name} ({raw.tokenizer.size:,})"
        for label, *cells in zip(("raw `step`", "through `gym.make`"), *figures, strict=True):
            yield [f"{name}: {label}", *(f"{cell:.2f}" for cell in cells)]


def positions(repeats: int) -> Iterator[list[str]]:
    """Yield rows: a step's cost near the start and near the end of an episode."""
    for vocabulary in vocabularies():
        raw: Any = make_env(vocabulary).unwrapped
        actions = plain_actions(raw.tokenizer, LENGTH)
        times = position_times(raw, actions, NEAR, FAR, pairs=100 * repeats)
        near, far = np.median(times, axis=0) / 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        yield [vocabulary.name, f"{near:.2f}", f"{far:.2f}", f"{ratio:.3f}"]


def page(args: argparse.Namespace) -> str:
    """Measure and return the tables."""
    repeats = args.repeats
    columns = ["tokenizer", f"at {NEAR:,}", f"at {FAR:,}", "ratio"]
    return f"""Steps that only write a token, in contexts of L = {LENGTH:,}; medians of {repeats}
episodes in turn.

## One step, microseconds

Target: at most {TARGET_US:g} us raw.

{table(["tokenizer (ids): what", "median", "p99"], list(single_steps(repeats)))}

## One step at position {NEAR:,} and at {FAR:,}, microseconds

Target: a ratio of at most {TARGET_RATIO:g}. Blocks of steps at the two positions in turn,
{100 * repeats:,} of each; `ratio` is the median over neighbouring blocks.

{table(columns, list(positions(repeats)))}
"""


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__, __spec__.name)
    options.add_argument("--repeats", type=int, default=9, help="episodes of each contender")
    measure(options, "What a step costs", ["gymnasium", "numpy"], page)


if __name__ == "__main__":
    main()
