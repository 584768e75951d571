"""The grammar of tags: what a well-formed episode is, told once.

The tags that a policy writes are read by a small state machine: queries and answers do not nest,
document tags are not the policy's, every thought is closed before the answer, and the answer ends
the episode. The action mask asks it before a token is written, rewards and format rates ask it
after the episode. It judges policy tags only (events), so retrieved text has no say.

A thought that the prompt opened is closed once and not opened again, as in R1-Searcher. Thoughts
that the prompt does not open are the policy's to open and close, as in Search-R1. Where a protocol
has several pairs for thoughts, one may stand inside another, and the last opened is closed first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

from search_env.types import (
    Event,
    FormatFault,
    Markup,
    Source,
    Tag,
    TagRole,
    TagWritten,
    Transcript,
    pairs_by_tag,
)

_SPARE = 2  # ids of white space that mostly follow the prompt's last tag
_CUT = 4  # characters that a cut through the bytes of one may leave, and one more


class GrammarState(NamedTuple):
    """Where an episode stands between two tags. Pairs of tags are told by their names.

    Attributes:
        open: The query or the answer that is open, or "".
        thoughts: The thoughts that are open, the last opened last.
        given: The thoughts that the prompt opened, which the policy may not open again.
    """

    open: str
    thoughts: tuple[str, ...]
    given: tuple[str, ...]


class Grammar:
    """The grammar of one protocol's tags.

    Args:
        markup: Of the protocol.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> query, answer = (R1_SEARCHER.pair(role) for role in (TagRole.TOOL, TagRole.ANSWER))
        >>> grammar = Grammar(R1_SEARCHER.markup)
        >>> begun = grammar.start(("think",))
        >>> inside = grammar.advance(begun, query.opening)
        >>> grammar.advance(inside, query.closing) == begun
        True
        >>> grammar.advance(begun, answer.opening) is None  # the thought is still open
        True
    """

    def __init__(self, markup: Markup) -> None:
        self._pairs = pairs_by_tag(markup.tags)
        self._noticed = markup.noticed

    def start(self, thoughts: tuple[str, ...]) -> GrammarState:
        """Return the state after a prompt that leaves these thoughts open."""
        return GrammarState("", thoughts, thoughts)

    def advance(self, state: GrammarState, tag: Tag | None) -> GrammarState | None:
        """Return the state after a tag, or None where the tag breaks the grammar.

        In place of a tag, None is a notice: it begins a new segment, in which no query and no
        answer is open.
        """
        if tag is None:
            return state._replace(open="")
        pair = self._pairs.get(tag)
        if pair is None or pair.role is TagRole.DOCUMENTS:
            return None
        if pair.role is TagRole.REASON:
            return None if state.open else self._think(state, tag)
        if tag.side == "close":
            return state._replace(open="") if state.open == pair.name else None
        if state.open or (pair.role is TagRole.ANSWER and state.thoughts):
            return None
        return state._replace(open=pair.name)

    def _think(self, state: GrammarState, tag: Tag) -> GrammarState | None:
        """Return the state after a thought's tag outside of queries and answers."""
        thoughts = state.thoughts
        if tag.side == "close":
            return state._replace(thoughts=thoughts[:-1]) if thoughts[-1:] == (tag.pair,) else None
        if tag.pair in thoughts or tag.pair in state.given:
            return None
        return state._replace(thoughts=(*thoughts, tag.pair))

    def steps(self, events: Iterable[Event]) -> list[tuple[int, Tag | None]]:
        """Return what moves the state, with its positions: for :meth:`advance`, in order.

        The tags that the policy wrote, and None where a fault led to a notice.
        """
        found: list[tuple[int, Tag | None]] = []
        for event in events:
            if isinstance(event, TagWritten):
                found.append((event.position, event.tag))
            elif isinstance(event, FormatFault) and event.kind in self._noticed:
                found.append((event.position, None))
        return found


