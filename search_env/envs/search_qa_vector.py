"""The vector environment: N rows of one :mod:`search_env.core.dynamics`, one retrieval call a step.

Each row behaves as :class:`~search_env.envs.search_qa.SearchQAEnv`: same questions for the same
seeds, same observations, rewards, episode ends and infos. All rows move in a few array operations,
queries closed in the same step are retrieved together, and with :meth:`SearchQAVectorEnv.send` and
:meth:`SearchQAVectorEnv.recv` rows that wait for documents do not delay the others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from search_env.envs.config import (
    EnvComponents,
    EnvConfig,
    Info,
    check_options,
    check_origin,
)
from search_env.envs.search_qa import Observation
from search_env.envs.vector_calls import (
    Rows,
    check_actions,
    check_reset_mask,
    check_rows,
    check_seeds,
)
from search_env.envs.vector_groups import Groups, check_group_size
from search_env.envs.vector_rows import StepResult, VectorRows, VectorState
from search_env.envs.vector_searches import VectorSearches
from search_env.errors import ConfigurationError, EpisodeOverError, RetrievalError
from search_env.rendering.renderer import RENDER_MODES
from search_env.retrieval.base import Retriever
from search_env.rewards import GroupReward, Reward, get_group_reward, get_reward
from search_env.types import Document, Transcript
from search_env.validation import (
    check_choice,
    check_count,
    check_flag,
    check_index,
    check_limit,
)

if TYPE_CHECKING:
    from search_env.rendering.renderer import Renderer

_INTERRUPTED = "an error interrupted the last step"
_MODES = [*AutoresetMode, *(mode.value for mode in AutoresetMode)]


class SearchQAVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Search-augmented question answering, one token in each of N rows at a time.

    ## Description
    `gym.make_vec("SearchQA-v0", num_envs=N)`. `SearchQAEnv` describes a row; row `i` of a vector
    environment that was reset with `seed` equals a single one reset with `seed + i`.

    ## Action Space
    `MultiDiscrete([n] * N)`: the next token id of each row. Any integer type works.

    ## Observation Space
    The single environment's, batched: `tokens` int32 `(N, L)`, `length` int64 `(N,)`, `sources`
    int8 `(N, L)`, and with the arguments for them `length` `(N, 1)` and `action_mask` int8
    `(N, n)`. With `copy=False` they are views of the environment's memory, valid until its
    next call: suitable for a policy that reads them at once, unsuitable for storing.

    ## Rewards
    As in the single environment, float64 `(N,)`. An error of the reward function, or of the
    retriever under `on_retrieval_error="raise"`, interrupts the step; `reset` is next. The
    rewards of `group_reward` are not included: they are in the infos.

    ## Starting State
    Each row has its own generator to draw questions. With `group_size=G` each group of G
    neighbouring rows shares a seed (row `i` has `seed + i // G`), so their k-th episodes ask the
    same question.

    ## Reset Arguments
    `options` may hold `question_id` or `index`, one for all rows or a sequence with one for each,
    and `reset_mask`, bool `(N,)`, to reset some rows only. `state`, in the same way, holds states
    of a single environment (`get_state()`) that rows continue from, or None.

    ## Episode End
    As in the single environment; what follows depends on `autoreset_mode`:

    | Mode | What follows |
    |---|---|
    | `NextStep` | the row's next step ignores its action and begins an episode: reward 0 |
    | `SameStep` | the observation is the next episode's; `final_obs`, `final_info` hold the end |
    | `Disabled` | nothing until `reset(options={"reset_mask": mask})` |

    `transcripts` holds the episodes that ended in the last step, by row.

    ## Information
    The single environment's, as arrays with masks (`key` and `_key`) of constant types: `str` and
    lists in object arrays. `recv` adds `ready`. With `group_reward`, an ending has `group`;
    the step that completes a group, `complete_group`, `group_reward` and `group_reward_parts`.

    ## Slow retrievers
    `step` waits for all documents. `send(actions, rows)` does not: queries go to background
    threads, and `recv(min_ready)` returns once that many rows have their result. All waiting
    queries go to the retriever in one call, from one thread unless `retrieval_threads` is larger.
    The retriever never runs in more calls at once: `step` waits for a search in the background,
    also for one whose row was reset meanwhile. Threads end with `close()`, or when the environment
    is no longer referenced; a forked process has its own.

    ## Arguments
    Those of `SearchQAEnv`, and:

    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `num_envs` | int | 1 | rows |
    | `autoreset_mode` | str or AutoresetMode | `"NextStep"` | or `SameStep`, `Disabled` |
    | `group_size` | int | 1 | neighbouring rows with the same questions |
    | `group_reward` | str, GroupReward or None | None | scores the episodes of a complete group |
    | `copy` | bool | True | whether observations and infos are copies |
    | `retrieval_threads` | int | 1 | simultaneous calls of the retriever after `send` |
    | `max_episode_steps` | int or None | None | as `max_policy_tokens` |
    | `render_mode` | str or None | None | `ansi`, `human` or `rgb_array` |
    | `render_row` | int | 0 | the row that mode `human` shows; an attribute too |

    ## References
    * `send` and `recv` in the manner of EnvPool: Weng et al., 2022, arXiv 2206.10558.

    ## Version History
    * v0: Initial version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    closed = True  # until it is built: Gymnasium before 1.4 closes what it collects

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        group_size: int = 1,
        group_reward: str | GroupReward | None = None,
        copy: bool = True,
        retrieval_threads: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        render_row: int = 0,
        dataset: str = "world",
        split: str | None = None,
        dataset_options: dict[str, Any] | None = None,
        corpus: str | None = None,
        retriever: str | Retriever | None = None,
        protocol: str = "r1-searcher",
        prompt: str = "base",
        chat_template_kwargs: dict[str, Any] | None = None,
        tokenizer: str = "world-1k",
        bos_token: str | None = None,
        eos_token: str | Sequence[str] | None = None,
        vocab_size: int | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        max_policy_tokens: int | None = None,
        max_searches: int | None = None,
        reward: str | Reward = "f1",
        action_mask: bool | str = False,
        on_retrieval_error: str = "raise",
        box_length: bool = False,
        stable_infos: bool = False,
    ) -> None:
        num_envs = check_count("num_envs", num_envs, 1)
        max_policy_tokens = check_limit("max_policy_tokens", max_policy_tokens)
        max_episode_steps = check_limit("max_episode_steps", max_episode_steps)
        # Steps are policy tokens.
        limits = [n for n in (max_policy_tokens, max_episode_steps) if n is not None]
        config = EnvConfig(
            dataset=dataset,
            split=split,
            dataset_options=dataset_options,
            corpus=corpus,
            retriever=retriever,
            protocol=protocol,
            prompt=prompt,
            chat_template_kwargs=chat_template_kwargs,
            tokenizer=tokenizer,
            bos_token=bos_token,
            eos_token=eos_token,
            vocab_size=vocab_size,
            top_k=top_k,
            max_tokens=max_tokens,
            max_policy_tokens=min(limits, default=None),
            max_searches=max_searches,
            reward=reward,
            action_mask=action_mask,
            on_retrieval_error=on_retrieval_error,
            box_length=box_length,
            stable_infos=stable_infos,
        )
        copy = check_flag("copy", copy)
        check_choice("autoreset_mode", autoreset_mode, _MODES)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        self.autoreset_mode = mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        self.group_size = check_group_size(group_size, num_envs)
        self.num_envs, self.render_mode, self.render_row = num_envs, render_mode, render_row
        threads = check_count("retrieval_threads", retrieval_threads, 1)
        self._use_components(EnvComponents(config))
        self._searches = VectorSearches(self.protocol.top_k, threads)
        groups = self._groups(group_reward)
        self._rows = VectorRows(self.components, num_envs, mode, copy=copy, groups=groups)
        self.set_reward(self.components.reward)
        self._renderer: Renderer | None = None
        self._under_way = np.zeros(num_envs, np.bool_)  # sent, but not received
        self._num_under_way = 0
        self._settled: set[int] = set()  # rows under way that did more than grow by a token
        self._blocked, self.closed = "reset() has not been called", False

    def _use_components(self, components: EnvComponents) -> None:
        self.components, self.questions = components, components.questions
        self.protocol, self.tokenizer = components.protocol, components.tokenizer
        self.retriever = components.retriever
        self.single_action_space = components.action_space()
        self.single_observation_space = components.observation_space()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _groups(self, group_reward: str | GroupReward | None) -> Groups | None:
        if group_reward is None:
            return None
        checked = self.components.readable(get_group_reward(group_reward))
        return Groups(checked, self.group_size, self.num_envs)

    @property
    def transcripts(self) -> dict[int, Transcript]:
        """The episodes that ended in the last ``step`` or ``recv``, by row."""
        return self._rows.transcripts

    # Episodes begin.

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Begin an episode in every row, or in those of ``options["reset_mask"]``.

        Args:
            seed: The seed of row ``i`` is ``seed + i // group_size``, or ``seed[i]``; None
                continues with its generator.
            options: See the class.

        Raises:
            ConfigurationError: A bad seed, option, question or mask.
        """
        chosen = check_options(options)
        mask = check_reset_mask(chosen.pop("reset_mask", None), self.num_envs)
        rows = mask.nonzero()[0].tolist()
        partial = len(rows) < self.num_envs
        if partial and self._blocked:
            raise self._not_ready()
        seeds = check_seeds(seed, self.num_envs, self.group_size)
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
        if seed is not None or None in self._rows.random:
            self._rows.seed(rows, seeds, self.group_size, self.np_random)
        self._blocked = _INTERRUPTED
        # Without a seed or a choice, each row goes on with the questions that it has left.
        if self._rows.groups is not None and (seed is not None or chosen):
            self._rows.groups.reset_together(rows)
        for row in rows:
            self._rows.begin(row, chosen)
        if self._num_under_way:
            self._under_way &= ~mask
            self._num_under_way = int(self._under_way.sum())
            self._settled.difference_update(rows)
        self._blocked = ""
        if self.render_mode == "human":
            self.render()
        return self._rows.observations(), self._rows.reset_infos(rows, self.reward)

    # Steps.

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Append one token in every row; run the queries that they closed, in one call.

        Raises:
            EpisodeOverError: Before ``reset``, after an error that interrupted a step, or in mode
                ``Disabled`` in a row that has ended.
            InvalidActionError: Not an array of N ids of the action space.
            RetrievalError: A search failed and ``on_retrieval_error="raise"``.
            RewardError: The reward function failed.
        """
        tokens = check_actions(actions, self.num_envs, self.components)
        if self._blocked or self._num_under_way:
            raise self._not_ready()
        queries = self._rows.advance(None, tokens)
        settled = self._rows.dynamics.settled
        if settled:
            self._blocked = _INTERRUPTED
        if queries:
            for row, documents in self._searches.run(self.retriever, queries):
                self._receive(row, documents)
        return self._result(settled)

    def send(self, actions: NDArray[np.int64], rows: Sequence[int] | Rows | None = None) -> None:
        """Append one token in some rows and return at once; searches run in the background.

        Args:
            actions: One id for each of the rows.
            rows: Row numbers, ascending, none under way; None for all rows.

        Raises:
            EpisodeOverError, InvalidActionError: As for :meth:`step`, or a row is under way.
        """
        chosen = np.arange(self.num_envs) if rows is None else check_rows(rows, self.num_envs)
        tokens = check_actions(actions, len(chosen), self.components)
        if self._blocked:
            raise self._not_ready()
        busy = chosen[self._under_way[chosen]]
        if len(busy):
            raise EpisodeOverError(
                f"Expected rows that are not under way, got {busy.tolist()}. Call recv() until "
                "infos['ready'] is True for them."
            )
        queries = self._rows.advance(chosen, tokens)
        self._settled.update(self._rows.dynamics.settled)
        self._under_way[chosen] = True
        self._num_under_way += len(chosen)
        self._searches.submit(self.retriever, queries, self._rows.serial)

    def recv(self, min_ready: int = 1) -> StepResult:
        """Return once ``min_ready`` of the rows under way (or all of them) have their result.

        Arrays have all N rows, as those of :meth:`step`. ``infos["ready"]``, bool ``(N,)``, marks
        the rows with a result; other rows have their current observation and reward 0.

        Errors are those of :meth:`step`, and EpisodeOverError if no row is under way.
        """
        count = min(check_count("min_ready", min_ready, 1), self._num_under_way)
        if self._blocked or not count:
            raise self._not_ready("no row is under way: call send() first")
        self._collect(count)
        ready = self._under_way.copy()
        ready[list(self._waiting())] = False
        settled = sorted(row for row in self._settled if ready[row])
        self._settled.difference_update(settled)
        self._under_way &= ~ready
        self._num_under_way = int(self._under_way.sum())
        self._blocked = _INTERRUPTED
        result = self._result(settled)
        result[-1].update(ready=ready, _ready=np.ones(self.num_envs, np.bool_))
        return result

    def _result(self, settled: Sequence[int]) -> StepResult:
        result = self._rows.result(settled, self.reward)
        self._blocked = ""
        if self.render_mode == "human":
            self.render()
        return result

    def _receive(self, row: int, documents: list[Document] | RetrievalError) -> None:
        self._rows.receive(row, documents)
        if isinstance(documents, RetrievalError) and not self.components.truncate_on_error:
            self._blocked = _INTERRUPTED
            raise documents

    def _waiting(self) -> set[int]:
        """Return the rows under way that wait for documents."""
        episodes = self._rows.dynamics.episodes
        return {row for row in self._settled if episodes[row].pending is not None}

    def _collect(self, count: int) -> None:
        """Receive finished searches; wait until ``count`` rows have their result."""
        waiting = self._waiting()
        least = count - (self._num_under_way - len(waiting))
        for row, documents in self._searches.collect(waiting, self._rows.serial, least):
            self._receive(row, documents)

    # Access and changes.

    def set_reward(self, reward: str | Reward) -> None:
        """Use another reward from now on, in all rows.

        Raises:
            ConfigurationError: No reward of that name, one that cannot read the protocol, or the
                group reward has a part of the same name.
        """
        reward = self.components.readable(get_reward(reward))
        if self._rows.groups is not None:
            get_group_reward(self._rows.groups.reward, beside=reward)
        self.reward = reward

    @property
    def reward_name(self) -> str:
        """The name of the current reward."""
        return self.reward.name

    def action_masks(self) -> NDArray[np.int8]:
        """Return masks, int8 ``(N, n)``: 1 for the ids that keep a row's episode well formed."""
        return self.components.masks.batch(self._rows.dynamics, range(self.num_envs))

    def transcript(self, row: int) -> Transcript:
        """Return the transcript of a row's episode so far."""
        return self._rows.dynamics.transcript(check_index("row", row, self.num_envs))

    @property
    def render_row(self) -> int:
        """The row that mode ``human`` shows."""
        return self._render_row

    @render_row.setter
    def render_row(self, row: int) -> None:
        self._render_row = check_index("render_row", row, self.num_envs)

    def render(self) -> tuple[Any, ...] | None:
        """Return the frames of all rows; in mode ``human`` show row ``render_row``, return None."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render mode. Pass render_mode= to gym.make_vec."
            )
            return None
        from search_env.rendering.frame import Frame
        from search_env.rendering.renderer import Renderer

        if self._renderer is None:
            self._renderer = Renderer(self.render_mode)
        is_human = self.render_mode == "human"
        rows = [self.render_row] if is_human else range(self.num_envs)
        frames = [Frame.of(self.protocol, self.transcript(row)) for row in rows]
        drawn = tuple(self._renderer.draw(frame) for frame in frames)
        return None if is_human else drawn

    def get_state(self) -> VectorState:
        """Return the complete state; searches under way will be run again."""
        random = dict(self.np_random.bit_generator.state)
        rows, under_way = self._rows.get_state(), self._under_way.copy()
        return VectorState(rows, under_way, random, self.reward, self._blocked, self._origin)

    @functools.cached_property
    def _origin(self) -> dict[str, object]:
        return {
            "num_envs": self.num_envs,
            "group_reward": self._rows.groups is not None,
            "autoreset_mode": self.autoreset_mode.value,
            "group_size": self.group_size,
            **self.components.origin,
        }

    def set_state(self, state: VectorState) -> None:
        """Restore a saved state; the environment continues as the one that saved it would have.

        One that could not step, since it was not reset or a step was interrupted, still cannot.
        Searches under way are run again. Retriever, rewards and rendering may be others.

        Raises:
            ConfigurationError: The state comes from an environment with other rows, autoreset mode,
                questions, protocol, limits, prompt or tokenizer.
        """
        if not isinstance(state, VectorState):
            raise ConfigurationError(
                f"Expected a state of get_state(), got {type(state).__name__}. Pass one."
            )
        check_origin(state.origin, self._origin)
        self._rows.set_state(state.rows)
        self.np_random.bit_generator.state = state.random
        self.reward = state.reward
        self._under_way = state.under_way.copy()
        self._num_under_way = int(self._under_way.sum())
        self._settled = set(np.flatnonzero(self._under_way).tolist())
        self._blocked = state.blocked
        if not self._blocked:
            pending = [self._rows.dynamics.pending(row) for row in sorted(self._settled)]
            queries = [query for query in pending if query is not None]
            self._searches.submit(self.retriever, queries, self._rows.serial)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the background threads; a search that runs is left to itself."""
        self._blocked = "it has been closed"
        self._searches.close()

    def _not_ready(self, otherwise: str = "rows are under way: call recv() first") -> Exception:
        if self._blocked:
            return EpisodeOverError(
                f"Expected an environment that is ready, but {self._blocked}. Call reset()."
            )
        return EpisodeOverError(f"Expected rows that are ready, but {otherwise}.")
