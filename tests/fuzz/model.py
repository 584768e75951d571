"""The rules once more, slowly: what an episode must be, told by its policy tokens.

Written from the documentation, with none of the environment's tables: the policy's bytes are
searched with ``re``, and every budget is counted anew at every token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from search_env.protocols.protocol import Consequence, Protocol
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import (
    Answered,
    Document,
    Ended,
    Event,
    FaultKind,
    FormatFault,
    Searched,
    Source,
    StopReason,
    TagPair,
    TagRole,
    TagWritten,
    pairs_by_tag,
)


class Model:
    """One episode of a protocol, from the ids of its prompt."""

    def __init__(self, protocol: Protocol, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self.protocol, self.tokenizer = protocol, tokenizer
        self.tokens = list(prompt)
        self.sources = [int(Source.PROMPT)] * len(prompt)
        self.events: list[Event] = []
        self.stop: StopReason | None = None
        self.pending: tuple[str, str] | None = None  # query and tool
        self.num_searches = 0
        self._bytes = b""  # of the policy
        self._read = 0  # end of the last tag in them
        self._opened: dict[str, int] = {}  # ends of opening tags in them
        self._in_segment = self._turns = 0
        self._notice = False
        self._tags = list(pairs_by_tag(protocol.tags).items())
        texts = [text.encode() for text in protocol.tag_texts]
        self._longest = max(map(len, texts))
        self._pattern = re.compile(b"|".join(b"(%s)" % re.escape(text) for text in texts))

    @property
    def faults(self) -> list[str]:
        """The kinds of all faults so far."""
        return [event.kind.value for event in self.events if isinstance(event, FormatFault)]

    @property
    def policy_tokens(self) -> int:
        """The number of tokens that the policy wrote."""
        return self.sources.count(Source.POLICY)

    def write(self, token: int) -> None:
        """Append a policy token. Where ``pending`` is set, ``found`` or ``failed`` is next."""
        before = len(self._bytes)
        self.tokens.append(token)
        self.sources.append(int(Source.POLICY))
        self._bytes += self.tokenizer.token_bytes[token]
        self._in_segment += 1
        start = max(self._read, before - self._longest + 1)
        for match in self._pattern.finditer(self._bytes, start):
            self._read = match.end()
            if self.stop is None:
                self._on_tag(match)
        if token in self.tokenizer.eos_ids and self.stop is None:
            self._no_action(StopReason.END_OF_SEQUENCE)
        self._check_budgets()
        if self.stop is not None and self.pending is not None:
            self.pending = None
            self._fault_before_end(FaultKind.UNANSWERED_QUERY)
        elif self.stop is None and self._notice and self.pending is None:
            self._insert(self.tokenizer.encode(self.protocol.notice).tolist(), Source.NOTICE)
        self._notice = False

    def found(self, documents: Sequence[Document]) -> None:
        """Insert the documents of the pending query."""
        assert self.pending is not None
        (query, tool), self.pending = self.pending, None
        room = self.protocol.max_tokens - len(self.tokens)
        block = self._block(documents, min(room, self.protocol.max_documents_tokens or room))
        if block is None:
            self._end(StopReason.MAX_TOKENS)
            self._fault_before_end(FaultKind.UNANSWERED_QUERY)
            return
        self.num_searches += 1
        start = len(self.tokens)
        end = start + len(block)
        self.events.append(Searched(start - 1, query, tuple(documents), start, end, tool))
        self._insert(block, Source.RETRIEVED)

    def failed(self) -> None:
        """End the episode: the search for the pending query failed."""
        self.pending = None
        self._end(StopReason.RETRIEVAL_ERROR)
        self._fault_before_end(FaultKind.UNANSWERED_QUERY)

    # Tags.

    def _on_tag(self, match: re.Match[bytes]) -> None:
        tag, pair = self._tags[(match.lastindex or 0) - 1]
        if pair.bracket and tag.side == "close" and self._is_text(pair, match):
            return
        self.events.append(TagWritten(len(self.tokens) - 1, tag))
        if pair.role is TagRole.DOCUMENTS:
            self._fault(FaultKind.FORGED_DOCUMENTS)
        elif pair.role is TagRole.REASON:
            pass
        elif tag.side == "open":
            self._open(pair, match.end())
        elif pair.name not in self._opened:
            self._fault(FaultKind.UNOPENED_CLOSE)
        else:
            inside = self._bytes[self._opened[pair.name] : match.start()].decode("utf-8", "replace")
            self._close(pair, inside)

    def _is_text(self, pair: TagPair, match: re.Match[bytes]) -> bool:
        """Return whether a bracket is not the one that closes the answer."""
        if pair.name not in self._opened:
            return True
        depth = 1
        for byte in self._bytes[self._opened[pair.name] : match.end()].decode("utf-8", "replace"):
            depth += {pair.bracket: 1, pair.close: -1}.get(byte, 0)
        return depth > 0

    def _open(self, pair: TagPair, end: int) -> None:
        if self._opened:
            self._fault(FaultKind.NESTED_OPEN)
            if self._notice or self.stop is not None:
                return
        if pair.name not in self._opened or not self.protocol.first_opening:
            self._opened[pair.name] = end

    def _close(self, pair: TagPair, inside: str) -> None:
        if pair.role is TagRole.ANSWER:
            answer = self.protocol.clean_answer(inside)
            self.events.append(Answered(len(self.tokens) - 1, answer))
            self._end(StopReason.ANSWERED)
            return
        self._begin_segment()
        query = self.protocol.clean_query(inside)
        if not query.strip():
            self._fault(FaultKind.EMPTY_QUERY)
            return
        if self.pending is not None:
            self._fault(FaultKind.UNANSWERED_QUERY)
        self.pending = (query, pair.tool)

    # Faults and budgets.

    def _fault(self, kind: FaultKind) -> None:
        self.events.append(FormatFault(len(self.tokens) - 1, kind))
        consequence = self.protocol.faults.get(kind)
        if consequence is Consequence.NOTICE:
            self._notice = True
            self._begin_segment()
        elif consequence is Consequence.END:
            self._end(StopReason.FORMAT_FAULT)

    def _fault_before_end(self, kind: FaultKind) -> None:
        """Record a fault that ends nothing: the episode has ended."""
        self.events.insert(-1, FormatFault(len(self.tokens) - 1, kind))

    def _no_action(self, reason: StopReason) -> None:
        if self.protocol.faults.get(FaultKind.NO_ACTION) is Consequence.NOTICE:
            self._fault(FaultKind.NO_ACTION)
        else:
            self._end(reason)

    def _check_budgets(self) -> None:
        limits = self.protocol
        if self.stop is not None:
            return
        if len(self.tokens) >= limits.max_tokens:
            self._end(StopReason.MAX_TOKENS)
        elif _spent(self.policy_tokens, limits.max_policy_tokens):
            self._end(StopReason.MAX_POLICY_TOKENS)
        elif self.pending is not None and _spent(self.num_searches, limits.max_searches):
            self._end(StopReason.MAX_SEARCHES)
        elif _spent(self._in_segment, limits.max_segment_tokens):
            self._no_action(StopReason.MAX_SEGMENT_TOKENS)
        if self.stop is None and (self.pending is not None or self._notice):
            if _spent(self._turns, limits.max_turns):
                self._end(StopReason.MAX_TURNS)
            self._turns += 1

    def _end(self, reason: StopReason) -> None:
        self.stop = reason
        self.events.append(Ended(len(self.tokens) - 1, reason))

    def _begin_segment(self) -> None:
        self._in_segment = 0
        self._opened.clear()

    # Text of the environment.

    def _insert(self, ids: Sequence[int], source: Source) -> None:
        if source is Source.NOTICE and len(self.tokens) + len(ids) > self.protocol.max_tokens:
            self._end(StopReason.MAX_TOKENS)
            return
        self.tokens += ids
        self.sources += [int(source)] * len(ids)
        if len(self.tokens) >= self.protocol.max_tokens:
            self._end(StopReason.MAX_TOKENS)

    def _block(self, documents: Sequence[Document], limit: int) -> list[int] | None:
        encode, protocol = self.tokenizer.encode, self.protocol
        prefix = encode(protocol.documents_prefix).tolist()
        suffix = encode(protocol.documents_suffix).tolist()
        room = limit - len(prefix) - len(suffix)
        if room < 0:
            return None
        body: list[int] = [] if documents else encode(protocol.no_documents).tolist()
        for rank, document in enumerate(documents, 1):
            body += encode(protocol.document_rank.replace("{rank}", str(rank))).tolist()
            body += encode(protocol.document_text(document)).tolist()
        table = self.tokenizer.token_bytes
        if len(body) > room:
            while room and 0x80 <= int.from_bytes(table[body[room]][:1], "big") < 0xC0:
                room -= 1
        return prefix + body[:room] + suffix


def _spent(used: int, limit: int | None) -> bool:
    return limit is not None and used >= limit
