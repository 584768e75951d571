"""Trajectories that other systems wrote as one text: its searches, its documents, its answer.

===================  ==========================================================================
searches and answer  written by
===================  ==========================================================================
tags of a protocol   R1-Searcher, R1-Searcher++, Search-R1
other tags           ReSearch (``<result>``), Search-o1 and SimpleDeepSearcher
tool calls           verl's tools and other frameworks: ``<tool_call>`` around JSON, results in
                     ``<tool_response>``
===================  ==========================================================================

Only what the policy wrote is searched for queries and for the answer: tags inside the documents are
text. What a text does not show is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from search_env.datasets.rows import one_line
from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS, without_style
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.types import TagRole


class Search(NamedTuple):
    """One search: its query, and the texts of its documents, which may be one for all."""

    query: str
    documents: tuple[str, ...]


class WrittenTrajectory(NamedTuple):
    """Contents of a text. ``searches`` are None where its way to search is unknown."""

    answer: str | None
    searches: tuple[Search, ...] | None


class _Tags(NamedTuple):
    """Opening and closing tags of a query, and of the documents that follow it."""

    query: tuple[str, str]
    documents: tuple[str, str]

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.query, *self.documents)


def _of(protocol: Protocol) -> _Tags:
    query, documents = protocol.pair(TagRole.TOOL), protocol.pair(TagRole.DOCUMENTS)
    return _Tags((query.open, query.close), (documents.open, documents.close))


_TAGS = (
    _of(SEARCH_R1),
    _of(R1_SEARCHER),
    _of(R1_SEARCHER_PLUS_PLUS),
    _Tags(("<search>", "</search>"), ("<result>", "</result>")),
    _Tags(
        ("<|begin_search_query|>", "<|end_search_query|>"),
        ("<|begin_search_result|>", "<|end_search_result|>"),
    ),
)
_TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_MENTION = re.compile(r"[\s`'\"]*(?:and|or|\.{3}|…|[,/&])[\s`'\"]*", re.IGNORECASE)
"""What stands between two tags that are only spoken of: "write it in <answer> and </answer>"."""
_POLICY_TAG = re.compile(r"</?(?:think|internal|answer)>")
_OTHER_SEARCH = re.compile(
    r"<[|/]*\w*(?:search|query|tool|retriev|lookup|action|observation)\w*\|?>", re.IGNORECASE
)
_CALL_OR_RESPONSE = re.compile(
    r"<tool_call>(.*?)(?:</tool_call>|<\|im_end\|>|(?=<tool_call>|<tool_response>|<answer>)|\Z)"
    r"|<tool_response>(.*?)(?:</tool_response>|<\|im_end\|>|\Z)",
    re.DOTALL,
)
_QUERY_NAMES = frozenset(
    [
        "query",
        "queries",
        "query_list",
        "search_query",
        "search_queries",
        "q",
        "question",
        "keyword",
        "keywords",
    ]
)


def read_trajectory(text: str, prompt: str = "") -> WrittenTrajectory:
    """Return the searches and the answer of a text by a policy.

    Args:
        text: What followed the prompt, documents included.
        prompt: The prompt, which may name the tags that the text does not contain.

    Example:
        >>> text = "<search> Ulm </search><information>A city</information><answer>x</answer>"
        >>> read_trajectory(text)
        WrittenTrajectory(answer='x', searches=(Search(query='Ulm', documents=('A city',)),))
        >>> read_trajectory("The answer is x.")
        WrittenTrajectory(answer=None, searches=None)
    """
    counts = [sum(text.count(tag) for tag in tags.texts) for tags in _TAGS]
    if sum(text.count(tag) for tag in _TOOL_TAGS) > max(counts):
        policy = _CALL_OR_RESPONSE.sub(" ", text)
        return WrittenTrajectory(_answer(policy), _tool_searches(text))
    tags = _TAGS[counts.index(max(counts))]
    searches, policy = _tagged_searches(text, tags)
    is_known = searches or not text.strip() or _shows_tags(policy, prompt, tags)
    return WrittenTrajectory(_answer(policy), searches if is_known else None)


def _shows_tags(policy: str, prompt: str, tags: _Tags) -> bool:
    """Return whether a text without a search is known to have none: its tags are known ones."""
    others = {tag for tag in _OTHER_SEARCH.findall(policy) if tag not in tags.texts}
    named = any(each.query[0] in prompt for each in _TAGS)
    known = ("<answer>", "<internal>", *tags.texts)
    return not others and (named or any(tag in policy for tag in known))


def _tagged_searches(text: str, tags: _Tags) -> tuple[tuple[Search, ...], str]:
    """Return the searches, and the text without their documents.

    The environment writes documents right after a query. They end at the last closing tag before
    the next search, or, where a limit cut the tag off, where the policy's tags begin again.
    """
    (query_open, query_close), (opening, closing) = tags
    starts = list(re.finditer(rf"{re.escape(query_close)}\s*{re.escape(opening)}", text))
    limits = [*(start.start() for start in starts[1:]), len(text)]
    searches, policy, at = [], [], 0
    for start, limit in zip(starts, limits, strict=False):
        before = text[at : start.start()]
        end = text.rfind(closing, start.end(), limit)
        at = end + len(closing)
        if end < 0:
            cut = re.compile(f"{_POLICY_TAG.pattern}|{re.escape(query_open)}")
            found = cut.search(text, start.end(), limit)
            end = at = found.start() if found else limit
        query = before.rpartition(query_open)[2] if query_open in before else ""
        searches.append(Search(one_line(query), (text[start.end() : end],)))
        policy += [before, query_close]
    forged = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
    return tuple(searches), forged.sub(" ", "".join([*policy, text[at:]]))


def _answer(text: str) -> str | None:
    r"""Return the last answer in tags, or else in ``\boxed``; None where there is none."""
    answers = [each for each in _ANSWER.findall(text) if not _MENTION.fullmatch(each)]
    if not answers:
        return _boxed(text)
    boxed = _boxed(answers[-1])
    return answers[-1].strip() if boxed is None else boxed


_BOXED = re.compile(r"\\f?boxed\s*\{")


def _boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` whose braces match, without its styles."""
    for start in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for brace in re.finditer(r"[{}]", text[start.end() :]):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                return without_style(text[start.end() :][: brace.start()])
    return None


