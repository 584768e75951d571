"""Checks of what callers pass to a vector environment: actions, rows, seeds, options, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_env.envs.config import EnvComponents, check_origin, check_seed
from search_env.envs.search_qa import EnvState
from search_env.errors import ConfigurationError, InvalidActionError

Rows = NDArray[np.intp]


def check_actions(actions: Any, count: int, components: EnvComponents) -> NDArray[np.int64]:
    """Return actions as int64 ``(count,)``."""
    try:
        array = np.asarray(actions)
    except (TypeError, ValueError):  # rows of several lengths
        array = np.empty(0, object)
    listed = isinstance(actions, list | tuple)
    if listed and any(isinstance(action, bool) for action in actions):
        array = array.astype(np.bool_)  # which NumPy makes of them only if all are
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InvalidActionError(
            f"Expected an integer array of {count} token ids, got shape {array.shape} of "
            f"{array.dtype}. Pass one id for each row."
        )
    tokens = array.astype(np.int64, copy=False)
    unsigned = tokens.view(np.uint64)  # in which negative ids are the largest
    if unsigned.item(unsigned.argmax()) >= components.size:
        invalid = (tokens < 0) | (tokens >= components.size)
        raise components.invalid_action(int(tokens[invalid][0]))
    return tokens


def check_rows(rows: Sequence[int] | Rows, count: int) -> Rows:
    """Return numbers of some of ``count`` rows as an array."""
    array = np.asarray(rows)
    is_list = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
    if not is_list or array[0] < 0 or array[-1] >= count or (np.diff(array) <= 0).any():
        raise InvalidActionError(
            f"Expected ascending row numbers from 0 to {count - 1}, got {rows!r}. "
            "Pass np.flatnonzero(infos['ready'])."
        )
    return array.astype(np.intp, copy=False)


def check_reset_mask(mask: Any, count: int) -> NDArray[np.bool_]:
    """Return the rows to reset as a mask, bool ``(count,)``; None stands for all."""
    if mask is None:
        return np.ones(count, np.bool_)
    is_mask = isinstance(mask, np.ndarray) and mask.dtype == np.bool_
    if not is_mask or mask.shape != (count,) or not mask.any():
        raise ConfigurationError(
            f"Expected options['reset_mask'] to be a bool array of shape ({count},) "
            f"with at least one True, got {mask!r}. Pass terminations | truncations."
        )
    return np.asarray(mask)


def check_seeds(seed: Any, count: int, group_size: int) -> list[int | None]:
    """Return the seed of each row: ``seed + row // group_size``, or ``seed[row]``."""
    if seed is None:
        return [None] * count
    if not isinstance(seed, list | tuple) and not (isinstance(seed, np.ndarray) and seed.ndim):
        first = check_seed(seed) or 0
        return [first + row // group_size for row in range(count)]
    seeds = [check_seed(row_seed) for row_seed in seed]
    if len(seeds) != count:
        raise ConfigurationError(
            f"Expected a seed for each of {count} rows, got {len(seeds)}. Pass one "
            "number, or a list with one for each row."
        )
    return seeds


def row_options(options: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """Return the options of one row; sequences hold one value for each row."""
    chosen = {}
    for key, value in options.items():
        if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
            if len(value) != count:
                raise ConfigurationError(
                    f"Expected options[{key!r}] to be one value or {count}, got {len(value)}. "
                    "Pass one for each row."
                )
            value = value[row]
        chosen[key] = value
    return chosen


def check_running(state: object, components: EnvComponents) -> EnvState:
    """Return the state of a single environment that a row may continue from."""
    if not isinstance(state, EnvState):
        raise ConfigurationError(
            f"Expected options['state'] to be a state of get_state() of a single environment or "
            f"None, for each row, got {type(state).__name__}. Pass one."
        )
    check_origin(state.origin, components.origin)
    episode = state.episode.episode
    if not state.running or episode.stop_reason is not None or episode.pending is not None:
        raise ConfigurationError(
            f"Expected options['state'] of a running episode, got one of question "
            f"{episode.question.id!r} that cannot step. Save it before the episode ends."
        )
    return state
