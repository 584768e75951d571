"""The tag automaton: which tags a token completes, by one table look-up.

Tags are recognised in the byte stream of the policy's tokens. A byte automaton (Aho-Corasick,
reset to its root after a match) is lifted to token ids: for each state and token the table holds
the next state and the tags that end inside that token, with the number of bytes after each. A tag
may span many tokens or end in the middle of one, one token may end several, and a token may stop in
the middle of a UTF-8 character.

It finds what ``re.finditer`` of the tags finds in the joined bytes. Most ids are equivalent, as no
byte of theirs belongs to a tag, so the table has a column for each *class* of ids, not for each id:
for the eight tags of a protocol and Qwen's 151,936 ids, a few hundred columns.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ProtocolError
from search_env.paths import atomic_path, cache_dir
from search_env.tokens.tokenizer import Tokenizer

EVENT_SHIFT = 16
"""A table entry is ``next_state | event << EVENT_SHIFT``; event 0 is no event."""
STATE_MASK = (1 << EVENT_SHIFT) - 1

_FORMAT = 1
_CACHE_FROM = 16_384  # with fewer ids, building is as fast as reading a file


@dataclass(frozen=True, slots=True)
class TagEnd:
    """A tag ended inside a token, ``bytes_after`` before the token's end."""

    tag: int  # index into the tags the automaton was built from; -1 for an end-of-sequence id
    bytes_after: int


END_OF_SEQUENCE = TagEnd(-1, 0)
Ends: TypeAlias = tuple[TagEnd, ...]


@dataclass(frozen=True, slots=True)
class TagAutomaton:
    """Transition table over (state, token id). State 0 is the start.

    Example:
        >>> from search_env.tokens.tokenizer import load_tokenizer
        >>> automaton = build_tag_automaton(load_tokenizer("byte"), ["<q>", "</q>"])
        >>> automaton.find(b"a<q>b</q>")
        [(3, 0), (8, 1)]
    """

    classes: NDArray[np.uint16]  # (vocabulary,): the column of each id
    table: NDArray[np.int32]  # (states, columns): next state, and event above EVENT_SHIFT
    events: tuple[Ends, ...]  # the tags that end with each event, in order; the first is empty

    @property
    def nbytes(self) -> int:
        """Size of the two arrays in bytes."""
        return self.classes.nbytes + self.table.nbytes

    def find(self, ids: Sequence[int] | bytes) -> list[tuple[int, int]]:
        """Return ``(position of the id, tag)`` for each tag that ends in a sequence."""
        state, matches = 0, []
        for position, token in enumerate(ids):
            code = int(self.table[state, self.classes[token]])
            state = code & STATE_MASK
            matches += [(position, end.tag) for end in self.events[code >> EVENT_SHIFT]]
        return matches


def build_tag_automaton(tokenizer: Tokenizer, tags: Sequence[str]) -> TagAutomaton:
    """Return the automaton of tags over a tokenizer's ids, without any file access.

    No tag may contain another: then "first to end" and "first to start" agree.

    Raises:
        ProtocolError: Empty, repeated or nested tags.
    """
    patterns = [tag.encode() for tag in tags]
    _check(tags, patterns)
    return _build(tokenizer, patterns)


@functools.lru_cache(maxsize=16)
def load_tag_automaton(tokenizer: Tokenizer, tags: tuple[str, ...]) -> TagAutomaton:
    """Return a tag automaton, built once per process; large ones come from the disk cache."""
    if tokenizer.size < _CACHE_FROM:
        return build_tag_automaton(tokenizer, tags)
    key = hashlib.sha256(repr((_FORMAT, tokenizer.digest, list(tags))).encode()).hexdigest()
    path = cache_dir() / "matchers" / f"{key[:32]}.npz"
    automaton = _load(path)
    if automaton is None:
        automaton = build_tag_automaton(tokenizer, tags)
        _save(path, automaton)
    return automaton


def _check(tags: Sequence[str], patterns: Sequence[bytes]) -> None:
    for i, pattern in enumerate(patterns):
        if not pattern:
            raise ProtocolError(f"Expected non-empty tags, got {tags[i]!r} at {i}. Set its text.")
        for j, other in enumerate(patterns):
            if i != j and pattern in other:
                raise ProtocolError(
                    f"Expected tags that do not contain each other, got {tags[i]!r} in "
                    f"{tags[j]!r}. Rename one of them."
                )


