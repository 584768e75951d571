"""The vector environment: N rows of one :mod:`search_env.dynamics`, one retrieval call a step.

Row by row it is :class:`~search_env.env.SearchQAEnv`: same questions for the same seeds, same
observations, rewards, endings and infos. All rows move in a few array operations, queries closed
in the same step are retrieved together, and with :meth:`SearchQAVectorEnv.send` and
:meth:`SearchQAVectorEnv.recv` rows that wait for documents do not hold up the others.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from search_env.env import Observation
from search_env.episode import Query, SavedEpisode
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
)
from search_env.rendering.renderer import RENDER_MODES
from search_env.retrieval.background import BackgroundSearch, Ticket
from search_env.retrieval.batch import retrieve_each
from search_env.rewards import Reward, get_reward
from search_env.setting import Info, Setting, check_choice, ending, faults_since, standing
from search_env.types import Document, Transcript

if TYPE_CHECKING:
    from search_env.action_mask import ActionMasks
    from search_env.rendering.renderer import Renderer

Rows = NDArray[np.intp]
StepResult = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]

_ALL = slice(None)
_OWN = ("num_envs", "autoreset_mode", "group_size", "copy", "retrieval_threads")
_OWN += ("max_episode_steps", "render_mode", "render_row")


@dataclass(frozen=True, slots=True)
class VectorState:
    """All of a vector environment's state. Plain data, picklable."""

    episodes: tuple[SavedEpisode, ...]
    random: tuple[dict[str, Any] | None, ...]
    ended: NDArray[np.bool_]
    under_way: NDArray[np.bool_]
    seen: tuple[int, ...]
    found: dict[int, Info]
    reward: Reward


class SearchQAVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[np.float64]]):
    """Search-augmented question answering, one token in each of N rows at a time.

    ## Description
    `gym.make_vec("SearchQA-v0", num_envs=N)`. Rows are what `SearchQAEnv` describes; row `i` of a
    vector environment that was reset with `seed` equals a single one reset with `seed + i`.

    ## Action Space
    `MultiDiscrete([n] * N)`: the next token id of each row. An array of any integer type will do.

    ## Observation Space
    The single environment's, batched: `tokens` int32 `(N, L)`, `length` int64 `(N,)`, `sources`
    int8 `(N, L)`. With `copy=False` they are views of the environment's own memory, good until
    its next call: right for a policy that reads what it needs at once, wrong for storing.

    ## Rewards
    As in the single environment, float64 `(N,)`. An error of the reward function, or of the
    retriever under `on_retrieval_error="raise"`, breaks the step off; go on with `reset`.

    ## Starting State
    Each row draws its questions from a generator of its own. `options` of `reset` may hold
    `question_id` or `index`, one for all rows or a sequence with one for each, and `reset_mask`,
    bool `(N,)`, to reset some rows only.

    With `group_size=G` the rows of each group of G neighbours share a seed (row `i` has
    `seed + i // G`), so the k-th episode of each asks the same question.

    ## Episode End
    As in the single environment; `autoreset_mode` says what follows:

    | Mode | What follows |
    |---|---|
    | `NextStep` | the row's next step ignores its action and begins an episode: reward 0 |
    | `SameStep` | the observation is the next episode's; `final_obs`, `final_info` hold the end |
    | `Disabled` | nothing until `reset(options={"reset_mask": mask})` |

    `transcripts` holds the episodes that ended in the last step, by row.

    ## Information
    The single environment's, as arrays with masks (`key` and `_key`), types constant: `str` and
    lists in object arrays. `recv` adds `ready`.

    ## Slow retrievers
    `step` waits for all documents. `send(actions, rows)` does not: queries go to background
    threads, and `recv(min_ready)` returns once that many rows have their result. A retriever is
    asked for all that waits in one call, from one thread unless `retrieval_threads` says more.

    ## Arguments
    Those of `SearchQAEnv`, and:

    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `num_envs` | int | 1 | rows |
    | `autoreset_mode` | str or AutoresetMode | `"NextStep"` | or `SameStep`, `Disabled` |
    | `group_size` | int | 1 | neighbouring rows that ask the same questions |
    | `copy` | bool | True | whether observations and infos are copies |
    | `retrieval_threads` | int | 1 | simultaneous calls of the retriever after `send` |
    | `max_episode_steps` | int or None | None | as `max_policy_tokens` |
    | `render_mode` | str or None | None | `ansi`, `human` or `rgb_array` |
    | `render_row` | int | 0 | the row that `render` draws; an attribute too |

    ## Version History
    * v0: Initial version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        copy: bool = True,
        retrieval_threads: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        render_row: int = 0,
        **arguments: Any,
    ) -> None:
        self._setting = setting = Setting.of(_limited(arguments, max_episode_steps), own=_OWN)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        self._mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self._mode}
        self.num_envs = _at_least_one("num_envs", num_envs)
        self.group_size = _at_least_one("group_size", group_size)
        if num_envs % group_size:
            raise ConfigurationError(
                f"Expected num_envs to be a multiple of group_size={group_size}, got {num_envs}. "
                "Change one of them."
            )
        self.copy = copy
        self.render_mode, self.render_row = render_mode, render_row
        self.protocol, self.tokenizer = setting.protocol, setting.tokenizer
        self.questions, self.retriever = setting.questions, setting.retriever
        self.reward = setting.reward
        self.single_action_space = setting.action_space()
        self.single_observation_space = setting.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.transcripts: dict[int, Transcript] = {}
        self._threads = _at_least_one("retrieval_threads", retrieval_threads)
        self._search: BackgroundSearch | None = None
        self._masks: ActionMasks | None = None
        self._renderer: Renderer | None = None
        self._dynamics = setting.dynamics(num_envs)
        self._row_random: list[np.random.Generator | None] = [None] * num_envs
        self._standing_masks = {f"_{key}": np.ones(num_envs, np.bool_) for key in _STANDING}
        self._question_id = np.full(num_envs, None, object)
        self._num_searches = np.zeros(num_envs, np.int64)
        self._stop_reason = np.full(num_envs, None, object)
        self._ended = np.zeros(num_envs, np.bool_)  # and not begun again
        self._num_ended = 0
        self._under_way = np.zeros(num_envs, np.bool_)  # sent, and not received
        self._num_under_way = 0
        self._settled: set[int] = set()  # received rows' results hold more than a token
        self._serial = [0] * num_envs
        self._seen = [0] * num_envs  # events that infos have told of
        self._found: dict[int, Info] = {}  # what searches came to since the last result
        self._broken = "reset() has not been called"

    # Episodes begin.

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Begin an episode in every row, or in those of ``options["reset_mask"]``.

        Args:
            seed: Row ``i`` is seeded with ``seed + i // group_size``, or with ``seed[i]``; None
                goes on with each row's generator.
            options: See the class.

        Raises:
            ConfigurationError: A bad seed, option, question or mask.
        """
        seeds = self._seeds(seed)
        chosen = dict(options or {})
        mask = self._reset_mask(chosen.pop("reset_mask", None))
        wishes = [_of_row(chosen, row, self.num_envs) for row in range(self.num_envs)]
        rows = np.flatnonzero(mask).tolist()
        if len(rows) == self.num_envs:
            self._broken = ""
        elif self._broken:
            raise self._not_ready()
        for row in rows:
            if seeds[row] is not None:
                self._row_random[row] = seeding.np_random(seeds[row])[0]
            self._begin(row, wishes[row])
        self._num_ended = int(self._ended.sum())
        self._num_under_way = int(self._under_way.sum())
        self._show()
        if len(rows) == self.num_envs:
            return self._observations(), self._standing()
        infos: Info = {}
        for row in rows:  # the others have no news
            info = standing(self._dynamics.episodes[row])
            if self._setting.action_mask:
                info["action_mask"] = self._action_masks([row])[0]
            infos = self._add_info(infos, info, row)
        return self._observations(), infos

    def _begin(self, row: int, wish: Mapping[str, Any]) -> None:
        random = self._row_random[row]
        if random is None:
            random = self._row_random[row] = self._first_random(row)
        question = self._setting.choose(wish, random)
        self._dynamics.begin(row, question)
        self._question_id[row], self._num_searches[row] = question.id, 0
        self._stop_reason[row] = ""
        self._ended[row] = self._under_way[row] = False
        self._serial[row] += 1
        self._seen[row] = 0
        self._found.pop(row, None)
        self._settled.discard(row)

    def _first_random(self, row: int) -> np.random.Generator:
        """Seed a row from the environment's generator, alike within a group."""
        leader = row - row % self.group_size
        if row == leader or self._row_random[leader] is None:
            self._group_seed = int(self.np_random.integers(2**31))
        return seeding.np_random(self._group_seed)[0]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
            return [int(seed) + row // self.group_size for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigurationError(
                f"Expected a seed for each of {self.num_envs} rows, got {len(seed)}. Pass one "
                "number, or a list with one for each row."
            )
        return list(seed)

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        fits = isinstance(mask, np.ndarray) and mask.dtype == np.bool_
        if not fits or mask.shape != (self.num_envs,) or not mask.any():
            raise ConfigurationError(
                f"Expected options['reset_mask'] to be a bool array of shape ({self.num_envs},) "
                f"with at least one True, got {mask!r}. Pass terminations | truncations."
            )
        return mask

    # Steps.

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Append one token in every row; run the searches that they closed, in one call.

        Raises:
            EpisodeOverError: Before ``reset``, after an error that broke a step off, or in mode
                ``Disabled`` in a row that has ended.
            InvalidActionError: Not an array of N ids of the action space.
            RetrievalError: A search failed and ``on_retrieval_error="raise"``.
            RewardError: The reward function failed.
        """
        actions = self._checked(actions, self.num_envs)
        if self._broken or self._num_under_way:
            raise self._not_ready()
        if not self._num_ended:
            self._broken = _BROKEN_OFF
            queries = self._dynamics.append(_ALL, actions)
            if not self._dynamics.settled:  # most steps
                self._broken = ""
                return self._result(())
            settled = self._dynamics.settled
        else:
            settled, queries = self._advance(np.arange(self.num_envs), actions)
        if queries:
            texts = [query.text for query in queries]
            found = retrieve_each(self.retriever, texts, self.protocol.top_k)
            for query, documents in zip(queries, found, strict=True):
                self._take(query.row, query.text, documents)
        return self._result(settled)

    def send(self, actions: NDArray[np.int64], rows: Sequence[int] | Rows | None = None) -> None:
        """Append one token in some rows and return at once; searches run in the background.

        Args:
            actions: One id for each of the rows.
            rows: Row numbers, ascending, none under way; None for all rows.

        Raises:
            EpisodeOverError: As for :meth:`step`, or a row is under way already.
            InvalidActionError: As for :meth:`step`.
        """
        chosen = np.arange(self.num_envs) if rows is None else self._rows(rows)
        tokens = self._checked(actions, len(chosen))
        if self._broken:
            raise self._not_ready()
        if self._num_under_way and self._under_way[chosen].any():
            late = chosen[self._under_way[chosen]].tolist()
            raise EpisodeOverError(
                f"Expected rows that are not under way, got {late}. Call recv() until infos"
                "['ready'] names them."
            )
        settled, queries = self._advance(chosen, tokens)
        self._settled.update(settled)
        self._under_way[chosen] = True
        self._num_under_way += len(chosen)
        self._submit(queries)
        self._broken = ""

    def recv(self, min_ready: int = 1) -> StepResult:
        """Return once ``min_ready`` of the rows under way (or all of them) have their result.

        Arrays have all N rows, as those of :meth:`step`. ``infos["ready"]``, bool ``(N,)``, says
        whose results they are; other rows show where they stand, with reward 0.

        Raises:
            EpisodeOverError: No row is under way.
            RetrievalError: As for :meth:`step`.
            RewardError: As for :meth:`step`.
        """
        if self._broken or not self._num_under_way:
            raise self._not_ready("no row is under way: call send() first")
        wanted = min(_at_least_one("min_ready", min_ready), self._num_under_way)
        waiting = [row for row in self._settled if self._pending(row) is not None]
        missing = wanted - (self._num_under_way - len(waiting))
        if waiting and self._search is not None:
            self._collect(missing)
        ready = self._under_way.copy()
        ready[[row for row in waiting if self._pending(row) is not None]] = False
        settled = sorted(row for row in self._settled if ready[row])
        self._settled.difference_update(settled)
        self._under_way &= ~ready
        self._num_under_way = int(self._under_way.sum())
        self._broken = _BROKEN_OFF
        result = self._result(settled)
        result[-1].update(ready=ready, _ready=np.ones(self.num_envs, np.bool_))
        return result

    def _advance(self, rows: Rows, tokens: NDArray[np.int64]) -> tuple[list[int], list[Query]]:
        """Append to some rows; those whose reset is due begin an episode instead."""
        running = rows
        if self._num_ended and self._ended[rows].any():
            due = self._ended[rows]
            if self._mode is not AutoresetMode.NEXT_STEP:
                raise EpisodeOverError(
                    f"Expected rows with an episode under way, got rows {rows[due].tolist()}, "
                    "which have ended. Call reset(options={'reset_mask': mask}) with them."
                )
            for row in rows[due].tolist():
                self._begin(row, {})
            self._num_ended = int(self._ended.sum())
            running, tokens = rows[~due], tokens[~due]
        self._broken = _BROKEN_OFF
        if not len(running):
            return [], []
        queries = self._dynamics.append(running, tokens)
        return list(self._dynamics.settled), queries

    def _take(self, row: int, query: str, found: list[Document] | RetrievalError) -> None:
        """Give a row what its query found."""
        info: Info = {"query": query}
        if isinstance(found, RetrievalError):
            self._dynamics.fail_retrieval(row)
            if not self._setting.truncate_on_error:
                self._broken = _BROKEN_OFF
                raise found
            info["retrieval_error"] = str(found)
        else:
            self._dynamics.insert_documents(row, found)
            info["document_ids"] = [document.id for document in found]
        self._found[row] = info

    def _submit(self, queries: Sequence[Query]) -> None:
        if not queries:
            return
        if self._search is None:
            self._search = BackgroundSearch(self.retriever, self.protocol.top_k, self._threads)
        self._search.submit([(Ticket(q.row, self._serial[q.row]), q.text) for q in queries])

    def _collect(self, missing: int) -> None:
        """Take the answers that are there; wait until ``missing`` of them have come."""
        assert self._search is not None  # noqa: S101 - for the type checker
        while True:
            for ticket, found in self._search.collect(wait=missing > 0):
                pending = self._pending(ticket.row)
                if ticket.serial == self._serial[ticket.row] and pending is not None:
                    missing -= 1
                    self._take(ticket.row, pending, found)
            if missing <= 0:
                return

    def _pending(self, row: int) -> str | None:
        return self._dynamics.episodes[row].pending

    # What a step returns.

    def _result(self, settled: Sequence[int]) -> StepResult:
        """Return the step's five; ``settled`` rows did more than grow by a token."""
        count = self.num_envs
        rewards = np.zeros(count)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        if self.transcripts:
            self.transcripts = {}
        special: Info = {}
        for row in settled:
            episode = self._dynamics.episodes[row]
            info = self._found.pop(row, {})
            info.update(faults_since(episode, self._seen[row]))
            self._seen[row] = len(episode.events)
            self._num_searches[row] = episode.num_searches
            stop = episode.stop_reason
            if stop is not None:
                self.transcripts[row] = transcript = self._dynamics.transcript(row)
                rewards[row], final = ending(transcript, self.reward)
                terminated[row], truncated[row] = stop.terminated, not stop.terminated
                info.update(final)
                info = self._end(row, info)
            if info:
                special = self._add_info(special, info, row)
        self._broken = ""
        self._show()
        return self._observations(), rewards, terminated, truncated, {**self._standing(), **special}

    def _end(self, row: int, info: Info) -> Info:
        """Book an ending; return the row's info as the autoreset mode wants it."""
        if self._mode is AutoresetMode.SAME_STEP:
            final = standing(self._dynamics.episodes[row])
            if self._setting.action_mask:
                final["action_mask"] = self._action_masks([row])[0]
            observation = self._observation(row)
            self._begin(row, {})
            return {"final_obs": observation, "final_info": {**final, **info}}
        self._stop_reason[row] = self._dynamics.episodes[row].stop_reason.value  # type: ignore[union-attr]
        self._ended[row] = True
        self._num_ended += 1
        return info

    def _observations(self) -> Observation:
        dynamics = self._dynamics
        tokens, sources = dynamics.tokens, dynamics.sources
        if self.copy:
            tokens, sources = tokens.copy(), sources.copy()
        return {"tokens": tokens, "length": dynamics.lengths(), "sources": sources}

    def _observation(self, row: int) -> Observation:
        dynamics = self._dynamics
        return {
            "tokens": dynamics.tokens[row].copy(),
            "length": dynamics.length(row),
            "sources": dynamics.sources[row].copy(),
        }

    def _standing(self) -> Info:
        """Return the infos that every row has at every step."""
        arrays = (self._question_id, self._num_searches, self._stop_reason)
        infos: Info = dict(zip(_STANDING, arrays, strict=True))
        masks = self._standing_masks
        if self.copy:
            infos = {key: array.copy() for key, array in infos.items()}
            masks = {key: mask.copy() for key, mask in masks.items()}
        infos.update(masks)
        if self._setting.action_mask:
            infos["action_mask"] = self.action_masks()
            infos["_action_mask"] = np.ones(self.num_envs, np.bool_)
        return infos

    # Looking at it, and changing it.

    def set_reward(self, reward: str | Reward) -> None:
        """Pay another reward from the next ending on, in all rows.

        Raises:
            ConfigurationError: No reward of that name.
        """
        self.reward = get_reward(reward)

    def action_masks(self) -> NDArray[np.int8]:
        """Return which ids keep each row's episode well formed, int8 ``(N, n)``."""
        return self._action_masks(range(self.num_envs))

    def _action_masks(self, rows: Sequence[int]) -> NDArray[np.int8]:
        if self._masks is None:
            from search_env.action_mask import ActionMasks

            self._masks = ActionMasks(self._dynamics)
        return self._masks.batch(self._dynamics, rows)

    def transcript(self, row: int) -> Transcript:
        """Return what the episode in a row has left behind so far."""
        return self._dynamics.transcript(operator.index(row))

    def render(self) -> tuple[Any, ...] | None:
        """Return the frame of row ``render_row`` as a tuple of one; see ``SearchQAEnv.render``."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render mode. Pass render_mode= to gym.make_vec."
            )
            return None
        from search_env.rendering.frame import Frame
        from search_env.rendering.renderer import Renderer

        if self._renderer is None:
            self._renderer = Renderer(self.render_mode)
        frame = self._renderer.draw(Frame.of(self.protocol, self.transcript(self.render_row)))
        return None if frame is None else (frame,)

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()

    def get_state(self) -> VectorState:
        """Return the whole state; searches under way are kept as questions to ask again."""
        randoms = (r and dict(r.bit_generator.state) for r in self._row_random)
        return VectorState(
            tuple(self._dynamics.save(row) for row in range(self.num_envs)),
            tuple(randoms),
            self._ended.copy(),
            self._under_way.copy(),
            tuple(self._seen),
            {row: dict(info) for row, info in self._found.items()},
            self.reward,
        )

    def set_state(self, state: VectorState) -> None:
        """Go on from a saved state exactly as the environment that saved it would have.

        Raises:
            ConfigurationError: The state has another number of rows.
        """
        if len(state.episodes) != self.num_envs:
            raise ConfigurationError(
                f"Expected a state of {self.num_envs} rows, got one of {len(state.episodes)}. "
                "Restore it in an environment with the same arguments."
            )
        for row, saved in enumerate(state.episodes):
            self._dynamics.restore(row, saved)
            episode = self._dynamics.episodes[row]
            self._question_id[row] = episode.question.id
            self._num_searches[row] = episode.num_searches
            self._stop_reason[row] = standing(episode)["stop_reason"]
            self._row_random[row] = _generator(state.random[row])
            self._serial[row] += 1
        self._ended, self._under_way = state.ended.copy(), state.under_way.copy()
        self._num_ended, self._num_under_way = int(self._ended.sum()), int(self._under_way.sum())
        self._seen = list(state.seen)
        self._found = {row: dict(info) for row, info in state.found.items()}
        self._settled = set(np.flatnonzero(self._under_way).tolist())
        self.reward = state.reward
        self._broken = ""
        asked = [(row, self._pending(row)) for row in sorted(self._settled)]
        self._submit([Query(row, text) for row, text in asked if text is not None])

    def close_extras(self, **kwargs: Any) -> None:
        """Let the background threads go."""
        if self._search is not None:
            self._search.close()
            self._search = None

    # Refusals.

    def _checked(self, actions: Any, count: int) -> NDArray[np.int64]:
        array = np.asarray(actions)
        if array.shape != (count,) or array.dtype.kind not in "iu":
            raise InvalidActionError(
                f"Expected an integer array of {count} token ids, got shape {array.shape} of "
                f"{array.dtype}. Pass one id for each row."
            )
        tokens = array.astype(np.int64, copy=False)
        # As unsigned numbers, negative ids are the largest.
        if np.ascontiguousarray(tokens).view(np.uint64).max(initial=0) >= self._setting.size:
            wrong = (tokens < 0) | (tokens >= self._setting.size)
            raise self._setting.invalid_action(int(tokens[wrong][0]))
        return tokens

    def _rows(self, rows: Sequence[int] | Rows) -> Rows:
        array = np.asarray(rows)
        fits = array.ndim == 1 and array.dtype.kind in "iu" and len(array)
        if not fits or array[0] < 0 or array[-1] >= self.num_envs or (np.diff(array) <= 0).any():
            raise InvalidActionError(
                f"Expected ascending row numbers from 0 to {self.num_envs - 1}, got {rows!r}. "
                "Pass np.flatnonzero(infos['ready'])."
            )
        return array.astype(np.intp, copy=False)

    def _not_ready(self, otherwise: str = "rows are under way: call recv() first") -> Exception:
        why = self._broken or otherwise
        return EpisodeOverError(
            f"Expected an environment that is ready, got one where {why}. Call reset()."
            if self._broken
            else f"Expected rows that are ready, but {why}."
        )


_STANDING = ("question_id", "num_searches", "stop_reason")
_BROKEN_OFF = "an error broke the last step off"


def _mode(mode: str | AutoresetMode) -> AutoresetMode:
    check_choice("autoreset_mode", mode, [*AutoresetMode, *(m.value for m in AutoresetMode)])
    return AutoresetMode(mode)


def _limited(arguments: dict[str, Any], max_episode_steps: int | None) -> dict[str, Any]:
    """Return the arguments with ``max_episode_steps`` (steps are policy tokens) taken in."""
    if max_episode_steps is None:
        return arguments
    own = arguments.get("max_policy_tokens")
    least = max_episode_steps if own is None else min(own, max_episode_steps)
    return {**arguments, "max_policy_tokens": least}


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(
            f"Expected {name} to be an integer of at least 1, got {value!r}. Pass 1 or more."
        )
    return int(value)


def _of_row(options: Mapping[str, Any], row: int, count: int) -> dict[str, Any]:
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
