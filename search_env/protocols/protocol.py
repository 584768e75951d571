"""Protocols: the tags, prompts, document layout, limits and fault rules of a published system.

A protocol is data, interpreted by :mod:`search_env.core.dynamics`, which knows no protocol by name.
Prompts paraphrase the published ones in the published order; tags, document layout and numbers are
the published ones.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from search_env.errors import ProtocolError
from search_env.types import SEARCH, Document, FaultKind, Markup, TagPair, TagRole, pairs_by_tag
from search_env.validation import check_choice, check_limit


class Consequence(str, Enum):
    """The effect of a format fault, beside its event."""

    IGNORE = "ignore"
    """The episode continues unchanged."""
    NOTICE = "notice"
    """The protocol's notice is inserted; it counts as a turn and begins a new segment."""
    END = "end"
    """The episode ends; for ``NO_ACTION``, by end of sequence or by the segment's limit."""


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
"""Chat templates of model families, by the name that ``prompt=`` takes (beside ``"base"``).

Names of the vocabulary's added tokens are markers, and so is all of the form ``<...>`` without
white space, unless it is one of the protocol's tags: a vocabulary without it is refused.
"""

CHAT_TEMPLATE = "chat-template"
"""The style of the model's own chat template, which comes with its tokenizer."""

_PAIR_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MARKER = r"(?<!<)<[^<>\s{}]+>(?!>)"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The text interface between policy and environment.

    Attributes:
        name: What ``protocol=`` takes.
        source: Paper section, or repository file at a commit.
        tags: The pairs of tags, in the order in which the automaton numbers them: one of role
            ANSWER, one of DOCUMENTS, one or more of TOOL, and any number of REASON.
        base_prompt: Prompt for a base model; holds ``{question}``.
        chat_system: System message for a chat model.
        chat_user: User message for a chat model; holds ``{question}``.
        chat_tail: Text that follows the chat template's generation prompt.
        clean_question: Applied to the question before it is put into a prompt.
        clean_query: Applied to the text between the query tags; empty means no query.
        clean_answer: Applied to the text between the answer tags.
        documents_prefix: Begins an inserted block; holds the documents-open tag.
        document_rank: Begins a document; holds ``{rank}``, which counts from 1.
        document_body: The document; holds ``{text}``, optionally preceded by ``{title}``.
        no_documents: Replaces the documents when nothing was retrieved.
        documents_suffix: Ends the block; holds the documents-close tag and is never truncated.
        notice: Text for :attr:`Consequence.NOTICE`.
        faults: The consequence of each kind of fault; kinds left out are ignored, except that a
            segment without an action ends the episode unless it leads to a notice.
        first_opening: With nested openings, whether the first or the last one counts.
        top_k: Documents per query.
        max_tokens: Size of the context: prompt, policy and inserted tokens together.
        max_policy_tokens: Policy tokens per episode, or None for no limit, as below.
        max_segment_tokens: Policy tokens between two insertions.
        max_documents_tokens: Tokens of one inserted block.
        max_searches: Searches per episode.
        max_turns: Turns (searches and notices) per episode.
    """

    name: str
    source: str
    tags: tuple[TagPair, ...]
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
    clean_answer: Callable[[str], str] = str.strip
    top_k: int = 3
    max_tokens: int = 4096
    max_policy_tokens: int | None = None
    max_segment_tokens: int | None = None
    max_documents_tokens: int | None = None
    max_searches: int | None = None
    max_turns: int | None = None

    def __post_init__(self) -> None:
        self._check_tags()
        documents = self.pair(TagRole.DOCUMENTS)
        for field, text, part in (
            ("base_prompt", self.base_prompt, "{question}"),
            ("chat_user", self.chat_user, "{question}"),
            ("document_body", self.document_body, "{text}"),
            ("documents_prefix", self.documents_prefix, documents.open),
            ("documents_suffix", self.documents_suffix, documents.close),
        ):
            if part not in text:
                raise ProtocolError(
                    f"Expected {field} of protocol {self.name!r} to hold {part!r}, got {text!r}. "
                    "Add it to the text."
                )
        if Consequence.NOTICE in self.faults.values() and not self.notice:
            raise ProtocolError(
                f"Expected a notice text in protocol {self.name!r}, got ''. Set notice=, or choose "
                "another consequence for its faults."
            )
        for field, value, least, optional in (
            ("top_k", self.top_k, 1, False),
            ("max_tokens", self.max_tokens, 1, False),
            ("max_policy_tokens", self.max_policy_tokens, 1, True),
            ("max_segment_tokens", self.max_segment_tokens, 1, True),
            ("max_documents_tokens", self.max_documents_tokens, 1, True),
            ("max_searches", self.max_searches, 0, True),  # 0: a closed-book episode
            ("max_turns", self.max_turns, 0, True),
        ):
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ProtocolError(
                    f"Expected {field} to be an integer of at least {least}"
                    f"{' or None' if optional else ''}, got {value!r}. Pass {least} or more."
                )

    def _check_tags(self) -> None:
        """Check the names and roles of the pairs; the automaton checks their texts."""
        if not isinstance(self.tags, tuple) or not all(isinstance(p, TagPair) for p in self.tags):
            raise ProtocolError(
                f"Expected the tags of protocol {self.name!r} to be a tuple of TagPair, got "
                f"{self.tags!r}. Write each pair as TagPair(name, role, open, close)."
            )
        names = [pair.name for pair in self.tags]
        if len(set(names)) < len(names) or not all(map(_PAIR_NAME.fullmatch, names)):
            raise ProtocolError(
                f"Expected the pairs of tags of protocol {self.name!r} to have unique names in "
                f"lower case, got {names}. Rename them."
            )
        for role in (TagRole.TOOL, TagRole.ANSWER, TagRole.DOCUMENTS):
            pairs = self.pairs(role)
            if not pairs or (len(pairs) > 1 and role is not TagRole.TOOL):
                raise ProtocolError(
                    f"Expected protocol {self.name!r} to have one pair of tags of role "
                    f"{role.name}{' or more' if role is TagRole.TOOL else ''}, got "
                    f"{[pair.name for pair in pairs]}. Change tags=."
                )
        for pair in self.tags:
            if bool(pair.tool) != (pair.role is TagRole.TOOL):
                raise ProtocolError(
                    f"Expected pairs of role TOOL, and only those, to name a tool, got "
                    f"{pair.tool!r} for {pair.name!r} of role {pair.role.name} in protocol "
                    f"{self.name!r}. Set tool={SEARCH!r} for a search, or omit tool=."
                )
            if pair.bracket:
                self._check_bracket(pair)

    def _check_bracket(self, pair: TagPair) -> None:
        """Check a pair whose closing tag is a bracket; brackets are counted in bytes."""
        both = pair.bracket, pair.close
        are_brackets = all(len(text) == 1 and text.isascii() for text in both)
        if (
            pair.role is not TagRole.ANSWER
            or not are_brackets
            or pair.bracket == pair.close
            or not pair.open.endswith(pair.bracket)
        ):
            raise ProtocolError(
                f"Expected bracket= for an answer whose opening tag ends with it and whose closing "
                f"tag is its counterpart, two different ASCII characters, got {pair} in protocol "
                f"{self.name!r}. Change it, or leave bracket= out."
            )

    def pairs(self, role: TagRole) -> tuple[TagPair, ...]:
        """Return the pairs of a role, in order."""
        return tuple(pair for pair in self.tags if pair.role is role)

    def pair(self, role: TagRole) -> TagPair:
        """Return the pair of a role, the first of several.

        Example:
            >>> from search_env.protocols.search_r1 import SEARCH_R1
            >>> SEARCH_R1.pair(TagRole.TOOL).open
            '<search>'
        """
        if pairs := self.pairs(role):
            return pairs[0]
        raise ProtocolError(
            f"Expected protocol {self.name!r} to have a pair of tags of role {role.name}, got "
            f"{[pair.name for pair in self.tags]}. Add one to tags=."
        )

    def limited(
        self,
        *,
        top_k: int | None = None,
        max_tokens: int | None = None,
        max_policy_tokens: int | None = None,
        max_searches: int | None = None,
    ) -> Protocol:
        """Return this protocol with its limits replaced by those that are not None."""
        limits = {"top_k": check_limit("top_k", top_k)}
        limits["max_tokens"] = check_limit("max_tokens", max_tokens)
        limits["max_policy_tokens"] = check_limit("max_policy_tokens", max_policy_tokens)
        limits["max_searches"] = check_limit("max_searches", max_searches, 0)
        return dataclasses.replace(self, **{k: v for k, v in limits.items() if v is not None})  # type: ignore[arg-type]

    @property
    def tag_texts(self) -> tuple[str, ...]:
        """The tags' texts in the order in which the automaton numbers them."""
        return tuple(pair.text(tag.side) for tag, pair in pairs_by_tag(self.tags).items())

    @functools.cached_property
    def markup(self) -> Markup:
        """The part of this protocol that readers of its transcripts need."""
        return Markup(
            tags=self.tags,
            noticed=frozenset(k for k, v in self.faults.items() if v is Consequence.NOTICE),
            documents_prefix=self.documents_prefix,
            document_rank=self.document_rank,
            document_body=self.document_body,
            documents_suffix=self.documents_suffix,
        )

    def prompt_pieces(
        self, question: str, style: str, markers: Collection[str] = ()
    ) -> list[tuple[str, bool]]:
        """Return the prompt as ``(text, special)`` pieces.

        ``style`` is ``"base"`` or a name in :data:`CHAT_MARKUP`; ``markers`` are names of the
        vocabulary's added tokens. Only the chat template's own markers are special; a marker inside
        a question stays text.
        """
        if style == "base":
            question = self.clean_question(question)
            return [(self.base_prompt.replace("{question}", question), False)]
        advice = "Add another family's template to search_env.protocols.protocol.CHAT_MARKUP."
        styles = ["base", *CHAT_MARKUP, CHAT_TEMPLATE]
        check_choice("prompt", style, styles, advice, ProtocolError)
        messages = self.chat_messages(self.clean_question(question))
        fill = {f"{{{message['role']}}}": message["content"] for message in messages}
        fill.setdefault("{system}", "")
        pieces = []
        for piece, special in self._split_markup(CHAT_MARKUP[style], markers):
            for slot, text in fill.items():
                piece = piece.replace(slot, text)
            if piece:
                pieces.append((piece, special))
        return [*pieces, (self.chat_tail, False)] if self.chat_tail else pieces

    def _split_markup(self, markup: str, markers: Collection[str]) -> list[tuple[str, bool]]:
        """Return a template's markers and the texts between them."""
        present = sorted((m for m in markers if m in markup), key=len, reverse=True)
        pattern = "|".join([*map(re.escape, present), _MARKER])
        tags = frozenset(self.tag_texts) - frozenset(present)
        pieces, text, done = [], "", 0
        for match in re.finditer(pattern, markup):
            text += markup[done : match.start()]
            done = match.end()
            if match[0] in tags:
                text += match[0]
            else:
                pieces += [(text, False), (match[0], True)]
                text = ""
        return [*pieces, (text + markup[done:], False)]

    def chat_messages(self, question: str) -> list[dict[str, str]]:
        """Return the messages of a chat that asks a cleaned question, for a chat template."""
        user = self.chat_user.replace("{question}", question)
        system = [{"role": "system", "content": self.chat_system}] if self.chat_system else []
        return [*system, {"role": "user", "content": user}]

    def document_text(self, document: Document) -> str:
        """Return a document as it is inserted, without its rank."""
        return self.markup.document_text(document)
