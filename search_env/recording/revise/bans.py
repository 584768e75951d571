"""What a roll-out may not write: transition keywords in its next step, and tags of queries.

A ban is data (:class:`Ban`); :class:`BanTables` says for one tokenizer which ids it forbids in
which state, and :class:`ActiveBan` follows the tokens of one roll-out. Ids are looked up once for
each state and kept.

A *keyword* is forbidden at the beginning of a step: the ids that complete it there, whatever
follows, and the id that the tokenizer begins it with, if that holds some of its letters
(``ban_from`` of the settings). A *tag* is forbidden anywhere, from the id on with which only
forbidden tags can still come: ``<`` stays allowed while ``</think>`` is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_env.tokens.tag_automaton import (
    EVENT_SHIFT,
    STATE_MASK,
    TagAutomaton,
    build_tag_automaton,
    load_tag_automaton,
)
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import Markup, TagRole

TokenIds = NDArray[np.int64]

_NONE: TokenIds = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Ban:
    """What is forbidden, and until when.

    Attributes:
        keywords: Texts that no step may begin with, in any case.
        tags: Texts that may not be written.
        allowed: Other tags: what they begin with stays allowed.
        ends: Texts that end the ban beside the separator.
        separator: Text that ends a step, and with it the ban.
        ban_from: See :class:`~search_env.recording.revise.settings.RevisionSettings`.
        for_good: The tags stay forbidden to the end.
    """

    keywords: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    separator: str = "\n\n"
    ban_from: int = 3
    for_good: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is forbidden."""
        return not (self.keywords or self.tags)


