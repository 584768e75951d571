"""Natural Questions, open: single-hop questions people asked (Kwiatkowski et al. 2019)."""

from __future__ import annotations

from benchmarks.harness.published_settings import published

_NOTE = "The sample corpus has no evidence for it: pass --corpus, such as an index of wiki-18."

PROTOCOLS = tuple(
    published("nq-test", system, dataset="nq", pinned_corpus=False, note=_NOTE)
    for system in ("search-r1", "r1-searcher")
)
