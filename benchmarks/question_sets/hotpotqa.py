"""HotpotQA, development set: bridges and comparisons of two hops (Yang et al. 2018)."""

from __future__ import annotations

from functools import partial

from benchmarks.harness.published_settings import published

_NOTE = "1,576 of the 7,405 questions, those with evidence in the sample corpus."
_dev = partial(
    published,
    "hotpotqa-dev",
    env_id="SearchQA-HotpotQA-v0",
    questions_digest="4e590304abbf",
    note=_NOTE,
)

PROTOCOLS = (
    _dev("r1-searcher"),
    _dev("search-r1"),
    published(
        "hotpotqa-500",
        "r1-searcher",
        dataset="$SEARCH_ENV_DATA/r1_searcher/hotpotqa_500.jsonl",
        questions_digest="08df08c769c4",
        note="R1-Searcher's own selection; most of it has no evidence in the sample corpus.",
    ),
)