def tags_of(
    markup: Markup | None, *, forbid_queries: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return tags that a ban forbids, allows, and ends with, of a protocol or of none.

    The tags of thoughts and answers are allowed; their ends, and a query where it is allowed, end
    the next step.
    """
    if markup is None:
        return (), (), ()
    by_role = {role: [p for p in markup.tags if p.role is role] for role in TagRole}
    queries = tuple(pair.open for pair in by_role[TagRole.TOOL])
    thoughts, answers = by_role[TagRole.REASON], by_role[TagRole.ANSWER]
    allowed = tuple(text for pair in thoughts + answers for text in (pair.open, pair.close))
    ends = tuple(pair.close for pair in thoughts) + tuple(pair.open for pair in answers)
    return (queries, allowed, ends) if forbid_queries else ((), (), (*ends, *queries))


class BanTables:
    """The ids that one ban forbids in one tokenizer, by state."""

    def __init__(self, ban: Ban, tokenizer: Tokenizer) -> None:
        self.ban, self.token_bytes = ban, tokenizer.token_bytes
        self._words = [word.encode().lower() for word in ban.keywords]
        self._begun = _first_ids(ban, tokenizer)
        self.automaton: TagAutomaton | None = None
        self._dead: frozenset[int] = frozenset()  # states from which only a forbidden tag comes
        if ban.tags:
            texts = tuple(dict.fromkeys((*ban.tags, *ban.allowed)))
            self.automaton = load_tag_automaton(tokenizer, texts)
            self._dead = _dead_states(ban)
        self._tag_ids: dict[int, TokenIds] = {}
        self._word_ids: dict[bytes, TokenIds] = {}

    def forbidden(self, state: int, begun: bytes | None) -> TokenIds:
        """Return the forbidden ids.

        Args:
            state: The automaton's of the tags, 0 without one.
            begun: What the step has begun with so far, in lower case and without the white space
                before it; None where it can no longer be a keyword.
        """
        tags = self._tag_ids.get(state)
        if tags is None:
            tags = self._tag_ids[state] = self._ids_of_tags(state)
        if begun is None or not self._words:
            return tags
        words = self._word_ids.get(begun)
        if words is None:
            words = self._word_ids[begun] = self._ids_of_words(begun)
        return (
            np.union1d(tags, words) if len(tags) and len(words) else (tags if len(tags) else words)
        )

    def may_go_on(self, begun: bytes) -> bool:
        """Return whether a step that begins so can still become a keyword."""
        return any(word.startswith(begun) and word != begun for word in self._words)

    def next_state(self, state: int, token: int) -> int:
        """Return the automaton's state after a token."""
        if self.automaton is None:
            return 0
        return int(self.automaton.table[state, self.automaton.classes[token]]) & STATE_MASK

    def _ids_of_tags(self, state: int) -> TokenIds:
        automaton = self.automaton
        if automaton is None:
            return _NONE
        codes, forbidden = automaton.table[state], range(len(self.ban.tags))
        ends = [any(end.tag in forbidden for end in ends) for ends in automaton.events]
        dead = np.isin(codes & STATE_MASK, list(self._dead)) | np.array(ends)[codes >> EVENT_SHIFT]
        ids: TokenIds = np.flatnonzero(dead[automaton.classes])
        return ids

    def _ids_of_words(self, begun: bytes) -> TokenIds:
        rests = tuple(w[len(begun) :] for w in self._words if w.startswith(begun) and w != begun)
        if not rests:
            return _NONE
        if begun:
            ids = [i for i, text in enumerate(self.token_bytes) if text.lower().startswith(rests)]
        else:
            ids = [
                i
                for i, text in enumerate(self.token_bytes)
                if text.lower().lstrip().startswith(rests)
            ]
            ids += self._begun
        return np.unique(np.array(ids, np.int64))


def _first_ids(ban: Ban, tokenizer: Tokenizer) -> list[int]:
    """Return the ids that begin keywords, of those with letters enough that end inside a word."""
    ids = []
    for word in ban.keywords:
        for spelled in {word, word.lower(), word.upper()}:
            for text in (spelled, f" {spelled}"):
                first, *rest = tokenizer.encode(text).tolist() or [-1]
                if not rest:
                    continue
                begun = tokenizer.token_bytes[first].decode("utf-8", "replace").strip()
                if len(begun) >= ban.ban_from and spelled[len(begun)].isalpha():
                    ids.append(first)
    return ids


def _dead_states(ban: Ban) -> frozenset[int]:
    """Return the states of the tags' automaton after the beginnings of forbidden tags alone."""
    allowed = tuple(text.encode() for text in ban.allowed)
    texts = tuple(dict.fromkeys((*ban.tags, *ban.allowed)))
    of_bytes = build_tag_automaton(load_tokenizer("byte"), texts)  # numbers its states alike
    dead = set()
    for tag in ban.tags:
        state, encoded = 0, tag.encode()
        for length in range(1, len(encoded)):
            code = of_bytes.table[state, of_bytes.classes[encoded[length - 1]]]
            state = int(code) & STATE_MASK
            if not any(other.startswith(encoded[:length]) for other in allowed):
                dead.add(state)
    return frozenset(dead)


@functools.lru_cache(maxsize=64)
def ban_tables(ban: Ban, tokenizer: Tokenizer) -> BanTables:
    """Return the tables of a ban; the last 64 are kept."""
    return BanTables(ban, tokenizer)


class ActiveBan:
    """A ban in one roll-out, from the end of its prefix on.

    Args:
        tables: Of the ban.
        prefix: The policy's ids in the run of text that the roll-out goes on with, so far.

    Attributes:
        is_over: Whether nothing is forbidden any more.
    """

    def __init__(self, tables: BanTables, prefix: Iterable[int] = ()) -> None:
        self._tables, ban = tables, tables.ban
        self._separator = ban.separator.encode()
        self._ends = tuple(text.encode() for text in ban.ends)
        self._text = b""  # sampled so far, while the ban may end with it
        self._state, before = 0, b""
        for token in prefix:
            self._state = tables.next_state(self._state, token)
            before += tables.token_bytes[token]
        at_start = not before.rpartition(self._separator)[2].strip()
        self._begun: bytes | None = b"" if at_start else None
        self.is_over = ban.is_empty

    def forbidden(self) -> TokenIds:
        """Return the ids that may not come next, int64, ascending."""
        return self._tables.forbidden(self._state, self._begun)

    def advance(self, token: int) -> None:
        """Take the next token of the roll-out."""
        tables = self._tables
        self._state = tables.next_state(self._state, token)
        if tables.ban.for_good and not tables.ban.keywords:
            return
        self._text += tables.token_bytes[token]
        step = self._text.lstrip()
        if any(end in step for end in self._ends) or self._separator in step:
            self.is_over = not tables.ban.for_good
            self._begun = None
        elif self._begun is not None or (not step and self._separator in self._text):
            # The prefix was cut inside a token, and the roll-out ended its step first.
            begun = step.lower()
            self._begun = begun if not begun or tables.may_go_on(begun) else None


def forbidden_ids(bans: Sequence[ActiveBan | None]) -> list[TokenIds] | None:
    """Return the forbidden ids of several roll-outs, None where there are none at all."""
    ids = [_NONE if ban is None or ban.is_over else ban.forbidden() for ban in bans]
    return ids if any(map(len, ids)) else None