def _tool_searches(text: str) -> tuple[Search, ...]:
    """Return the search of each query of the tool calls that were answered."""
    searches: list[Search] = []
    calls: list[tuple[str, ...]] = []
    responses: list[str] = []
    for match in _CALL_OR_RESPONSE.finditer(text):
        call, response = match.groups()
        if call is None:
            responses.append(response)
            continue
        if responses:  # a new turn
            searches += _paired(calls, responses)
            calls, responses = [], []
        calls.append(_queries(call))
    return (*searches, *_paired(calls, responses))


def _paired(calls: Sequence[tuple[str, ...]], responses: Sequence[str]) -> Iterator[Search]:
    """Yield the searches of one turn; calls that could not be read may have no response."""
    readable = list(calls) if len(calls) == len(responses) else [c for c in calls if c]
    for queries, response in zip(readable, responses, strict=False):
        for number, query in enumerate(queries):
            yield Search(query, () if number else _response_texts(response))


def _queries(call: str) -> tuple[str, ...]:
    """Return the queries of a tool call; () where it is no search, or no JSON."""
    try:
        content = json.loads(call)
        arguments = content.get("arguments", content.get("parameters"))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        values = [value for name, value in arguments.items() if name in _QUERY_NAMES]
    except (ValueError, AttributeError, RecursionError):
        return ()
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return tuple(one_line(text) for text in texts if isinstance(text, str) and text.strip())


def _response_texts(response: str) -> tuple[str, ...]:
    """Return the texts in a response, which tools write as JSON or as they are."""
    try:
        waiting: list[Any] = [json.loads(response)]
    except (ValueError, RecursionError):
        return (response,)
    texts = []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, str):
            texts.append(value)
    return tuple(texts)
