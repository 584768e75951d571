"""Bamboogle: 125 compositional questions, two hops each (Press et al. 2022)."""

from __future__ import annotations

from search_env.benchmarks.harness.published_settings import over_the_pool
from search_env.benchmarks.harness.spec import QuestionSet

SET = QuestionSet(
    "bamboogle",
    over_the_pool(
        "bamboogle-test",
        env_id="SearchQA-Bamboogle-v0",
        questions_digest="894ad8e251b7",
        note="The sample corpus holds the answer string of 103 of the 125 questions somewhere.",
    ),
    reported=("bamboogle-test/r1-searcher/bm25-pool81k/v1",),
)
