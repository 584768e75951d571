"""Data types: documents, questions, token sources, stop reasons, tags, events, transcripts.

Frozen data with derived properties only, so that every other module may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError

Side: TypeAlias = Literal["open", "close"]

TokenIds: TypeAlias = NDArray[np.int32]
"""Token ids, ``(T,)``."""

SPLITS = ("train", "validation", "test")
"""Splits of the generated datasets; published ones have their own."""


@dataclass(frozen=True, slots=True)
class Document:
    """A passage. ``id`` is unique in its corpus; the retriever that returned it sets ``score``."""

    id: str
    title: str
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Hop:
    """One annotated step towards an answer: its query, its answer, its supporting document."""

    query: str  # with references to earlier answers filled in
    answer: str
    document_id: str = ""  # "" where the dataset does not annotate it


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers and, where the dataset annotates it, its evidence.

    Attributes:
        id: Unique in its dataset.
        answers: Gold answer first, aliases after it; never empty.
        kind: The dataset's own question type, for example ``"2hop"`` or ``"comparison"``.
        supporting: Ids of the documents that together hold the evidence; empty where unknown.
        hops: Decomposition into single-hop steps, in order; empty where unknown.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    dataset: str = ""
    split: str = ""
    kind: str = ""
    supporting: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = ()


class Source(IntEnum):
    """Who wrote a token; recorded when it is written, never inferred from the id."""

    PADDING = 0
    """No token: the unused right end of an observation."""
    PROMPT = 1
    """The protocol's prompt with the question."""
    POLICY = 2
    """An action."""
    RETRIEVED = 3
    """The document block a search inserted, its tags included."""
    NOTICE = 4
    """Other text of the environment, such as Search-R1's invalid-action notice."""


class StopReason(str, Enum):
    """How an episode ended. The first three are caused by the policy (``terminated``)."""

    ANSWERED = "answered"
    """The policy closed its answer tag."""
    END_OF_SEQUENCE = "end_of_sequence"
    """The policy sent an end-of-sequence id where the protocol lets that end the episode."""
    FORMAT_FAULT = "format_fault"
    """The policy made a format fault that ends the episode, such as an empty query."""
    MAX_TOKENS = "max_tokens"
    """The context is full."""
    MAX_POLICY_TOKENS = "max_policy_tokens"
    """The policy's own tokens reached their limit."""
    MAX_SEGMENT_TOKENS = "max_segment_tokens"
    """One segment (policy tokens between two insertions) reached its limit."""
    MAX_SEARCHES = "max_searches"
    """A query was closed after the last search was spent."""
    MAX_TURNS = "max_turns"
    """A query or a notice came after the last turn was spent."""
    RETRIEVAL_ERROR = "retrieval_error"
    """The retriever failed and the environment is set to truncate. The episode is not valid."""

    @property
    def terminated(self) -> bool:
        """Whether the policy ended the episode, as opposed to a budget or a failure."""
        return self in _TERMINATED

    @property
    def valid(self) -> bool:
        """Whether the episode counts as a sample of the policy: retrieval did not fail in it."""
        return self is not StopReason.RETRIEVAL_ERROR


_TERMINATED = frozenset({StopReason.ANSWERED, StopReason.END_OF_SEQUENCE, StopReason.FORMAT_FAULT})


class TagRole(str, Enum):
    """What a pair of tags encloses."""

    REASON = "reason"
    """A thought, on which the environment does not act."""
    TOOL = "tool"
    """A query: closing the pair runs a tool on the enclosed text."""
    ANSWER = "answer"
    """The answer: closing the pair ends the episode."""
    DOCUMENTS = "documents"
    """The results of a tool. Only the environment may write this pair."""


SEARCH = "search"
"""The tool that retrieves documents for a query; every environment has it."""


class Tag(NamedTuple):
    """One side of the pair named ``pair``; in recorded episodes ``query_open`` and so on.

    Example:
        >>> str(Tag("query", "open")), Tag.parse("image_query_close").pair
        ('query_open', 'image_query')
    """

    pair: str
    side: Side

    def __str__(self) -> str:
        return f"{self.pair}_{self.side}"

    @classmethod
    def parse(cls, name: str) -> Tag:
        """Return the tag whose ``str`` is ``name``; ValueError where no tag has such a name."""
        pair, _, side = name.rpartition("_")
        if pair and side == "open":
            return cls(pair, "open")
        if pair and side == "close":
            return cls(pair, "close")
        raise ValueError(
            f"Expected the name of a pair followed by _open or _close, got {name!r}. Write tags "
            "with str(tag)."
        )


@dataclass(frozen=True, slots=True)
class TagPair:
    """Two tags of a protocol and what they enclose.

    ``name`` is unique in the protocol, in lower case. ``tool`` is the tool that closing the pair
    runs, set for the role ``TOOL`` only. ``bracket`` is set where ``close`` is a bracket, for the
    role ``ANSWER`` only: it is the opening one, and ``close`` is then a tag only where it matches
    ``open``, plain text elsewhere.

    Example:
        >>> pair = TagPair("query", TagRole.TOOL, "<q>", "</q>", tool=SEARCH)
        >>> str(pair.opening), pair.text("close")
        ('query_open', '</q>')
    """

    name: str
    role: TagRole
    open: str
    close: str
    tool: str = ""
    bracket: str = ""

    @property
    def opening(self) -> Tag:
        """The opening tag."""
        return Tag(self.name, "open")

    @property
    def closing(self) -> Tag:
        """The closing tag."""
        return Tag(self.name, "close")

    def text(self, side: Side) -> str:
        """Return the text of one side."""
        return self.open if side == "open" else self.close


