"""Configuration, components and infos that single and vector environment share.

Components never change after they are built; environments share them with their clones.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from search_env.core.dynamics import Dynamics
from search_env.core.episode_state import EpisodeState
from search_env.envs.loading import load_questions, load_retriever
from search_env.errors import ConfigurationError, InvalidActionError, nearest
from search_env.metrics.answers import score_answer
from search_env.protocols.grammar import format_violations
from search_env.protocols.protocol import Protocol
from search_env.protocols.registry import get_protocol
from search_env.retrieval.base import Retriever
from search_env.rewards import Reward, get_reward
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import SEARCH, FormatFault, Question, Source, TagRole, Transcript
from search_env.validation import check_choice

if TYPE_CHECKING:
    from search_env.core.action_mask import ActionMasks

Info = dict[str, Any]

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
    action_mask: bool = False
    on_retrieval_error: str = "raise"

    def __post_init__(self) -> None:
        check_choice("on_retrieval_error", self.on_retrieval_error, _ON_ERROR)
        check_choice("action_mask", self.action_mask, (False, True))
        # The caller may change a dictionary later, which must not affect pickles and records.
        for name in ("dataset_options", "chat_template_kwargs"):
            object.__setattr__(self, name, copy.deepcopy(getattr(self, name)))


class EnvComponents:
    """The objects that a configuration names; pickling keeps only ``config``.

    ``protocol`` has the limits of the configuration, ``questions`` never change their order,
    ``reward`` is the initial one, and ``size`` is the number of token ids.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.protocol = get_protocol(config.protocol).limited(
            top_k=config.top_k,
            max_tokens=config.max_tokens,
            max_policy_tokens=config.max_policy_tokens,
            max_searches=config.max_searches,
        )
        check_tools(self.protocol)
        self.tokenizer = load_tokenizer(
            config.tokenizer,
            config.vocab_size,
            bos_token=config.bos_token,
            eos_token=config.eos_token,
        )
        dataset, split, options = config.dataset, config.split, config.dataset_options
        self.questions: Sequence[Question] = load_questions(dataset, split, options)
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
        self.prompt, self.action_mask = config.prompt, config.action_mask
        self.reward = get_reward(config.reward)
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

    def action_space(self) -> Discrete:
        """Return a new space of token ids."""
        return Discrete(self.size)

    def observation_space(self) -> Dict:
        """Return a new space of the observations of one row."""
        length = self.protocol.max_tokens
        return Dict(
            {
                "tokens": Box(0, self.size - 1, (length,), np.int32),
                "length": Discrete(length + 1),
                "sources": Box(0, max(Source), (length,), np.int8),
            }
        )

    def choose(self, options: Mapping[str, Any], random: np.random.Generator) -> Question:
        """Return the question chosen by the options of ``reset``, or a random one."""
        for key in options:
            check_choice("options", key, _OPTIONS)
        count = len(self.questions)
        if "question_id" in options:
            question_id = options["question_id"]
            if question_id not in self._by_id:
                raise ConfigurationError(
                    f"Expected the id of one of {count} questions, got {question_id!r}. "
                    f"{nearest(str(question_id), self._by_id)}Ids are in env.unwrapped.questions."
                )
            return self._by_id[question_id]
        if "index" not in options:
            return self.questions[int(random.integers(count))]
        index = operator.index(options["index"])
        if not 0 <= index < count:
            raise ConfigurationError(
                f"Expected index from 0 to {count - 1}, got {index}. Choose one of these."
            )
        return self.questions[index]

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


def observation_of(dynamics: Dynamics, row: int) -> dict[str, Any]:
    """Return the observation of one row, a copy."""
    # Gymnasium's checker rejects a reused buffer, and final observations must not change.
    return {
        "tokens": dynamics.tokens[row].copy(),
        "length": dynamics.length(row),
        "sources": dynamics.sources[row].copy(),
    }


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
