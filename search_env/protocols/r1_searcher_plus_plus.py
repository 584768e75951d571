r"""R1-Searcher++'s protocol: recall in internal tags, queries in external ones, a boxed answer.

The paper has no public code, and neither prompt nor limits are stated in full. Tags, the answer's
form and the number of searches are the published ones; everything else is R1-Searcher's, on which
it is built: document layout, top-k, tokens of a segment, consequences of faults.

The answer is what stands between ``\boxed{`` and the brace that matches. Any other brace is text.
"""

from __future__ import annotations

import re

from search_env.protocols.protocol import Protocol
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.types import SEARCH, TagPair, TagRole

_STYLED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


def without_style(answer: str) -> str:
    r"""Return a boxed answer without white space and a LaTeX style around it.

    Example:
        >>> without_style(r" \text{ New York } ")
        'New York'
    """
    answer = answer.strip()
    styled = _STYLED.fullmatch(answer)
    return (styled[1] if styled else answer).strip()


_RULES = (
    "Work step by step. At each step, either state a fact from memory, as <internal> the fact "
    "</internal>, or, **only if it is not known**, search for it, as <external> a query "
    "</external>. **A query must ask for a single fact only.** The search system then writes what "
    "it found as <document> results </document>. At most 8 searches are possible. At the end, give "
    r"the final answer, a few words without explanations, as \boxed{ the final answer }."
)

R1_SEARCHER_PLUS_PLUS = Protocol(
    name="r1-searcher++",
    source=(
        "arXiv 2505.17005: tags, boxed answer, number of searches. No code is public; the rest is "
        "r1-searcher's"
    ),
    tags=(
        TagPair("internal", TagRole.REASON, "<internal>", "</internal>"),
        TagPair("query", TagRole.TOOL, "<external>", "</external>", tool=SEARCH),
        TagPair("answer", TagRole.ANSWER, r"\boxed{", "}", bracket="{"),
        TagPair("documents", TagRole.DOCUMENTS, "<document>", "</document>"),
    ),
    base_prompt=(
        "The User asks a question and the Assistant answers it by these rules. "
        + _RULES
        + "\n\nUser:{question}\nAssistant:"
    ),
    chat_system=(
        "You are a helpful assistant. You are given a question and answer it by these rules. "
        + _RULES
    ),
    documents_prefix="\n\n<document>\n",
    document_rank=R1_SEARCHER.document_rank,
    document_body=R1_SEARCHER.document_body,
    no_documents=R1_SEARCHER.no_documents,
    documents_suffix="</document>\n\n",
    clean_query=R1_SEARCHER.clean_query,
    clean_answer=without_style,
    faults=R1_SEARCHER.faults,
    top_k=R1_SEARCHER.top_k,
    max_tokens=R1_SEARCHER.max_tokens,
    max_segment_tokens=R1_SEARCHER.max_segment_tokens,
    max_searches=8,
)
