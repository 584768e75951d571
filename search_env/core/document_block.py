"""Retrieved documents as tokens: in the protocol's layout, truncated inside their frame."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from search_env.core.token_cache import TokenCache
from search_env.errors import ProtocolError
from search_env.protocols.protocol import Protocol
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import Document, TokenIds

_CACHED_BYTES = 64 << 20  # encoding a passage costs 0.1 to 0.2 ms, more than retrieving it


class DocumentBlockWriter:
    """Writes document blocks of one protocol with one tokenizer.

    Frame, ranks and passages are encoded separately and joined, so that a passage has the same ids
    everywhere and can be cached. Of a passage that is longer than any block, only a beginning is
    encoded. The protocol's limit for a block must hold its frame.
    """

    def __init__(self, protocol: Protocol, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._prefix = tokenizer.encode(protocol.documents_prefix)
        self._suffix = tokenizer.encode(protocol.documents_suffix)
        self._no_documents = tokenizer.encode(protocol.no_documents)
        frame, limit = len(self._prefix) + len(self._suffix), protocol.max_documents_tokens
        if limit is not None and limit < frame:
            raise ProtocolError(
                f"Expected max_documents_tokens of protocol {protocol.name!r} to hold the block's "
                f"frame, {frame} tokens of {tokenizer.name!r}, got {limit}. Raise it."
            )
        # The same for every block, so that a passage's ids do not depend on where it comes first;
        # one more than fits tells that it was cut.
        most = min(limit or protocol.max_tokens, protocol.max_tokens) + 1

        def passage(title: str, text: str) -> TokenIds:
            return tokenizer.encode(protocol.document_text(Document("", title, text)), limit=most)

        @functools.cache
        def rank(number: int) -> TokenIds:
            return tokenizer.encode(protocol.document_rank.replace("{rank}", str(number)))

        self._passage, self._rank = TokenCache(passage, _CACHED_BYTES), rank

    def write(self, documents: Sequence[Document], limit: int) -> TokenIds | None:
        """Return a block of at most ``limit`` ids; None where the frame alone does not fit.

        Documents are truncated at their end, between characters; the frame is always complete.
        """
        room = limit - len(self._prefix) - len(self._suffix)
        if room < 0:
            return None
        body: list[TokenIds] = []
        length = 0
        for number, document in enumerate(documents, 1):
            passage = self._passage(document.title, document.text)
            body += (self._rank(number), passage)
            length += len(body[-2]) + len(passage)
            if length > room:
                body = [self._cut(np.concatenate(body), room)]
                break
        if not documents:
            body = [self._cut(self._no_documents, room)]
        return np.concatenate([self._prefix, *body, self._suffix])

    def _cut(self, ids: TokenIds, room: int) -> TokenIds:
        if len(ids) <= room:
            return ids
        table = self._tokenizer.token_bytes
        while room and table[ids[room]][:1] and 0x80 <= table[ids[room]][0] < 0xC0:
            room -= 1  # the first id left out continues a character
        return ids[:room]
