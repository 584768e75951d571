"""The rows of a vector environment: how they begin, grow and end, and what a step says of them.

Between the dynamics, which know tokens and tags, and the environment, which knows when to search
and whom to answer. Here are the autoreset modes, the generators that questions are drawn with, and
the arrays that a step returns. No retrieval happens here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from search_env.core.episode_state import EpisodeSnapshot, Query
from search_env.envs.config import EnvComponents, Info, ending, faults_since, standing
from search_env.envs.search_qa import Observation
from search_env.envs.vector_groups import Groups, GroupsState
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.rewards import Reward, get_group_reward
from search_env.types import Document, Transcript

if TYPE_CHECKING:
    from search_env.core.action_mask import ActionMasks

Rows = NDArray[np.intp]
StepResult = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]

_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class RowsState:
    """All that rows hold. Plain data, picklable."""

    episodes: tuple[EpisodeSnapshot, ...]
    random: tuple[dict[str, Any] | None, ...]
    ended: NDArray[np.bool_]
    told: tuple[int, ...]
    found: dict[int, Info]
    groups: GroupsState | None


class VectorRows:
    """N rows of the same components.

    Args:
        components: What all rows are made of.
        count: Number of rows.
        mode: What follows an ending.
        copy: Whether observations and infos are copies.
        groups: Where rows are grouped and a group reward is paid.

    Attributes:
        dynamics: The rows' tokens and tags.
        random: Each row's generator, None before it is first seeded.
        serial: Number of episodes that each row has begun.
        transcripts: Of the episodes that ended in the last result, by row.
    """

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
        self.random: list[np.random.Generator | None] = [None] * count
        self.serial = [0] * count
        self.transcripts: dict[int, Transcript] = {}
        self._masks: ActionMasks | None = None
        self._ended = np.zeros(count, np.bool_)  # and not begun again
        self._num_ended = 0
        self._told = [0] * count  # format faults that infos have told of
        self._found: dict[int, Info] = {}  # what searches came to since the last result
        self._question_id = np.full(count, None, object)
        self._num_searches = np.zeros(count, np.int64)
        self._stop_reason = np.full(count, None, object)
        self._standing: Info = {
            "question_id": self._question_id,
            "num_searches": self._num_searches,
            "stop_reason": self._stop_reason,
        }
        every = np.ones(count, np.bool_)
        self._standing.update({f"_{key}": every for key in list(self._standing)})

    def payable(self, reward: Reward) -> Reward:
        """Return a reward that endings can pay.

        Raises:
            ConfigurationError: It has a part of the same name as the group reward.
        """
        if self.groups is not None:
            get_group_reward(self.groups.reward, beside=reward)
        return reward

    def begin_together(self, rows: Sequence[int]) -> None:
        """Take note that some rows, or all, are going to begin in one reset."""
        if self.groups is not None:
            self.groups.reset_together(rows)

    def begin(self, row: int, wish: Mapping[str, Any]) -> None:
        """Start an episode with the question that the options wish for.

        Raises:
            ConfigurationError: Unknown option or question, or a prompt that does not fit.
        """
        random = self.random[row]
        if random is None:
            raise EpisodeOverError("Expected reset() before a row can begin. Call reset().")
        question = self.components.choose(wish, random)
        if self.groups is not None:
            self.groups.begin(row, question)
        self.dynamics.begin(row, question)
        self._question_id[row], self._num_searches[row] = question.id, 0
        self._stop_reason[row] = ""
        if self._ended[row]:
            self._ended[row] = False
            self._num_ended -= 1
        self.serial[row] += 1
        self._told[row] = 0
        self._found.pop(row, None)

    def advance(self, rows: Rows | None, tokens: NDArray[np.int64]) -> list[Query]:
        """Append a token in some rows, or in all; rows whose reset is due begin instead.

        Returns:
            The queries that were closed; ``dynamics.settled`` are the rows with news.

        Raises:
            EpisodeOverError: A row has ended and the mode does not begin it again.
        """
        if not self._num_ended:
            return self.dynamics.append(_ALL if rows is None else rows, tokens)
        rows = np.arange(self.count) if rows is None else rows
        due = self._ended[rows]
        if due.any() and self.mode is not AutoresetMode.NEXT_STEP:
            raise EpisodeOverError(
                f"Expected rows with an episode under way, got rows {rows[due].tolist()}, "
                "which have ended. Call reset(options={'reset_mask': mask}) with them."
            )
        for row in rows[due].tolist():
            self.begin(row, {})
        return self.dynamics.append(rows[~due], tokens[~due])

    def pending(self, row: int) -> str | None:
        """Return the text of the query that a row waits for, or None."""
        return self.dynamics.episodes[row].pending

    def take(self, row: int, found: list[Document] | RetrievalError) -> None:
        """Give a row what its query found, or end its episode where that was an error."""
        info: Info = {"query": self.pending(row)}
        if isinstance(found, RetrievalError):
            self.dynamics.fail_retrieval(row)
            info["retrieval_error"] = str(found)
        else:
            self.dynamics.insert_documents(row, found)
            info["document_ids"] = [document.id for document in found]
        self._found[row] = info

    def result(self, settled: Sequence[int], reward: Reward) -> StepResult:
        """Return a step's five.

        Args:
            settled: Rows that did more than grow by a token, ascending.
            reward: What endings pay.

        Raises:
            RewardError: The reward function, or that of the group reward, failed.
        """
        count = self.count
        rewards = np.zeros(count)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        if self.transcripts:
            self.transcripts = {}
        special: Info = {}
        for row in settled:
            episode = self.dynamics.episodes[row]
            info = faults_since(episode, self._told[row])
            self._told[row] = episode.num_faults
            if row in self._found:
                info.update(self._found.pop(row))
                self._num_searches[row] = episode.num_searches
            stop = episode.stop_reason
            if stop is not None:
                self.transcripts[row] = transcript = self.dynamics.transcript(row)
                rewards[row], final = ending(transcript, reward)
                if self.groups is not None:
                    final["group"] = self.groups.end(row, transcript)
                terminated[row], truncated[row] = stop.terminated, not stop.terminated
                info = self._end(row, {**info, **final})
            if info:
                add_info(special, info, row, count)
        for row, info in () if self.groups is None else self.groups.take_complete():
            add_info(special, info, row, count)
        infos = self.standing()
        infos.update(special)
        return self.observations(), rewards, terminated, truncated, infos

    def _end(self, row: int, info: Info) -> Info:
        """Book an ending; return the row's info as the autoreset mode wants it."""
        if self.mode is AutoresetMode.SAME_STEP:
            final = self.row_info(row)
            observation = self._observation(row)
            self.begin(row, {})
            return {"final_obs": observation, "final_info": {**final, **info}}
        self._stop_reason[row] = standing(self.dynamics.episodes[row])["stop_reason"]
        self._ended[row] = True
        self._num_ended += 1
        return info

    def row_info(self, row: int) -> Info:
        """Return what every info says, of one row."""
        info = standing(self.dynamics.episodes[row])
        if self.components.action_mask:
            info["action_mask"] = self.action_masks([row])[0]
        return info

    def standing(self) -> Info:
        """Return what every info says, of all rows."""
        infos = dict(self._standing)
        if self.copy:
            infos = {key: array.copy() for key, array in infos.items()}
        if self.components.action_mask:
            infos["action_mask"] = self.action_masks(range(self.count))
            infos["_action_mask"] = np.ones(self.count, np.bool_)
        return infos

    def observations(self) -> Observation:
        """Return the batched observation."""
        dynamics = self.dynamics
        tokens, sources = dynamics.tokens, dynamics.sources
        if self.copy:
            tokens, sources = tokens.copy(), sources.copy()
        return {"tokens": tokens, "length": dynamics.lengths(), "sources": sources}

    def _observation(self, row: int) -> Observation:
        dynamics = self.dynamics
        return {
            "tokens": dynamics.tokens[row].copy(),
            "length": dynamics.length(row),
            "sources": dynamics.sources[row].copy(),
        }

    def checked(self, actions: Any, count: int) -> NDArray[np.int64]:
        """Return actions as int64 ``(count,)``.

        Raises:
            InvalidActionError: They are something else than ``count`` token ids.
        """
        array = np.asarray(actions)
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise InvalidActionError(
                f"Expected an integer array of {count} token ids, got shape {array.shape} of "
                f"{array.dtype}. Pass one id for each row."
            )
        tokens = array.astype(np.int64, copy=False)
        unsigned = tokens.view(np.uint64)  # in which negative ids are the largest
        if unsigned.item(unsigned.argmax()) >= self._size:
            wrong = (tokens < 0) | (tokens >= self._size)
            raise self.components.invalid_action(int(tokens[wrong][0]))
        return tokens

    def numbers(self, rows: Sequence[int] | Rows) -> Rows:
        """Return row numbers as an array.

        Raises:
            InvalidActionError: They are not ascending, or there is no such row.
        """
        array = np.asarray(rows)
        fits = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
        if not fits or array[0] < 0 or array[-1] >= self.count or (np.diff(array) <= 0).any():
            raise InvalidActionError(
                f"Expected ascending row numbers from 0 to {self.count - 1}, got {rows!r}. "
                "Pass np.flatnonzero(infos['ready'])."
            )
        return array.astype(np.intp, copy=False)

    def action_masks(self, rows: Sequence[int]) -> NDArray[np.int8]:
        """Return which ids keep the episodes of some rows well formed, int8 ``(R, n)``."""
        if self._masks is None:
            from search_env.core.action_mask import ActionMasks

            self._masks = ActionMasks(self.dynamics)
        return self._masks.batch(self.dynamics, rows)

    def get_state(self) -> RowsState:
        """Return a copy of everything, in time proportional to the rows' tokens."""
        return RowsState(
            tuple(self.dynamics.save(row) for row in range(self.count)),
            tuple(r if r is None else dict(r.bit_generator.state) for r in self.random),
            self._ended.copy(),
            tuple(self._told),
            {row: dict(info) for row, info in self._found.items()},
            None if self.groups is None else self.groups.get_state(),
        )

    def set_state(self, state: RowsState) -> None:
        """Go on from a saved state.

        Raises:
            ConfigurationError: It has another number of rows, or groups and these rows none, or
                the other way round.
        """
        if len(state.episodes) != self.count:
            raise ConfigurationError(
                f"Expected a state of {self.count} rows, got one of {len(state.episodes)}. "
                "Restore it in an environment with the same arguments."
            )
        if (state.groups is None) != (self.groups is None):
            raise ConfigurationError(
                "Expected the state of an environment that has a group_reward where this one has "
                "one, got another. Restore it in an environment with the same arguments."
            )
        if self.groups is not None and state.groups is not None:
            self.groups.set_state(state.groups)
        for row, saved in enumerate(state.episodes):
            self.dynamics.restore(row, saved)
            episode = self.dynamics.episodes[row]
            self._question_id[row] = episode.question.id
            self._num_searches[row] = episode.num_searches
            self._stop_reason[row] = standing(episode)["stop_reason"]
            self.random[row] = _generator(state.random[row])
            self.serial[row] += 1
        self._ended = state.ended.copy()
        self._num_ended = int(self._ended.sum())
        self._told = list(state.told)
        self._found = {row: dict(info) for row, info in state.found.items()}
        self.transcripts = {}


