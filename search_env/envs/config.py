"""Configuration, components and infos that single and vector environment share.

Components never change after they are built; environments share them with their clones.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from search_env.core.dynamics import Dynamics
from search_env.core.episode_state import EpisodeState
from search_env.core.prompts import prompt_encoder
from search_env.envs.infos import stable_info
from search_env.envs.loading import load_questions, load_retriever
from search_env.errors import ConfigurationError, InvalidActionError, nearest
from search_env.metrics.answers import score_answer
from search_env.protocols.grammar import format_violations
from search_env.protocols.protocol import Protocol
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import Retriever
from search_env.rewards import GroupReward, Reward, get_reward
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import SEARCH, FormatFault, Question, Source, TagRole, Transcript
from search_env.validation import (
    check_choice,
    check_count,
    check_flag,
    check_index,
    check_limit,
    check_mapping,
    check_text,
)

if TYPE_CHECKING:
    from search_env.core.action_mask import ActionMasks

Info = dict[str, Any]
R = TypeVar("R", Reward, GroupReward)

_ON_ERROR = ("raise", "truncate")
_OPTIONS = ("question_id", "index")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The arguments that single and vector environment share, as plain data.

    The table in :class:`~search_env.envs.search_qa.SearchQAEnv` describes them; both constructors
    list the same names with the same types and defaults. ``dataset_options`` and
    ``chat_template_kwargs`` are copied.
    """

    dataset: str = "world"
    split: str | None = None
    dataset_options: dict[str, Any] | None = None
    corpus: str | None = None
    retriever: str | Retriever | None = None
    protocol: str = "r1-searcher"
    prompt: str = "base"
    chat_template_kwargs: dict[str, Any] | None = None
    tokenizer: str = "world-1k"
    bos_token: str | None = None
    eos_token: str | Sequence[str] | None = None
    vocab_size: int | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    max_policy_tokens: int | None = None
    max_searches: int | None = None
    reward: str | Reward = "f1"
    action_mask: bool | str = False
    on_retrieval_error: str = "raise"
    box_length: bool = False
    stable_infos: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        self._set("vocab_size", check_limit("vocab_size", self.vocab_size))
        self._set("top_k", check_limit("top_k", self.top_k))
        self._set("max_tokens", check_limit("max_tokens", self.max_tokens))
        limit = check_limit("max_policy_tokens", self.max_policy_tokens)
        self._set("max_policy_tokens", limit)
        self._set("max_searches", check_limit("max_searches", self.max_searches, 0))
        if not isinstance(self.action_mask, str) or self.action_mask != "observation":
            advice = "Pass 'observation' for a mask in the observations."
            self._set("action_mask", check_flag("action_mask", self.action_mask, advice))
        self._set("box_length", check_flag("box_length", self.box_length))
        self._set("stable_infos", check_flag("stable_infos", self.stable_infos))
        check_choice("on_retrieval_error", self.on_retrieval_error, _ON_ERROR)
        # The caller may change a dictionary later, which must not affect pickles and records.
        self._set("dataset_options", copy.deepcopy(self.dataset_options))
        self._set("chat_template_kwargs", copy.deepcopy(self.chat_template_kwargs))

    def _check_names(self) -> None:
        """Check the types of the arguments that name something."""
        check_text("dataset", self.dataset, "Name a dataset or a file of questions.")
        if self.split is not None:
            check_text("split", self.split, "Name one, or pass None for the default.")
        check_mapping("dataset_options", self.dataset_options, "{'questions': 100}")
        check_mapping(
            "chat_template_kwargs", self.chat_template_kwargs, "{'enable_thinking': False}"
        )
        if self.corpus is not None:
            check_text("corpus", self.corpus, "Name a file or an index, or pass None.")
        if self.retriever is not None and not isinstance(self.retriever, str):
            _check_retriever(self.retriever)
            if self.corpus is not None:
                raise ConfigurationError(
                    "Expected no corpus beside a Retriever object, which has its own documents, "
                    f"got {self.corpus!r}. Omit one of them."
                )
        check_text("protocol", self.protocol, "Name one, such as 'search-r1'.")
        check_text("prompt", self.prompt, "Name a style, such as 'base'.")
        check_text("tokenizer", self.tokenizer, "Name one, a path or a hub id.")
        if not isinstance(self.reward, Reward):
            check_text("reward", self.reward, "Name one, or pass a Reward.")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen


def protocol_of(config: EnvConfig) -> Protocol:
    """Return the protocol of a configuration, with its limits."""
    return get_protocol(config.protocol).limited(
        top_k=config.top_k,
        max_tokens=config.max_tokens,
        max_policy_tokens=config.max_policy_tokens,
        max_searches=config.max_searches,
    )


def tokenizer_of(config: EnvConfig) -> Tokenizer:
    """Return the tokenizer of a configuration, with its size, beginning and ends."""
    return load_tokenizer(
        config.tokenizer,
        config.vocab_size,
        bos_token=config.bos_token,
        eos_token=config.eos_token,
    )


