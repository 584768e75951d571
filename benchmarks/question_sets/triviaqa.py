"""TriviaQA, unfiltered: trivia of one hop with many aliases (Joshi et al. 2017)."""

from __future__ import annotations

from benchmarks.harness.published_settings import published

_NOTE = "The sample corpus has no evidence for it: pass --corpus, such as an index of wiki-18."

PROTOCOLS = tuple(
    published("triviaqa-test", system, dataset="triviaqa", pinned_corpus=False, note=_NOTE)
    for system in ("search-r1", "r1-searcher")
)
