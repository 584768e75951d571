"""Search-R1's protocol: tags, prompts, layout and limits as released."""

from __future__ import annotations

from search_env.protocols.protocol import Consequence, Protocol
from search_env.types import SEARCH, FaultKind, TagPair, TagRole


def with_question_mark(question: str) -> str:
    """Strip a question and end it with a question mark, as Search-R1 does.

    Source: PeterGriffinJin/Search-R1@a14dc3a, scripts/data_process/qa_search_train_merge.py.
    """
    question = question.strip()
    return question if question.endswith("?") else question + "?"


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
    tags=(
        TagPair("think", TagRole.REASON, "<think>", "</think>"),
        TagPair("query", TagRole.TOOL, "<search>", "</search>", tool=SEARCH),
        TagPair("answer", TagRole.ANSWER, "<answer>", "</answer>"),
        TagPair("documents", TagRole.DOCUMENTS, "<information>", "</information>"),
    ),
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
    faults=dict.fromkeys(
        (FaultKind.EMPTY_QUERY, FaultKind.UNOPENED_CLOSE, FaultKind.NO_ACTION), Consequence.NOTICE
    ),
    first_opening=True,
    top_k=3,
    max_tokens=4096 + 500,
    max_segment_tokens=500,
    max_documents_tokens=500,
    max_turns=4,
)