def pairs_by_tag(pairs: Iterable[TagPair]) -> dict[Tag, TagPair]:
    """Return the pair of each tag, in the order in which the automaton numbers the tags."""
    return {tag: pair for pair in pairs for tag in (pair.opening, pair.closing)}


class FaultKind(str, Enum):
    """What a policy can get wrong about the tags."""

    UNOPENED_CLOSE = "unopened_close"
    """A query or answer tag was closed that was not open."""
    NESTED_OPEN = "nested_open"
    """A query or answer tag was opened while one was open."""
    FORGED_DOCUMENTS = "forged_documents"
    """The policy wrote a document tag, which only the environment may write."""
    EMPTY_QUERY = "empty_query"
    """A query tag was closed around nothing but white space."""
    UNANSWERED_QUERY = "unanswered_query"
    """A query was closed that the environment could not run: no budget, or no room, was left."""
    NO_ACTION = "no_action"
    """A segment ended without a search or an answer."""


@dataclass(frozen=True, slots=True)
class TagWritten:
    """The policy completed a tag with the token at ``position``."""

    position: int
    tag: Tag


@dataclass(frozen=True, slots=True)
class Searched:
    """A query was run by ``tool`` and its documents inserted as tokens ``start:end``.

    The documents are kept by search and rank, best first: retrievers may return different texts
    under one id.
    """

    position: int
    query: str
    documents: tuple[Document, ...]
    start: int
    end: int
    tool: str = SEARCH

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Ids of the documents, best first."""
        return tuple([document.id for document in self.documents])


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer tag was closed; ``text`` is the enclosed text, stripped."""

    position: int
    text: str


@dataclass(frozen=True, slots=True)
class FormatFault:
    """The policy broke the protocol's grammar with the token at ``position``."""

    position: int
    kind: FaultKind


@dataclass(frozen=True, slots=True)
class Ended:
    """The episode ended after the token at ``position``; always the last event."""

    position: int
    reason: StopReason


Event: TypeAlias = TagWritten | Searched | Answered | FormatFault | Ended


@dataclass(frozen=True, slots=True)
class Markup:
    """Tags and document layout: the part of a protocol that readers of transcripts need.

    Fields of the same names are documented at :class:`~search_env.protocols.protocol.Protocol`.
    """

    tags: tuple[TagPair, ...]
    noticed: frozenset[FaultKind] = frozenset()  # the faults that lead to a notice
    documents_prefix: str = ""
    document_rank: str = ""
    document_body: str = "{text}"
    documents_suffix: str = ""

    def document_text(self, document: Document) -> str:
        """Return a document as it is inserted, without its rank."""
        head, _, tail = self.document_body.partition("{text}")
        if not document.title:
            return document.text + tail
        return head.replace("{title}", document.title) + document.text + tail


@dataclass(frozen=True, slots=True)
class Transcript:
    """The record of an episode. Rewards, metrics and renderings are functions of it.

    Attributes:
        protocol: Name of the protocol.
        tokens: int32 ``(T,)``, prompt included.
        sources: int8 ``(T,)`` of :class:`Source`.
        events: In order of position.
        decode: Maps ids to text with the episode's tokenizer.
        markup: ``Protocol.markup`` of its protocol; None where it is not available, which suffices
            for readers of events alone.
    """

    question: Question
    protocol: str
    tokens: NDArray[np.int32]
    sources: NDArray[np.int8]
    events: tuple[Event, ...]
    decode: Callable[[NDArray[np.int32]], str] = field(
        default=lambda ids: " ".join(map(str, ids)), repr=False, compare=False
    )
    markup: Markup | None = field(default=None, repr=False)

    def required_markup(self) -> Markup:
        """Return the markup; ConfigurationError where the transcript was made without one."""
        if self.markup is None:
            raise ConfigurationError(
                f"Expected a transcript with the markup of its protocol {self.protocol!r}, got "
                "one without. Make it with markup=get_protocol(name).markup, or register the "
                "protocol before you read recorded episodes of it."
            )
        return self.markup

    @property
    def stop_reason(self) -> StopReason | None:
        """How the episode ended, or None while it runs."""
        last = self.events[-1] if self.events else None
        return last.reason if isinstance(last, Ended) else None

    @property
    def answer(self) -> str | None:
        """The answer's text, or None where the policy gave none."""
        return next((e.text for e in reversed(self.events) if isinstance(e, Answered)), None)

    @property
    def searches(self) -> tuple[Searched, ...]:
        """The searches that were run, in order."""
        return tuple(e for e in self.events if isinstance(e, Searched))

    @property
    def documents(self) -> dict[str, Document]:
        """Retrieved documents by id; of several with one id only the first."""
        documents: dict[str, Document] = {}
        for search in self.searches:
            for document in search.documents:
                documents.setdefault(document.id, document)
        return documents

    @property
    def faults(self) -> tuple[FormatFault, ...]:
        """The format faults, in order."""
        return tuple(e for e in self.events if isinstance(e, FormatFault))

    @property
    def num_policy_tokens(self) -> int:
        """The number of tokens that the policy wrote."""
        return int(np.count_nonzero(self.sources == Source.POLICY))

    def text(self, *sources: Source) -> str:
        """Return the text of all tokens, or of those from the given sources only."""
        keep = np.isin(self.sources, sources) if sources else slice(None)
        return self.decode(self.tokens[keep])

    def segments(self) -> list[tuple[Source, str]]:
        """Return the episode as runs of one source: ``[(source, text), ...]``."""
        if not len(self.tokens):
            return []
        cuts = np.flatnonzero(np.diff(self.sources)) + 1
        runs = pairwise([0, *cuts.tolist(), len(self.tokens)])
        return [(Source(int(self.sources[a])), self.decode(self.tokens[a:b])) for a, b in runs]
