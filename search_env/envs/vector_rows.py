"""The rows of a vector environment: how they begin, grow and end, and the arrays of a step.

A layer between the dynamics, which handle tokens and tags, and the environment, which handles
retrieval: autoreset modes, the generators that draw questions, and the arrays that a step returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from search_env.core.episode_state import EpisodeSnapshot, Query
from search_env.envs.config import (
    EnvComponents,
    Info,
    episode_info,
    final_result,
    new_faults,
    observation_of,
)
from search_env.envs.search_qa import Observation
from search_env.envs.vector_groups import Groups, GroupsState
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.rewards import Reward
from search_env.types import Document, Transcript

Rows = NDArray[np.intp]
StepResult = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]

_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class RowsState:
    """The complete state of the rows. Plain data, picklable."""

    episodes: tuple[EpisodeSnapshot, ...]
    random: tuple[dict[str, Any] | None, ...]
    ended: NDArray[np.bool_]
    reported_faults: tuple[int, ...]
    search_infos: dict[int, Info]
    groups: GroupsState | None


class VectorRows:
    """N rows of the same components; ``copy`` is whether observations and infos are copies."""

    def __init__(
        self,
        components: EnvComponents,
        count: int,
        mode: AutoresetMode,
        *,
        copy: bool,
        groups: Groups | None = None,
    ) -> None:
        self.components, self.count, self.mode, self.copy = components, count, mode, copy
        self.groups = groups
        self.dynamics, self._size = components.dynamics(count), components.size
        self.random: list[np.random.Generator | None] = [None] * count  # None before the first seed
        self.serial = [0] * count  # number of episodes that each row has begun
        self.transcripts: dict[int, Transcript] = {}  # that ended in the last result, by row
        self._ended = np.zeros(count, np.bool_)  # and not begun again
        self._num_ended = 0
        self._reported_faults = [0] * count  # number of format faults in earlier infos
        self._search_infos: dict[int, Info] = {}  # of searches since the last result, by row
        self._question_id = np.full(count, None, object)
        self._num_searches = np.zeros(count, np.int64)
        self._stop_reason = np.full(count, None, object)
        self._episode_infos: Info = {
            "question_id": self._question_id,
            "num_searches": self._num_searches,
            "stop_reason": self._stop_reason,
        }
        all_rows = np.ones(count, np.bool_)
        self._episode_infos.update({f"_{key}": all_rows for key in list(self._episode_infos)})

    def begin(self, row: int, options: Mapping[str, Any]) -> None:
        """Start an episode with the question that the options of ``reset`` choose for the row."""
        random = self.random[row]
        if random is None:
            raise EpisodeOverError("Expected reset() before a row can begin. Call reset().")
        question = self.components.choose(_row_options(options, row, self.count), random)
        if self.groups is not None:
            self.groups.begin(row, question)
        self.dynamics.begin(row, question)
        self._question_id[row], self._num_searches[row] = question.id, 0
        self._stop_reason[row] = ""
        if self._ended[row]:
            self._ended[row] = False
            self._num_ended -= 1
        self.serial[row] += 1
        self._reported_faults[row] = 0
        self._search_infos.pop(row, None)

    def advance(self, rows: Rows | None, tokens: NDArray[np.int64]) -> list[Query]:
        """Append a token in some rows (None: all); rows whose reset is due begin instead.

        Return the queries that were closed; ``dynamics.settled`` are the rows that did more than
        grow.
        """
        if not self._num_ended:
            return self.dynamics.append(_ALL if rows is None else rows, tokens)
        rows = np.arange(self.count) if rows is None else rows
        due = self._ended[rows]
        if due.any() and self.mode is not AutoresetMode.NEXT_STEP:
            raise EpisodeOverError(
                f"Expected rows with a running episode, got rows {rows[due].tolist()}, "
                "which have ended. Call reset(options={'reset_mask': mask}) with them."
            )
        for row in rows[due].tolist():
            self.begin(row, {})
        return self.dynamics.append(rows[~due], tokens[~due])

    def receive(self, row: int, documents: list[Document] | RetrievalError) -> None:
        """Insert the documents of a row's query; after an error, end its episode."""
        info: Info = {"query": self.dynamics.episodes[row].pending}
        if isinstance(documents, RetrievalError):
            self.dynamics.fail_retrieval(row)
            info["retrieval_error"] = str(documents)
        else:
            self.dynamics.insert_documents(row, documents)
            info["document_ids"] = [document.id for document in documents]
        self._search_infos[row] = info

    def result(self, settled: Sequence[int], reward: Reward) -> StepResult:
        """Return the five results of a step; ``settled`` rows, ascending, did more than grow."""
        count = self.count
        rewards = np.zeros(count)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        if self.transcripts:
            self.transcripts = {}
        special: Info = {}
        for row in settled:
            episode = self.dynamics.episodes[row]
            info = new_faults(episode, self._reported_faults[row])
            self._reported_faults[row] = episode.num_faults
            if row in self._search_infos:
                info.update(self._search_infos.pop(row))
                self._num_searches[row] = episode.num_searches
            stop = episode.stop_reason
            if stop is not None:
                self.transcripts[row] = transcript = self.dynamics.transcript(row)
                rewards[row], final = final_result(transcript, reward)
                if self.groups is not None:
                    final["group"] = self.groups.end(row, transcript)
                terminated[row], truncated[row] = stop.terminated, not stop.terminated
                info = self._end(row, {**info, **final})
            if info:
                _add_info(special, info, row, count)
        for row, info in () if self.groups is None else self.groups.take_complete():
            _add_info(special, info, row, count)
        infos = self.episode_infos()
        infos.update(special)
        return self.observations(), rewards, terminated, truncated, infos

    def _end(self, row: int, info: Info) -> Info:
        """Record the end of an episode; return the row's info in the form of the autoreset mode."""
        if self.mode is AutoresetMode.SAME_STEP:
            final = {**self.components.row_info(self.dynamics, row), **info}
            observation = observation_of(self.dynamics, row)
            self.begin(row, {})
            return {"final_obs": observation, "final_info": final}
        self._stop_reason[row] = episode_info(self.dynamics.episodes[row])["stop_reason"]
        self._ended[row] = True
        self._num_ended += 1
        return info

    def episode_infos(self) -> Info:
        """Return the keys that the infos of every step have, for all rows."""
        infos = dict(self._episode_infos)
        if self.copy:
            infos = {key: array.copy() for key, array in infos.items()}
        if self.components.action_mask:
            infos["action_mask"] = self.components.masks.batch(self.dynamics, range(self.count))
            infos["_action_mask"] = np.ones(self.count, np.bool_)
        return infos

    def some_infos(self, rows: Sequence[int]) -> Info:
        """Return the keys that the infos of every step have, for some rows only."""
        infos: Info = {}
        for row in rows:
            _add_info(infos, self.components.row_info(self.dynamics, row), row, self.count)
        return infos

    def observations(self) -> Observation:
        """Return the batched observation."""
        dynamics = self.dynamics
        tokens, sources = dynamics.tokens, dynamics.sources
        if self.copy:
            tokens, sources = tokens.copy(), sources.copy()
        return {"tokens": tokens, "length": dynamics.lengths(), "sources": sources}

    def check_actions(self, actions: Any, count: int) -> NDArray[np.int64]:
        """Return actions as int64 ``(count,)``."""
        array = np.asarray(actions)
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise InvalidActionError(
                f"Expected an integer array of {count} token ids, got shape {array.shape} of "
                f"{array.dtype}. Pass one id for each row."
            )
        tokens = array.astype(np.int64, copy=False)
        unsigned = tokens.view(np.uint64)  # in which negative ids are the largest
        if unsigned.item(unsigned.argmax()) >= self._size:
            invalid = (tokens < 0) | (tokens >= self._size)
            raise self.components.invalid_action(int(tokens[invalid][0]))
        return tokens

    def check_rows(self, rows: Sequence[int] | Rows) -> Rows:
        """Return row numbers as an array."""
        array = np.asarray(rows)
        is_list = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
        if not is_list or array[0] < 0 or array[-1] >= self.count or (np.diff(array) <= 0).any():
            raise InvalidActionError(
                f"Expected ascending row numbers from 0 to {self.count - 1}, got {rows!r}. "
                "Pass np.flatnonzero(infos['ready'])."
            )
        return array.astype(np.intp, copy=False)

    def get_state(self) -> RowsState:
        """Return a copy of the state, in time proportional to the rows' tokens."""
        return RowsState(
            tuple(self.dynamics.save(row) for row in range(self.count)),
            tuple(r if r is None else dict(r.bit_generator.state) for r in self.random),
            self._ended.copy(),
            tuple(self._reported_faults),
            {row: dict(info) for row, info in self._search_infos.items()},
            None if self.groups is None else self.groups.get_state(),
        )

    def set_state(self, state: RowsState) -> None:
        """Restore a saved state."""
        if len(state.episodes) != self.count:
            raise ConfigurationError(
                f"Expected a state of {self.count} rows, got one of {len(state.episodes)}. "
                "Restore it in an environment with the same arguments."
            )
        if (state.groups is None) != (self.groups is None):
            raise ConfigurationError(
                "Expected a state with groups where the environment has a group_reward, and "
                "without otherwise. Restore it in an environment with the same arguments."
            )
        if self.groups is not None and state.groups is not None:
            self.groups.set_state(state.groups)
        for row, saved in enumerate(state.episodes):
            self.dynamics.restore(row, saved)
            episode = self.dynamics.episodes[row]
            self._question_id[row] = episode.question.id
            self._num_searches[row] = episode.num_searches
            self._stop_reason[row] = episode_info(episode)["stop_reason"]
            self.random[row] = _generator(state.random[row])
            self.serial[row] += 1
        self._ended = state.ended.copy()
        self._num_ended = int(self._ended.sum())
        self._reported_faults = list(state.reported_faults)
        self._search_infos = {row: dict(info) for row, info in state.search_infos.items()}
        self.transcripts = {}


