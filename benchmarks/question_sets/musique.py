"""MuSiQue, answerable, development set: two to four hops (Trivedi et al. 2022)."""

from __future__ import annotations

from functools import partial

from benchmarks.harness.published_settings import published

_NOTE = (
    "1,417 of the 2,417 questions, those with evidence in the sample corpus. Of 1,070 of them the "
    "evidence was joined by title, which favours what a retriever finds; see the rows by origin."
)
_dev = partial(
    published,
    "musique-dev",
    env_id="SearchQA-Musique-v0",
    questions_digest="0c7f4890b616",
    note=_NOTE,
)

PROTOCOLS = (
    _dev("r1-searcher"),
    _dev("search-r1"),
    published(
        "musique-500",
        "r1-searcher",
        dataset="$SEARCH_ENV_DATA/r1_searcher/musique_500.jsonl",
        questions_digest="3fe3b72cf618",
        note="R1-Searcher's own selection; most of it has no evidence in the sample corpus.",
    ),
)
