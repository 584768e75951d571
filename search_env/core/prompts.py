"""Prompts as ids: which styles fit a tokenizer, and what stands in front of them.

A style of :data:`~search_env.protocols.protocol.CHAT_MARKUP` fits if the vocabulary has its
markers. ``"chat-template"`` is the model's own template and is exact; the others are written piece
by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from search_env.core.token_cache import TokenCache
from search_env.errors import ConfigurationError
from search_env.protocols.protocol import CHAT_MARKUP, CHAT_TEMPLATE, Protocol
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import TokenIds

_CACHED_BYTES = 32 << 20  # a group of rollouts begins many episodes with the same prompt


def prompt_encoder(
    protocol: Protocol,
    tokenizer: Tokenizer,
    style: str,
    chat_template_kwargs: Mapping[str, Any],
) -> Callable[[str], TokenIds]:
    """Return the function from a question's text to the ids of its prompt.

    Of a prompt of ``max_tokens`` ids or more, some of the first ones are returned.

    Raises:
        ConfigurationError: The style does not fit the tokenizer.
    """
    if style == CHAT_TEMPLATE:
        encode = _template_encoder(protocol, tokenizer, chat_template_kwargs)
    elif chat_template_kwargs:
        raise ConfigurationError(
            f"Expected no chat_template_kwargs with prompt={style!r}, got "
            f"{dict(chat_template_kwargs)}. Pass prompt={CHAT_TEMPLATE!r}, or omit them."
        )
    else:
        encode = _piece_encoder(protocol, tokenizer, style)
    return TokenCache(encode, _CACHED_BYTES)


def fitting_styles(protocol: Protocol, tokenizer: Tokenizer) -> list[str]:
    """Return the styles of prompts that fit a tokenizer."""
    styles = ["base"]
    styles += [s for s in CHAT_MARKUP if _missing_marker(protocol, tokenizer, s) is None]
    return styles + ([CHAT_TEMPLATE] if tokenizer.chat_template else [])


def _missing_marker(protocol: Protocol, tokenizer: Tokenizer, style: str) -> str | None:
    """Return the first marker of a style that the vocabulary lacks."""
    control = tokenizer.control_tokens
    pieces = protocol.prompt_pieces("", style, control)
    return next((text for text, special in pieces if special and text not in control), None)


def _piece_encoder(
    protocol: Protocol, tokenizer: Tokenizer, style: str
) -> Callable[[str], TokenIds]:
    marker = _missing_marker(protocol, tokenizer, style)
    if marker is not None:
        fitting = ", ".join(map(repr, fitting_styles(protocol, tokenizer)))
        raise ConfigurationError(
            f"Expected a tokenizer with the markers of prompt={style!r}, got {tokenizer.name!r}, "
            f"whose added tokens lack {marker!r}. Styles that fit it: {fitting}."
        )
    markers, limit = tokenizer.control_tokens, protocol.max_tokens
    bos = list(tokenizer.bos_ids)

    def encode(question: str) -> TokenIds:
        pieces = protocol.prompt_pieces(question, style, markers)
        ids = [tokenizer.encode(text, special=s, limit=limit) for text, s in pieces]
        prompt: TokenIds = np.concatenate(ids)
        if prompt[: len(bos)].tolist() == bos:  # the style writes it
            return prompt
        return np.concatenate([np.array(bos, np.int32), prompt])

    return encode


def _template_encoder(
    protocol: Protocol, tokenizer: Tokenizer, options: Mapping[str, Any]
) -> Callable[[str], TokenIds]:
    template = tokenizer.chat_template
    if template is None:
        fitting = ", ".join(map(repr, fitting_styles(protocol, tokenizer)))
        raise ConfigurationError(
            f"Expected a tokenizer with a chat template for prompt={CHAT_TEMPLATE!r}, got "
            f"{tokenizer.name!r} without one. Put chat_template.jinja or tokenizer_config.json "
            f"beside its tokenizer.json, or choose one of: {fitting}."
        )
    tail = protocol.chat_tail

    def encode(question: str) -> TokenIds:
        question = protocol.clean_question(question)
        if len(question) > protocol.max_tokens:  # rendering costs more than this look
            beginning = tokenizer.encode(question, limit=protocol.max_tokens)
            if len(beginning) == protocol.max_tokens:
                return beginning
        ids = np.array(template.encode(protocol.chat_messages, question, options), np.int32)
        # A template may open the thought itself. The tail is the environment's own text, so its
        # tags are the model's own tokens where there are such.
        if not tail or tokenizer.decode(ids[-len(tail.encode()) - 8 :]).rstrip().endswith(tail):
            return ids
        return np.concatenate([ids, tokenizer.encode(tail, special=True)])

    encode("")  # whether the template takes the protocol's messages
    return encode
