"""2WikiMultiHopQA, development set: compositions, comparisons, inferences (Ho et al. 2020)."""

from __future__ import annotations

from functools import partial

from benchmarks.harness.published_settings import published

_NOTE = "510 of the 12,576 questions, those with evidence in the sample corpus."
_dev = partial(
    published,
    "2wikimultihopqa-dev",
    env_id="SearchQA-2Wiki-v0",
    questions_digest="2bab73a9bb25",
    note=_NOTE,
)

PROTOCOLS = (
    _dev("r1-searcher"),
    _dev("search-r1"),
    published(
        "2wikimultihopqa-500",
        "r1-searcher",
        dataset="$SEARCH_ENV_DATA/r1_searcher/2wiki_500.jsonl",
        questions_digest="4617f791159d",
        note="R1-Searcher's own selection; most of it has no evidence in the sample corpus.",
    ),
)
