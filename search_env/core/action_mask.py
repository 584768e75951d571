"""The action mask: which ids keep an episode within its protocol's grammar, told before the step.

An id is refused where the grammar of :mod:`search_env.protocols.grammar` or the rules of
:mod:`search_env.core.dynamics` would record a violation for it in that very step. Beyond that only
two kinds are refused: an id that opens a query which could not be run, and an id without text
(padded logits). The mask does not plan: a budget may still be spent before the episode answers.

Few ids end a tag in any state of the automaton, so a mask is one array of ones in which a few,
kept, places are set to 0. Nothing here writes to an episode.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_env.core.dynamics import Dynamics
from search_env.core.episode_state import EpisodeState
from search_env.protocols.grammar import GrammarState, grammar_of, prompt_thoughts
from search_env.tokens.tag_automaton import EVENT_SHIFT, Ends, load_tag_automaton
from search_env.types import TagPair, TagRole, pairs_by_tag

_KEPT_STATES = 4096  # each holds a few ids, at most some hundred
_NOTHING: frozenset[str] = frozenset()  # one object, whose hash is kept

Mask: TypeAlias = NDArray[np.int8]
Places: TypeAlias = NDArray[np.int64]


class _Standing(NamedTuple):
    """What decides about ids, beside the text of an open query.

    Attributes:
        automaton: State of the automaton.
        grammar: State of the grammar.
        held: Names of the queries and answers that the environment holds open. It is what the
            grammar holds open, unless the grammar was broken before.
        searches: How many queries may still be closed and run: 0, 1 or (two or more) 2.
    """

    automaton: int
    grammar: GrammarState
    held: frozenset[str]
    searches: int


class _Closing(NamedTuple):
    """Ids that close an open query around the same text: all but its last ``cut`` bytes, ``more``.

    ``cut`` are those bytes of the closing tag that are written already.
    """

    cut: int
    more: bytes
    ids: Places


class ActionMasks:
    """The masks of one protocol over one tokenizer.

    Args:
        dynamics: Any of that protocol and tokenizer. The masks of others of the same kind (clones,
            more rows) may be asked for as well.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("SearchQA-Toy-v0", action_mask=True)
        >>> _, info = env.reset(seed=0)
        >>> refused = (info["action_mask"] == 0).nonzero()[0]
        >>> [env.unwrapped.tokenizer.decode([i]) for i in refused]
        ['<|endoftext|>', '</q>', '</a>', '<d>', '</d>']
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self._protocol, self._tokenizer = dynamics.protocol, dynamics.tokenizer
        self._tags = tuple(pairs_by_tag(self._protocol.tags).items())
        self._tools = {pair.name: pair for pair in self._protocol.pairs(TagRole.TOOL)}
        self._grammar = grammar_of(self._protocol.markup)
        automaton = load_tag_automaton(self._tokenizer, self._protocol.tag_texts)
        self._classes, self._ends = automaton.classes, automaton.events
        self._event = automaton.table >> EVENT_SHIFT
        self._written = np.array([bool(text) for text in self._tokenizer.token_bytes], np.int8)
        # What the smallest block of documents takes: a query closed with less room is not answered.
        frame = (self._protocol.documents_prefix, self._protocol.documents_suffix)
        self._frame = max(1, sum(len(self._tokenizer.encode(text)) for text in frame))
        self._followed: dict[int, tuple[EpisodeState, int, GrammarState]] = {}
        self._enders = functools.lru_cache(_KEPT_STATES)(self._find_enders)
        self._closings = functools.lru_cache(_KEPT_STATES)(self._find_closings)
        self._refused = functools.lru_cache(_KEPT_STATES)(self._find_refused)

    def of(self, dynamics: Dynamics, row: int) -> Mask:
        """Return the mask of one row, int8 ``(n,)``, a fresh array: 1 allowed, 0 refused.

        At least one id is allowed. Where nothing is to be decided all are: in an episode that has
        ended, one that waits for documents, and where the vocabulary has no id that could go on.
        """
        mask = np.empty(len(self._written), np.int8)
        self._fill(mask, dynamics, row)
        return mask

    def batch(self, dynamics: Dynamics, rows: Sequence[int]) -> Mask:
        """Return the masks of some rows, int8 ``(len(rows), n)``, a fresh array."""
        masks = np.empty((len(rows), len(self._written)), np.int8)
        for mask, row in zip(masks, rows, strict=True):
            self._fill(mask, dynamics, row)
        return masks

    def _fill(self, mask: Mask, dynamics: Dynamics, row: int) -> None:
        episode = dynamics.episodes[row]
        if episode.stop_reason is not None or episode.pending is not None:
            mask.fill(1)
            return
        standing = self._standing(dynamics, row)
        refused = self._refused(standing, self._blanks(standing, dynamics, row))
        if refused is None:
            mask.fill(1)
        else:
            mask[:] = self._written
            mask[refused] = 0

    # Where an episode stands.

    def _standing(self, dynamics: Dynamics, row: int) -> _Standing:
        episode = dynamics.episodes[row]
        grammar = self._follow(dynamics, row)
        held = frozenset(episode.opened) if episode.opened else _NOTHING
        searches = self._searches_left(dynamics, row)
        return _Standing(dynamics.automaton_state(row), grammar, held, searches)

    def _follow(self, dynamics: Dynamics, row: int) -> GrammarState:
        """Return the row's grammar state; only events since the last call are read."""
        episode = dynamics.episodes[row]
        known, seen, state = self._followed.get(row, (None, 0, None))
        if known is not episode or state is None:
            seen, state = 0, self._grammar.start(prompt_thoughts(dynamics.transcript(row)))
        if known is not episode or seen < len(episode.events):
            for _, tag in self._grammar.steps(episode.events[seen:]):
                state = self._grammar.advance(state, tag) or state
            self._followed[row] = (episode, len(episode.events), state)
        return state

    def _searches_left(self, dynamics: Dynamics, row: int) -> int:
        """Return how many queries, the first of them closed by the next token, would be run."""
        protocol, episode = self._protocol, dynamics.episodes[row]
        if dynamics.length(row) + 1 + self._frame > protocol.max_tokens:
            return 0
        most = protocol.max_policy_tokens
        if most is not None and dynamics.policy_tokens(row) + 1 >= most:
            return 0
        left = 2  # no token can use more
        if protocol.max_searches is not None:
            left = min(left, protocol.max_searches - episode.num_searches)
        if protocol.max_turns is not None:
            left = min(left, protocol.max_turns - episode.num_turns)
        return max(left, 0)

    def _blanks(self, standing: _Standing, dynamics: Dynamics, row: int) -> tuple[bool, ...]:
        """Return, for each way to close the open query now, whether it would be empty."""
        pair = standing.grammar.open
        if pair not in self._tools:
            return ()
        closings = self._closings(standing.automaton, pair)
        query = dynamics.written_inside(row, pair) if closings else None
        if query is None:
            return ()
        return tuple(self._is_blank(query[: len(query) - c.cut] + c.more) for c in closings)

    def _is_blank(self, query: bytes) -> bool:
        return not self._protocol.clean_query(query.decode("utf-8", "replace")).strip()

    # What is refused there. Slow, and kept.

    def _find_enders(self, automaton: int) -> tuple[tuple[Ends, Places], ...]:
        """Return the ids that end something in a state of the automaton, by what they end."""
        events = self._event[automaton]
        return tuple(
            (self._ends[event], np.flatnonzero((events == event)[self._classes]))
            for event in np.unique(events[events > 0]).tolist()
        )

    def _find_closings(self, automaton: int, pair: str) -> tuple[_Closing, ...]:
        """Return the ids that close an open query before they end anything else."""
        ways: dict[tuple[int, bytes], list[int]] = {}
        closing = self._tools[pair].closing
        for ends, ids in self._enders(automaton):
            if ends[0].tag < 0 or self._tags[ends[0].tag][0] != closing:
                continue
            for token in ids.tolist():
                text = self._tokenizer.token_bytes[token]
                begin = len(text) - ends[0].bytes_after - _closing_bytes(self._tools[pair])
                ways.setdefault((max(0, -begin), text[: max(0, begin)]), []).append(token)
        return tuple(_Closing(*way, np.array(ids)) for way, ids in ways.items())

    def _find_refused(self, standing: _Standing, blanks: tuple[bool, ...]) -> Places | None:
        """Return the ids with text that are refused, or None where that would be all of them."""
        refused: list[int] = []
        for ends, ids in self._enders(standing.automaton):
            if self._accepts(standing, ends):
                refused += [i for i in ids.tolist() if self._holds_blank(i, ends)]
            else:
                refused += ids.tolist()
        if blanks:
            closings = self._closings(standing.automaton, standing.grammar.open)
            for closing, blank in zip(closings, blanks, strict=True):
                refused += closing.ids.tolist() if blank else []
        places = np.unique(np.array(refused, np.int64))
        return None if self._written[places].sum() == self._written.sum() else places

    def _accepts(self, standing: _Standing, ends: Ends) -> bool:
        """Return whether all that an id ends may end, in order, leaving texts aside."""
        _, state, held, searches = standing
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
                if held or (pair.role is TagRole.TOOL and not searches):
                    return False
                held = frozenset({pair.name})
            elif pair.name not in held or closed:
                return False  # of two queries in one id, only the last would get documents
            elif pair.role is TagRole.ANSWER:
                return True
            elif not searches:
                return False
            else:
                held, searches, closed = _NOTHING, searches - 1, True
        return True

    def _holds_blank(self, token: int, ends: Ends) -> bool:
        """Return whether an id opens a query and closes it around nothing."""
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
                return self._is_blank(text[opened[pair.name] : stop - _closing_bytes(pair)])
        return False


def _closing_bytes(pair: TagPair) -> int:
    return len(pair.close.encode())