class _ByteAutomaton:
    """Aho-Corasick over the tags' bytes, reset to its root after a match."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        letters = sorted(set(b"".join(patterns)))
        self.alphabet = np.zeros(256, np.uint8)  # byte classes; 0: every byte outside the tags
        self.alphabet[letters] = np.arange(1, len(letters) + 1)
        children, ends = self._trie(patterns)
        shape = (len(children), len(letters) + 1)
        self.step = np.zeros(shape, np.int32)  # next state
        self.match = np.full(shape, -1, np.int32)  # tag completed by that byte, or -1
        fail = [0] * len(children)
        queue = [0]
        for state in queue:  # breadth first: a state's failure state is complete before it
            if state:
                self.step[state] = self.step[fail[state]]
                self.match[state] = self.match[fail[state]]
            for letter, child in children[state].items():
                # fail[state]'s row for this letter, before we overwrite our own copy of it
                fail[child] = int(self.step[state, letter]) if state else 0
                if child in ends:  # never entered: a match leads back to the root
                    self.step[state, letter], self.match[state, letter] = 0, ends[child]
                else:
                    self.step[state, letter] = child
                    queue.append(child)

    def _trie(self, patterns: Sequence[bytes]) -> tuple[list[dict[int, int]], dict[int, int]]:
        children: list[dict[int, int]] = [{}]
        ends: dict[int, int] = {}
        for tag, pattern in enumerate(patterns):
            state = 0
            for letter in self.alphabet[list(pattern)].tolist():
                if letter not in children[state]:
                    children[state][letter] = len(children)
                    children.append({})
                state = children[state][letter]
            ends[state] = tag
        return children, ends


class _Functions:
    """The functions that byte strings compute on states, stored once each and numbered.

    A byte string maps every state to (next state, tags that ended). There are far fewer functions
    than strings, so extending all tokens by their next byte is mostly one table look-up:
    ``extend[function, byte class]``, filled on first use. Function 0 is the identity.
    """

    def __init__(self, automaton: _ByteAutomaton) -> None:
        self._automaton = automaton
        states, letters = automaton.step.shape
        self.next = [np.arange(states, dtype=np.int32)]
        self.ends: list[dict[int, Ends]] = [{}]
        self._index: dict[tuple[bytes, frozenset[object]], int] = {}
        self._index[self.next[0].tobytes(), frozenset()] = 0
        self.extend = np.full((64, letters), -1, np.int32)

    def fill(self, function: int, letter: int) -> None:
        """Compute ``extend[function, letter]``."""
        before = self.next[function]
        after = self._automaton.step[before, letter]
        matched = self._automaton.match[before, letter]
        ends = {
            state: tuple(TagEnd(e.tag, e.bytes_after + 1) for e in earlier)
            for state, earlier in self.ends[function].items()
        }
        for state in np.flatnonzero(matched >= 0).tolist():
            ends[state] = (*ends.get(state, ()), TagEnd(int(matched[state]), 0))
        key = after.tobytes(), frozenset(ends.items())
        if key not in self._index:
            self._index[key] = len(self.next)
            self.next.append(after)
            self.ends.append(ends)
            if len(self.next) > len(self.extend):
                self.extend = np.concatenate([self.extend, np.full_like(self.extend, -1)])
        self.extend[function, letter] = self._index[key]


def _functions_of(
    tokens: Sequence[bytes], automaton: _ByteAutomaton
) -> tuple[NDArray[np.int32], _Functions]:
    """Return the number of each token's function, int32 ``(vocabulary,)``, and the functions."""
    functions = _Functions(automaton)
    lengths = np.array([len(t) for t in tokens])
    starts = np.cumsum(lengths) - lengths
    letters = automaton.alphabet[np.frombuffer(b"".join(tokens), np.uint8)]
    function = np.zeros(len(tokens), np.int32)
    alive = np.flatnonzero(lengths)
    for position in range(int(lengths.max(initial=0))):
        alive = alive[lengths[alive] > position]
        current, letter = function[alive], letters[starts[alive] + position]
        missing = functions.extend[current, letter] < 0
        for f, x in np.unique(np.stack([current[missing], letter[missing]]), axis=1).T.tolist():
            functions.fill(f, x)
        function[alive] = functions.extend[current, letter]
    return function, functions


def _build(tokenizer: Tokenizer, patterns: Sequence[bytes]) -> TagAutomaton:
    automaton = _ByteAutomaton(patterns)
    function, functions = _functions_of(tokenizer.token_bytes, automaton)
    # End-of-sequence ids have separate columns, whatever their bytes.
    final = np.zeros(tokenizer.size, bool)
    final[list(tokenizer.eos_ids)] = True
    columns, classes = np.unique(function * 2 + final, return_inverse=True)
    states = automaton.step.shape[0]
    if max(states, len(columns)) > STATE_MASK:
        raise ProtocolError(
            f"Expected tags that give at most {STATE_MASK} states and token classes, got {states} "
            f"and {len(columns)}. Use fewer or shorter tags."
        )
    events: dict[Ends, int] = {(): 0}
    table = np.empty((states, len(columns)), np.int32)
    for column, code in enumerate(columns.tolist()):
        table[:, column] = functions.next[code // 2]
        tail = (END_OF_SEQUENCE,) if code % 2 else ()
        ends = functions.ends[code // 2]
        for state in range(states) if tail else ends:
            event = events.setdefault((*ends.get(state, ()), *tail), len(events))
            table[state, column] |= event << EVENT_SHIFT
    return TagAutomaton(classes.astype(np.uint16), table, tuple(events))


def _save(path: Path, automaton: TagAutomaton) -> None:
    flat = [(i, e.tag, e.bytes_after) for i, ends in enumerate(automaton.events) for e in ends]
    events = np.array(flat, np.int64).reshape(-1, 3)
    # Without a writable cache, the next process builds it again.
    with suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, classes=automaton.classes, table=automaton.table, events=events)


def _load(path: Path) -> TagAutomaton | None:
    """Return a cached automaton, or None where there is no readable one."""
    try:
        # Opened here, because np.load leaves the file of a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            rows = arrays["events"].tolist()
            events: list[list[TagEnd]] = [[] for _ in range(1 + (rows[-1][0] if rows else 0))]
            for event, tag, after in rows:
                events[event].append(TagEnd(tag, after))
            return TagAutomaton(arrays["classes"], arrays["table"], tuple(map(tuple, events)))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
