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
)
from search_env.envs.infos import stable_infos
from search_env.envs.search_qa import Observation
from search_env.envs.vector_calls import Rows, check_running, row_options
from search_env.envs.vector_groups import Groups, GroupsState
from search_env.errors import EpisodeOverError, RetrievalError
from search_env.rewards import Reward
from search_env.types import Document, Transcript

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


@dataclass(frozen=True, slots=True)
class VectorState:
    """The complete state of a vector environment. Plain data, picklable."""

    rows: RowsState
    under_way: NDArray[np.bool_]
    random: dict[str, Any]
    reward: Reward
    blocked: str
    origin: dict[str, object]


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

    def seed(
        self,
        rows: Sequence[int],
        seeds: Sequence[int | None],
        group_size: int,
        random: np.random.Generator,
    ) -> None:
        """Seed the generators of some rows; without a seed, those that have no generator yet."""
        drawn: dict[int, int] = {}  # by group, whose rows share a seed
        for row in rows:
            seed, group = seeds[row], row // group_size
            if seed is None and self.random[row] is None:
                if group not in drawn:
                    drawn[group] = int(random.integers(2**31))
                seed = drawn[group]
            if seed is not None:
                self.random[row] = seeding.np_random(seed)[0]

    def begin(self, row: int, options: Mapping[str, Any]) -> None:
        """Start an episode with the question, or in the state, that ``reset`` chooses for it."""
        random = self.random[row]
        if random is None:
            raise EpisodeOverError("Expected reset() before a row can begin. Call reset().")
        chosen = row_options(options, row, self.count)
        state = chosen.pop("state", None)
        if state is None:
            question = self.components.choose(chosen, random)
        else:
            question = check_running(state, self.components).episode.episode.question
        if self.groups is not None:
            self.groups.begin(row, question)
        if state is None:
            self.dynamics.begin(row, question)
        else:
            self.dynamics.restore(row, state.episode)
        episode = self.dynamics.episodes[row]
        self._question_id[row], self._num_searches[row] = question.id, episode.num_searches
        self._stop_reason[row] = ""
        if self._ended[row]:
            self._ended[row] = False
            self._num_ended -= 1
        self.serial[row] += 1
        self._reported_faults[row] = episode.num_faults
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
                info = self._end(row, {**info, **final}, reward)
            if info:
                _add_info(special, info, row, count)
        for row, info in () if self.groups is None else self.groups.take_complete():
            _add_info(special, info, row, count)
        infos = self._episode_infos_of_all()
        infos.update(special)
        infos = self._complete(infos, reward)
        return self.observations(), rewards, terminated, truncated, infos

    def _end(self, row: int, info: Info, reward: Reward) -> Info:
        """Record the end of an episode; return the row's info in the form of the autoreset mode."""
        if self.mode is AutoresetMode.SAME_STEP:
            final = {**self.components.row_info(self.dynamics, row), **info}
            final = self.components.complete(final, reward)
            observation = self.components.observation(self.dynamics, row)
            self.begin(row, {})
            return {"final_obs": observation, "final_info": final}
        self._stop_reason[row] = episode_info(self.dynamics.episodes[row])["stop_reason"]
        self._ended[row] = True
        self._num_ended += 1
        return info

    def reset_infos(self, rows: Sequence[int], reward: Reward) -> Info:
        """Return the infos of a reset of some rows."""
        if len(rows) == self.count:
            return self._complete(self._episode_infos_of_all(), reward)
        infos: Info = {}
        for row in rows:
            info = self.components.row_info(self.dynamics, row)
            _add_info(infos, self.components.complete(info, reward), row, self.count)
        return {**self._no_groups(), **infos}

    def _complete(self, infos: Info, reward: Reward) -> Info:
        if not self.components.stable_infos:
            return infos
        infos = {**self._no_groups(), **infos}
        return stable_infos(infos, reward, self.components.protocol.top_k)

    def _no_groups(self) -> Info:
        """Return the keys that stable infos have of groups, without a value for any row."""
        if self.groups is None or not self.components.stable_infos:
            return {}
        count, parts = self.count, self.groups.reward.parts
        infos: Info = {"complete_group": np.zeros(count, np.int64), "group_reward": np.zeros(count)}
        if self.mode is not AutoresetMode.SAME_STEP:  # there it is in final_info
            infos["group"] = np.zeros(count, np.int64)
        nested: Info = {part: np.zeros(count) for part in parts}
        nested.update({f"_{part}": np.zeros(count, np.bool_) for part in parts})
        infos["group_reward_parts"] = nested
        return {**infos, **{f"_{key}": np.zeros(count, np.bool_) for key in infos}}

    def _episode_infos_of_all(self) -> Info:
        """Return the keys that the infos of every step have, for all rows."""
        infos = dict(self._episode_infos)
        if self.copy:
            infos = {key: array.copy() for key, array in infos.items()}
        if self.components.action_mask:
            infos["action_mask"] = self.components.masks.batch(self.dynamics, range(self.count))
            infos["_action_mask"] = np.ones(self.count, np.bool_)
        return infos

    def observations(self) -> Observation:
        """Return the batched observation."""
        dynamics = self.dynamics
        tokens, sources = dynamics.tokens, dynamics.sources
        if self.copy:
            tokens, sources = tokens.copy(), sources.copy()
        lengths: NDArray[np.int64] = dynamics.lengths()
        if self.components.box_length:
            lengths = lengths[:, None]
        observations = {"tokens": tokens, "length": lengths, "sources": sources}
        if self.components.observed_mask:
            masks = self.components.masks.batch(dynamics, range(self.count))
            observations["action_mask"] = masks
        return observations

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
        """Restore a state that rows of the same arguments saved."""
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
    if kind is str or kind is list or kind is tuple or key == "final_obs":
        return np.empty(count, object)  # of None
    if kind is dict:
        return {}
    if isinstance(value, np.ndarray):
        return np.zeros((count, *value.shape), value.dtype)
    return np.zeros(count, kind)


def _generator(state: dict[str, Any] | None) -> np.random.Generator | None:
    if state is None:
        return None
    random = seeding.np_random(0)[0]
    random.bit_generator.state = state
    return random
