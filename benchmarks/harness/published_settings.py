"""The published settings that several question sets share, as protocols of each.

R1-Searcher evaluates with top-k 5 and at most 8 searches on 500 questions of each set
(RUCAIBox/R1-Searcher@631167c ``evaluation/eval_search_loacl.py``); Search-R1 with
top-k 3 and 4 turns on the whole sets (PeterGriffinJin/Search-R1@a14dc3a ``scripts/nq_hotpotqa``).
Both here search the 81,405 passages of the sample corpus by BM25, so that they differ in the
protocol alone; the corpora that the papers used are searched with ``--corpus``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.spec import NO_CORPUS, BenchmarkProtocol

R1_SEARCHER: Mapping[str, Any] = {
    "protocol": "r1-searcher",
    "top_k": 5,
    "max_searches": 8,
    "max_tokens": 8192,
}
SEARCH_R1: Mapping[str, Any] = {"protocol": "search-r1", "top_k": 3, "max_tokens": 4596}
SYSTEMS = {"r1-searcher": R1_SEARCHER, "search-r1": SEARCH_R1}

RULES_DIGESTS = {"r1-searcher": "6a4544ea1917", "search-r1": "c686c953a66d"}
POOL = "bm25-pool81k"
POOL_DIGEST = "d7041fa21f54"


def published(
    question_set: str,
    system: str,
    *,
    env_id: str = "SearchQA-Bamboogle-v0",
    questions_digest: str = "",
    pinned_corpus: bool = True,
    note: str = "",
    **arguments: Any,
) -> BenchmarkProtocol:
    """Return a question set under a system's setting, over the sample corpus.

    Args:
        question_set: First part of the id.
        system: A key of :data:`SYSTEMS`.
        env_id: A registered environment of published questions.
        questions_digest: Of the set.
        pinned_corpus: False where the sample corpus has no evidence for the set, so that a corpus
            must be given.
        note: As for :class:`~benchmarks.harness.spec.BenchmarkProtocol`.
        **arguments: Of the environment: which questions.
    """
    return BenchmarkProtocol(
        question_set=question_set,
        system=system,
        retrieval=POOL if pinned_corpus else NO_CORPUS,
        env_id=env_id,
        arguments={**SYSTEMS[system], **arguments},
        questions_digest=questions_digest,
        corpus_digest=POOL_DIGEST if pinned_corpus else "",
        rules_digest=RULES_DIGESTS[system],
        note=note,
    )
