"""What a policy writes to search and to answer: text between a protocol's tags.

For scripted agents and for people at a terminal, so that neither knows a protocol by name. Text
that goes between tags is freed of tags first: a title that spells ``</search>`` cannot close the
query it stands in. Nothing is encoded here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from search_env.errors import ProtocolError
from search_env.protocols.protocol import Protocol
from search_env.types import TagPair, TagRole
from search_env.validation import check_choice


def query_text(protocol: Protocol, query: str, *, tool: str | None = None) -> str:
    """Return what a policy writes to search.

    Args:
        protocol: Whose tags to write.
        query: The query's text.
        tool: The tool to call; None for that of the protocol's first query.

    Raises:
        ProtocolError: The protocol has no tags for that tool.

    Example:
        >>> from search_env.protocols.search_r1 import SEARCH_R1
        >>> query_text(SEARCH_R1, "capital of </search> Norway")
        '<search> capital of Norway </search>'
    """
    if tool is None:
        return _between(protocol, protocol.pair(TagRole.TOOL), query)
    tools = {pair.tool: pair for pair in reversed(protocol.pairs(TagRole.TOOL))}
    check_choice(f"tool of protocol {protocol.name!r}", tool, tools, error=ProtocolError)
    return _between(protocol, tools[tool], query)


def answer_text(protocol: Protocol, answer: str, *, thoughts: Sequence[str] = ()) -> str:
    r"""Return what a policy writes to answer.

    Args:
        protocol: Whose tags to write.
        answer: The answer's text.
        thoughts: Names of the thoughts that are open and must be closed first, the last opened
            last, see :func:`search_env.protocols.grammar.open_thoughts`.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> answer_text(R1_SEARCHER, "Oslo", thoughts=["think"])
        '</think>\n\n<answer> Oslo </answer>'
    """
    return close_thoughts(protocol, thoughts) + _between(
        protocol, protocol.pair(TagRole.ANSWER), answer
    )


def close_thoughts(protocol: Protocol, thoughts: Sequence[str]) -> str:
    r"""Return what a policy writes to close thoughts, the last opened first.

    Args:
        protocol: Whose tags to write.
        thoughts: Names of the pairs of tags, the last opened last.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> close_thoughts(R1_SEARCHER, ["think"])
        '</think>\n\n'
    """
    closings = {pair.name: pair.close for pair in protocol.pairs(TagRole.REASON)}
    return "".join(f"{closings[name]}\n\n" for name in reversed(thoughts))


def without_tags(protocol: Protocol, text: str) -> str:
    """Return a text without any of the protocol's tags, its white space collapsed.

    Example:
        >>> from search_env.protocols.search_r1 import SEARCH_R1
        >>> without_tags(SEARCH_R1, "a <sea<answer>rch> b")
        'a b'
    """
    tags = re.compile("|".join(re.escape(tag) for tag in protocol.tag_texts))
    found = 1
    while found:  # taking one tag out may join the two halves of another
        text, found = tags.subn("", text)
    return " ".join(text.split())


def _between(protocol: Protocol, pair: TagPair, text: str) -> str:
    """Return the text in tags, spaces around it so that no tag can form with its neighbours."""
    return f"{pair.open} {without_tags(protocol, text)} {pair.close}"
