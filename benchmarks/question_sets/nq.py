"""Natural Questions, open: single-hop questions people asked (Kwiatkowski et al. 2019)."""

from __future__ import annotations

from search_env.benchmarks.harness.published_settings import without_evidence
from search_env.benchmarks.harness.spec import QuestionSet

SET = QuestionSet("nq", without_evidence("nq-test", dataset="nq"))
