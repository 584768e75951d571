"""What measurements of speed share: a clock, contenders in turn, and environments to step.

Contenders take turns within one run, so that a slow minute of the machine falls on all of them;
figures are medians.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.paths import data_dir
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.registry import register_protocol
from search_env.tokens.tokenizer import Tokenizer

LENGTH = 4096
TEXT = "The river rises in the northern hills, passes the old mill and reaches the sea at dusk. "

# A short prompt and no limit but the context, so that an episode can be nearly all policy tokens.
PROTOCOL = dataclasses.replace(
    R1_SEARCHER, name="speed", base_prompt="{question}", max_segment_tokens=None
)

_BLOCK = 32  # steps timed at once where positions are compared
_SETTLE = 8  # steps before them, untimed: restoring a state leaves other things in the cache


class Vocabulary(NamedTuple):
    """A tokenizer to measure with: a name to print and what ``gym.make`` takes."""

    name: str
    tokenizer: str
    vocab_size: int | None = None


def vocabularies() -> list[Vocabulary]:
    """Return the real tokenizers that the data folder holds, else the byte tokenizer."""
    folder = data_dir()
    real = (("gpt2", "gpt2.json", None), ("qwen2", "qwen2.json.xz", 151_936))
    there = [
        Vocabulary(name, str(folder / "tokenizers" / file), size)
        for name, file, size in real
        if folder is not None and (folder / "tokenizers" / file).is_file()
    ]
    return there or [Vocabulary("byte", "byte")]


def env_arguments(vocabulary: Vocabulary, length: int = LENGTH) -> dict[str, Any]:
    """Return arguments of an environment with room for ``length`` tokens."""
    register_protocol(PROTOCOL, replace=True)
    return {
        "dataset": "toy",
        "protocol": PROTOCOL.name,
        "tokenizer": vocabulary.tokenizer,
        "vocab_size": vocabulary.vocab_size,
        "max_tokens": length,
    }


def plain_actions(tokenizer: Tokenizer, count: int, rows: int | None = None) -> list[Any]:
    """Return ``count`` actions that only write text: ids, or with ``rows`` int64 ``(rows,)``."""
    ids = np.asarray(tokenizer.encode(TEXT * 8), np.int64)
    if rows is None:
        return np.resize(ids, count).tolist()
    return [np.resize(np.roll(ids, -i), rows) for i in range(count)]


def nanoseconds(call: Callable[[], object]) -> int:
    """Return the time of a call."""
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> NDArray[Any]:
    """Return what the calls return, each called once a round: ``(repeats, len(calls), ...)``."""
    return np.array([[call() for call in calls] for _ in range(repeats)])


def step_all(env: Any, actions: Sequence[Any]) -> float:
    """Return the mean nanoseconds of a step over these actions, after a reset."""
    env.reset(seed=0)
    step = env.step
    return nanoseconds(lambda: [step(action) for action in actions]) / len(actions)


def position_times(
    env: Any, actions: Sequence[Any], near: int, far: int, pairs: int
) -> NDArray[np.float64]:
    """Return ns a step, float64 ``(pairs, 2)``: near and far in one episode, blocks in turn."""
    observation, _ = env.reset(seed=0)
    states = []
    for position in (near, far):
        for action in actions[int(np.max(observation["length"])) : position]:
            observation = env.step(action)[0]
        states.append(env.get_state())
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):  # drift falls on both sides
            env.set_state(states[side])
            for action in actions[:_SETTLE]:
                env.step(action)
            times[pair, side] = nanoseconds(lambda: [env.step(a) for a in actions[:_BLOCK]])
    return times / _BLOCK
