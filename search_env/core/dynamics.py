"""The rules of N episodes side by side. No I/O, no randomness, no clock.

:meth:`Dynamics.append` takes policy tokens and returns the queries that they closed. The caller
runs those queries and passes the documents to :meth:`Dynamics.insert_documents`, or reports a
failure with :meth:`Dynamics.fail_retrieval`. Every environment of this package, single or vector,
is such a caller; all rules are here.

Most steps only write a token and move the tag automaton: a few array operations for all rows
together, independent of the length of the episodes. Only where a tag ends, a sequence ends or a
budget is spent does a row take the slow path (:meth:`Dynamics._settle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.core.dynamics_tables import DynamicsTables
from search_env.core.episode_state import EpisodeSnapshot, EpisodeState, Opening, Query, no_episode
from search_env.errors import ConfigurationError
from search_env.protocols.protocol import Consequence, Protocol
from search_env.tokens.tag_automaton import Ends, TagAutomaton, build_tag_automaton
from search_env.tokens.tokenizer import Tokenizer
from search_env.types import (
    Answered,
    Document,
    Ended,
    FaultKind,
    FormatFault,
    Question,
    Searched,
    Source,
    StopReason,
    Tag,
    TagPair,
    TagRole,
    TagWritten,
    TokenIds,
    Transcript,
)
from search_env.validation import checked_documents

Rows: TypeAlias = slice | NDArray[np.intp]

# Unused ids between rows: rows a power of two apart share cache sets, which makes a step 1.5 times
# as slow at 1,024 rows of 4,096.
_PITCH = 64
_NO_ROWS: Sequence[int] = ()
_NEVER = np.iinfo(np.int64).max
_POLICY = int(Source.POLICY)


class Dynamics:
    """N episodes of one protocol over one tokenizer.

    ``prompt`` is a style, see :meth:`Protocol.prompt_pieces`, or ``"chat-template"`` for the
    tokenizer's own template, which reads ``chat_template_kwargs``; ``automaton`` is that of the
    protocol's ``tag_texts`` and is built if None; ``tables`` are for :meth:`like`.

    Attributes:
        tokens: int32 ``(rows, max_tokens)``, right-padded with 0.
        sources: int8 ``(rows, max_tokens)`` of :class:`Source`.
        episodes: State of each row.
        settled: The rows in which the last :meth:`append` ended a tag or reached a budget, in
            order; all other rows only grew by one token.
    """

    def __init__(
        self,
        protocol: Protocol,
        tokenizer: Tokenizer,
        *,
        rows: int = 1,
        prompt: str = "base",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        automaton: TagAutomaton | None = None,
        tables: DynamicsTables | None = None,
    ) -> None:
        self.protocol = protocol
        self.tokenizer = tokenizer
        self.prompt = prompt
        if tables is None:
            automaton = automaton or build_tag_automaton(tokenizer, protocol.tag_texts)
            options = chat_template_kwargs or {}
            tables = DynamicsTables.of(protocol, tokenizer, automaton, prompt, options)
        self._tables = tables
        self._tags, self._automaton = tables.tags, tables.automaton
        self._prompt_ids = tables.prompt_ids
        self._classes, self._next, self._event = tables.classes, tables.next, tables.event
        self._notice, self._blocks = tables.notice, tables.blocks
        self._allocate(rows)

    def _allocate(self, rows: int) -> None:
        limit = self.protocol.max_tokens
        pitch = self._pitch = limit + _PITCH
        tokens, sources = np.zeros((rows, pitch), np.int32), np.zeros((rows, pitch), np.int8)
        self.tokens, self.sources = tokens[:, :limit], sources[:, :limit]
        self._flat_tokens, self._flat_sources = tokens.reshape(-1), sources.reshape(-1)
        self._first = np.arange(rows, dtype=np.int64) * pitch  # of each row in the flat arrays
        self._end_of = self._first.copy()  # where each row's next token goes
        self._ones = np.ones(rows, np.int64)
        self._state = np.zeros(rows, np.int64)
        self._deadline = np.full(rows, _NEVER)  # the value of _end_of at which a budget is spent
        self._slack = 0  # appends until the first row can reach its deadline; 0: recompute
        self.settled: Sequence[int] = _NO_ROWS
        self.episodes: list[EpisodeState] = [no_episode() for _ in range(rows)]

    def like(self, rows: int = 1) -> Dynamics:
        """Return new dynamics of the same rules, which share the tables."""
        tables, prompt = self._tables, self.prompt
        return Dynamics(self.protocol, self.tokenizer, rows=rows, prompt=prompt, tables=tables)

    def begin(self, row: int, question: Question) -> None:
        """Start an episode: clear the row and write the prompt, which must leave room."""
        ids = self._prompt_ids(question.text)
        if len(ids) >= self.protocol.max_tokens:
            raise ConfigurationError(
                f"Expected the prompt to leave room in max_tokens={self.protocol.max_tokens}, got "
                f"{len(ids)} prompt tokens or more for question {question.id!r}. Raise max_tokens, "
                f"or choose a tokenizer that needs fewer tokens than {self.tokenizer.name!r}."
            )
        written = self.length(row)
        self.tokens[row, :written] = 0
        self.sources[row, :written] = Source.PADDING
        self._end_of[row] = self._first[row]
        self._state[row] = 0
        self.episodes[row] = EpisodeState(question, len(ids), len(ids))
        self._write(row, ids, Source.PROMPT)
        self._set_deadline(row)

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each row."""
        return self._end_of - self._first

    def length(self, row: int) -> int:
        """Return the number of tokens in one row."""
        return self._end_of.item(row) - row * self._pitch

    def append(self, rows: Rows, tokens: NDArray[np.int64]) -> list[Query]:
        """Write one policy token per row; return the queries that they closed, in order of rows.

        ``rows`` is ``slice(None)`` or distinct ascending row numbers; none of them ended, none
        waiting for documents. ``tokens`` holds an id in ``[0, tokenizer.size)`` for each. The row
        of a returned query waits for :meth:`insert_documents` or :meth:`fail_retrieval`.
        """
        ends = self._end_of[rows]
        self._flat_tokens[ends] = tokens.astype(np.int32)  # cheaper than casting on assignment
        self._flat_sources[ends] = _POLICY
        self._end_of[rows] = ends + self._ones[: len(ends)]  # half the cost of adding a number
        entry = self._state[rows] + self._classes[tokens]
        self._state[rows] = self._next[entry]
        event = self._event[entry]
        self._slack -= 1
        if self._slack > 0 and not np.count_nonzero(event):
            self.settled = _NO_ROWS
            return []
        return self._settle_due(rows, event)

    def insert_documents(self, row: int, documents: Sequence[Document]) -> None:
        """Insert the documents of the row's pending query, truncated inside their frame to fit.

        Where the frame does not fit, nothing is inserted and the context counts as full. Documents
        that are none are an InvalidRetrievalError, and the row still waits.
        """
        episode = self.episodes[row]
        query = episode.pending
        if query is None:
            raise ConfigurationError(
                f"Expected a row that waits for documents, got row {row}. Insert documents only "
                "for queries that append() returned."
            )
        if isinstance(documents, tuple):
            documents = list(documents)
        documents = checked_documents("the caller", query, documents)
        episode.pending = None
        start = self.length(row)
        room = self.protocol.max_tokens - start
        limit = min(room, self.protocol.max_documents_tokens or room)
        block = self._blocks.write(documents, limit)
        if block is None:
            self._end(row, StopReason.MAX_TOKENS)
            self._fault(row, FaultKind.UNANSWERED_QUERY, before_end=True)
            return
        episode.num_searches += 1
        end = start + len(block)
        event = Searched(start - 1, query, tuple(documents), start, end, episode.tool)
        episode.events.append(event)
        self._insert(row, block, Source.RETRIEVED)

    def fail_retrieval(self, row: int) -> None:
        """End the row's episode because its pending query could not be run."""
        self.episodes[row].pending = None
        self._end(row, StopReason.RETRIEVAL_ERROR)
        self._fault(row, FaultKind.UNANSWERED_QUERY, before_end=True)

    def save(self, row: int) -> EpisodeSnapshot:
        """Return a copy of one row's state, in time proportional to its tokens."""
        length = self.length(row)
        tokens, sources = self.tokens[row, :length].copy(), self.sources[row, :length].copy()
        return EpisodeSnapshot(self.episodes[row].copy(), tokens, sources, int(self._state[row]))

    def restore(self, row: int, saved: EpisodeSnapshot) -> None:
        """Restore a saved state into a row, which then continues as the saved one would have."""
        length = len(saved.tokens)
        if length > self.protocol.max_tokens:
            raise ConfigurationError(
                f"Expected a saved episode of at most max_tokens={self.protocol.max_tokens} "
                f"tokens, got {length}. Restore it with max_tokens as large as it was."
            )
        self.tokens[row, :length] = saved.tokens
        self.tokens[row, length:] = 0
        self.sources[row, :length] = saved.sources
        self.sources[row, length:] = Source.PADDING
        self._end_of[row] = self._first[row] + length
        self._state[row] = saved.automaton_state
        self.episodes[row] = saved.episode.copy()
        self._set_deadline(row)

    def transcript(self, row: int) -> Transcript:
        """Return the transcript of the row's episode so far."""
        episode, length = self.episodes[row], self.length(row)
        return Transcript(
            question=episode.question,
            protocol=self.protocol.name,
            tokens=self.tokens[row, :length].copy(),
            sources=self.sources[row, :length].copy(),
            events=tuple(episode.events),
            decode=self.tokenizer.decode,
            markup=self.protocol.markup,
        )

    def policy_tokens(self, row: int) -> int:
        """Return the number of tokens that the policy has written in a row."""
        episode = self.episodes[row]
        return self.length(row) - episode.prompt_length - episode.inserted

    def automaton_state(self, row: int) -> int:
        """Return the automaton's state of a row."""
        return int(self._state[row] // self._automaton.table.shape[1])

    def pending(self, row: int) -> Query | None:
        """Return the query for whose documents a row waits, or None."""
        episode = self.episodes[row]
        return None if episode.pending is None else Query(row, episode.pending, episode.tool)

    def written_inside(self, row: int, pair: str) -> bytes | None:
        """Return the policy's bytes inside the open pair of that name; None where not open."""
        start = self.episodes[row].opened.get(pair)
        return None if start is None else self._since(row, start)

    # The slow path: tags, faults, budgets.

    def _settle_due(self, rows: Rows, event: NDArray[np.uint16]) -> list[Query]:
        """Settle the rows where a tag or a sequence ended or a budget may be spent."""
        recompute = self._slack <= 0
        due = (event != 0) | (self._end_of[rows] >= self._deadline[rows]) if recompute else event
        indices = due.nonzero()[0]
        self.settled = (indices if isinstance(rows, slice) else rows[indices]).tolist()
        queries = []
        for row, number in zip(self.settled, event[indices].tolist(), strict=True):
            self._settle(row, self._automaton.events[number])
            query = self.pending(row)
            if query is not None:
                queries.append(query)
        if recompute:
            self._slack = int((self._deadline - self._end_of).min())
        return queries

    def _settle(self, row: int, ends: Ends) -> None:
        """Handle the tags that ended in the row's last token, then its budgets."""
        episode = self.episodes[row]
        for end in ends:
            if end.tag < 0:  # END_OF_SEQUENCE
                self._no_action(row, StopReason.END_OF_SEQUENCE)
            else:
                self._on_tag(row, *self._tags[end.tag], end.bytes_after)
            if episode.stop_reason is not None:
                break
        if episode.stop_reason is None and (
            episode.pending is not None
            or episode.notice
            or self._end_of.item(row) >= self._deadline.item(row)
        ):
            self._settle_budgets(row)
        if episode.stop_reason is not None:
            if episode.pending is not None:
                episode.pending = None
                self._fault(row, FaultKind.UNANSWERED_QUERY, before_end=True)
        elif episode.notice and episode.pending is None:
            if self.length(row) + len(self._notice) > self.protocol.max_tokens:
                self._end(row, StopReason.MAX_TOKENS)
            else:
                self._insert(row, self._notice, Source.NOTICE)
        episode.notice = False

    def _on_tag(self, row: int, tag: Tag, pair: TagPair, bytes_after: int) -> None:
        """Handle a tag that ended ``bytes_after`` before the end of the row's last token."""
        episode = self.episodes[row]
        if pair.bracket and tag.side == "close" and not self._matches(row, pair, bytes_after):
            return  # plain text
        episode.events.append(TagWritten(self.length(row) - 1, tag))
        if pair.role is TagRole.DOCUMENTS:
            self._fault(row, FaultKind.FORGED_DOCUMENTS)
        elif pair.role is not TagRole.REASON:
            if tag.side == "open":
                self._record_opening(row, pair, bytes_after)
            elif pair.name not in episode.opened:
                self._fault(row, FaultKind.UNOPENED_CLOSE)
            else:
                text = self._inside(row, pair, bytes_after)
                if pair.role is TagRole.TOOL:
                    self._close_query(row, text, pair.tool)
                else:
                    answer = self.protocol.clean_answer(text)
                    episode.events.append(Answered(self.length(row) - 1, answer))
                    self._end(row, StopReason.ANSWERED)

    def _matches(self, row: int, pair: TagPair, bytes_after: int) -> bool:
        """Return whether the bracket that just ended is that of the pair's opening tag."""
        if pair.name not in self.episodes[row].opened:
            return False
        inside = self._inside(row, pair, bytes_after)
        return inside.count(pair.bracket) == inside.count(pair.close)

    def _record_opening(self, row: int, pair: TagPair, bytes_after: int) -> None:
        """Record where a query or an answer begins."""
        episode = self.episodes[row]
        if episode.opened:
            self._fault(row, FaultKind.NESTED_OPEN)
            if episode.notice or episode.stop_reason is not None:
                return  # the segment ends with this fault; nothing stays open
        if pair.name not in episode.opened or not self.protocol.first_opening:
            episode.opened[pair.name] = (self.length(row) - 1, bytes_after)

    def _close_query(self, row: int, text: str, tool: str) -> None:
        """Make the text between the tags of a query the pending query, unless it is empty."""
        episode = self.episodes[row]
        self._begin_segment(row)
        query = self.protocol.clean_query(text)
        if not query.strip():
            self._fault(row, FaultKind.EMPTY_QUERY)
            return
        if episode.pending is not None:  # two queries closed in one token: the last one is run
            self._fault(row, FaultKind.UNANSWERED_QUERY)
        episode.pending, episode.tool = query, tool

    def _inside(self, row: int, pair: TagPair, bytes_after: int) -> str:
        """Return the policy's text between an opening and the closing tag that just ended."""
        written = self._since(row, self.episodes[row].opened[pair.name])
        last = len(written) - bytes_after - len(pair.close.encode())
        return written[:last].decode("utf-8", "replace")

    def _since(self, row: int, start: Opening) -> bytes:
        """Return the policy's bytes after an opening tag."""
        position, bytes_after = start
        span = slice(position, self.length(row))
        ids = self.tokens[row, span]
        if position < self.episodes[row].segment_start:  # documents were inserted after the opening
            ids = ids[self.sources[row, span] == Source.POLICY]
        written = self.tokenizer.bytes_of(ids.tolist())
        return written[len(self.tokenizer.token_bytes[ids.item(0)]) - bytes_after :]

    def _settle_budgets(self, row: int) -> None:
        """End the episode or the segment if a budget is spent; count turns."""
        protocol, episode = self.protocol, self.episodes[row]
        length = self.length(row)
        if length >= protocol.max_tokens:
            self._end(row, StopReason.MAX_TOKENS)
        elif _spent(self.policy_tokens(row), protocol.max_policy_tokens):
            self._end(row, StopReason.MAX_POLICY_TOKENS)
        elif episode.pending is not None and _spent(episode.num_searches, protocol.max_searches):
            self._end(row, StopReason.MAX_SEARCHES)
        elif _spent(length - episode.segment_start, protocol.max_segment_tokens):
            self._no_action(row, StopReason.MAX_SEGMENT_TOKENS)
        if episode.stop_reason is None and (episode.pending is not None or episode.notice):
            if _spent(episode.num_turns, protocol.max_turns):
                self._end(row, StopReason.MAX_TURNS)
            else:
                episode.num_turns += 1

    def _no_action(self, row: int, reason: StopReason) -> None:
        """End a segment in which the policy neither searched nor answered."""
        if self.protocol.faults.get(FaultKind.NO_ACTION) is Consequence.NOTICE:
            self._fault(row, FaultKind.NO_ACTION)
        else:
            self._end(row, reason)

    def _fault(self, row: int, kind: FaultKind, *, before_end: bool = False) -> None:
        """Record a fault and apply its consequence."""
        episode = self.episodes[row]
        event = FormatFault(self.length(row) - 1, kind)
        episode.num_faults += 1
        # Ended stays the last event.
        episode.events.insert(len(episode.events) - before_end, event)
        if episode.stop_reason is not None:
            return
        consequence = self.protocol.faults.get(kind, Consequence.IGNORE)
        if consequence is Consequence.NOTICE:
            episode.notice = True
            self._begin_segment(row)
        elif consequence is Consequence.END:
            self._end(row, StopReason.FORMAT_FAULT)

    def _end(self, row: int, reason: StopReason) -> None:
        episode = self.episodes[row]
        episode.stop_reason = reason
        episode.events.append(Ended(self.length(row) - 1, reason))
        self._set_deadline(row)

    def _begin_segment(self, row: int) -> None:
        episode = self.episodes[row]
        episode.segment_start = self.length(row)
        episode.opened.clear()
        self._set_deadline(row)

    # Text of the environment.

    def _insert(self, row: int, ids: TokenIds, source: Source) -> None:
        episode = self.episodes[row]
        self._write(row, ids, source)
        episode.inserted += len(ids)
        episode.segment_start += len(ids)
        self._set_deadline(row)
        if self.length(row) >= self.protocol.max_tokens:
            self._end(row, StopReason.MAX_TOKENS)

    def _write(self, row: int, ids: TokenIds, source: Source) -> None:
        start = self.length(row)
        self.tokens[row, start : start + len(ids)] = ids
        self.sources[row, start : start + len(ids)] = source
        self._end_of[row] += len(ids)

    def _set_deadline(self, row: int) -> None:
        """Update the length at which the row's next budget is spent."""
        protocol, episode = self.protocol, self.episodes[row]
        if episode.stop_reason is not None:
            self._deadline[row] = _NEVER
            return
        limit = protocol.max_tokens
        if protocol.max_policy_tokens is not None:
            others = episode.prompt_length + episode.inserted
            limit = min(limit, others + protocol.max_policy_tokens)
        if protocol.max_segment_tokens is not None:
            limit = min(limit, episode.segment_start + protocol.max_segment_tokens)
        self._deadline[row] = row * self._pitch + limit
        self._slack = min(self._slack, limit - self.length(row))


def _spent(used: int, limit: int | None) -> bool:
    return limit is not None and used >= limit
