"""Bamboogle: 125 compositional questions, two hops each (Press et al. 2022)."""

from __future__ import annotations

from dataclasses import replace

from search_env.benchmarks.harness.dense_settings import BGE_KILT
from search_env.benchmarks.harness.published_settings import over_dense, over_the_pool
from search_env.benchmarks.harness.spec import QuestionSet

_POOL = over_the_pool(
    "bamboogle-test",
    env_id="SearchQA-Bamboogle-v0",
    questions_digest="894ad8e251b7",
    note="The sample corpus holds the answer string of 103 of the 125 questions somewhere.",
)

SET = QuestionSet(
    "bamboogle",
    (*_POOL, over_dense(replace(_POOL[0], note=""), BGE_KILT)),
    reported=("bamboogle-test/r1-searcher/bm25-pool81k/v1",),
)
