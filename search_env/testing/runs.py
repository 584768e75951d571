"""Runs of a vector environment: sequences of calls, their repetition, and their rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from search_env.testing.base import plain

AnyVectorEnv = VectorEnv[Any, Any, Any]
Choose = Callable[[AnyVectorEnv, Any], Any]
"""``(env, observations) -> actions``."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of ``reset`` or ``step``, its result, and a deep copy of it made at once."""

    actions: Any  # None for a reset
    mask: NDArray[np.bool_] | None  # (num_envs,) for a partial reset, else None
    live: tuple[Any, ...]
    copied: tuple[Any, ...]

    @property
    def is_step(self) -> bool:
        """Whether it was a step, not a reset."""
        return self.actions is not None

    @property
    def over(self) -> NDArray[np.bool_]:
        """Rows whose episode ended in this step, bool ``(num_envs,)``."""
        ended: NDArray[np.bool_] = np.logical_or(self.copied[2], self.copied[3])
        return ended


def make_calls(
    env: AnyVectorEnv, mode: AutoresetMode, seed: int, steps: int, choose: Choose
) -> list[Call]:
    """Run an environment; in mode DISABLED, reset the rows whose episode has ended."""
    env.action_space.seed(seed)
    calls = [_call(env.reset(seed=seed))]
    for _ in range(steps):
        actions = choose(env, calls[-1].copied[0])
        calls.append(_call(env.step(copy.deepcopy(actions)), actions=actions))
        over = calls[-1].over
        if mode is AutoresetMode.DISABLED and over.any():
            calls.append(_call(env.reset(options={"reset_mask": over.copy()}), mask=over))
    return calls


def repeat_calls(env: AnyVectorEnv, calls: list[Call], seed: int) -> list[tuple[Any, ...]]:
    """Make the same calls again and return their results."""

    def repeat(call: Call) -> tuple[Any, ...]:
        if call.is_step:
            return env.step(copy.deepcopy(call.actions))
        if call.mask is None:
            return env.reset(seed=seed)
        return env.reset(options={"reset_mask": call.mask.copy()})

    return [copy.deepcopy(repeat(call)) for call in calls]


def _call(result: tuple[Any, ...], actions: Any = None, mask: Any = None) -> Call:
    return Call(actions, mask, result, copy.deepcopy(result))


class Row:
    """A single environment under Gymnasium's autoreset rules, as one row of a vector environment.

    Source: Farama-Foundation/Gymnasium 1.4.0, gymnasium/vector/sync_vector_env.py, ``step``.
    """

    def __init__(self, env: gym.Env[Any, Any], mode: AutoresetMode) -> None:
        self._env, self._mode = env, mode
        self._over = False

    def reset(self, seed: int | None = None) -> tuple[Any, ...]:
        """Begin an episode."""
        self._over = False
        return self._env.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, ...]:
        """Return the five values of a step as a row of a vector environment has them."""
        if self._over and self._mode is AutoresetMode.NEXT_STEP:
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._over = bool(terminated or truncated)
        if self._over and self._mode is AutoresetMode.SAME_STEP:
            end = {"final_obs": observation, "final_info": info}
            observation, info = self.reset()
            info = {**info, **end}
        return observation, float(reward), bool(terminated), bool(truncated), info


def row_of(space: gym.Space[Any], result: tuple[Any, ...], row: int) -> tuple[Any, ...]:
    """Return one row of a vector environment's ``reset`` or ``step``, with Python numbers.

    ``space`` is the batched observation space.
    """
    observations = list(iterate(space, result[0]))
    numbers = [part[row] for part in result[1:-1]]
    return tuple(map(plain, (observations[row], *numbers, row_info(result[-1], row))))


def row_info(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one row: the inverse of ``_add_info`` of Gymnasium 1.4.0's vector_env.py.

    Example:
        >>> infos = {"n": np.array([3, 0]), "_n": np.array([True, False])}
        >>> row_info(infos, 0), row_info(infos, 1)
        ({'n': np.int64(3)}, {})
    """
    return {
        key: row_info(values, row) if isinstance(values, Mapping) else values[row]
        for key, values in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][row]
    }
