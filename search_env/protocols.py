"""Protocols: the tags, prompts, document layout, limits and fault rules of a published system.

A protocol is data. The rules that read it are in :mod:`search_env.dynamics`; nothing there knows
a protocol by name. Prompts are worded anew with the published content in the published order;
tags, document layout and numbers are the published ones.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from search_env.errors import ProtocolError, nearest
from search_env.types import Document, FaultKind, Tag


class Consequence(str, Enum):
    """What a format fault leads to, beside its event."""

    IGNORE = "ignore"
    """The episode goes on as if nothing had happened."""
    NOTICE = "notice"
    """The protocol's notice is inserted; it uses up a turn and begins a new segment."""
    END = "end"
    """The episode ends. For ``NO_ACTION``: by end of sequence, or by the segment's limit."""


CHAT_MARKUP: dict[str, str] = {
    "chatml": (
        "<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama-3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}
"""Chat templates of model families, by the name that ``prompt=`` takes (beside ``"base"``)."""

_MARKER = re.compile(r"(<\|[a-z_]+\|>)")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How policy and environment talk to each other.

    Attributes:
        name: What ``protocol=`` takes.
        source: Paper section, or repository file at commit.
        tags: Text of each tag that the protocol has.
        base_prompt: Prompt for a base model; holds ``{question}``.
        chat_system: System message for a chat model.
        chat_user: User message for a chat model; holds ``{question}``.
        chat_tail: Text that follows the chat template's generation prompt.
        clean_question: Applied to the question before it goes into a prompt.
        clean_query: Applied to the text between the query tags; empty means no query.
        documents_prefix: Begins an inserted block; holds the documents-open tag.
        document_rank: Begins a document; holds ``{rank}``, which counts from 1.
        document_body: The document; holds ``{text}`` and before it, if at all, ``{title}``.
        no_documents: Stands in place of the documents when nothing was found.
        documents_suffix: Ends the block; holds the documents-close tag and is never cut off.
        notice: Text for :attr:`Consequence.NOTICE`.
        faults: What each kind of fault leads to; kinds left out are ignored, except that a
            segment without an action ends the episode unless it leads to a notice.
        first_opening: With nested openings, whether the first one counts or the last.
        top_k: Documents for a query.
        max_tokens: Size of the context: prompt, policy and inserted tokens together.
        max_policy_tokens: Tokens of the policy in an episode, or None.
        max_segment_tokens: Tokens of the policy between two insertions, or None.
        max_documents_tokens: Tokens of one inserted block, or None.
        max_searches: Searches that are run in an episode, or None.
        max_turns: Turns (searches and notices) in an episode, or None.
    """

    name: str
    source: str
    tags: Mapping[Tag, str]
    base_prompt: str
    documents_prefix: str
    document_rank: str
    document_body: str
    documents_suffix: str
    chat_system: str = ""
    chat_user: str = "{question}"
    chat_tail: str = ""
    no_documents: str = ""
    notice: str = ""
    faults: Mapping[FaultKind, Consequence] = dataclasses.field(default_factory=dict)
    first_opening: bool = False
    clean_question: Callable[[str], str] = str.strip
    clean_query: Callable[[str], str] = str.strip
    top_k: int = 3
    max_tokens: int = 4096
    max_policy_tokens: int | None = None
    max_segment_tokens: int | None = None
    max_documents_tokens: int | None = None
    max_searches: int | None = None
    max_turns: int | None = None

    def __post_init__(self) -> None:
        needed = {
            "base_prompt": "{question}",
            "chat_user": "{question}",
            "document_body": "{text}",
            "documents_prefix": self._needed_tag(Tag.DOCUMENTS_OPEN),
            "documents_suffix": self._needed_tag(Tag.DOCUMENTS_CLOSE),
        }
        for field, part in needed.items():
            if part not in getattr(self, field):
                raise ProtocolError(
                    f"Expected {field} of protocol {self.name!r} to hold {part!r}, got "
                    f"{getattr(self, field)!r}. Put it where it belongs."
                )
        for tag in (Tag.QUERY_OPEN, Tag.QUERY_CLOSE, Tag.ANSWER_OPEN, Tag.ANSWER_CLOSE):
            self._needed_tag(tag)
        if Consequence.NOTICE in self.faults.values() and not self.notice:
            raise ProtocolError(
                f"Expected a notice text in protocol {self.name!r}, got ''. Set notice=, or choose "
                "another consequence for its faults."
            )
        for field in _LIMITS:
            value = getattr(self, field)
            optional = field not in ("top_k", "max_tokens")
            # max_searches=0 and max_turns=0 are closed-book episodes; other limits need room.
            least = 0 if field in ("max_searches", "max_turns") else 1
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ProtocolError(
                    f"Expected {field} to be an integer of at least {least}"
                    f"{' or None' if optional else ''}, got {value!r}. Pass {least} or more."
                )

    def _needed_tag(self, tag: Tag) -> str:
        if tag not in self.tags:
            raise ProtocolError(
                f"Expected protocol {self.name!r} to have a tag {tag.name}, got only "
                f"{', '.join(t.name for t in self.tags)}. Add its text to tags=."
            )
        return self.tags[tag]

    def limited(
        self,
        *,
        top_k: int | None = None,
        max_tokens: int | None = None,
        max_policy_tokens: int | None = None,
        max_searches: int | None = None,
    ) -> Protocol:
        """Return this protocol with those limits that are not None put in place of its own."""
        given = {
            "top_k": top_k,
            "max_tokens": max_tokens,
            "max_policy_tokens": max_policy_tokens,
            "max_searches": max_searches,
        }
        return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

    @property
    def tag_texts(self) -> tuple[str, ...]:
        """The tags' texts in the order of :class:`~search_env.types.Tag`."""
        return tuple(self.tags[tag] for tag in sorted(self.tags))

    def prompt_pieces(self, question: str, style: str) -> list[tuple[str, bool]]:
        """Return the prompt as ``(text, special)`` pieces.

        Only the chat template's own markers are special: a question that spells one stays text.

        Args:
            question: The question as asked.
            style: ``"base"`` or a name in :data:`CHAT_MARKUP`.

        Raises:
            ProtocolError: No such style.
        """
        question = self.clean_question(question)
        if style == "base":
            return [(self.base_prompt.replace("{question}", question), False)]
        if style not in CHAT_MARKUP:
            known = ["base", *CHAT_MARKUP]
            raise ProtocolError(
                f"Expected prompt to be one of {known}, got {style!r}. {nearest(style, known)}"
                "Add a template to search_env.protocols.CHAT_MARKUP for another model family."
            )
        fill = {
            "{system}": self.chat_system,
            "{user}": self.chat_user.replace("{question}", question),
        }
        pieces = []
        for piece in _MARKER.split(CHAT_MARKUP[style]):
            special = _MARKER.fullmatch(piece) is not None
            for slot, text in fill.items():
                piece = piece.replace(slot, text) if slot in piece else piece
            if piece:
                pieces.append((piece, special))
        return [*pieces, (self.chat_tail, False)] if self.chat_tail else pieces

    def document_text(self, document: Document) -> str:
        """Return a document as it is inserted, without its rank."""
        head, _, tail = self.document_body.partition("{text}")
        if not document.title:
            return document.text + tail
        return head.replace("{title}", document.title) + document.text + tail


_LIMITS = (
    "top_k",
    "max_tokens",
    "max_policy_tokens",
    "max_segment_tokens",
    "max_documents_tokens",
    "max_searches",
    "max_turns",
)


def without_quotes(query: str) -> str:
    """Clean a query as R1-Searcher does: no double quotes, white space collapsed.

    Source: RUCAIBox/R1-Searcher@631167c, experience_maker.py, _generate_vllm_with_retrieve.
    """
    return " ".join(query.replace('"', "").split())


def with_question_mark(question: str) -> str:
    """Strip a question and end it with a question mark, as Search-R1 does.

    Source: PeterGriffinJin/Search-R1@a14dc3a, scripts/data_process/qa_search_train_merge.py.
    """
    question = question.strip()
    return question if question.endswith("?") else question + "?"


_R1_RULES = (
    "First think about how to solve the question, then give the final answer. Put the reasoning "
    "between <think> and </think> and the final answer between <answer> and </answer>, like "
    "this: <think> the reasoning </think>\n\n<answer> the final answer </answer>. While thinking, "
    "**{who} may search for knowledge that {who_is} not sure of** by writing "
    "<|begin_of_query|> keywords only, no sentence (such as **keyword_1 keyword_2**) "
    "<|end_of_query|>. **A query must ask for a single triple only.** The search system then "
    "returns what it found as <|begin_of_documents|> results <|end_of_documents|>."
)

R1_SEARCHER = Protocol(
    name="r1-searcher",
    source=(
        "arXiv 2503.05592; RUCAIBox/R1-Searcher@631167c: experience_maker.py, prompts_dataset.py"
    ),
    tags={
        Tag.THINK_OPEN: "<think>",
        Tag.THINK_CLOSE: "</think>",
        Tag.QUERY_OPEN: "<|begin_of_query|>",
        Tag.QUERY_CLOSE: "<|end_of_query|>",
        Tag.ANSWER_OPEN: "<answer>",
        Tag.ANSWER_CLOSE: "</answer>",
        Tag.DOCUMENTS_OPEN: "<|begin_of_documents|>",
        Tag.DOCUMENTS_CLOSE: "<|end_of_documents|>",
    },
    base_prompt=(
        "The User asks a question and the Assistant solves it. "
        + _R1_RULES.format(who="the Assistant", who_is="it is")
        + "\n\nUser:{question}\nAssistant: <think>"
    ),
    chat_system=(
        "You are a helpful assistant. You are given a question to solve. "
        + _R1_RULES.format(who="you", who_is="you are")
    ),
    chat_tail="<think>",
    documents_prefix="\n\n<|begin_of_documents|>\n",
    document_rank="({rank})",
    document_body="{title}   {text}\n",
    no_documents="None\n",
    documents_suffix="<|end_of_documents|>\n\n",
    clean_query=without_quotes,
    faults={
        FaultKind.EMPTY_QUERY: Consequence.END,
        FaultKind.UNOPENED_CLOSE: Consequence.END,
        FaultKind.NO_ACTION: Consequence.END,
    },
    top_k=3,
    max_tokens=1024 + 29000,
    max_segment_tokens=512,
    max_searches=8,
)

_SEARCH_R1_USER = (
    "Answer the question below. Whenever you receive new information, first reason about it "
    "inside <think> and </think>. If you find that you lack some knowledge, call a search engine "
    "with <search> query </search>; the best results come back between <information> and "
    "</information>. You may search as often as you like. If nothing more is needed, give the "
    "answer directly inside <answer> and </answer>, without long explanations. For example, "
    "<answer> Beijing </answer>. Question: {question}\n"
)

SEARCH_R1 = Protocol(
    name="search-r1",
    source=(
        "arXiv 2503.09516; PeterGriffinJin/Search-R1@a14dc3a: search_r1/llm_agent/generation.py, "
        "scripts/nq_hotpotqa/v0.2"
    ),
    tags={
        Tag.THINK_OPEN: "<think>",
        Tag.THINK_CLOSE: "</think>",
        Tag.QUERY_OPEN: "<search>",
        Tag.QUERY_CLOSE: "</search>",
        Tag.ANSWER_OPEN: "<answer>",
        Tag.ANSWER_CLOSE: "</answer>",
        Tag.DOCUMENTS_OPEN: "<information>",
        Tag.DOCUMENTS_CLOSE: "</information>",
    },
    base_prompt=_SEARCH_R1_USER,
    chat_system="You are a helpful assistant.",
    chat_user=_SEARCH_R1_USER,
    clean_question=with_question_mark,
    documents_prefix="\n\n<information>",
    document_rank="Doc {rank}",
    document_body="(Title: {title}) {text}\n",
    documents_suffix="</information>\n\n",
    notice=(
        "\nMy last action was not valid. To search, I put the query between <search> and "
        "</search>. To give the final answer, I put it between <answer> and </answer>. "
        "Let me try again.\n"
    ),
    faults={
        FaultKind.EMPTY_QUERY: Consequence.NOTICE,
        FaultKind.UNOPENED_CLOSE: Consequence.NOTICE,
        FaultKind.NO_ACTION: Consequence.NOTICE,
    },
    first_opening=True,
    top_k=3,
    max_tokens=4096 + 500,
    max_segment_tokens=500,
    max_documents_tokens=500,
    max_turns=4,
)

TOY = Protocol(
    name="toy",
    source="this project",
    tags={
        Tag.QUERY_OPEN: "<q>",
        Tag.QUERY_CLOSE: "</q>",
        Tag.ANSWER_OPEN: "<a>",
        Tag.ANSWER_CLOSE: "</a>",
        Tag.DOCUMENTS_OPEN: "<d>",
        Tag.DOCUMENTS_CLOSE: "</d>",
    },
    base_prompt="{question}",
    documents_prefix="<d>",
    document_rank="",
    document_body="{text}",
    documents_suffix="</d>",
    faults={FaultKind.NO_ACTION: Consequence.END},
    top_k=1,
    max_tokens=16,
    max_searches=2,
)

_PROTOCOLS = {protocol.name: protocol for protocol in (R1_SEARCHER, SEARCH_R1, TOY)}


def register_protocol(protocol: Protocol, *, replace: bool = False) -> None:
    """Make a protocol known by its name.

    Args:
        protocol: The protocol.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ProtocolError: The name is taken and ``replace`` is False.
    """
    if protocol.name in _PROTOCOLS and not replace:
        raise ProtocolError(
            f"Expected a new protocol name, got {protocol.name!r}, which is registered. Choose "
            "another name, or pass replace=True."
        )
    _PROTOCOLS[protocol.name] = protocol


def get_protocol(name: str) -> Protocol:
    """Return a registered protocol.

    Raises:
        ProtocolError: No protocol of that name.

    Example:
        >>> get_protocol("search-r1").max_turns
        4
    """
    if name not in _PROTOCOLS:
        raise ProtocolError(
            f"Expected protocol to be one of {sorted(_PROTOCOLS)}, got {name!r}. "
            f"{nearest(name, _PROTOCOLS)}Register your own with register_protocol()."
        )
    return _PROTOCOLS[name]