def _add_info(infos: Info, info: Info, row: int, count: int) -> None:
    """Add the info of one row to the infos of all, each key as an array with a mask.

    As ``gymnasium.vector.VectorEnv._add_info``, at a third of its cost: numbers and arrays in
    arrays of the first value's type, dictionaries key by key, strings, lists and ``final_obs`` as
    objects.
    """
    for key, value in info.items():
        mask = "_" + key
        if key not in infos:
            infos[key], infos[mask] = _empty(key, value, count), np.zeros(count, np.bool_)
        array = infos[key]
        if type(array) is dict:
            _add_info(array, value, row, count)
        else:
            array[row] = value
        infos[mask][row] = True


def _empty(key: str, value: Any, count: int) -> Any:
    """Return what holds the values of a key: an array for all rows, or a dictionary."""
    kind = type(value)
    if kind is str or kind is list or key == "final_obs":
        return np.empty(count, object)  # of None
    if kind is dict:
        return {}
    if isinstance(value, np.ndarray):
        return np.zeros((count, *value.shape), value.dtype)
    return np.zeros(count, kind)


def _row_options(options: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """Return the options of one row; sequences hold one value for each row."""
    chosen = {}
    for key, value in options.items():
        if isinstance(value, list | tuple | np.ndarray):
            if len(value) != count:
                raise ConfigurationError(
                    f"Expected options[{key!r}] to be one value or {count}, got {len(value)}. "
                    "Pass one for each row."
                )
            value = value[row]
        chosen[key] = value
    return chosen


def _generator(state: dict[str, Any] | None) -> np.random.Generator | None:
    if state is None:
        return None
    random = seeding.np_random(0)[0]
    random.bit_generator.state = state
    return random