class EnvComponents:
    """The objects that a configuration names; pickling keeps only ``config``.

    ``protocol`` has the limits of the configuration, ``questions`` never change their order,
    ``reward`` is the initial one, and ``size`` is the number of token ids.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.protocol = protocol_of(config)
        check_tools(self.protocol)
        self.tokenizer = tokenizer_of(config)
        dataset, split, options = config.dataset, config.split, config.dataset_options
        self.questions: Sequence[Question] = load_questions(dataset, split, options)
        if not self.questions:
            raise ConfigurationError(
                f"Expected questions in dataset {dataset!r}, got none with split={split!r} and "
                f"dataset_options={options}. Choose others."
            )
        self.retriever: Retriever = (
            load_retriever(
                config.retriever,
                dataset=dataset,
                split=split,
                options=options,
                corpus=config.corpus,
            )
            if isinstance(config.retriever, str | None)
            else config.retriever
        )
        self.prompt = config.prompt
        kwargs = config.chat_template_kwargs or {}
        # A style that does not fit raises now, not at the first reset.
        prompt_encoder(self.protocol, self.tokenizer, self.prompt, kwargs)(self.questions[0].text)
        self.action_mask = config.action_mask is True  # in infos
        self.observed_mask = config.action_mask == "observation"
        self.box_length, self.stable_infos = config.box_length, config.stable_infos
        self._is_plain = not (self.box_length or self.observed_mask)
        self.reward = self.readable(get_reward(config.reward))
        self.truncate_on_error = config.on_retrieval_error == "truncate"
        self.size = self.tokenizer.size
        # Not cached properties, which would slow down every attribute that a step reads.
        self._first: Dynamics | None = None
        self._masks: ActionMasks | None = None

    def __reduce__(self) -> tuple[type[EnvComponents], tuple[EnvConfig]]:
        return EnvComponents, (self.config,)

    def dynamics(self, rows: int) -> Dynamics:
        """Return new dynamics, which share the tables of these components."""
        if self._first is None:
            automaton = load_tag_automaton(self.tokenizer, self.protocol.tag_texts)
            self._first = Dynamics(
                self.protocol,
                self.tokenizer,
                prompt=self.prompt,
                chat_template_kwargs=self.config.chat_template_kwargs,
                automaton=automaton,
            )
        return self._first.like(rows)

    @property
    def masks(self) -> ActionMasks:
        """The masks of well-formed actions, created on first use."""
        if self._masks is None:
            from search_env.core.action_mask import ActionMasks

            self._masks = ActionMasks(self.dynamics(1))
        return self._masks

    @functools.cached_property
    def origin(self) -> dict[str, object]:
        """The facts that a saved state must share with the environment that continues from it."""
        protocol, questions = self.protocol, hashlib.sha256()
        for question in self.questions:
            questions.update(repr((question.id, question.text)).encode())
        return {
            "questions": questions.hexdigest(),
            "protocol": protocol.name,
            "markup of the protocol": protocol.markup,
            "max_tokens": protocol.max_tokens,
            "max_policy_tokens": protocol.max_policy_tokens,
            "max_searches": protocol.max_searches,
            "top_k": protocol.top_k,
            "prompt": self.prompt,
            "tokenizer": self.tokenizer.name,
            "number of ids": self.size,
            "digest of the tokenizer": self.tokenizer.digest,
        }

    def action_space(self) -> Discrete:
        """Return a new space of token ids."""
        return Discrete(self.size)

    def observation_space(self) -> Dict:
        """Return a new space of the observations of one row."""
        length = self.protocol.max_tokens
        spaces: dict[str, Space[Any]] = {
            "tokens": Box(0, self.size - 1, (length,), np.int32),
            "length": Box(0, length, (1,), np.int64) if self.box_length else Discrete(length + 1),
            # A plain number: before 1.4, Gymnasium refuses members of an IntEnum.
            "sources": Box(0, int(max(Source)), (length,), np.int8),
        }
        if self.observed_mask:
            spaces["action_mask"] = Box(0, 1, (self.size,), np.int8)
        return Dict(spaces)

    def observation(self, dynamics: Dynamics, row: int) -> dict[str, Any]:
        """Return the observation of one row, a copy."""
        # Gymnasium's checker rejects a reused buffer, and final observations must not change.
        observation: dict[str, Any] = {
            "tokens": dynamics.tokens[row].copy(),
            "length": dynamics.length(row),
            "sources": dynamics.sources[row].copy(),
        }
        if self._is_plain:
            return observation
        if self.box_length:
            observation["length"] = np.array([observation["length"]])
        if self.observed_mask:
            observation["action_mask"] = self.masks.of(dynamics, row)
        return observation

    def choose(self, options: Mapping[str, Any], random: np.random.Generator) -> Question:
        """Return the question chosen by the options of ``reset``, or a random one."""
        for key in options:
            check_choice("options", key, _OPTIONS)
        count = len(self.questions)
        if "question_id" in options:
            question_id = options["question_id"]
            if not isinstance(question_id, str) or question_id not in self._by_id:
                raise ConfigurationError(
                    f"Expected the id of one of {count} questions, got {question_id!r}. "
                    f"{nearest(str(question_id), self._by_id)}Ids are in env.unwrapped.questions."
                )
            return self._by_id[question_id]
        if "index" not in options:
            return self.questions[int(random.integers(count))]
        return self.questions[check_index("index", options["index"], count)]

    @functools.cached_property
    def _by_id(self) -> dict[str, Question]:
        return {question.id: question for question in reversed(self.questions)}

    def invalid_action(self, action: object) -> InvalidActionError:
        """Return the error for an action that is not a token id."""
        return InvalidActionError(
            f"Expected a token id from 0 to {self.size - 1}, got {action!r}. Sample from "
            "env.action_space, or check that the policy uses the environment's tokenizer."
        )

    def row_info(self, dynamics: Dynamics, row: int) -> Info:
        """Return the keys that the info of every step has, for one row."""
        info = episode_info(dynamics.episodes[row])
        if self.action_mask:
            info["action_mask"] = self.masks.of(dynamics, row)
        return info

    def complete(self, info: Info, reward: Reward) -> Info:
        """Return the info of one row in the form that the configuration asks for."""
        return stable_info(info, reward, self.protocol.top_k) if self.stable_infos else info

    def readable(self, reward: R) -> R:
        """Return a reward after a check that it can read episodes of the protocol."""
        if reward.check is not None:
            reward.check(self.protocol.name, self.protocol.markup)
        return reward


def _check_retriever(retriever: object) -> None:
    """Check that an argument is a retriever, not its class or another object."""
    is_retriever = isinstance(retriever, Retriever) and callable(retriever.search)
    if isinstance(retriever, type) or not is_retriever:
        raise ConfigurationError(
            f"Expected retriever to be a name or an object with search(queries, k), got "
            f"{retriever!r}. Pass 'bm25', 'cassette:PATH' or such an object."
        )


def check_options(options: object) -> dict[str, Any]:
    """Return a copy of the options of ``reset``."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f"Expected options to be a dictionary or None, got {options!r}. Pass {{'index': 0}}, "
            "for example."
        )
    return dict(options)


