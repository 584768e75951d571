"""The single environment: one row of :mod:`search_env.dynamics`, a retriever, Gymnasium's API."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from typing_extensions import Never

from search_env.dynamics import Dynamics, SavedEpisode
from search_env.errors import (
    ConfigurationError,
    EpisodeOverError,
    InvalidActionError,
    RetrievalError,
    UnknownArgumentError,
    nearest,
)
from search_env.matcher import load_matcher
from search_env.protocols import get_protocol
from search_env.retrieval.base import Retriever, retrieve
from search_env.scoring import cover_exact_match, exact_match, token_f1
from search_env.tasks import load_questions, load_retriever
from search_env.tokenizer import load_tokenizer
from search_env.types import FormatFault, Question, Source, Transcript

if TYPE_CHECKING:
    from search_env.rendering.frame import Frame
    from search_env.rendering.live import LiveTerminal

Observation = dict[str, Any]

_ROW = slice(None)  # the only row there is
_ON_ERROR = ("raise", "truncate")
_OPTIONS = ("question_id", "index")


@dataclass(frozen=True, slots=True)
class EnvState:
    """All of an environment's state: the episode and the random number generator."""

    episode: SavedEpisode
    random: dict[str, Any]
    running: bool


class SearchQAEnv(gym.Env[Observation, "int | np.integer[Any]"]):
    """Search-augmented question answering, one token at a time.

    ## Description
    The policy reads a prompt with a question and writes tokens. When its tokens close a query
    tag, the search is run within that step and the documents stand in the next observation. When
    they close an answer tag, the episode ends. Tags, prompt, layout and limits are those of a
    published system (`protocol`). Tokens are never decoded, edited and encoded again.

    ## Action Space
    `Discrete(n)`: the next token id. `n` is the tokenizer's full id range, or `vocab_size`.

    ## Observation Space
    `Dict`, fresh arrays at each step, right-padded to `L = max_tokens`:

    | Key       | Space                   | Meaning                                          |
    |-----------|-------------------------|--------------------------------------------------|
    | `tokens`  | `Box(0, n-1, (L,), int32)` | prompt, policy's and inserted ids; 0 after them |
    | `length`  | `Discrete(L+1)`         | how many of them there are                       |
    | `sources` | `Box(0, 4, (L,), int8)` | who wrote each (`search_env.Source`)             |

    `tokens[previous_length:length]` is what is new since the last step.

    ## Rewards
    The F1 of the answer against the gold answers (R1-Searcher's rule) when the answer tag closes,
    0 at every other step and at every other ending.

    ## Starting State
    A question drawn by `np_random`, or chosen by `reset(options={"question_id": ...})` or
    `{"index": ...}`, in the protocol's prompt.

    ## Episode End
    `info["stop_reason"]` names it (`search_env.StopReason`).

    *Termination*: the policy closed its answer, sent an end-of-sequence id, or made a fault that
    the protocol ends on. *Truncation*: a budget is spent, or retrieval failed and
    `on_retrieval_error="truncate"` (`info["valid"]` is then False: leave the episode out).

    ## Information
    Always `question_id`, `num_searches`, `stop_reason` ("" while running). On a step that
    searched, `query` and `document_ids`. On a step with format faults, `format_faults`. At the
    end `answer`, `f1`, `exact_match`, `cover_exact_match`, `valid`.

    ## Arguments
    | Parameter | Type | Default | Description |
    |---|---|---|---|
    | `dataset` | str | `"world"` | `world`, `toy`, a published dataset or a file |
    | `split` | str or None | None | None: train if generated, else the evaluation split |
    | `dataset_options` | dict or None | None | world: articles, questions, hops, kinds, seed |
    | `corpus` | str or None | None | corpus file or saved index; None: the dataset's own |
    | `retriever` | str or None | None | `bm25`, `cassette:PATH` or a registered name |
    | `protocol` | str | `"r1-searcher"` | tags, prompt, layout, limits |
    | `prompt` | str | `"base"` | `base`, `chatml` or `llama-3` |
    | `tokenizer` | str | `"world-1k"` | bundled name, path or hub id |
    | `vocab_size` | int or None | None | pads the ids to a model's logits |
    | `top_k` | int or None | None | documents a search; None: the protocol's |
    | `max_tokens` | int or None | None | context; None: the protocol's |
    | `max_policy_tokens` | int or None | None | policy tokens an episode; None: the protocol's |
    | `max_searches` | int or None | None | searches an episode; None: the protocol's |
    | `on_retrieval_error` | str | `"raise"` | or `"truncate"` |
    | `render_mode` | str or None | None | `ansi`, `human` or `rgb_array` |

    A `Retriever` object in place of a name also works, but then `EnvSpec` cannot be JSON.

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
        tokenizer: str = "world-1k",
        vocab_size: int | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        max_policy_tokens: int | None = None,
        max_searches: int | None = None,
        on_retrieval_error: str = "raise",
        render_mode: str | None = None,
        **unknown: Never,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"], arguments["unknown"]
        _refuse(unknown, arguments)
        _choice("on_retrieval_error", on_retrieval_error, _ON_ERROR)
        _choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self._arguments = arguments
        self.render_mode = render_mode
        self.protocol = get_protocol(protocol).limited(
            top_k=top_k,
            max_tokens=max_tokens,
            max_policy_tokens=max_policy_tokens,
            max_searches=max_searches,
        )
        self.tokenizer = load_tokenizer(tokenizer, vocab_size)
        self.questions: Sequence[Question] = load_questions(dataset, split, dataset_options)
        self.retriever: Retriever = (
            load_retriever(
                retriever, dataset=dataset, split=split, options=dataset_options, corpus=corpus
            )
            if isinstance(retriever, str | None)
            else retriever
        )
        self._truncate_on_error = on_retrieval_error == "truncate"
        self._dynamics = Dynamics(
            self.protocol,
            self.tokenizer,
            prompt=prompt,
            matcher=load_matcher(self.tokenizer, self.protocol.tag_texts),
        )
        self._action = np.zeros(1, np.int64)
        self._running = False
        self._terminal: LiveTerminal | None = None
        self._size = self.tokenizer.size
        self._make_spaces()

    def _make_spaces(self) -> None:
        length = self.protocol.max_tokens
        self.action_space = Discrete(self._size)
        self.observation_space = Dict(
            {
                "tokens": Box(0, self._size - 1, (length,), np.int32),
                "length": Discrete(length + 1),
                "sources": Box(0, max(Source), (length,), np.int8),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds ``np_random``; None goes on with it.
            options: ``{"question_id": str}`` or ``{"index": int}`` chooses the question.

        Raises:
            ConfigurationError: Unknown option or question, or a prompt that does not fit.
        """
        super().reset(seed=seed)
        self._dynamics.begin(0, self.questions[self._choose(options or {})])
        self._running = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(
        self, action: int | np.integer[Any]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token; run the search if it closed a query.

        Raises:
            EpisodeOverError: Before ``reset`` or after the end.
            InvalidActionError: Not an id of the action space.
            RetrievalError: The search failed and ``on_retrieval_error="raise"``. The episode is
                over then; go on with ``reset``.
        """
        if not self._running:
            raise EpisodeOverError(
                "Expected reset() before step(), got step() before the first or after the last "
                "step of an episode. Call reset()."
            )
        self._action[0] = self._checked(action)
        dynamics, episode = self._dynamics, self._dynamics.episodes[0]
        seen = len(episode.events)
        queries = dynamics.append(_ROW, self._action)
        info = self._retrieve(queries[0].text) if queries else {}
        info.update(self._info())
        if len(episode.events) > seen:
            faults = [e.kind.value for e in episode.events[seen:] if isinstance(e, FormatFault)]
            if faults:
                info["format_faults"] = faults
        stop, reward, terminated, truncated = episode.stop_reason, 0.0, False, False
        if stop is not None:
            self._running = False
            terminated, truncated = stop.terminated, not stop.terminated
            info.update(_result(self.transcript()))
            reward = info["f1"]
        if self.render_mode == "human":
            self.render()
        return self._observation(), reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the frame in the render mode: str, uint8 (H, W, 3), or None for ``human``."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render mode. Pass render_mode= to gym.make, for "
                f"example gym.make({self.spec.id if self.spec else 'id'!r}, render_mode='ansi')."
            )
            return None
        frame = self.frame()
        if self.render_mode == "ansi":
            from search_env.rendering.ansi import render_ansi

            return render_ansi(frame)
        if self.render_mode == "rgb_array":
            from search_env.rendering.image import render_rgb

            return render_rgb(frame)
        if self._terminal is None:
            from search_env.rendering.live import LiveTerminal

            self._terminal = LiveTerminal(sys.stdout)
        self._terminal.show(frame)
        return None

    def frame(self) -> Frame:
        """Return what a renderer draws: the transcript, the budgets and the score."""
        from search_env.rendering.frame import Frame

        transcript = self.transcript()
        return Frame(
            transcript=transcript,
            max_tokens=self.protocol.max_tokens,
            max_searches=self.protocol.max_searches,
            max_policy_tokens=self.protocol.max_policy_tokens,
            score=None if transcript.stop_reason is None else _result(transcript)["f1"],
        )

    def transcript(self) -> Transcript:
        """Return what the episode has left behind so far."""
        return self._dynamics.transcript(0)

    def get_state(self) -> EnvState:
        """Return the whole state, in time proportional to the episode's tokens."""
        return EnvState(
            self._dynamics.save(0), dict(self.np_random.bit_generator.state), self._running
        )

    def set_state(self, state: EnvState) -> None:
        """Go on from a saved state exactly as the environment that saved it would have.

        The state must come from an environment with the same arguments.
        """
        self._dynamics.restore(0, state.episode)
        self.np_random.bit_generator.state = state.random
        self._running = state.running

    def clone(self) -> SearchQAEnv:
        """Return an independent environment in the same state.

        What never changes (questions, retriever, tables) is shared; the rest, spaces and random
        generators included, is its own.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._dynamics = self._dynamics.like()
        twin._action = self._action.copy()
        twin._np_random = None  # a generator of its own, which set_state puts into this state
        twin._terminal = None
        twin._make_spaces()
        twin.set_state(self.get_state())
        return twin

    def __reduce__(self) -> tuple[Callable[..., SearchQAEnv], tuple[Any, ...], EnvState]:
        return _rebuild, (type(self), self._arguments, self.spec), self.get_state()

    def __setstate__(self, state: EnvState) -> None:
        self.set_state(state)

    def _choose(self, options: dict[str, Any]) -> int:
        """Return the index of the question that these options ask for, or a random one."""
        for key in options:
            _choice("options", key, _OPTIONS)
        count = len(self.questions)
        if "question_id" in options:
            wanted = options["question_id"]
            found = (i for i, question in enumerate(self.questions) if question.id == wanted)
            index = next(found, None)
            if index is None:
                known = (question.id for question in self.questions)
                raise ConfigurationError(
                    f"Expected the id of one of {count} questions, got {wanted!r}. "
                    f"{nearest(str(wanted), known)}Ids are in env.unwrapped.questions."
                )
            return index
        if "index" in options:
            index = operator.index(options["index"])
            if not 0 <= index < count:
                raise ConfigurationError(
                    f"Expected index from 0 to {count - 1}, got {index}. Choose one of them."
                )
            return index
        return int(self.np_random.integers(count))

    def _checked(self, action: int | np.integer[Any]) -> int:
        try:
            token = operator.index(action)
        except TypeError:
            token = -1
        if 0 <= token < self._size:
            return token
        raise InvalidActionError(
            f"Expected a token id from 0 to {self._size - 1}, got {action!r}. Sample from "
            "env.action_space, or check that the policy uses the environment's tokenizer."
        )

    def _retrieve(self, query: str) -> dict[str, Any]:
        self._running = False  # whatever breaks into the search, Ctrl-C too, ends the episode
        try:
            documents = retrieve(self.retriever, [query], self.protocol.top_k)[0]
        except RetrievalError as error:
            self._dynamics.fail_retrieval(0)
            if self._truncate_on_error:
                return {"query": query, "retrieval_error": str(error)}
            raise
        self._dynamics.insert_documents(0, documents)
        self._running = True
        return {"query": query, "document_ids": [document.id for document in documents]}

    def _observation(self) -> Observation:
        # Copies: Gymnasium's checker refuses a reused buffer, and final observations must stay.
        dynamics = self._dynamics
        return {
            "tokens": dynamics.tokens[0].copy(),
            "length": dynamics.length(0),
            "sources": dynamics.sources[0].copy(),
        }

    def _info(self) -> dict[str, Any]:
        episode = self._dynamics.episodes[0]
        stop = episode.stop_reason
        return {
            "question_id": episode.question.id,
            "num_searches": episode.num_searches,
            "stop_reason": "" if stop is None else stop.value,
        }


def _result(transcript: Transcript) -> dict[str, Any]:
    """Score an episode that has ended."""
    answer, golds, stop = transcript.answer, transcript.question.answers, transcript.stop_reason
    return {
        "answer": answer or "",
        "f1": token_f1(answer, golds),
        "exact_match": exact_match(answer, golds),
        "cover_exact_match": cover_exact_match(answer, golds),
        "valid": stop is None or stop.valid,
    }


def _rebuild(kind: type[SearchQAEnv], arguments: dict[str, Any], spec: Any) -> SearchQAEnv:
    env = kind(**arguments)
    env.spec = spec
    return env


def _refuse(unknown: dict[str, Never], known: dict[str, Any]) -> None:
    """Answer a misspelt argument with the nearest one that exists."""
    for name in unknown:
        raise UnknownArgumentError(
            f"Expected arguments among {sorted(known)}, got {name!r}. {nearest(name, known)}"
        )


def _choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        texts = [choice for choice in choices if isinstance(choice, str)]
        raise ConfigurationError(
            f"Expected {name} among {list(choices)}, got {value!r}. {nearest(str(value), texts)}"
        )
