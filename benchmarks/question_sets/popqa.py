"""PopQA: single facts about entities of all popularities (Mallen et al. 2023)."""

from __future__ import annotations

from benchmarks.harness.published_settings import published

_NOTE = "The sample corpus has no evidence for it: pass --corpus, such as an index of wiki-18."

PROTOCOLS = tuple(
    published("popqa-test", system, dataset="popqa", pinned_corpus=False, note=_NOTE)
    for system in ("search-r1", "r1-searcher")
)
