"""The text that a policy writes to search and to answer, in a protocol's tags.

For scripted agents and people at a terminal, which therefore need to know no protocol by name. Tags
inside the text are removed: a title that contains ``</search>`` cannot close its own query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from search_env.errors import ProtocolError
from search_env.protocols.protocol import Protocol
from search_env.types import TagPair, TagRole
from search_env.validation import check_choice


def query_text(protocol: Protocol, query: str, *, tool: str | None = None) -> str:
    """Return the text of a search by a tool; None is that of the protocol's first query pair.

    Raises:
        ProtocolError: The protocol has no tags for that tool.

    Example:
        >>> from search_env.protocols.search_r1 import SEARCH_R1
        >>> query_text(SEARCH_R1, "capital of </search> Norway")
        '<search> capital of Norway </search>'
    """
    tools = {pair.tool: pair for pair in reversed(protocol.pairs(TagRole.TOOL))}
    tool = protocol.pair(TagRole.TOOL).tool if tool is None else tool
    check_choice(f"tool of protocol {protocol.name!r}", tool, tools, error=ProtocolError)
    return _enclose(protocol, tools[tool], query)


def answer_text(protocol: Protocol, answer: str, *, thoughts: Sequence[str] = ()) -> str:
    r"""Return the text of an answer, after that of :func:`close_thoughts`.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> answer_text(R1_SEARCHER, "Oslo", thoughts=["think"])
        '</think>\n\n<answer> Oslo </answer>'
    """
    closing = close_thoughts(protocol, thoughts)
    return closing + _enclose(protocol, protocol.pair(TagRole.ANSWER), answer)


def close_thoughts(protocol: Protocol, thoughts: Sequence[str]) -> str:
    r"""Return the text that closes thoughts, given by name with the last opened last.

    :func:`search_env.protocols.grammar.open_thoughts` returns such names.

    Example:
        >>> from search_env.protocols.r1_searcher import R1_SEARCHER
        >>> close_thoughts(R1_SEARCHER, ["think"])
        '</think>\n\n'
    """
    closings = {pair.name: pair.close for pair in protocol.pairs(TagRole.REASON)}
    return "".join(f"{closings[name]}\n\n" for name in reversed(thoughts))


def without_tags(protocol: Protocol, text: str) -> str:
    """Return a text without any of the protocol's tags, its white space collapsed.

    Brackets of an answer in brackets are removed too.

    Example:
        >>> from search_env.protocols.search_r1 import SEARCH_R1
        >>> without_tags(SEARCH_R1, "a <sea<answer>rch> b")
        'a b'
    """
    brackets = [pair.bracket for pair in protocol.tags if pair.bracket]
    tags = re.compile("|".join(map(re.escape, [*protocol.tag_texts, *brackets])))
    removed = 1
    while removed:  # removing one tag may join the two halves of another
        text, removed = tags.subn("", text)
    return " ".join(text.split())


def _enclose(protocol: Protocol, pair: TagPair, text: str) -> str:
    """Return the text in tags, with spaces so that no tag forms with its neighbours."""
    return f"{pair.open} {without_tags(protocol, text)} {pair.close}"
