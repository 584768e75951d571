"""The published settings that several question sets share, as protocols of each.

R1-Searcher evaluates with top-k 5 and at most 8 searches on 500 questions of each set
(RUCAIBox/R1-Searcher@631167c ``evaluation/eval_search_loacl.py``); Search-R1 with
top-k 3 and 4 turns on the whole sets (PeterGriffinJin/Search-R1@a14dc3a ``scripts/nq_hotpotqa``).
Both are here over the sample corpus by BM25 (other corpora are searched with ``--corpus``), and
with the dense retrievers that they were published with, which ``--retriever`` brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from search_env.benchmarks.harness.dense_settings import E5_WIKI18, DenseSetting
from search_env.benchmarks.harness.spec import NO_CORPUS, BenchmarkProtocol

SYSTEMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "r1-searcher": {
            "protocol": "r1-searcher",
            "top_k": 5,
            "max_searches": 8,
            "max_tokens": 8192,
        },
        "search-r1": {"protocol": "search-r1", "top_k": 3, "max_tokens": 4596},
    }
)
"""Arguments of the environment by published system."""

RULES_DIGESTS = MappingProxyType({"r1-searcher": "f675523638d5", "search-r1": "0a06d5002349"})
POOL = "bm25-pool81k"
POOL_DIGEST = "d7041fa21f54"


def over_the_pool(
    question_set: str, *, env_id: str, questions_digest: str, note: str
) -> tuple[BenchmarkProtocol, ...]:
    """Return a question set under both systems' settings, over the sample corpus.

    Search-R1's comes a second time, with its dense retriever.
    """
    protocols = [
        _published(question_set, system, env_id, questions_digest=questions_digest, note=note)
        for system in SYSTEMS
    ]
    return (*protocols, over_dense(protocols[-1], E5_WIKI18))


def over_dense(protocol: BenchmarkProtocol, setting: DenseSetting) -> BenchmarkProtocol:
    """Return a protocol with a published dense retriever, which the user brings."""
    return replace(protocol, retrieval=setting.name, corpus_digest="", dense=setting)


def r1_selection(
    question_set: str, file: str, questions_digest: str, setting: DenseSetting
) -> tuple[BenchmarkProtocol, BenchmarkProtocol]:
    """Return R1-Searcher's own 500 questions, a file of the data folder, under its setting.

    The second protocol has the dense retriever that the set was evaluated with.
    """
    protocol = _published(
        question_set,
        "r1-searcher",
        dataset=f"$SEARCH_ENV_DATA/r1_searcher/{file}",
        questions_digest=questions_digest,
        note="R1-Searcher's own selection; most of it has no evidence in the sample corpus.",
    )
    note = "R1-Searcher's own selection."
    return protocol, over_dense(replace(protocol, note=note), setting)


def without_evidence(question_set: str, dataset: str) -> tuple[BenchmarkProtocol, ...]:
    """Return a set that the sample corpus has no evidence for; a corpus must be given.

    Search-R1's setting comes a second time, with its dense retriever.
    """
    note = "The sample corpus has no evidence for it: pass --corpus, such as an index of wiki-18."
    protocols = [
        replace(
            _published(question_set, system, dataset=dataset, questions_digest="", note=note),
            retrieval=NO_CORPUS,
            corpus_digest="",
        )
        for system in reversed(list(SYSTEMS))
    ]
    return (*protocols, over_dense(replace(protocols[0], note=""), E5_WIKI18))


def _published(
    question_set: str,
    system: str,
    env_id: str = "SearchQA-Bamboogle-v0",
    *,
    questions_digest: str,
    note: str,
    dataset: str | None = None,
) -> BenchmarkProtocol:
    return BenchmarkProtocol(
        question_set=question_set,
        system=system,
        retrieval=POOL,
        env_id=env_id,
        arguments={**SYSTEMS[system], **({} if dataset is None else {"dataset": dataset})},
        questions_digest=questions_digest,
        corpus_digest=POOL_DIGEST,
        rules_digest=RULES_DIGESTS[system],
        note=note,
    )
