"""MuSiQue, answerable, development set: two to four hops (Trivedi et al. 2022).

Of most records in the sample data the evidence was joined by title and step answer, which favours
questions whose evidence a retriever finds; the others are native records of 20 paragraphs.
"""

from __future__ import annotations

from search_env.benchmarks.harness.dense_settings import BGE_KILT
from search_env.benchmarks.harness.published_settings import over_the_pool, r1_selection
from search_env.benchmarks.harness.spec import QuestionSet
from search_env.benchmarks.question_sets.origins import origin_of

SET = QuestionSet(
    "musique",
    (
        *over_the_pool(
            "musique-dev",
            env_id="SearchQA-Musique-v0",
            questions_digest="0c7f4890b616",
            note="1,417 of the 2,417 questions, those with evidence in the sample corpus. Of 1,070 "
            "of them the evidence was joined by title, which favours what a retriever finds; see "
            "the rows by origin.",
        ),
        *r1_selection("musique-500", "musique_500.jsonl", "3fe3b72cf618", BGE_KILT),
    ),
    reported=("musique-dev/r1-searcher/bm25-pool81k/v1",),
    groups={
        "hops": lambda record: record.hops,
        "shape": lambda record: record.kind,
        "origin": origin_of("musique"),
    },
)
