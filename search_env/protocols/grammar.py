"""The grammar of tags: the one definition of a well-formed episode.

A small state machine reads the tags that a policy writes: queries and answers do not nest, the
policy writes no document tags, every thought is closed before the answer, and the answer ends the
episode. The action mask uses it before a token is written; rewards and format rates use it after
the episode. It reads events of the policy only, so retrieved text has no influence.

A thought that the prompt opened is closed once and not opened again, as in R1-Searcher. Thoughts
that the prompt does not open are opened and closed by the policy, as in Search-R1. Where a protocol
has several pairs for thoughts, they may nest, and the last opened is closed first.
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

_SPARE = 2  # white-space ids that usually follow the prompt's last tag
_CUT = 4  # characters that a cut inside a multi-byte character may leave, plus one


class GrammarState(NamedTuple):
    """State of an episode between two tags. Pairs of tags are identified by name."""

    open: str  # the open query or answer, or ""
    thoughts: tuple[str, ...]  # the open ones, the last opened last
    prompted: tuple[str, ...]  # those that the prompt opened; the policy may not open them again


class Grammar:
    """The grammar of one protocol's tags.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> query, answer = (R1_SEARCHER.pair(role) for role in (TagRole.TOOL, TagRole.ANSWER))
        >>> grammar = Grammar(R1_SEARCHER.markup)
        >>> start = grammar.start(("think",))
        >>> inside = grammar.advance(start, query.opening)
        >>> grammar.advance(inside, query.closing) == start
        True
        >>> grammar.advance(start, answer.opening) is None  # the thought is still open
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

        For a tag, None is a notice: it begins a new segment, without an open query or answer.
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
        if tag.pair in thoughts or tag.pair in state.prompted:
            return None
        return state._replace(thoughts=(*thoughts, tag.pair))

    def steps(self, events: Iterable[Event]) -> list[tuple[int, Tag | None]]:
        """Return the arguments of :meth:`advance`, in order, each after its position."""
        steps: list[tuple[int, Tag | None]] = []
        for event in events:
            if isinstance(event, TagWritten):
                steps.append((event.position, event.tag))
            elif isinstance(event, FormatFault) and event.kind in self._noticed:
                steps.append((event.position, None))
        return steps


@functools.lru_cache(maxsize=64)
def grammar_of(markup: Markup) -> Grammar:
    """Return the grammar of a protocol's tags; the last 64 are cached."""
    return Grammar(markup)


def format_violations(transcript: Transcript) -> tuple[str, ...]:
    """Return an episode's violations of the grammar, in order; empty means well formed.

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
    violations = [(e.position, e.kind.value) for e in events if isinstance(e, FormatFault)]
    faulty = {position for position, _ in violations}
    grammar = grammar_of(transcript.required_markup())
    steps = grammar.steps(events)
    misplaced, final = _read(grammar, prompt_thoughts(transcript), tuple([t for _, t in steps]))
    # A fault at the same position already reports a misplaced tag.
    positions = [steps[i][0] for i in misplaced if steps[i][0] not in faulty]
    violations += [(position, "misplaced_tag") for position in positions]
    kinds = [kind for _, kind in sorted(violations)]
    kinds += ["unclosed_tag"] if final.open or final.thoughts else []
    kinds += ["no_answer"] if transcript.answer is None else []
    return tuple(kinds)


@functools.lru_cache(maxsize=4096)  # most episodes write the same tags
def _read(
    grammar: Grammar, prompted: tuple[str, ...], tags: tuple[Tag | None, ...]
) -> tuple[tuple[int, ...], GrammarState]:
    """Return the indices of misplaced tags, and the state after the others."""
    state, misplaced = grammar.start(prompted), []
    for i, tag in enumerate(tags):
        after = grammar.advance(state, tag)
        if after is None:
            misplaced.append(i)
        else:
            state = after
    return tuple(misplaced), state


def prompt_thoughts(transcript: Transcript) -> tuple[str, ...]:
    """Return the thoughts that the prompt leaves open: whose opening tags end it, in order."""
    pairs = transcript.required_markup().tags
    names = {pair.open: pair.name for pair in pairs if pair.role is TagRole.REASON}
    if not names:
        return ()
    longest = max(map(len, names))
    length = transcript.sources.tobytes().rfind(Source.PROMPT) + 1
    count = longest + _SPARE
    thoughts: tuple[str, ...]
    while True:  # prompts are long, and usually their last few tokens decide
        before = transcript.decode(transcript.tokens[max(0, length - count) : length]).rstrip()
        candidates, thoughts = tuple(names), ()
        while candidates and before.endswith(candidates):
            opening = next(filter(before.endswith, candidates))
            candidates = tuple(text for text in candidates if text != opening)
            thoughts = (names[opening], *thoughts)
            before = before.removesuffix(opening).rstrip()
        if not candidates or count >= length or len(before) >= longest + _CUT:
            return thoughts
        count *= 2


def open_thoughts(transcript: Transcript) -> tuple[str, ...]:
    """Return the names of the open thoughts, the last opened last.

    Thoughts that the prompt left open count, and those that the policy opened against the grammar.
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
