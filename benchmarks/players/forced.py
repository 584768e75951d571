"""What a model is made to write of an episode, so that parts of its skill are scored alone.

==================  ==============================================================================
``closed-book``     it answers at once: what it knows
``search``          it begins with a query of its own: what it would do if it decided to search
``question-first``  its first query is the question as it stands; it goes on as it likes
``question-as-query``  its only query is the question as it stands, and it then answers: what it
                    reads, behind the search of the script of that name
==================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.core.prompts import prompt_encoder
from search_env.envs.config import EnvComponents
from search_env.errors import ConfigurationError
from search_env.protocols.grammar import open_thoughts
from search_env.protocols.tagged_text import close_thoughts, query_text
from search_env.types import Question, Source, TagRole, Transcript


class _Rule(NamedTuple):
    """Which texts are given: a query tag or the question as a query, then the answer's opening."""

    begins_query: bool = False
    asks_question: bool = False
    answers: bool = False


FORCED: Mapping[str, _Rule] = MappingProxyType(
    {
        "closed-book": _Rule(answers=True),
        "search": _Rule(begins_query=True),
        "question-first": _Rule(asks_question=True),
        "question-as-query": _Rule(asks_question=True, answers=True),
    }
)
"""The rules by name."""

Script = Callable[[Sequence[int] | NDArray[np.integer]], Sequence[NDArray[np.integer]]]


def forced_script(name: str, components: EnvComponents, questions: Iterable[int]) -> Script:
    """Return what :class:`~search_env.agents.inference.opening.ScriptedEngine` writes by a rule.

    Args:
        name: One of :data:`FORCED`.
        components: Those of the environment that is played.
        questions: Indices of the questions that are played.
    """
    config, protocol, tokenizer = components.config, components.protocol, components.tokenizer
    kwargs = config.chat_template_kwargs or {}
    encode = prompt_encoder(protocol, tokenizer, components.prompt, kwargs)
    pieces = {}
    for index in dict.fromkeys(questions):
        question = components.questions[index]
        prompt = np.asarray(encode(question.text), np.int32)
        texts = _texts(FORCED[name], question, components, prompt)
        pieces[prompt.tobytes()] = [tokenizer.encode(text) for text in texts]

    def script(prompt: Sequence[int] | NDArray[np.integer]) -> Sequence[NDArray[np.integer]]:
        found = pieces.get(np.asarray(prompt, np.int32).tobytes())
        if found is None:
            raise ConfigurationError(
                f"Expected the prompt of one of {len(pieces)} questions, got another of "
                f"{len(prompt)} ids, or a part of one. Raise max_tokens."
            )
        return found

    return script


def _texts(
    rule: _Rule, question: Question, components: EnvComponents, prompt: NDArray[np.int32]
) -> list[str]:
    """Return the texts after the prompt and after the documents."""
    protocol = components.protocol
    begun = Transcript(
        question,
        protocol.name,
        prompt,
        np.full(len(prompt), Source.PROMPT, np.int8),
        (),
        components.tokenizer.decode,
        protocol.markup,
    )
    answer = close_thoughts(protocol, open_thoughts(begun)) + protocol.pair(TagRole.ANSWER).open
    if rule.begins_query:
        return [protocol.pair(TagRole.TOOL).open]
    if rule.asks_question:
        return [query_text(protocol, question.text), *([answer] if rule.answers else [])]
    return [answer]
