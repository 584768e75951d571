"""Tables shared by all dynamics of one protocol, tokenizer and prompt style."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_env.core.document_block import DocumentBlockWriter
from search_env.core.prompts import prompt_encoder
from search_env.protocols.protocol import Protocol
from search_env.tokens.tag_automaton import EVENT_SHIFT, STATE_MASK, TagAutomaton
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Tag, TagPair, TokenIds, pairs_by_tag


@dataclass(frozen=True, slots=True)
class DynamicsTables:
    """The tag automaton in flat arrays, and the environment's texts as ids.

    A state is the index of its row's first entry, so state + class is the index of a transition.

    """

    tags: tuple[tuple[Tag, TagPair], ...]  # in the order of the automaton's numbers
    automaton: TagAutomaton
    classes: NDArray[np.int64]  # (vocabulary,): the column of each id
    next: NDArray[np.int64]  # (states * columns,)
    event: NDArray[np.uint16]  # (states * columns,); 0 for none
    prompt_ids: Callable[[str], TokenIds]  # from a question's text
    notice: TokenIds
    blocks: DocumentBlockWriter

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        tokenizer: Tokenizer,
        automaton: TagAutomaton,
        prompt: str,
        chat_template_kwargs: Mapping[str, Any],
    ) -> DynamicsTables:
        """Return new tables; the arguments are those of :class:`~.dynamics.Dynamics`."""
        table = automaton.table.ravel()
        return cls(
            tags=tuple(pairs_by_tag(protocol.tags).items()),
            automaton=automaton,
            classes=automaton.classes.astype(np.int64),
            next=(table & STATE_MASK).astype(np.int64) * automaton.table.shape[1],
            event=(table >> EVENT_SHIFT).astype(np.uint16),
            prompt_ids=prompt_encoder(protocol, tokenizer, prompt, chat_template_kwargs),
            notice=tokenizer.encode(protocol.notice),
            blocks=DocumentBlockWriter(protocol, tokenizer),
        )
