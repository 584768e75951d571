"""The toy world's protocol: six tags of one token each, no prompt text."""

from __future__ import annotations

from search_env.protocols.protocol import Consequence, Protocol
from search_env.types import SEARCH, FaultKind, TagPair, TagRole

TOY = Protocol(
    name="toy",
    source="this project",
    tags=(
        TagPair("query", TagRole.TOOL, "<q>", "</q>", tool=SEARCH),
        TagPair("answer", TagRole.ANSWER, "<a>", "</a>"),
        TagPair("documents", TagRole.DOCUMENTS, "<d>", "</d>"),
    ),
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
