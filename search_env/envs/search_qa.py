"""The single environment: one row of the dynamics, a retriever, Gymnasium's API."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from search_env.core.episode_state import EpisodeSnapshot
from search_env.envs.config import (
    EnvComponents,
    EnvConfig,
    Info,
    check_options,
    check_origin,
    check_seed,
    final_result,
    new_faults,
)
from search_env.errors import ConfigurationError, EpisodeOverError, RetrievalError
from search_env.retrieval.base import Retriever, retrieve
from search_env.rewards import Reward, get_reward
from search_env.types import Question, Transcript
from search_env.validation import as_integer, check_choice

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from search_env.rendering.frame import Frame
    from search_env.rendering.renderer import Renderer

Observation = dict[str, Any]

_ROW = slice(None)  # the only row there is


@dataclass(frozen=True, slots=True)
class EnvState:
    """All of an environment's state: the episode and the random number generator."""

    episode: EpisodeSnapshot
    random: dict[str, Any]
    running: bool
    reward: Reward
    origin: dict[str, object]


class SearchQAEnv(gym.Env[Observation, "int | np.integer[Any]"]):
    """Search-augmented question answering, one token at a time.

    ## Description
    The policy reads a prompt with a question and writes tokens. When its tokens close a query
    tag, the search is run within that step and the next observation contains the documents. When
    they close an answer tag, the episode ends. Tags, prompt, layout and limits are those of a
    published system (`protocol`). Tokens are never decoded, edited and encoded again.

    ## Action Space
    `Discrete(n)`: the next token id. `n` is the tokenizer's full id range, or `vocab_size`.

    ## Observation Space
    `Dict`, fresh arrays at each step, right-padded to `L = max_tokens`:

    | Key       | Space                   | Meaning                                          |
    |-----------|-------------------------|--------------------------------------------------|
    | `tokens`  | `Box(0, n-1, (L,), int32)` | prompt, policy's and inserted ids; then 0     |
    | `length`  | `Discrete(L+1)`         | the number of ids                                |
    | `sources` | `Box(0, 4, (L,), int8)` | who wrote each (`search_env.Source`)             |

    With `action_mask="observation"` also `action_mask`, `Box(0, 1, (n,), int8)`; with
    `box_length=True`, `length` is `Box(0, L, (1,), int64)`.

    `tokens[previous_length:length]` are the ids that are new since the last step.

    ## Rewards
    `reward`, a function of the finished episode's transcript (`search_env.rewards`), on the step
    that ends it; 0 at every other step, and 0 where retrieval failed. By default the F1 of the
    answer against the gold answers (R1-Searcher's rule), 0 without an answer.

    ## Starting State
    A question of the split, drawn by `np_random`, in the protocol's prompt.

    ## Reset Arguments
    `reset(options={"question_id": "..."})` or `{"index": 0}` chooses the question. Options do not
    draw from `np_random`.

    ## Episode End
    `info["stop_reason"]` is its cause (`search_env.StopReason`).

    *Termination*: the policy closed its answer, sent an end-of-sequence id, or made a fault that
    ends episodes of the protocol. *Truncation*: a budget is spent, or retrieval failed and
    `on_retrieval_error="truncate"` (`info["valid"]` is then False: discard the episode).

    ## Information
    Always `question_id`, `num_searches`, `stop_reason` ("" while running). On a step that
    searched, `query` and `document_ids`. On a step with format faults, `format_faults`. At the
    end `answer`, `f1`, `exact_match`, `cover_exact_match`, `well_formed`, `valid` and, where
    valid, `reward_parts`. With `action_mask=True` always `action_mask`.

    With `stable_infos=True` every info has all of these keys (0, False or empty where they have no
    value), numbers as NumPy scalars, `document_ids` as a tuple of `top_k` strings, and
    `format_faults` as counts of each `FaultKind`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `dataset` | str | `"world"` | `world`, `toy`, a published dataset or a file |
    | `split` | str or None | None | None: train if generated, else the evaluation split |
    | `dataset_options` | dict or None | None | of `world`, `toy`; of files: a filter |
    | `corpus` | str or None | None | corpus file or saved index; None: the dataset's own |
    | `retriever` | str or None | None | `bm25`, `cassette:PATH`, a registered name or scheme |
    | `protocol` | str | `"r1-searcher"` | tags, prompt, layout, limits |
    | `prompt` | str | `"base"` | `base`, `chat-template` (the model's own), `chatml`, `llama-3` |
    | `chat_template_kwargs` | dict or None | None | e.g. `{"enable_thinking": False}` |
    | `tokenizer` | str | `"world-1k"` | bundled name, path (also of a GGUF file) or hub id |
    | `bos_token` | str or None | None | in front of a base prompt; None: as its files say |
    | `eos_token` | str, list or None | None | what ends a sequence; None: as its files say |
    | `vocab_size` | int or None | None | pads the ids to a model's logits |
    | `top_k` | int or None | None | documents per search; None: the protocol's |
    | `max_tokens` | int or None | None | context; None: the protocol's |
    | `max_policy_tokens` | int or None | None | policy tokens per episode; None: the protocol's |
    | `max_searches` | int or None | None | searches per episode; None: the protocol's |
    | `reward` | str | `"f1"` | name of a reward, see `search_env.rewards` |
    | `action_mask` | bool or str | False | True: infos hold the mask of well-formed actions; \
`"observation"`: observations do |
    | `on_retrieval_error` | str | `"raise"` | or `"truncate"` |
    | `box_length` | bool | False | whether `length` is a box |
    | `stable_infos` | bool | False | whether every info has every key |
    | `render_mode` | str or None | None | `ansi`, `human` or `rgb_array` |

    `Retriever` and `Reward` objects also work in place of names, but then the `EnvSpec` cannot be
    saved as JSON.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=N)` returns a `SearchQAVectorEnv`: the same episodes row by row,
    many times as fast as a loop over single environments, with `send` and `recv` for slow
    retrievers.

    ## References
    * R1-Searcher: Song et al., 2025, arXiv 2503.05592 (`protocol="r1-searcher"`, both phases).
    * Search-R1: Jin et al., 2025, arXiv 2503.09516 (`protocol="search-r1"`).

    ## Version History
    * v0: Initial version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": ["ansi", "human", "rgb_array"],
        "render_fps": 20,
    }

    def __init__(
        self,
        *,
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
        render_mode: str | None = None,
    ) -> None:
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
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
            max_policy_tokens=max_policy_tokens,
            max_searches=max_searches,
            reward=reward,
            action_mask=action_mask,
            on_retrieval_error=on_retrieval_error,
            box_length=box_length,
            stable_infos=stable_infos,
        )
        self._assemble(EnvComponents(config), render_mode)

    def _assemble(self, components: EnvComponents, render_mode: str | None) -> None:
        self.components, self.render_mode = components, render_mode
        self.protocol, self.tokenizer = components.protocol, components.tokenizer
        self.retriever, self.reward = components.retriever, components.reward
        self._dynamics = components.dynamics(1)
        self._action = np.zeros(1, np.int64)
        self._running, self._stable = False, components.stable_infos
        self._renderer: Renderer | None = None
        self.action_space = components.action_space()
        self.observation_space = components.observation_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of ``np_random``; None continues with the current generator.
            options: ``{"question_id": str}`` or ``{"index": int}`` chooses the question.

        Raises:
            ConfigurationError: Unknown option or question, or a prompt that does not fit.
        """
        chosen = check_options(options)
        super().reset(seed=check_seed(seed))
        self._dynamics.begin(0, self.components.choose(chosen, self.np_random))
        self._running = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._complete(self.components.row_info(self._dynamics, 0))

    def step(
        self, action: int | np.integer[Any]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token; run the search if it closed a query.

        Raises:
            EpisodeOverError: Before ``reset`` or after the end.
            InvalidActionError: Not an id of the action space.
            RetrievalError: The search failed and ``on_retrieval_error="raise"``; the episode is
                over and ``reset`` is next.
        """
        if not self._running:
            raise EpisodeOverError(
                "Expected reset() before step(), got step() before the first or after the last "
                "step of an episode. Call reset()."
            )
        self._action[0] = self._checked(action)
        dynamics, episode = self._dynamics, self._dynamics.episodes[0]
        reported = episode.num_faults
        queries = dynamics.append(_ROW, self._action)
        info = self._retrieve(queries[0].text) if queries else {}
        info.update(self.components.row_info(dynamics, 0))
        info.update(new_faults(episode, reported))
        stop, reward, terminated, truncated = episode.stop_reason, 0.0, False, False
        if stop is not None:
            self._running = False
            terminated, truncated = stop.terminated, not stop.terminated
            reward, final = final_result(self.transcript(), self.reward)
            info.update(final)
        if self.render_mode == "human":
            self.render()
        if self._stable:
            info = self._complete(info)
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the frame in the render mode: str, uint8 (H, W, 3), or None for ``human``."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render mode. Pass render_mode= to gym.make, for "
                f"example gym.make({self.spec.id if self.spec else 'id'!r}, render_mode='ansi')."
            )
            return None
        if self._renderer is None:
            from search_env.rendering.renderer import Renderer

            self._renderer = Renderer(self.render_mode)
        return self._renderer.draw(self.frame())

    def frame(self) -> Frame:
        """Return the input of a renderer: the transcript, the budgets and the score."""
        from search_env.rendering.frame import Frame

        return Frame.of(self.protocol, self.transcript())

    @property
    def questions(self) -> Sequence[Question]:
        """The questions that episodes draw from, in an order that never changes."""
        return self.components.questions

    def set_reward(self, reward: str | Reward) -> None:
        """Use another reward from now on, for the current episode too.

        Raises:
            ConfigurationError: No reward of that name, or one that cannot read the protocol.
        """
        self.reward = self.components.readable(get_reward(reward))

    @property
    def reward_name(self) -> str:
        """The name of the current reward (``get_attr("reward")`` would call the reward)."""
        return self.reward.name

    def action_masks(self) -> NDArray[np.int8]:
        """Return a mask, int8 ``(n,)``: 1 for the ids that keep the episode well formed, else 0.

        Name and form are those of sb3-contrib's ``MaskablePPO``; ``action_space.sample`` takes it
        as ``mask=``.
        """
        return self.components.masks.of(self._dynamics, 0)

    def transcript(self) -> Transcript:
        """Return the transcript of the episode so far."""
        return self._dynamics.transcript(0)

    def get_state(self) -> EnvState:
        """Return the complete state, in time proportional to the episode's tokens."""
        random = dict(self.np_random.bit_generator.state)
        origin = self.components.origin
        return EnvState(self._dynamics.save(0), random, self._running, self.reward, origin)

    def set_state(self, state: EnvState) -> None:
        """Restore a saved state; the environment continues as the one that saved it would have.

        Retriever, reward and render mode may be others.

        Raises:
            ConfigurationError: The state comes from an environment with other questions, protocol,
                limits, prompt or tokenizer.
        """
        if not isinstance(state, EnvState):
            raise ConfigurationError(
                f"Expected a state of get_state(), got {type(state).__name__}. Pass one."
            )
        check_origin(state.origin, self.components.origin)
        self._restore(state)

    def _restore(self, state: EnvState) -> None:
        self._dynamics.restore(0, state.episode)
        self.np_random.bit_generator.state = state.random
        self._running = state.running
        self.reward = state.reward

    def clone(self) -> SearchQAEnv:
        """Return an independent environment in the same state.

        Immutable parts (questions, retriever, tables) are shared; the rest, spaces and random
        generators included, is copied. (``copy.deepcopy`` and pickling load the shared parts
        again.) A subclass with more attributes extends ``__getstate__`` and ``__setstate__``.
        """
        clone = copy.copy(self)
        clone.retriever = self.retriever  # the caller may have replaced it
        return clone

    def __getstate__(self) -> tuple[EnvComponents, str | None, EnvSpec | None, EnvState]:
        return self.components, self.render_mode, self.spec, self.get_state()

    def __setstate__(
        self, parts: tuple[EnvComponents, str | None, EnvSpec | None, EnvState]
    ) -> None:
        components, render_mode, self.spec, state = parts
        self.np_random = np.random.Generator(np.random.PCG64(0))  # set_state restores its state
        self._assemble(components, render_mode)
        self._restore(state)

    def _checked(self, action: int | np.integer[Any]) -> int:
        try:
            token = as_integer(action)
        except TypeError:
            token = -1
        if 0 <= token < self.components.size:
            return token
        raise self.components.invalid_action(action)

    def _retrieve(self, query: str) -> Info:
        self._running = False  # any exception during the search, even Ctrl-C, ends the episode
        try:
            documents = retrieve(self.retriever, [query], self.protocol.top_k)[0]
        except RetrievalError as error:
            self._dynamics.fail_retrieval(0)
            if self.components.truncate_on_error:
                return {"query": query, "retrieval_error": str(error)}
            raise
        self._dynamics.insert_documents(0, documents)
        self._running = True
        return {"query": query, "document_ids": [document.id for document in documents]}

    def _observation(self) -> Observation:
        return self.components.observation(self._dynamics, 0)

    def _complete(self, info: Info) -> Info:
        return self.components.complete(info, self.reward)


def bare_env(env: gym.Env[Any, Any]) -> SearchQAEnv:
    """Return the environment inside its wrappers.

    Raises:
        ConfigurationError: It is not a :class:`SearchQAEnv`.
    """
    bare = env.unwrapped
    if not isinstance(bare, SearchQAEnv):
        raise ConfigurationError(
            f"Expected a SearchQAEnv, wrapped or not, got {type(bare).__name__}. "
            "Make one with gym.make('SearchQA-v0')."
        )
    return bare