def check_seed(seed: object) -> int | None:
    """Return a seed as a plain integer; Gymnasium refuses those of NumPy."""
    return None if seed is None else check_count("seed", seed, 0)  # type: ignore[arg-type]


def check_origin(saved: dict[str, object], own: dict[str, object]) -> None:
    """Check that a saved state comes from an environment with the same rules."""
    if saved is own:
        return
    for name, value in own.items():
        if saved.get(name) != value:
            raise ConfigurationError(
                f"Expected a state of an environment with the same {name}, {value!r:.80}, got "
                f"one with {saved.get(name)!r:.80}. Restore it in an environment with the same "
                "arguments."
            )


def check_tools(protocol: Protocol) -> None:
    """Check that each tool of a protocol is the one that environments have a retriever for."""
    for pair in protocol.pairs(TagRole.TOOL):
        if pair.tool != SEARCH:
            raise ConfigurationError(
                f"Expected a protocol whose only tool is {SEARCH!r}, for which an environment has "
                f"a retriever, got {pair.tool!r} of the tags {pair.name!r} in {protocol.name!r}. "
                "Omit the pair, or use search_env.core.dynamics.Dynamics, whose queries name "
                "their tool."
            )


def episode_info(episode: EpisodeState) -> Info:
    """Return the keys that the info of every step has, apart from the action mask."""
    stop = episode.stop_reason
    return {
        "question_id": episode.question.id,
        "num_searches": episode.num_searches,
        "stop_reason": "" if stop is None else stop.value,
    }


def new_faults(episode: EpisodeState, reported: int) -> Info:
    """Return the info of an episode's format faults after the first ``reported``."""
    if episode.num_faults == reported:
        return {}
    faults = [event.kind.value for event in episode.events if isinstance(event, FormatFault)]
    return {"format_faults": faults[reported:]}


def final_result(transcript: Transcript, reward: Reward) -> tuple[float, Info]:
    """Return the reward of an ended episode and the final keys of its info.

    An episode in which retrieval failed has reward 0 and no parts.
    """
    answer, stop = transcript.answer, transcript.stop_reason
    scores = score_answer(answer, transcript.question.answers)
    info: Info = {
        "answer": answer or "",
        "f1": scores.f1,
        "exact_match": scores.exact_match,
        "cover_exact_match": scores.cover_exact_match,
        "well_formed": not format_violations(transcript),
        "valid": stop is None or stop.valid,
    }
    if not info["valid"]:
        return 0.0, info
    score = reward(transcript)
    info["reward_parts"] = score.parts
    return score.total, info
