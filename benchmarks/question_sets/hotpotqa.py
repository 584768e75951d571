"""HotpotQA, development set: bridges and comparisons of two hops (Yang et al. 2018)."""

from __future__ import annotations

from search_env.benchmarks.harness.dense_settings import BGE_ABSTRACTS
from search_env.benchmarks.harness.published_settings import over_the_pool, r1_selection
from search_env.benchmarks.harness.spec import QuestionSet

SET = QuestionSet(
    "hotpotqa",
    (
        *over_the_pool(
            "hotpotqa-dev",
            env_id="SearchQA-HotpotQA-v0",
            questions_digest="4e590304abbf",
            note="1,576 of the 7,405 questions, those with evidence in the sample corpus.",
        ),
        *r1_selection("hotpotqa-500", "hotpotqa_500.jsonl", "08df08c769c4", BGE_ABSTRACTS),
    ),
    reported=("hotpotqa-dev/r1-searcher/bm25-pool81k/v1",),
    groups={"type": lambda record: record.kind},
)