@functools.lru_cache(maxsize=64)
def grammar_of(markup: Markup) -> Grammar:
    """Return the grammar of a protocol's tags, always the same one."""
    return Grammar(markup)


def format_violations(transcript: Transcript) -> tuple[str, ...]:
    """Return what an episode did against the grammar, in order; empty means well formed.

    Each is the value of a :class:`~search_env.types.FaultKind`, or one of ``misplaced_tag``,
    ``unclosed_tag`` and ``no_answer``.

    Raises:
        ConfigurationError: The transcript has no markup.

    Example:
        >>> import gymnasium as gym
        >>> env = gym.make("SearchQA-Toy-v0")
        >>> _ = env.reset(seed=0)
        >>> _ = env.step(env.unwrapped.tokenizer.encode("<a>")[0])
        >>> format_violations(env.unwrapped.transcript())
        ('unclosed_tag', 'no_answer')
    """
    events = transcript.events
    found = [(e.position, e.kind.value) for e in events if isinstance(e, FormatFault)]
    faulty = {position for position, _ in found}
    grammar = grammar_of(transcript.required_markup())
    moves = grammar.steps(events)
    misplaced, ending = _read(grammar, prompt_thoughts(transcript), tuple([t for _, t in moves]))
    # Where a fault stands beside it, that says it already.
    places = [moves[i][0] for i in misplaced if moves[i][0] not in faulty]
    found += [(position, "misplaced_tag") for position in places]
    kinds = [kind for _, kind in sorted(found)]
    if ending.open or ending.thoughts:
        kinds.append("unclosed_tag")
    if transcript.answer is None:
        kinds.append("no_answer")
    return tuple(kinds)


@functools.lru_cache(maxsize=4096)
def _read(
    grammar: Grammar, given: tuple[str, ...], tags: tuple[Tag | None, ...]
) -> tuple[tuple[int, ...], GrammarState]:
    """Return which of the tags are out of place, and where the others lead.

    Kept, because most episodes write the same ones.
    """
    state, misplaced = grammar.start(given), []
    for i, tag in enumerate(tags):
        after = grammar.advance(state, tag)
        if after is None:
            misplaced.append(i)
        else:
            state = after
    return tuple(misplaced), state


def prompt_thoughts(transcript: Transcript) -> tuple[str, ...]:
    """Return the thoughts that the prompt leaves open: those that its last words open, in order.

    Raises:
        ConfigurationError: The transcript has no markup.
    """
    pairs = transcript.required_markup().tags
    names = {pair.open: pair.name for pair in pairs if pair.role is TagRole.REASON}
    if not names:
        return ()
    longest = max(map(len, names))
    length = transcript.sources.tobytes().rfind(Source.PROMPT) + 1
    taken = longest + _SPARE
    found: tuple[str, ...]
    while True:  # prompts are long, and mostly the first look at their end decides
        before = transcript.decode(transcript.tokens[max(0, length - taken) : length]).rstrip()
        left, found = tuple(names), ()
        while left and before.endswith(left):
            opening = next(filter(before.endswith, left))
            left = tuple(text for text in left if text != opening)
            found = (names[opening], *found)
            before = before.removesuffix(opening).rstrip()
        if not left or taken >= length or len(before) >= longest + _CUT:
            return found
        taken *= 2


def open_thoughts(transcript: Transcript) -> tuple[str, ...]:
    """Return the names of the thoughts that the policy stands in, the last opened last.

    One that the prompt left open counts, and so does one that the policy should not have opened.

    Raises:
        ConfigurationError: The transcript has no markup.
    """
    pairs = transcript.required_markup().tags
    reasons = {pair.name for pair in pairs if pair.role is TagRole.REASON}
    thoughts = list(prompt_thoughts(transcript))
    for event in transcript.events:
        if isinstance(event, TagWritten) and event.tag.pair in reasons:
            if event.tag.pair in thoughts:
                thoughts.remove(event.tag.pair)
            if event.tag.side == "open":
                thoughts.append(event.tag.pair)
    return tuple(thoughts)
