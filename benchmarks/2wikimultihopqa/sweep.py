"""What the report plays: R1-Searcher's setting over the sample corpus, by every bundled agent."""

from __future__ import annotations

from benchmarks.studies.sweep import BUNDLED, Run

SWEEP = tuple(Run("2wikimultihopqa-dev/r1-searcher/bm25-pool81k/v1", *agent) for agent in BUNDLED)
