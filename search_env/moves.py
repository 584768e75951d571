"""What a policy writes to search and to answer: text between a protocol's tags.

For scripted agents and for people at a terminal, so that neither knows a protocol by name. Text
that goes between tags is freed of tags first: a title that spells ``</search>`` cannot close the
query it stands in. Nothing is encoded here.
"""

from __future__ import annotations

import re

from search_env.grammar import prompt_opens_thought
from search_env.protocols import Protocol
from search_env.types import Tag, TagWritten, Transcript


def query_text(protocol: Protocol, query: str) -> str:
    """Return what a policy writes to search.

    Example:
        >>> from search_env.protocols import SEARCH_R1
        >>> query_text(SEARCH_R1, "capital of </search> Norway")
        '<search> capital of Norway </search>'
    """
    return _between(protocol, Tag.QUERY_OPEN, query, Tag.QUERY_CLOSE)


def answer_text(protocol: Protocol, answer: str, *, thinking: bool = False) -> str:
    r"""Return what a policy writes to answer.

    Args:
        protocol: Whose tags to write.
        answer: The answer's text.
        thinking: Whether a think tag is open and must be closed first, see :func:`is_thinking`.

    Example:
        >>> from search_env.protocols import R1_SEARCHER
        >>> answer_text(R1_SEARCHER, "Oslo", thinking=True)
        '</think>\n\n<answer> Oslo </answer>'
    """
    head = protocol.tags[Tag.THINK_CLOSE] + "\n\n" if thinking else ""
    return head + _between(protocol, Tag.ANSWER_OPEN, answer, Tag.ANSWER_CLOSE)


def is_thinking(protocol: Protocol, transcript: Transcript) -> bool:
    """Return whether the policy stands inside a think tag, one that the prompt left open included.

    False in a protocol without think tags.
    """
    if not {Tag.THINK_OPEN, Tag.THINK_CLOSE} <= protocol.tags.keys():
        return False
    for event in reversed(transcript.events):
        if isinstance(event, TagWritten) and event.tag in (Tag.THINK_OPEN, Tag.THINK_CLOSE):
            return event.tag is Tag.THINK_OPEN
    return prompt_opens_thought(transcript)


def without_tags(protocol: Protocol, text: str) -> str:
    """Return a text without any of the protocol's tags, its white space collapsed.

    Example:
        >>> from search_env.protocols import SEARCH_R1
        >>> without_tags(SEARCH_R1, "a <sea<answer>rch> b")
        'a b'
    """
    tags = re.compile("|".join(re.escape(tag) for tag in protocol.tags.values()))
    found = 1
    while found:  # taking one tag out may join the two halves of another
        text, found = tags.subn("", text)
    return " ".join(text.split())


def _between(protocol: Protocol, opening: Tag, text: str, closing: Tag) -> str:
    """Return the text in tags, spaces around it so that no tag can form with its neighbours."""
    return f"{protocol.tags[opening]} {without_tags(protocol, text)} {protocol.tags[closing]}"
