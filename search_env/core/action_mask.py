"""The action mask: which ids keep an episode within its protocol's grammar in the next step.

An id is masked out where the grammar of :mod:`search_env.protocols.grammar` or the rules of
:mod:`search_env.core.dynamics` would record a violation for it in that step. Two more kinds are
masked out: an id that opens a query which could not be run, and an id without text (padded logits).
The mask does not plan ahead: a budget may still be spent before the episode answers.

In any state of the automaton few ids end a tag, so a mask is an array of ones in which a few cached
indices are set to 0. Episodes are only read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.core.dynamics import Dynamics
from search_env.core.episode_state import EpisodeState
from search_env.protocols.grammar import GrammarState, grammar_of, prompt_thoughts
from search_env.tokens.tag_automaton import EVENT_SHIFT, Ends, load_tag_automaton
from search_env.types import TagRole, pairs_by_tag

_CACHED_STATES = 4096  # each holds a few ids, at most a few hundred
_NOTHING: frozenset[str] = frozenset()  # one object, whose hash is cached

Mask: TypeAlias = NDArray[np.int8]
Indices: TypeAlias = NDArray[np.int64]


class _MaskState(NamedTuple):
    """All that determines a mask, except the text of an open query.

    ``opened`` holds the names of the queries and answers that are open in the environment: the one
    that is open in the grammar, unless the grammar was violated before. ``depth`` is the number of
    brackets that an answer in brackets has to close before its own; one more than any id closes
    stands for all above.
    """

    automaton: int
    grammar: GrammarState
    opened: frozenset[str]
    searches: int  # queries that may still be closed and run, at most 2
    depth: int


class _Closing(NamedTuple):
    """Ids that close an open query around the same text: it so far less ``cut``, plus ``more``."""

    cut: int  # the last bytes so far, which begin the closing tag
    more: bytes
    ids: Indices


class ActionMasks:
    """The masks of all dynamics of one protocol and tokenizer, whatever their rows.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("SearchQA-Toy-v0", action_mask=True)
        >>> _, info = env.reset(seed=0)
        >>> masked = (info["action_mask"] == 0).nonzero()[0]
        >>> [env.unwrapped.tokenizer.decode([i]) for i in masked]
        ['<|endoftext|>', '</q>', '</a>', '<d>', '</d>']
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self._protocol, self._tokenizer = dynamics.protocol, dynamics.tokenizer
        self._tags = tuple(pairs_by_tag(self._protocol.tags).items())
        self._tools = {pair.name: pair for pair in self._protocol.pairs(TagRole.TOOL)}
        self._answer = self._protocol.pair(TagRole.ANSWER)
        self._deepest = 0
        if self._answer.bracket:
            closing = self._answer.close.encode()
            self._deepest = max(text.count(closing) for text in self._tokenizer.token_bytes)
        self._grammar = grammar_of(self._protocol.markup)
        automaton = load_tag_automaton(self._tokenizer, self._protocol.tag_texts)
        self._classes, self._ends = automaton.classes, automaton.events
        self._event = automaton.table >> EVENT_SHIFT
        self._has_text = np.array([bool(text) for text in self._tokenizer.token_bytes], np.int8)
        # Tokens of the smallest document block: a query closed with less room is not answered.
        frame = (self._protocol.documents_prefix, self._protocol.documents_suffix)
        self._frame = max(1, sum(len(self._tokenizer.encode(text)) for text in frame))
        self._followed: dict[int, tuple[EpisodeState, int, GrammarState]] = {}
        self._ending_ids = functools.lru_cache(_CACHED_STATES)(self._compute_ending_ids)
        self._closings = functools.lru_cache(_CACHED_STATES)(self._compute_closings)
        self._masked = functools.lru_cache(_CACHED_STATES)(self._compute_masked)

    def of(self, dynamics: Dynamics, row: int) -> Mask:
        """Return the mask of one row, int8 ``(n,)``, a new array: 1 for allowed ids, else 0.

        At least one id is allowed. All are in an episode that has ended, in one that waits for
        documents, and where the mask would otherwise be empty.
        """
        mask: Mask = self.batch(dynamics, [row])[0]
        return mask

    def batch(self, dynamics: Dynamics, rows: Sequence[int]) -> Mask:
        """Return the masks of some rows, int8 ``(len(rows), n)``, a new array."""
        masks = np.empty((len(rows), len(self._has_text)), np.int8)
        for mask, row in zip(masks, rows, strict=True):
            self._fill(mask, dynamics, row)
        return masks

    def _fill(self, mask: Mask, dynamics: Dynamics, row: int) -> None:
        episode = dynamics.episodes[row]
        if episode.stop_reason is not None or episode.pending is not None:
            mask.fill(1)
            return
        state = self._state(dynamics, row)
        masked = self._masked(state, self._blanks(state, dynamics, row))
        if masked is None:
            mask.fill(1)
        else:
            mask[:] = self._has_text
            mask[masked] = 0

    # The state of an episode.

    def _state(self, dynamics: Dynamics, row: int) -> _MaskState:
        episode = dynamics.episodes[row]
        grammar = self._follow(dynamics, row)
        opened = frozenset(episode.opened) if episode.opened else _NOTHING
        searches = self._searches_left(dynamics, row)
        depth = self._depth(dynamics, row) if self._answer.bracket else 0
        return _MaskState(dynamics.automaton_state(row), grammar, opened, searches, depth)

    def _depth(self, dynamics: Dynamics, row: int) -> int:
        """Return how many brackets an open answer has to close before its own."""
        inside = dynamics.written_inside(row, self._answer.name) or b""
        opening, closing = self._answer.bracket.encode(), self._answer.close.encode()
        return min(inside.count(opening) - inside.count(closing), self._deepest)

    def _follow(self, dynamics: Dynamics, row: int) -> GrammarState:
        """Return the row's grammar state; only events since the last call are read."""
        episode = dynamics.episodes[row]
        followed, count, state = self._followed.get(row, (None, 0, None))
        if followed is not episode or state is None:
            count, state = 0, self._grammar.start(prompt_thoughts(dynamics.transcript(row)))
        if followed is not episode or count < len(episode.events):
            for _, tag in self._grammar.steps(episode.events[count:]):
                state = self._grammar.advance(state, tag) or state
            self._followed[row] = (episode, len(episode.events), state)
        return state

    def _searches_left(self, dynamics: Dynamics, row: int) -> int:
        """Return how many queries, the first closed by the next token, would be run; at most 2."""
        protocol, episode = self._protocol, dynamics.episodes[row]
        if dynamics.length(row) + 1 + self._frame > protocol.max_tokens:
            return 0
        limit = protocol.max_policy_tokens
        if limit is not None and dynamics.policy_tokens(row) + 1 >= limit:
            return 0
        left = 2  # more make no difference to one token
        if protocol.max_searches is not None:
            left = min(left, protocol.max_searches - episode.num_searches)
        if protocol.max_turns is not None:
            left = min(left, protocol.max_turns - episode.num_turns)
        return max(left, 0)

    def _blanks(self, state: _MaskState, dynamics: Dynamics, row: int) -> tuple[bool, ...]:
        """Return, for each way to close the open query now, whether it would be empty."""
        pair = state.grammar.open
        if pair not in self._tools:
            return ()
        closings = self._closings(state.automaton, pair)
        query = dynamics.written_inside(row, pair) if closings else None
        if query is None:
            return ()
        return tuple(self._is_blank(query[: len(query) - c.cut] + c.more) for c in closings)

    def _is_blank(self, query: bytes) -> bool:
        return not self._protocol.clean_query(query.decode("utf-8", "replace")).strip()

    # The ids to mask out. Slow, and cached.

    def _compute_ending_ids(self, automaton: int) -> tuple[tuple[Ends, Indices], ...]:
        """Return the ids that end tags or the sequence in an automaton state, by their ends."""
        events = self._event[automaton]
        return tuple(
            (self._ends[event], np.flatnonzero((events == event)[self._classes]))
            for event in np.unique(events[events > 0]).tolist()
        )

    def _compute_closings(self, automaton: int, pair: str) -> tuple[_Closing, ...]:
        """Return the ids that close an open query before they end any other tag."""
        ways: dict[tuple[int, bytes], list[int]] = {}
        closing, closing_bytes = self._tools[pair].closing, len(self._tools[pair].close.encode())
        for ends, ids in self._ending_ids(automaton):
            if ends[0].tag < 0 or self._tags[ends[0].tag][0] != closing:
                continue
            for token in ids.tolist():
                text = self._tokenizer.token_bytes[token]
                begin = len(text) - ends[0].bytes_after - closing_bytes
                ways.setdefault((max(0, -begin), text[: max(0, begin)]), []).append(token)
        return tuple(_Closing(*way, np.array(ids)) for way, ids in ways.items())

    def _compute_masked(self, state: _MaskState, blanks: tuple[bool, ...]) -> Indices | None:
        """Return the ids with text to mask out, or None where those would be all."""
        masked: list[int] = []
        for ends, ids in self._tag_ids(state):
            if self._accepts(state, ends):
                masked += [i for i in ids if self._has_blank_query(i, ends)]
            else:
                masked += ids
        if blanks:
            closings = self._closings(state.automaton, state.grammar.open)
            for closing, blank in zip(closings, blanks, strict=True):
                masked += closing.ids.tolist() if blank else []
        indices = np.unique(np.array(masked, np.int64))
        return None if self._has_text[indices].sum() == self._has_text.sum() else indices

    def _tag_ids(self, state: _MaskState) -> Iterable[tuple[Ends, list[int]]]:
        """Return the ids that end tags or the sequence, by those of their ends that are tags."""
        if not self._answer.bracket:
            return [(ends, ids.tolist()) for ends, ids in self._ending_ids(state.automaton)]
        by_ends: dict[Ends, list[int]] = {}
        for ends, ids in self._ending_ids(state.automaton):
            for token in ids.tolist():
                by_ends.setdefault(self._without_plain(state, token, ends), []).append(token)
        return by_ends.items()

    def _without_plain(self, state: _MaskState, token: int, ends: Ends) -> Ends:
        """Return the ends of an id without the brackets that do not close the answer."""
        text, answer, kept = self._tokenizer.token_bytes[token], self._answer, []
        depth = state.depth if answer.name in state.opened else None
        done = 0  # brackets up to here are counted
        for end in ends:
            tag, pair = self._tags[end.tag] if end.tag >= 0 else (None, None)
            stop = len(text) - end.bytes_after
            if tag == answer.opening:
                depth, done = 0, stop
            elif pair is not None and pair.role is TagRole.TOOL and tag == pair.closing:
                depth = None  # an answer that is open is dropped
            elif tag == answer.closing:
                if depth is not None:
                    depth += text[done:stop].count(answer.bracket.encode())
                    done = stop
                if depth != 0:
                    depth = None if depth is None else depth - 1
                    continue
            kept.append(end)
        return tuple(kept)

    def _accepts(self, mask_state: _MaskState, ends: Ends) -> bool:
        """Return whether the rules allow all ends of an id, in order, whatever the texts."""
        _, state, opened, searches, _ = mask_state
        closed = False
        for end in ends:
            if end.tag < 0:
                return False
            tag, pair = self._tags[end.tag]
            after = self._grammar.advance(state, tag)
            if after is None:
                return False
            state = after
            if pair.role is TagRole.REASON:
                continue
            if tag.side == "open":
                if opened or (pair.role is TagRole.TOOL and not searches):
                    return False
                opened = frozenset({pair.name})
            elif pair.name not in opened or closed:
                return False  # of two queries in one id, only the last would get documents
            elif pair.role is TagRole.ANSWER:
                return True
            elif not searches:
                return False
            else:
                opened, searches, closed = _NOTHING, searches - 1, True
        return True

    def _has_blank_query(self, token: int, ends: Ends) -> bool:
        """Return whether an id opens a query and closes it around blank text."""
        text = self._tokenizer.token_bytes[token]
        opened: dict[str, int] = {}
        for end in ends:
            if end.tag < 0:
                break
            tag, pair = self._tags[end.tag]
            stop = len(text) - end.bytes_after
            if tag.side == "open":
                opened[pair.name] = stop
            elif pair.role is TagRole.TOOL and pair.name in opened:
                return self._is_blank(text[opened[pair.name] : stop - len(pair.close.encode())])
        return False
