"""Natural Questions, open: single-hop questions people asked (Kwiatkowski et al. 2019)."""

from __future__ import annotations

from benchmarks.harness.published_settings import without_evidence
from benchmarks.harness.spec import QuestionSet

SET = QuestionSet("nq", without_evidence("nq-test", dataset="nq"))
