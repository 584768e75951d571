"""R1-Searcher's protocol: tags, prompts, layout and limits as published and released."""

from __future__ import annotations

from search_env.protocols.protocol import Consequence, Protocol
from search_env.types import SEARCH, FaultKind, TagPair, TagRole


def without_quotes(query: str) -> str:
    """Clean a query as R1-Searcher does: no double quotes, white space collapsed.

    Source: RUCAIBox/R1-Searcher@631167c, experience_maker.py, _generate_vllm_with_retrieve.
    """
    return " ".join(query.replace('"', "").split())


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
    tags=(
        TagPair("think", TagRole.REASON, "<think>", "</think>"),
        TagPair("query", TagRole.TOOL, "<|begin_of_query|>", "<|end_of_query|>", tool=SEARCH),
        TagPair("answer", TagRole.ANSWER, "<answer>", "</answer>"),
        TagPair("documents", TagRole.DOCUMENTS, "<|begin_of_documents|>", "<|end_of_documents|>"),
    ),
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
    faults=dict.fromkeys(
        (FaultKind.EMPTY_QUERY, FaultKind.UNOPENED_CLOSE, FaultKind.NO_ACTION), Consequence.END
    ),
    top_k=3,
    max_tokens=1024 + 29000,
    max_segment_tokens=512,
    max_searches=8,
)