def add_info(infos: Info, info: Info, row: int, count: int) -> None:
    """Put one row's info among the others', each key as an array with a mask.

    The rule of ``gymnasium.vector.VectorEnv._add_info``, at a third of its cost: numbers and arrays
    in arrays of the type that came first, dictionaries key by key, strings, lists and
    ``final_obs`` as objects.
    """
    for key, value in info.items():
        mask = "_" + key
        if key not in infos:
            infos[key], infos[mask] = _room(key, value, count), np.zeros(count, np.bool_)
        array = infos[key]
        if type(array) is dict:
            add_info(array, value, row, count)
        else:
            array[row] = value
        infos[mask][row] = True


def _room(key: str, value: Any, count: int) -> Any:
    kind = type(value)
    if kind is str or kind is list or key == "final_obs":
        return np.empty(count, object)  # of None
    if kind is dict:
        return {}
    if isinstance(value, np.ndarray):
        return np.zeros((count, *value.shape), value.dtype)
    return np.zeros(count, kind)


def of_row(options: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
    """Return one row's share of options that may be sequences."""
    mine = {}
    for key, value in options.items():
        if isinstance(value, list | tuple | np.ndarray):
            if len(value) != count:
                raise ConfigurationError(
                    f"Expected options[{key!r}] to be one value or {count}, got {len(value)}. "
                    "Pass one for each row."
                )
            value = value[row]
        mine[key] = value
    return mine


def _generator(state: dict[str, Any] | None) -> np.random.Generator | None:
    if state is None:
        return None
    random = seeding.np_random(0)[0]
    random.bit_generator.state = state
    return random
