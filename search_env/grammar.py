"""The grammar of tags: what a well-formed episode is, told once.

The tags that a policy writes are read by a small state machine: queries and answers do not nest,
document tags are not the policy's, a thought is closed before the answer, and the answer ends the
episode. The action mask asks it before a token is written, rewards and format rates ask it after
the episode. It judges policy tags only (events), so retrieved text has no say.

A thought that the prompt opened is closed once and not opened again, as in R1-Searcher. Where the
prompt opens none, thoughts are the policy's to open and close, as in Search-R1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

from search_env.protocols import Consequence, Protocol, get_protocol
from search_env.types import Event, FormatFault, Source, Tag, TagWritten, Transcript

_NOTICE = 255  # beside the numbers of tags
_SPARE = 2  # ids of white space that mostly follow the prompt's last tag
_CUT = 4  # characters that a cut through the bytes of one may leave, and one more


class GrammarState(NamedTuple):
    """Where an episode stands between two tags.

    Attributes:
        open: The opening tag of what is open beside a thought: a query, an answer, or nothing.
        thinking: Whether a thought is open.
        may_think: Whether the policy may open a thought.
    """

    open: Tag | None
    thinking: bool
    may_think: bool


def start(prompt_opens_thought: bool) -> GrammarState:
    """Return the state after the prompt."""
    return GrammarState(None, prompt_opens_thought, not prompt_opens_thought)


def advance(state: GrammarState, tag: Tag | None) -> GrammarState | None:
    """Return the state after a tag, or None where the tag breaks the grammar.

    In place of a tag, None is a notice: it begins a new segment, in which no query and no answer
    is open.

    Example:
        >>> inside = advance(start(True), Tag.QUERY_OPEN)
        >>> advance(inside, Tag.QUERY_CLOSE) == start(True)
        True
        >>> advance(start(True), Tag.ANSWER_OPEN) is None  # the thought is still open
        True
    """
    if tag is None:
        return state._replace(open=None)
    if tag is Tag.QUERY_CLOSE or tag is Tag.ANSWER_CLOSE:
        opening = Tag.QUERY_OPEN if tag is Tag.QUERY_CLOSE else Tag.ANSWER_OPEN
        return state._replace(open=None) if state.open is opening else None
    if state.open is not None:
        return None
    if tag is Tag.QUERY_OPEN or (tag is Tag.ANSWER_OPEN and not state.thinking):
        return state._replace(open=tag)
    if tag is Tag.THINK_OPEN and state.may_think and not state.thinking:
        return state._replace(thinking=True)
    if tag is Tag.THINK_CLOSE and state.thinking:
        return state._replace(thinking=False)
    return None


def steps(events: Iterable[Event], protocol: Protocol) -> list[tuple[int, Tag | None]]:
    """Return what moves the grammar's state, with its positions: for :func:`advance`, in order.

    The tags that the policy wrote, and None where a fault led to a notice.
    """
    found: list[tuple[int, Tag | None]] = []
    faults = protocol.faults
    for event in events:
        if isinstance(event, TagWritten):
            found.append((event.position, event.tag))
        elif isinstance(event, FormatFault) and faults.get(event.kind) is Consequence.NOTICE:
            found.append((event.position, None))
    return found


def format_violations(transcript: Transcript) -> tuple[str, ...]:
    """Return what an episode did against the grammar, in order; empty means well formed.

    Each is the value of a :class:`~search_env.types.FaultKind`, or one of ``misplaced_tag``,
    ``unclosed_tag`` and ``no_answer``.

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
    moves = steps(events, get_protocol(transcript.protocol))
    codes = bytes([_NOTICE if tag is None else tag for _, tag in moves])
    misplaced, ending = _read(prompt_opens_thought(transcript), codes)
    # Where a fault stands beside it, that says it already.
    places = [moves[i][0] for i in misplaced if moves[i][0] not in faulty]
    found += [(position, "misplaced_tag") for position in places]
    kinds = [kind for _, kind in sorted(found)]
    if ending.open is not None or ending.thinking:
        kinds.append("unclosed_tag")
    if transcript.answer is None:
        kinds.append("no_answer")
    return tuple(kinds)


@functools.lru_cache(maxsize=4096)
def _read(prompt_opens: bool, codes: bytes) -> tuple[tuple[int, ...], GrammarState]:
    """Return which of the tags are out of place, and where the others lead.

    Tags come as bytes, which hash ten times as fast: most episodes write the same ones.
    """
    state, misplaced = start(prompt_opens), []
    for i, code in enumerate(codes):
        after = advance(state, None if code == _NOTICE else Tag(code))
        if after is None:
            misplaced.append(i)
        else:
            state = after
    return tuple(misplaced), state


def prompt_opens_thought(transcript: Transcript) -> bool:
    """Return whether the prompt's last word is the tag that opens a thought."""
    opening = get_protocol(transcript.protocol).tags.get(Tag.THINK_OPEN)
    if opening is None:
        return False
    length = transcript.sources.tobytes().rfind(Source.PROMPT) + 1
    taken = len(opening) + _SPARE
    while True:  # prompts are long, and mostly the first look at their end decides
        tail = transcript.decode(transcript.tokens[max(0, length - taken) : length]).rstrip()
        if taken >= length or len(tail) >= len(opening) + _CUT:
            return tail.endswith(opening)
        taken *= 2
