"""2WikiMultiHopQA, development set: compositions, comparisons, inferences (Ho et al. 2020)."""

from __future__ import annotations

from search_env.benchmarks.harness.dense_settings import BGE_KILT
from search_env.benchmarks.harness.published_settings import over_the_pool, r1_selection
from search_env.benchmarks.harness.spec import QuestionSet
from search_env.benchmarks.question_sets.origins import origin_of

SET = QuestionSet(
    "2wikimultihopqa",
    (
        *over_the_pool(
            "2wikimultihopqa-dev",
            env_id="SearchQA-2Wiki-v0",
            questions_digest="2bab73a9bb25",
            note="510 of the 12,576 questions, those with evidence in the sample corpus. Of 346 of "
            "them the evidence was joined by title, which favours what a retriever finds; see the "
            "rows by origin. On comparison questions guessing is right in about a half.",
        ),
        *r1_selection("2wikimultihopqa-500", "2wiki_500.jsonl", "4617f791159d", BGE_KILT),
    ),
    reported=("2wikimultihopqa-dev/r1-searcher/bm25-pool81k/v1",),
    groups={"type": lambda record: record.kind, "origin": origin_of("2wikimultihopqa")},
)
